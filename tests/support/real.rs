//! A homeserver on this host, and an ESS that Helm installed in a real Kubernetes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard};

use serde_json::Value;

use super::kubernetes::Kubernetes;
use super::{
    Call, Cluster, Database, Identity, Ran, Running, SERVER_NAME, Seeded, Synapse, World, free_port, readme,
    synapse_python, wait_until,
};

/// The chart that the tests install, unless CHART names another, such as a copy of matrix-stack.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/kubernetes/chart");

/// An ESS in a namespace of its own.
pub(crate) struct Installed {
    pub(crate) world: World,
    pub(crate) kubernetes: &'static Kubernetes,
    pub(crate) namespace: String,
    /// The kubeconfig that the programs use: an administrator's, unless a test changes it.
    pub(crate) kubeconfig: PathBuf,
    values: Vec<String>,
    _running: RunningTest,
}

/// A test that runs at the same time as others, or alone.
#[expect(dead_code, reason = "the guards are only held")]
enum RunningTest {
    WithOthers(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Installed {
    /// Installs ESS with these values, such as `synapse.replicas=1`, and waits until it is ready.
    pub(crate) fn new(values: &[&str]) -> Self {
        Self::prepared(values, |_| {})
    }

    /// The same, while no other test runs in the cluster.
    pub(crate) fn alone(values: &[&str]) -> Self {
        // A test that failed poisons the lock, which protects nothing.
        let alone = Kubernetes::shared()
            .running
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Self::made(values, RunningTest::Alone(alone), |_| {})
    }

    /// The same, after `prepare` has put into the namespace what ESS needs or must live with.
    pub(crate) fn prepared(values: &[&str], prepare: impl FnOnce(&Self)) -> Self {
        let shared = Kubernetes::shared()
            .running
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        Self::made(values, RunningTest::WithOthers(shared), prepare)
    }

    fn made(values: &[&str], running: RunningTest, prepare: impl FnOnce(&Self)) -> Self {
        let kubernetes = Kubernetes::shared();
        let world = World::new();
        let kubeconfig = kubernetes.kubeconfig(&world, "admin", "token-of-admin");
        let python = format!("python={}", synapse_python().display());
        let own = [format!("serverName={SERVER_NAME}"), python];
        let installed = Self {
            namespace: kubernetes.namespace(),
            kubeconfig,
            values: own
                .into_iter()
                .chain(values.iter().map(|value| (*value).to_owned()))
                .collect(),
            world,
            kubernetes,
            _running: running,
        };
        prepare(&installed);
        let ran = installed.helm(&["install", "--wait", "--timeout", "5m"]);
        assert!(ran.status.success(), "{ran}\n{}", installed.shown());
        installed
    }

    /// Runs `helm ARGS ess CHART` with the values of this installation.
    pub(crate) fn helm(&self, args: &[&str]) -> Ran {
        let chart = std::env::var("CHART").unwrap_or_else(|_| CHART.to_owned());
        let mut line = self.kubernetes.program("helm").display().to_string();
        for arg in args {
            let _ = write!(line, " {arg}");
        }
        let _ = write!(line, " ess {chart} --namespace {}", self.namespace);
        for value in &self.values {
            let _ = write!(line, " --set '{value}'");
        }
        self.script(&line).run()
    }

    /// Applies what extract-secrets emitted, and upgrades ESS with its values.
    fn upgrade(&self) {
        let secrets = self.world.path("export/ess/secrets.yaml");
        self.kubectl(&["apply", "--server-side", "--filename", &secrets.display().to_string()]);
        let values = self.world.path("export/ess/values.yaml").display().to_string();
        self.helm(&[
            "upgrade",
            "--wait",
            "--timeout",
            "5m",
            "--force-conflicts",
            "--values",
            &values,
        ])
        .success();
    }

    /// Runs kubectl in the namespace, as an administrator.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.kubernetes
            .kubectl(&[&["--namespace", &self.namespace], args].concat())
    }

    /// The pods and the ends of their logs, for a failed assertion.
    fn shown(&self) -> String {
        let of_all = ["--selector", "app.kubernetes.io/part-of=matrix-stack"];
        let logs = [&["logs", "--all-containers", "--prefix", "--tail", "15"], &of_all[..]].concat();
        self.kubectl(&["get", "pods", "--output", "wide"]) + &self.kubectl(&logs)
    }

    /// A query in the database pod, as the superuser.
    #[track_caller]
    pub(crate) fn psql(&self, sql: &str) -> String {
        let psql = [
            "exec",
            "ess-postgres-0",
            "--",
            "psql",
            "-qAtX",
            "-U",
            "postgres",
            "-h",
            "localhost",
            "-d",
            "synapse",
            "-c",
        ];
        self.kubectl(&[&psql[..], &[sql]].concat()).trim().to_owned()
    }

    /// A script with our programs, which see the cluster through the kubeconfig.
    pub(crate) fn script<'a>(&self, script: &str) -> Call<'a> {
        self.world
            .script(&format!("set -o pipefail; {script}"))
            .env("KUBECONFIG", &self.kubeconfig)
    }

    /// The value of `--target`.
    pub(crate) fn target(&self) -> String {
        format!("kube:{}", self.namespace)
    }

    /// An object of the namespace.
    #[track_caller]
    pub(crate) fn object(&self, kind: &str, name: &str) -> Value {
        self.kubernetes.object(kind, &self.namespace, name)
    }

    /// Waits until an object of the namespace, such as `pod/ess-postgres-0`, no longer exists.
    #[track_caller]
    pub(crate) fn wait_until_gone(&self, object: &str) {
        self.kubectl(&["wait", "--for=delete", object, "--timeout=60s"]);
    }

    /// Forwards a port of a pod to this host until the result is dropped.
    pub(crate) fn forward(&self, pod: &str, port: u16) -> (Running, u16) {
        let local = free_port();
        let kubectl = self.kubernetes.program("kubectl");
        let line = format!(
            "exec {} port-forward --namespace {} {pod} {local}:{port}",
            kubectl.display(),
            self.namespace
        );
        let running = self.script(&line).start();
        wait_until("the port is forwarded", || {
            std::net::TcpStream::connect(("127.0.0.1", local)).is_ok()
        });
        (running, local)
    }
}

/// A stopped homeserver on this host, and an ESS into which it moves.
pub(crate) struct RealMove {
    pub(crate) ess: Installed,
    pub(crate) source: Cluster,
    pub(crate) from: Database,
    pub(crate) old: Synapse,
    pub(crate) seeded: Seeded,
}

impl RealMove {
    pub(crate) fn new(values: &[&str]) -> Self {
        Self::into(Installed::new(values))
    }

