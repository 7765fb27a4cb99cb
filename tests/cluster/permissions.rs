//! Permissions in a cluster: all that are missing are named at once, with the role that grants them.

use serde_json::json;

use crate::support::findings::fires;
use crate::support::in_cluster::Stage;
use crate::support::{ESS_PASSWORD, OFFLINE};

#[test]
fn every_right_that_is_missing_is_named_at_once_with_the_role() {
    let stage = Stage::community();
    stage.kube.deny("list", "apps", "statefulsets");
    stage.kube.deny("get", "", "secrets");
    stage.kube.deny("create", "", "pods/portforward");
    let ran = stage
        .tool("verify")
        .args(["-n", "--target", "kube:ess", "--from", "/nowhere"])
        .run();
    insta::assert_snapshot!(ran, @r#"
    -- stderr --
    verify: cannot work in namespace ess: mover lacks permissions in namespace ess: list statefulsets.apps, get secrets, create pods/portforward
    hint: an administrator can grant them with `kubectl apply -f -`:
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: Role
    metadata:
      name: ess-migrate-c9c2067c
      namespace: ess
    rules:
    - apiGroups:
      - ''
      resources:
      - pods/portforward
      verbs:
      - create
    - apiGroups:
      - ''
      resources:
      - secrets
      verbs:
      - get
    - apiGroups:
      - apps
      resources:
      - statefulsets
      verbs:
      - list
    ---
    apiVersion: rbac.authorization.k8s.io/v1
    kind: RoleBinding
    metadata:
      name: ess-migrate-c9c2067c
      namespace: ess
    roleRef:
      apiGroup: rbac.authorization.k8s.io
      kind: Role
      name: ess-migrate-c9c2067c
    subjects:
    - apiGroup: rbac.authorization.k8s.io
      kind: User
      name: mover
    -- exit status: 77 --
    "#);
}

#[test]
fn with_the_password_in_a_file_secrets_are_not_read() {
    let stage = Stage::community();
    stage.kube.deny("get", "", "secrets");
    stage.world.write("target.pw", ESS_PASSWORD);

    let without = stage.preflight();
    fires(&without, &["blocker cluster-rights"]);
    assert!(without.stderr.contains("get secrets"), "{without}");

    let flags = "--target kube:ess --target-password-file target.pw";
    let ran = stage.script(&format!("preflight -n {OFFLINE} {flags}")).run();
    fires(&ran, &["info target-server"]);
    assert!(!ran.stderr.contains("secrets"), "{ran}");
}

#[test]
fn permissions_where_the_database_is_are_checked_too() {
    let stage = Stage::community();
    stage.kube.edit("configmaps", "ess", "ess-synapse", |map| {
        let text = &mut map["data"]["04-homeserver-overrides.yaml"];
        let there = text
            .as_str()
            .unwrap()
            .replace("ess-postgres.ess.svc", "pg-rw.databases.svc");
        *text = there.into();
    });
    for (verb, resource) in [("get", "services"), ("create", "pods/portforward")] {
        stage.kube.deny_in("databases", verb, "", resource);
    }
    let all = "mover lacks permissions in namespace databases: get services, create pods/portforward";

    let verify = stage.tool("verify").args(["-n", "--target", "kube:ess"]).run();
    assert_eq!(verify.status.code(), Some(77), "{verify}");
    assert!(
        verify.stderr.contains(all) && verify.stderr.contains("  namespace: databases"),
        "{verify}"
    );
    stage.kube.deny("patch", "apps", "deployments");
    let preflight = stage.preflight();
    fires(&preflight, &["blocker cluster-rights"]);
    fires(&preflight, &["warning cluster-rights"]);
    assert!(
        preflight.stderr.contains(all) && preflight.stderr.contains("  namespace: databases"),
        "{preflight}"
    );
}

#[test]
fn the_older_ess_elsewhere_in_the_cluster_needs_no_permissions_here() {
    let stage = Stage::community();
    let verify = |place: &str| stage.tool("verify").args(["-n", "--target", place]).run();
    stage.kube.put(
        json!({"apiVersion": "matrix.element.io/v1alpha2", "kind": "ElementDeployment",
        "metadata": {"name": "other", "namespace": "elsewhere"}, "spec": {}}),
    );
    stage.kube.deny("list", "matrix.element.io", "synapses");
    stage.kube.deny("list", "matrix.element.io", "elementdeployments");

    let here = verify("kube:ess");
    assert!(here.stderr.contains("there is nothing to compare with"), "{here}");

    stage.kube.deny("get", "", "services");
    let elsewhere = verify("kube:elsewhere");
    assert_eq!(elsewhere.status.code(), Some(77), "{elsewhere}");
    let all = "list elementdeployments.matrix.element.io, list synapses.matrix.element.io, get services";
    assert!(elsewhere.stderr.contains(all), "{elsewhere}");
}
