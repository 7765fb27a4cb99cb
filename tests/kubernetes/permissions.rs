//! An account with exactly the Role that preflight prints.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::real::{Installed, RealMove};
use crate::support::{OFFLINE, Ran};

/// An account that may do nothing, as which our programs run from now on.
fn with_account(ess: &mut Installed) {
    ess.kubectl(&["create", "serviceaccount", "mover"]);
    let token = ess.kubectl(&["create", "token", "mover", "--duration=1h"]);
    ess.kubeconfig = ess.kubernetes.kubeconfig(&ess.world, "mover", token.trim());
}

fn preflight(ess: &Installed) -> Ran {
    ess.script(&format!("preflight -n {OFFLINE} --target {}", ess.target()))
        .run()
}

/// The finding about permissions, if there is one.
fn lacking(ran: &Ran) -> Option<Value> {
    let findings = ran.json()["preflight"]["findings"].as_array().unwrap().clone();
    findings.into_iter().find(|finding| finding["id"] == "cluster-rights")
}

/// The manifests in the hint of a finding.
fn manifests(finding: &Value) -> String {
    let hint = finding["hint"].as_str().unwrap();
    hint.split_once("`kubectl apply -f -`:\n").unwrap().1.to_owned()
}

#[test]
#[ignore = "starts a Kubernetes: just test-cluster"]
fn the_role_that_is_printed_is_enough_and_each_of_its_permissions_is_named_when_it_is_missing() {
    let mut it = RealMove::new(&[]);
    with_account(&mut it.ess);
    let role = manifests(&lacking(&preflight(&it.ess)).expect("the account may do nothing"));
    let file = it.ess.world.write("role.yaml", &role);
    it.ess.kubectl(&["apply", "--filename", &file.display().to_string()]);

    assert_eq!(lacking(&preflight(&it.ess)), None, "{role}");
    let roles: Value = serde_json::from_str(&it.ess.kubectl(&["get", "roles", "--output", "json"])).unwrap();
    let role = roles["items"][0].clone();
    let mut checked = 0;
    for (at, rule) in role["rules"].as_array().unwrap().iter().enumerate() {
        for (number, verb) in rule["verbs"].as_array().unwrap().iter().enumerate() {
            let mut less = role.clone();
            less["rules"][at]["verbs"].as_array_mut().unwrap().remove(number);
            if less["rules"][at]["verbs"].as_array().unwrap().is_empty() {
                less["rules"].as_array_mut().unwrap().remove(at);
            }
            less["metadata"] = json!({"name": role["metadata"]["name"], "namespace": it.ess.namespace});
            it.ess.kubernetes.apply_anyway(&less);
            let mut missing = verb.as_str().unwrap().to_owned();
            let _ = write!(missing, " {}", rule["resources"][0].as_str().unwrap());
            let found = lacking(&preflight(&it.ess)).unwrap_or_else(|| panic!("{missing} is not missed"));
            assert!(
                found["message"].as_str().unwrap().contains(&missing),
                "{missing} in {found}"
            );
            checked += 1;
        }
    }
    assert!(checked > 10, "{role}");
    let mut whole = role.clone();
    whole["metadata"] = json!({"name": role["metadata"]["name"], "namespace": it.ess.namespace});
    it.ess.kubernetes.apply_anyway(&whole);

    it.line().success();

    let (source, target) = it.rows();
    assert_eq!(source, target);
}
