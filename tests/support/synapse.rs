//! A real Synapse, from `PyPI`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::World;
use super::place::{free_port, place};
use super::postgres::{Cluster, feed};
use super::seed::SERVER_NAME;

/// The packages of the Python environment.
pub(super) const REQUIREMENTS: &str = include_str!("../data/requirements.txt");

/// Time limit of a start, which on an empty database creates the complete schema.
const PATIENCE: Duration = Duration::from_secs(120);

/// Cargo's target directory, which also caches what takes long to create.
pub(super) fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Locks the target directory against other test processes, until it is dropped.
pub(super) fn lock_target() -> File {
    let lock = File::create(target().join("synapse.lock")).unwrap();
    lock.lock().unwrap();
    lock
}

/// The interpreter of a Python environment with Synapse, which is created when it is first needed.
pub(crate) fn python() -> &'static Path {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let venv = target().join("synapse");
        // Written last: an environment with this file is complete.
        let made_of = venv.join("requirements.txt");
        let _lock = lock_target();
        if fs::read_to_string(&made_of).ok().as_deref() != Some(REQUIREMENTS) {
            let _ = fs::remove_dir_all(&venv);
            let requirements = place().dir.join("requirements.txt");
            fs::write(&requirements, REQUIREMENTS).unwrap();
            // Not the Python of a version manager, which the unprivileged user may be unable to reach.
            let mut make = Command::new("/usr/bin/python3");
            install(make.args(["-m", "venv"]).arg(&venv), "python3-venv");
            let mut pip = Command::new(venv.join("bin/python"));
            pip.args([
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--only-binary=:all:",
                "--requirement",
            ]);
            install(pip.arg(&requirements), "ca-certificates, and reach PyPI");
            fs::write(&made_of, REQUIREMENTS).unwrap();
        }
        place().reachable(&venv).join("bin/python")
    })
}

/// Runs a step of the installation with our own environment, which may define how `PyPI` is reached.
pub(super) fn install(command: &mut Command, package: &str) {
    for name in ["PYTHONHOME", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"] {
        command.env_remove(name);
    }
    let output = command.current_dir(&place().dir).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}: install {package}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "{command:?}: install {package}\n{}",
        String::from_utf8_lossy(&said)
    );
}

/// Runs Python code in Synapse's environment.
pub(super) fn run_python(program: &str) -> Vec<u8> {
    let mut command = place().command(python(), &place().dir);
    command.args(["-c", program]);
    feed(command, b"")
}

/// Synapse's connection settings: over TCP, on this host.
#[derive(Clone)]
pub(crate) struct Database {
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) password: String,
}

/// The secrets that identify a homeserver.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) signing_key: String,
    pub(crate) macaroon: String,
    pub(crate) registration: String,
    pub(crate) form: String,
    pub(crate) pepper: String,
}

impl Database {
    /// Creates a role in `cluster`, and names a database that does not exist yet. Their names and the password need
    /// escaping everywhere.
    pub(crate) fn awkward(cluster: &Cluster) -> Self {
        let database = cluster.database("Synapse-Prod", "synapse", r#"p:a@s s%w'ö"r\d /#?&=$HOME"#);
        cluster.create_role(&database.role, &database.password);
        database
    }
}

impl Identity {
    /// The identity of the server that is to be moved.
    pub(crate) fn old() -> Self {
        Self {
            signing_key: "ed25519 a_OLDx xK+Xf4PlKfgvIcIWU5UA3f/V5dmUJNQtqZBBa+hJL1Q\n".into(),
            macaroon: "macaroon of the old server ~ \"quoted\" 'twice'".into(),
            registration: "registration of the old server: #1".into(),
            form: "form of the old server".into(),
            pepper: "peppér & salt\\of the old server".into(),
        }
    }

    /// An identity as Element Server Suite generates it.
    pub(crate) fn ess() -> Self {
        Self {
            signing_key: "ed25519 1 cWDM9lEYL3OJzLoo+fPyFqWeZNaYqUiTs31cts41D1I\n".into(),
            macaroon: "Xm0bD2aNrX5tXc1kZ7cHq6VgYw9uLp3e".into(),
            registration: "pJ3kT8sVn2WqZ6yBd0fRh5uMx1cGa9oE".into(),
            form: "T4wNz8vKc2LmQj6yRb0xHd5sUg1pFa9e".into(),
            pepper: String::new(),
        }
    }

