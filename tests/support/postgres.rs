//! Throwaway `PostgreSQL` servers.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use postgres_protocol::escape::{escape_identifier, escape_literal};
use rustix::process::{Pid, Signal, kill_process};

use super::place::{free_port, place, processes_in};
use super::synapse::Database;
use super::{Shared, World};

/// Password of the superuser `postgres`, who needs none on the Unix socket.
pub(crate) const SUPERUSER_PASSWORD: &str = "superuser's own";

/// Password of `synapse_user`, the role that Element Server Suite creates for Synapse.
pub(crate) const ESS_PASSWORD: &str = "Zx8-made-by-ess";

/// How roles other than the superuser authenticate over the Unix socket. Over TCP all need a password.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Local {
    Trust,
    /// The name of the role must be that of the operating system's user, `place().user_name()`.
    Peer,
}

/// A `PostgreSQL` server in a world, on a Unix socket and a loopback port.
pub(crate) struct Cluster {
    world: Arc<Shared>,
    /// The server's own programs.
    bin: PathBuf,
    /// Contains the socket, the log and `data`.
    pub(crate) dir: PathBuf,
    pub(crate) port: u16,
    postmaster: Mutex<Option<Child>>,
}

impl Cluster {
    /// Clusters of different names have different system identifiers.
    pub(crate) fn new(world: &World, name: &str) -> Self {
        Self::with_local(world, name, Local::Trust)
    }

    pub(crate) fn with_local(world: &World, name: &str, local: Local) -> Self {
        Self::made(world, name, local, place().pgbin.clone())
    }

    /// A server of another version, whose programs are in `bin`. A name must always be used with the same version.
    pub(crate) fn of(world: &World, name: &str, bin: PathBuf) -> Self {
        Self::made(world, name, Local::Trust, bin)
    }

