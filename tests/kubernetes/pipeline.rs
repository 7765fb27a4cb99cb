//! The whole migration into a real Kubernetes (`just test-cluster`).

use serde_json::{Value, json};

use crate::support::real::RealMove;

#[test]
#[ignore = "starts a Kubernetes: just test-cluster"]
fn a_homeserver_moves_into_a_real_cluster() {
    let it = RealMove::new(&["synapse.workers.federation-sender.replicas=2"]);

    let ran = it.line().success();

    let (source, target) = it.rows();
    assert_eq!(source, target, "{ran}");
    let document: Value = serde_json::from_str(&it.ess.world.read("migration.json")).unwrap();
    assert_eq!(document["restore"]["fence"], "lifted", "{ran}");
    assert_eq!(document["media"]["complete"], true, "{ran}");
    assert_eq!(document["scale"]["state"], "up", "{ran}");
    for (name, replicas) in [("ess-synapse-main", 1), ("ess-synapse-fed-sender", 2)] {
        assert_eq!(
            it.ess.object("statefulset", name)["spec"]["replicas"],
            json!(replicas),
            "{name}"
        );
    }
    it.upgrade();
    it.check();
}