    /// An identity from the files of `extract-secrets`. A secret without a file is the one of `ess`.
    pub(crate) fn extracted(secrets: &Path) -> Self {
        let ess = Self::ess();
        let read = |name, other| fs::read_to_string(secrets.join(name)).unwrap_or(other);
        Self {
            signing_key: read("signing_key", ess.signing_key),
            macaroon: read("macaroon_secret_key", ess.macaroon),
            registration: read("registration_shared_secret", ess.registration),
            form: read("form_secret", ess.form),
            pepper: read("password_config.pepper", ess.pepper),
        }
    }
}

/// A Synapse in a world: its configuration, and its process while it is running.
pub(crate) struct Synapse {
    dir: PathBuf,
    port: u16,
    registration: String,
    /// The arguments of `-c`: files and directories.
    pub(crate) config: Vec<PathBuf>,
    process: Mutex<Option<Child>>,
}

impl Synapse {
    /// A Synapse with one configuration file, `NAME/homeserver.yaml`.
    pub(crate) fn new(world: &World, name: &str, database: &Database, identity: &Identity) -> Self {
        Self::configured(world, name, identity, |general| {
            let whole = format!("{}{}{general}", server_name(), database_section(database));
            vec![(format!("{name}/homeserver.yaml"), whole)]
        })
    }

    /// A Synapse configured as by Debian's package: `NAME/homeserver.yaml`, and files of the package and the
    /// administrator in `NAME/conf.d`.
    pub(crate) fn debian(world: &World, name: &str, database: &Database, identity: &Identity) -> Self {
        let mut synapse = Self::configured(world, name, identity, |general| {
            vec![
                (format!("{name}/homeserver.yaml"), general),
                (format!("{name}/conf.d/server_name.yaml"), server_name()),
                (format!("{name}/conf.d/database.yaml"), database_section(database)),
            ]
        });
        synapse.config = vec![
            world.path(name).join("homeserver.yaml"),
            world.path(name).join("conf.d"),
        ];
        synapse
    }

    /// A Synapse that runs elsewhere, at a port of this host.
    pub(crate) fn at(world: &World, port: u16) -> Self {
        Self {
            dir: world.path("nowhere"),
            port,
            registration: String::new(),
            config: Vec::new(),
            process: Mutex::new(None),
        }
    }

    fn configured(
        world: &World,
        name: &str,
        identity: &Identity,
        files: impl FnOnce(String) -> Vec<(String, String)>,
    ) -> Self {
        let port = free_port();
        world.mask(port.to_string(), &format!("${}_PORT", name.to_uppercase()));
        world.write(&format!("{name}/homeserver.signing.key"), &identity.signing_key);
        world.write(&format!("{name}/log.yaml"), LOG);
        let dir = world.path(name);
        for (path, content) in files(general(&dir, port, identity)) {
            world.write(&path, content);
        }
        Self {
            config: vec![dir.join("homeserver.yaml")],
            registration: identity.registration.clone(),
            dir,
            port,
            process: Mutex::new(None),
        }
    }

    /// The directory of the media store.
    pub(crate) fn media_store(&self) -> PathBuf {
        self.dir.join("media_store")
    }

    /// The port on which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `-c PATH` for each part of the configuration.
    pub(crate) fn config_args(&self) -> Vec<String> {
        self.config
            .iter()
            .flat_map(|path| ["-c".to_owned(), path.display().to_string()])
            .collect()
    }