    fn made(world: &World, name: &str, local: Local, bin: PathBuf) -> Self {
        let world = Arc::clone(&world.0);
        let dir = world.dir.join(name);
        let port = free_port();
        world.add_mask(port.to_string(), &format!("${}_PORT", name.to_uppercase()));
        place().make_dir(&dir);
        copy(&initialised(name, &bin), &dir.join("data"));
        let local = if local == Local::Peer { "peer" } else { "trust" };
        let access = format!(
            "local all postgres trust\n\
             local all all {local}\n\
             local replication postgres trust\n\
             host all all 127.0.0.1/32 scram-sha-256\n"
        );
        fs::write(dir.join("data/pg_hba.conf"), access).unwrap();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
             password_encryption = 'scram-sha-256'\nfsync = off\nfull_page_writes = off\nshared_buffers = 16MB\nmax_connections = 60\n",
            dir.display()
        );
        fs::write(dir.join("data/postgresql.conf"), settings).unwrap();
        let cluster = Self {
            world,
            bin,
            dir,
            port,
            postmaster: Mutex::new(None),
        };
        cluster.start();
        cluster
    }

    /// A standby of this server.
    pub(crate) fn standby(&self, name: &str) -> Self {
        let (dir, port) = (self.world.dir.join(name), free_port());
        place().make_dir(&dir);
        let mut copy = self.program("pg_basebackup");
        copy.args(["-U", "postgres", "--write-recovery-conf", "--checkpoint=fast", "-D"]);
        copy.arg(dir.join("data"));
        feed(copy, b"");
        let settings = fs::read_to_string(dir.join("data/postgresql.conf")).unwrap();
        let settings = settings
            .replace(&self.port.to_string(), &port.to_string())
            .replace(&self.dir.display().to_string(), &dir.display().to_string());
        fs::write(dir.join("data/postgresql.conf"), settings).unwrap();
        let standby = Self {
            world: Arc::clone(&self.world),
            dir,
            port,
            bin: self.bin.clone(),
            postmaster: Mutex::new(None),
        };
        standby.start();
        standby
    }

    /// A server as Element Server Suite creates it: with the role `synapse_user` and its empty database `synapse`.
    pub(crate) fn ess(world: &World, name: &str) -> Self {
        Self::new(world, name).into_ess()
    }

    /// Adds that role and that database.
    pub(crate) fn into_ess(self) -> Self {
        self.create_role("synapse_user", ESS_PASSWORD);
        self.create_database("synapse", "synapse_user");
        self
    }

    /// Starts the server, and waits until it accepts connections.
    pub(crate) fn start(&self) {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.dir.join("log"))
            .unwrap();
        let data = self.dir.join("data");
        // Without pg_ctl, so that the server is a child process and ends with the tests.
        let mut child = place()
            .command(self.bin.join("postgres"), &data)
            .arg("-D")
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let start = Instant::now();
        // The eighth line of postmaster.pid contains the status of the server.
        let pid = child.id().to_string();
        let ready = || {
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let mut lines = state.lines();
            lines.next() == Some(&pid) && lines.nth(6).is_some_and(|line| line.trim() == "ready")
        };
        while !ready() {
            let ended = child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(60),
                "PostgreSQL did not start ({ended:?}):\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(10));
        }
        *self.postmaster.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    }

    /// Stops the server at once, even if sessions are connected.
    pub(crate) fn stop(&self) {
        self.end(Signal::QUIT);
    }

    /// Kills the server's first process, as the kernel does when memory is short, and waits until the others have
    /// ended.
    pub(crate) fn kill(&self) {
        self.end(Signal::KILL);
        let data = self.dir.join("data");
        while !processes_in(&data).is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&self, signal: Signal) {
        let child = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            let _ = kill_process(Pid::from_child(&child), signal);
            let _ = child.wait();
        }
    }

    /// Whether the server was started and not stopped since.
    pub(crate) fn runs(&self) -> bool {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Runs SQL as the superuser. Returns one row per line, with columns separated by `|`.
    #[track_caller]
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        self.psql_as("postgres", database, sql)
    }

    /// Runs SQL as a role, over the Unix socket.
    #[track_caller]
    pub(crate) fn psql_as(&self, role: &str, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql");
        psql.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            role,
            "-d",
            database,
        ]);
        let text = String::from_utf8(feed(psql, sql.as_bytes())).unwrap();
        text.strip_suffix('\n').unwrap_or(&text).to_owned()
    }

    pub(crate) fn create_role(&self, name: &str, password: &str) {
        let name = escape_identifier(name);
        self.psql(
            "postgres",
            &format!("CREATE ROLE {name} LOGIN PASSWORD {}", escape_literal(password)),
        );
    }

    /// Creates a database with the encoding and collation that Synapse requires.
    pub(crate) fn create_database(&self, name: &str, owner: &str) {
        let mut createdb = self.program("createdb");
        createdb.args([
            "--encoding=UTF8",
            "--locale=C",
            "--template=template0",
            "-U",
            "postgres",
        ]);
        createdb.args(["--owner", owner, "--", name]);
        feed(createdb, b"");
    }

    /// A libpq URL, without a password.
    pub(crate) fn url(&self, database: &str, role: &str) -> String {
        format!(
            "postgresql://{}@127.0.0.1:{}/{}",
            percent(role),
            self.port,
            percent(database)
        )
    }

    /// A libpq URL for the Unix socket.
    pub(crate) fn socket_url(&self, database: &str, role: &str) -> String {
        let dir = percent(&self.dir.display().to_string());
        format!(
            "postgresql://{}@{dir}:{}/{}",
            percent(role),
            self.port,
            percent(database)
        )
    }

    /// The connection settings of a Synapse for a database of this server.
    pub(crate) fn database(&self, name: &str, role: &str, password: &str) -> Database {
        Database {
            port: self.port,
            name: name.into(),
            role: role.into(),
            password: password.into(),
        }
    }

    /// A `PostgreSQL` program that connects to this server.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = place().command(place().pgbin.join(name), &self.world.dir);
        command.env("PGHOST", &self.dir).env("PGPORT", self.port.to_string());
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a command with `input` as its standard input, and returns its output.
#[track_caller]
pub(super) fn feed(mut command: Command, input: &[u8]) -> Vec<u8> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // A program that fails can end without reading; its exit status is checked.
        scope.spawn(move || pipe.write_all(input));
        child.wait_with_output().unwrap()
    });
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// The data directory of a server that never ran, created once per name, because a copy is faster than initdb.
fn initialised(name: &str, bin: &Path) -> PathBuf {
    static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let template = place().dir.join("initdb").join(name);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.iter().any(|made| made == name) {
        if made.is_empty() {
            place().make_dir(template.parent().unwrap());
        }
        let password = place().dir.join("initdb/superuser.pw");
        fs::write(&password, SUPERUSER_PASSWORD).unwrap();
        place().give(&password);
        let mut initdb = place().command(bin.join("initdb"), &place().dir);
        initdb.args([
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
            "-U",
            "postgres",
            "--auth=scram-sha-256",
        ]);
        initdb
            .arg("--wal-segsize=1")
            .arg("--pwfile")
            .arg(&password)
            .arg("-D")
            .arg(&template);
        feed(initdb, b"");
        made.push(name.to_owned());
    }
    template
}

/// Copies a directory as the unprivileged user.
fn copy(from: &Path, to: &Path) {
    let mut cp = place().command("/bin/cp", &place().dir);
    cp.args(["-a", "--reflink=auto"]).args([from, to]);
    feed(cp, b"");
}

/// Percent-encodes a part of a URL.
pub(crate) fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}
