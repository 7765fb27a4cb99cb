//! What happens to a real cluster in the middle of a run.

use crate::support::real::{Installed, RealMove};
use crate::support::wait_until;

#[test]
#[ignore = "starts a Kubernetes: just test-cluster"]
fn an_api_server_that_restarts_during_the_load_leaves_the_fence_and_the_same_command_finishes() {
    let it = RealMove::into(Installed::alone(&[]));
    // So that the load takes long enough.
    it.source.psql(
        &it.from.name,
        "CREATE TABLE filler AS SELECT n, repeat(md5(n::text), 20) AS text FROM generate_series(1, 400000) n;
         ALTER TABLE filler OWNER TO synapse",
    );
    let line = it.line_call();
    let running = line.start();
    wait_until("the load has begun", || it.ess.world.running("pg_restore").len() > 1);

    it.ess.kubernetes.restart_api_server();
    let cut = running.wait();

    assert!(!cut.status.success(), "{cut}");
    let fence = "SELECT count(*) FROM schema_version WHERE version > 1000000";
    assert_eq!(it.ess.psql(fence), "1", "{cut}");
    let again = it.line().success();
    let (source, target) = it.rows();
    assert_eq!(source, target, "{again}");
}
