//! A throwaway PostgreSQL server on this host, from the server programs that are installed here.
//!
//! It listens only on a Unix socket in its data directory, which no other user can enter. It ends with this process,
//! however that ends: the kernel signals it (`PR_SET_PDEATHSIG`). Files that a killed run left are removed by the next
//! one.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ess_postgres::{Access, Conninfo, Session, escape_literal};
use ess_run::{Background, Installation, Report, User};
use ess_stop::{Exit, Stop};
use secrecy::{ExposeSecret as _, SecretString};

use crate::directory::Directory;
use crate::room::Watch;
use crate::steps::Rehearsal;

/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The names that ESS's database has.
const DATABASE: &str = "synapse";
const ROLE: &str = "synapse_user";

/// The user that the server runs as if this process is root, which PostgreSQL refuses. Not `nobody`, which programs
/// of others run as too: they could read the data.
const USER: &str = "postgres";

/// In the name of the socket. No other server uses its directory.
const PORT: &str = "5432";

/// The longest path of a Unix socket, in bytes (`sun_path` in unix(7), without the final zero).
const SOCKET: usize = 107;

/// A running server with an empty database as ESS creates it. The fields are dropped in this order.
pub(crate) struct Scratch {
    watch: Watch,
    _server: Arc<Background>,
    directory: Directory,
    password: SecretString,
}

impl Scratch {
    /// Creates and starts a server in this directory, which is empty.
    pub(crate) fn start(
        directory: Directory,
        installed: &Installation,
        rehearsal: &Rehearsal<'_>,
    ) -> anyhow::Result<Self> {
        let (path, report) = (directory.path().to_owned(), rehearsal.report);
        let data = data(&path);
        require_socket(&data)?;
        let user = unprivileged()?;
        if let Some(user) = user {
            let_in(&path, user)?;
        }
        report.stage("creating a throwaway PostgreSQL server", None);
        let (superuser, password) = (random(), random());
        initialize(&path, installed, user, &superuser, report)?;
        let log = path.join("log");
        let server = Arc::new(run(&data, installed, rehearsal.jobs, user, &log, report)?);
        let session = wait_until_ready(&server, &conninfo(&data, "postgres", "postgres", &superuser)?, &log)?;
        make_database(&session, &password)?;
        if rehearsal.keep {
            // Without it, the database that is kept could not be used.
            let line = format!("*:*:*:{ROLE}:{}\n", password.expose_secret());
            ess_files::write_file(&path.join("pgpass"), line.as_bytes())?;
        }
        report.done();
        let watch = Watch::start(&path, Arc::clone(&server)).context("cannot start a thread")?;
        Ok(Self {
            watch,
            _server: server,
            directory,
            password,
        })
    }

    /// How to connect to the empty database, as the role that owns it, which is not a superuser.
    pub(crate) fn conninfo(&self) -> anyhow::Result<Conninfo> {
        conninfo(&data(self.directory.path()), DATABASE, ROLE, &self.password)
    }

    /// An error if the server was ended because too little room was left.
    pub(crate) fn require_room(&self) -> Result<(), Stop> {
        self.watch.require_room()
    }
}

fn data(path: &Path) -> PathBuf {
    path.join("data")
}

/// Refuses a path at which libpq cannot use a socket.
fn require_socket(data: &Path) -> Result<(), Stop> {
    let text = data.to_string_lossy();
    let why = if data.join(format!(".s.PGSQL.{PORT}")).as_os_str().len() > SOCKET {
        "its path is too long for the server's Unix socket"
    } else if text.contains(',') {
        "libpq would take the comma in its path for the end of a host's name"
    } else {
        return Ok(());
    };
    Err(Stop::usage(format!("cannot use {text}: {why}")).hint("name another directory with --scratch"))
}

/// The user that the server runs as; `None` for that of this process, if it is not root.
fn unprivileged() -> Result<Option<User>, Stop> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match User::named(USER) {
        Some(user) => Ok(Some(user)),
        None => Err(Stop::new(
            Exit::Unavailable,
            format!("PostgreSQL refuses to run as root, and this host has no user {USER} to run it as"),
        )
        .hint("run rehearse as another user than root, or name an empty database with --on")),
    }
}

/// Lets the server's user pass through its directory, in which only this user can create files.
///
/// # Errors
///
/// A directory above does not let that user pass.
fn let_in(path: &Path, user: User) -> anyhow::Result<()> {
    chown(path, None, Some(user.gid))
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o710)))
        .with_context(|| format!("cannot change the group of {}", path.display()))?;
    let real = fs::canonicalize(path).with_context(|| format!("cannot inspect {}", path.display()))?;
    for above in real.ancestors() {
        let found = fs::metadata(above).with_context(|| format!("cannot inspect {}", above.display()))?;
        let execute = if found.uid() == user.uid {
            0o100
        } else if found.gid() == user.gid {
            0o010
        } else {
            0o001
        };
        if found.mode() & execute == 0 {
            return Err(Stop::new(
                Exit::Permission,
                format!(
                    "user {USER}, which the throwaway server runs as, cannot enter {}",
                    above.display()
                ),
            )
            .hint("name a directory elsewhere with --scratch, such as /var/tmp/rehearsal")
            .into());
        }
    }
    Ok(())
}