    /// Starts Synapse, and waits until it responds.
    #[track_caller]
    pub(crate) fn start(&self) {
        let mut child = self.spawn();
        let start = Instant::now();
        let agent = agent();
        while !agent
            .get(self.url("/health"))
            .call()
            .is_ok_and(|answer| answer.status() == 200)
        {
            let ended = child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("Synapse did not start ({ended:?}):\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(50));
        }
        *self.process.lock().unwrap() = Some(child);
    }

    /// Starts Synapse, expects it to fail, and returns its output.
    #[track_caller]
    pub(crate) fn start_expecting_refusal(&self) -> String {
        let mut child = self.spawn();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                let log = self.log();
                assert!(!status.success(), "Synapse ended as if well:\n{log}");
                return log;
            }
            if start.elapsed() > PATIENCE || self.is_healthy() {
                let _ = child.kill();
                let _ = child.wait();
                panic!("Synapse did not refuse to start:\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Stops Synapse regularly.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let mut child = self.process.lock().unwrap().take().expect("Synapse runs");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("console")).unwrap_or_default()
    }

    /// Registers a user with the shared secret, with Synapse's program `register_new_matrix_user`.
    pub(crate) fn register(&self, user: &str, password: &str, admin: bool) {
        let admin = if admin { "--admin" } else { "--no-admin" };
        let mut register = place().command(python(), &self.dir);
        register.args(["-m", "synapse._scripts.register_new_matrix_user", admin]);
        register.args(["-u", user, "-p", password]);
        register.args(["-k", &self.registration]);
        register.arg(self.url(""));
        feed(register, b"");
    }

    /// The body of the response to a request, which must succeed.
    #[track_caller]
    pub(crate) fn get(&self, path: &str, token: Option<&str>) -> Value {
        expect_ok(path, self.request("GET", path, token, None))
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Value {
        expect_ok(path, self.request("POST", path, token, Some(body)))
    }

    #[track_caller]
    pub(crate) fn put(&self, path: &str, token: Option<&str>, body: &Value) -> Value {
        expect_ok(path, self.request("PUT", path, token, Some(body)))
    }

    /// Status and body of the response to a request.
    pub(crate) fn request(&self, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(|body| ("application/json", body.to_string().into_bytes()));
        let (status, bytes) = self.request_bytes(method, path, token, body);
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// The same for content that is not JSON: its type, and its bytes.
    pub(crate) fn request_bytes(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<(&str, Vec<u8>)>,
    ) -> (u16, Vec<u8>) {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let answer = match body {
            Some((kind, bytes)) => agent().run(request.header("Content-Type", kind).body(bytes).unwrap()),
            None => agent().run(request.body(()).unwrap()),
        };
        let mut answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.log_tail()));
        (answer.status().as_u16(), answer.body_mut().read_to_vec().unwrap())
    }

    fn spawn(&self) -> Child {
        assert!(self.process.lock().unwrap().is_none(), "Synapse runs already");
        let console = File::create(self.dir.join("console")).unwrap();
        place()
            .command(python(), &self.dir)
            .args(["-m", "synapse.app.homeserver"])
            .args(self.config_args())
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap()
    }

    fn is_healthy(&self) -> bool {
        agent()
            .get(self.url("/health"))
            .call()
            .is_ok_and(|answer| answer.status() == 200)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Synapse {
    fn drop(&mut self) {
        if let Some(mut child) = self
            .process
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[track_caller]
fn expect_ok(path: &str, (status, body): (u16, Value)) -> Value {
    assert_eq!(status, 200, "{path}: {body}");
    body
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

/// A string in double quotes, which are the same in YAML and JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn server_name() -> String {
    format!("server_name: {SERVER_NAME}\n")
}

fn database_section(database: &Database) -> String {
    format!(
        "database:\n  name: psycopg2\n  args:\n    user: {}\n    password: {}\n    dbname: {}\n    \
         host: 127.0.0.1\n    port: {}\n    cp_min: 2\n    cp_max: 5\n",
        quoted(&database.role),
        quoted(&database.password),
        quoted(&database.name),
        database.port
    )
}

/// The options of the configuration except the server name and the database.
fn general(dir: &Path, port: u16, identity: &Identity) -> String {
    let Identity {
        signing_key: _,
        macaroon,
        registration,
        form,
        pepper,
    } = identity;
    let pepper = if pepper.is_empty() {
        String::new()
    } else {
        format!("\n  pepper: {}", quoted(pepper))
    };
    let limit = "{per_second: 1000, burst_count: 1000}";
    format!(
        "# Synapse of a test
pid_file: {dir}/homeserver.pid
listeners:
  - port: {port}
    type: http
    tls: false
    bind_addresses: ['127.0.0.1']
    resources:
      - names: [client, keys]
        compress: false
log_config: {dir}/log.yaml
media_store_path: {dir}/media_store
signing_key_path: {dir}/homeserver.signing.key
registration_shared_secret: {registration}
macaroon_secret_key: {macaroon}
form_secret: {form}
password_config:
  enabled: true{pepper}
report_stats: false
# Nobody outside is asked for anything.
trusted_key_servers: []
suppress_key_server_warning: true
federation_domain_whitelist: []
# A new database has a hundred of them, with a second between two.
background_updates:
  sleep_enabled: false
bcrypt_rounds: 4
rc_message: {limit}
rc_registration: {limit}
rc_login: {{address: {limit}, account: {limit}, failed_attempts: {limit}}}
rc_joins: {{local: {limit}, remote: {limit}}}
rc_invites: {{per_room: {limit}, per_user: {limit}, per_issuer: {limit}}}
rc_room_creation: {limit}
",
        dir = dir.display(),
        registration = quoted(registration),
        macaroon = quoted(macaroon),
        form = quoted(form),
    )
}

const LOG: &str = "version: 1
formatters: {plain: {format: '%(asctime)s %(name)s %(levelname)s %(message)s'}}
handlers: {console: {class: logging.StreamHandler, formatter: plain}}
root: {level: INFO, handlers: [console]}
disable_existing_loggers: false
";