    pub(crate) fn into(ess: Installed) -> Self {
        let source = Cluster::new(&ess.world, "source");
        let from = Database::awkward(&source);
        let seeded = source.load_synapse(&from.name, &from.role);
        let old = Synapse::debian(&ess.world, "old", &from, &Identity::old());
        old.load_media();
        Self {
            ess,
            source,
            from,
            old,
            seeded,
        }
    }

    /// Runs the pipeline of the README.
    pub(crate) fn line(&self) -> Ran {
        self.line_call().run()
    }

    /// The pipeline of the README.
    pub(crate) fn line_call<'a>(&self) -> Call<'a> {
        let line = readme::line("--target kube:ess", &self.old.config_args());
        self.ess.script(&line.replace("kube:ess", &self.ess.target()))
    }

    /// Gives ESS the old secrets, as steps 4 and 9 of the runbook do.
    pub(crate) fn upgrade(&self) {
        let config = self.old.config_args().join(" ");
        let emit = format!("extract-secrets {config} --emit kubernetes --emit helm < migration.json");
        self.ess.script(&emit).run().success();
        self.ess.upgrade();
    }

    /// Checks everything that users of the old homeserver have, in the Synapse of the pod.
    #[track_caller]
    pub(crate) fn check(&self) {
        let (forward, port) = self.ess.forward("ess-synapse-main-0", 8008);
        let synapse = Synapse::at(&self.ess.world, port);
        self.seeded.check(&synapse);
        self.seeded.check_media_files(&synapse);
        drop(forward);
    }

    /// The number of rows and the newest event, in the source and in the target.
    pub(crate) fn rows(&self) -> (String, String) {
        let sql = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM users), (SELECT max(stream_ordering) FROM events)";
        (self.source.psql(&self.from.name, sql), self.ess.psql(sql))
    }
}