/// Runs initdb. Like ESS's own server, it has UTF8 and the locale C; everyone needs a password.
fn initialize(
    path: &Path,
    installed: &Installation,
    user: Option<User>,
    superuser: &SecretString,
    report: &dyn Report,
) -> anyhow::Result<()> {
    let data = data(path);
    let cannot = || format!("cannot create {}", data.display());
    fs::DirBuilder::new().mode(0o700).create(&data).with_context(cannot)?;
    if let Some(user) = user {
        // No other user can create a link here.
        chown(&data, Some(user.uid), Some(user.gid)).with_context(cannot)?;
    }
    let file = path.join("password");
    write_password(&file, superuser, user)?;
    let mut initdb = installed
        .program("initdb")
        .args([
            "--encoding=UTF8",
            "--locale=C",
            "--username=postgres",
            "--auth=scram-sha-256",
            "--no-sync",
        ])
        .arg("--pgdata")
        .arg(&data)
        .arg("--pwfile")
        .arg(&file)
        .directory(&data);
    if let Some(user) = user {
        initdb = initdb.user(user);
    }
    let made = initdb.finish(report);
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    made.context("cannot create a throwaway PostgreSQL server")
}

/// Writes a password into a new file that only the server's user can read.
fn write_password(path: &Path, password: &SecretString, user: Option<User>) -> anyhow::Result<()> {
    let mut file = ess_files::create_file(path)?;
    file.write_all(password.expose_secret().as_bytes())
        .and_then(|()| match user {
            Some(user) => fchown(&file, Some(user.uid), Some(user.gid)),
            None => Ok(()),
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Starts the server. Its other settings are PostgreSQL's defaults, so that its speed resembles that of any server.
fn run(
    data: &Path,
    installed: &Installation,
    jobs: usize,
    user: Option<User>,
    log: &Path,
    report: &dyn Report,
) -> anyhow::Result<Background> {
    let settings = [
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", data.display()),
        format!("port={PORT}"),
        format!("max_connections={}", jobs.saturating_mul(2).saturating_add(20).max(100)),
    ];
    let server = installed.program("postgres").arg("-D").arg(data).directory(data);
    let mut server = settings
        .iter()
        .fold(server, |server, setting| server.args(["-c", setting]));
    if let Some(user) = user {
        server = server.user(user);
    }
    let log: File = ess_files::create_file(log)?;
    Ok(server.background(log, report)?)
}

/// Connects as the superuser as soon as the server accepts connections.
fn wait_until_ready(server: &Background, conninfo: &Conninfo, log: &Path) -> anyhow::Result<Session> {
    let start = Instant::now();
    loop {
        ess_run::stop_if_interrupted()?;
        let ended = server.has_ended();
        match Session::connect(conninfo, "ess-migrate/rehearse", Access::ReadWrite) {
            Ok(session) => return Ok(session),
            Err(error) if ended || start.elapsed() > PATIENCE => {
                let text = fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let last = lines[lines.len().saturating_sub(5)..].join("\n  | ");
                return Err(Stop::new(
                    Exit::Unavailable,
                    format!("the throwaway PostgreSQL server did not start: {error}\n  | {last}"),
                )
                .into());
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn make_database(session: &Session, password: &SecretString) -> anyhow::Result<()> {
    session.batch(
        "create the role",
        &format!(
            "CREATE ROLE {ROLE} LOGIN PASSWORD {}",
            escape_literal(password.expose_secret())
        ),
    )?;
    session.batch(
        "create the database",
        &format!(
            "CREATE DATABASE {DATABASE} OWNER {ROLE} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        ),
    )?;
    Ok(())
}

fn conninfo(data: &Path, database: &str, user: &str, password: &SecretString) -> anyhow::Result<Conninfo> {
    let params = [
        ("host", data.display().to_string()),
        ("port", PORT.to_owned()),
        ("dbname", database.to_owned()),
        ("user", user.to_owned()),
        ("sslmode", "disable".to_owned()),
    ];
    let params: BTreeMap<String, String> = params.map(|(name, value)| (name.to_owned(), value)).into();
    let mut conninfo = Conninfo::from_params(params, Some(password.clone()))?.resolve(&|_| None, false)?;
    conninfo.show_as("throwaway-server");
    Ok(conninfo)
}

fn random() -> SecretString {
    SecretString::from(uuid::Uuid::new_v4().simple().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_at_which_no_socket_can_be_is_refused() {
        let refused = |path: &str| require_socket(Path::new(path)).is_err();
        assert!(!refused("/srv/rehearsal/data"));
        assert!(refused("/srv/a,b/data"));
        let longest = format!("/{}", "x".repeat(SOCKET - 1 - "/.s.PGSQL.5432".len()));
        assert!(!refused(&longest));
        assert!(refused(&format!("{longest}x")));
    }
}
