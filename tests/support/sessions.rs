//! Sessions of other programs on a server, and waiting for sessions.

use std::io::Write as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{Cluster, Scene, source_cluster, target_cluster, wait_until};

/// A session of another program, until it is dropped.
pub(crate) struct Visitor(Child);

impl Visitor {
    pub(crate) fn new(cluster: &Cluster, database: &str, role: &str) -> Self {
        Self::named(cluster, database, role, "visitor")
    }

    /// A session with this `application_name`, such as one of ours.
    pub(crate) fn named(cluster: &Cluster, database: &str, role: &str, application: &str) -> Self {
        let mut psql = cluster.program("psql");
        psql.args(["-X", "-q", "-U", role, "-d", database]);
        psql.env("PGAPPNAME", application)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        let visitor = Self(psql.spawn().unwrap());
        wait_for_session(cluster, database, application);
        visitor
    }

    /// Sends SQL, and does not wait for the result.
    pub(crate) fn types(&mut self, sql: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{sql}").unwrap();
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Waits until a session whose `application_name` begins with `application` is connected.
pub(crate) fn wait_for_session(cluster: &Cluster, database: &str, application: &str) {
    let here = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{database}' AND starts_with(application_name, '{application}')"
    );
    wait_until("somebody connected", || cluster.psql("postgres", &here) == "t");
}

/// Waits until a session whose `application_name` begins with `application` waits for a lock.
pub(crate) fn wait_for_a_waiter(cluster: &Cluster, database: &str, application: &str) {
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock' \
            AND starts_with(application_name, '{application}')"
    );
    wait_until("it waits for a lock", || cluster.psql("postgres", &waits) == "t");
}

/// A session that stays connected and keeps its locks until it is dropped.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn new(scene: &Scene, sql: &str) -> Self {
        let mut psql = source_cluster().program("psql");
        psql.args([
            "-X",
            "-q",
            "-U",
            "postgres",
            "-d",
            &scene.source.name,
            "-c",
            &format!("{sql} SELECT pg_sleep(600)"),
        ]);
        let child = psql
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let visitor = Self(child);
        let start = Instant::now();
        let sleeping =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
        while scene.on_source(sleeping) == "0" {
            assert!(start.elapsed() < Duration::from_secs(30), "the visitor never came");
            thread::sleep(Duration::from_millis(20));
        }
        visitor
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until no process and no session of a killed run is left.
pub(crate) fn wait_until_all_ended(scene: &Scene) {
    for program in ["pg_dump", "pg_restore", "psql"] {
        wait_until("all children ended", || scene.world.running(program).is_empty());
    }
    no_session(target_cluster(), &scene.target);
    no_session(source_cluster(), &scene.source.name);
}

fn no_session(cluster: &Cluster, database: &str) {
    let left = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name LIKE 'ess-migrate/%'"
    );
    wait_until("all sessions ended", || cluster.psql("postgres", &left) == "0");
}
