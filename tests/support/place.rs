//! The resources of one test process on this machine: a directory, the shipped programs in it, an unprivileged user,
//! and a watchdog that cleans up however the process ends.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use walkdir::WalkDir;

/// Each shipped program, and the path where cargo built it.
pub(crate) const TOOLS: [(&str, &str); 11] = [
    ("rehearse", env!("CARGO_BIN_EXE_rehearse")),
    ("preflight", env!("CARGO_BIN_EXE_preflight")),
    ("extract-secrets", env!("CARGO_BIN_EXE_extract-secrets")),
    ("pgdump-wrap", env!("CARGO_BIN_EXE_pgdump-wrap")),
    ("ess-scale", env!("CARGO_BIN_EXE_ess-scale")),
    ("media-sync", env!("CARGO_BIN_EXE_media-sync")),
    ("ess-wipe", env!("CARGO_BIN_EXE_ess-wipe")),
    ("restore", env!("CARGO_BIN_EXE_restore")),
    ("verify", env!("CARGO_BIN_EXE_verify")),
    ("well-known", env!("CARGO_BIN_EXE_well-known")),
    ("ess-job", env!("CARGO_BIN_EXE_ess-job")),
];

/// Waits for the end of standard input, which comes when the test process has ended, even by SIGKILL. Then ends the
/// processes that still run in the directory, and removes it. `PostgreSQL` is first stopped with a signal, because a
/// killed server leaves its shared memory behind.
const WATCHDOG: &str = r#"
trap '' HUP INT QUIT TERM
cd /
read -r _
find "$1" -maxdepth 4 -name postmaster.pid -exec head -qn1 {} + | xargs -r kill -QUIT 2>/dev/null
for try in {1..100}; do
    left=
    while read -r process; do
        left=1
        if ((try > 50)) || [[ $(<"$process/comm") != postgres ]]; then
            kill -KILL "${process#/proc/}"
        fi
    done < <(find /proc/[0-9]* -maxdepth 1 -name cwd -lname "$1*" -printf '%h\n')
    [[ $left ]] || break
    sleep 0.1
done 2>/dev/null
rm -rf -- "$1"
"#;

/// The place of this process.
pub(crate) fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(Place::new)
}

pub(crate) struct Place {
    /// A short path, because the path of a Unix socket is limited to 107 bytes.
    pub(crate) dir: PathBuf,
    /// The shipped programs.
    pub(crate) bin: PathBuf,
    /// The directory of the `PostgreSQL` programs, including the server.
    pub(crate) pgbin: PathBuf,
    /// User and group ids of servers and programs when the tests run as root.
    user: Option<(u32, u32)>,
    /// Holds the watchdog's standard input open.
    _watchdog: Child,
}

impl Place {
    fn new() -> Self {
        let user = rustix::process::geteuid().is_root().then(nobody);
        let dir = tempfile::Builder::new()
            .prefix("ess-")
            .tempdir_in("/tmp")
            .unwrap()
            .keep();
        let watchdog = Command::new("/bin/bash")
            .args(["-c", WATCHDOG, "watchdog"])
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C at the terminal must not end it.
            .process_group(0)
            .spawn()
            .expect("bash starts: install bash");
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        let bin = dir.join("bin");
        fs::create_dir(&bin).unwrap();
        for (name, built) in TOOLS {
            place_file(Path::new(built), &bin.join(name));
        }
        Self {
            dir,
            bin,
            pgbin: pgbin(),
            user,
            _watchdog: watchdog,
        }
    }

    /// A command with an empty environment, as the unprivileged user, in `dir`.
    pub(crate) fn command(&self, program: impl AsRef<Path>, dir: &Path) -> Command {
        let path = [&self.bin, &self.pgbin, Path::new("/usr/bin"), Path::new("/bin")];
        let mut command = Command::new(program.as_ref());
        command
            .current_dir(dir)
            .env_clear()
            .env("HOME", dir)
            .env("LANG", "C.UTF-8")
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("TZ", "UTC");
        if let Some((uid, gid)) = self.user {
            // std clears the supplementary groups when it drops root.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or directory to the unprivileged user.
    pub(crate) fn give(&self, path: &Path) {
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Creates a directory that belongs to the unprivileged user.
    pub(crate) fn make_dir(&self, path: &Path) {
        fs::create_dir(path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        self.give(path);
    }

    /// The name of the user that servers and programs run as.
    pub(crate) fn user_name(&self) -> String {
        let output = self.command("/usr/bin/id", &self.dir).arg("-un").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A path of `tree` that the unprivileged user can reach: `tree` itself, or a copy if the checkout is below a
    /// directory that only root can enter.
    pub(crate) fn reachable(&self, tree: &Path) -> PathBuf {
        let seen = self
            .command("/usr/bin/test", &self.dir)
            .arg("-x")
            .arg(tree)
            .status()
            .unwrap();
        if seen.success() {
            return tree.to_owned();
        }
        let copy = self.dir.join(tree.file_name().unwrap());
        for entry in WalkDir::new(tree) {
            let entry = entry.unwrap();
            let to = copy.join(entry.path().strip_prefix(tree).unwrap());
            if entry.file_type().is_dir() {
                fs::create_dir(&to).unwrap();
            } else if entry.path_is_symlink() {
                symlink(fs::read_link(entry.path()).unwrap(), &to).unwrap();
            } else {
                place_file(entry.path(), &to);
            }
        }
        copy
    }
}

/// Ids of the processes whose working directory is in `dir`. Child processes inherit it even if a program changes its
/// environment, and none of them becomes a daemon.
pub(crate) fn processes_in(dir: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        fs::read_link(entry.path().join("cwd"))
            .ok()?
            .starts_with(dir)
            .then_some(pid)
    });
    pids.collect()
}

/// An unused port, outside the range of ports for outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 120).unwrap() * 100 + 20_000;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Places a file by a hard link, or by a copy if it is on another file system.
fn place_file(from: &Path, to: &Path) {
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap_or_else(|error| panic!("{} copied: {error}", from.display()));
    }
}

fn nobody() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> = users
        .lines()
        .find(|line| line.starts_with("nobody:"))
        .expect("there is a user nobody")
        .split(':')
        .collect();
    (fields[2].parse().unwrap(), fields[3].parse().unwrap())
}

/// The directory of the server programs, which are rarely in PATH.
fn pgbin() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter_map(|dir| {
        // Debian's PATH contains wrappers; a link leads to the directory with all programs.
        fs::canonicalize(dir.join("initdb")).ok()?.parent().map(Path::to_owned)
    });
    let configured = Command::new("pg_config").arg("--bindir").output().ok();
    let configured = configured.map(|output| String::from_utf8_lossy(&output.stdout).trim().into());
    let mut debian: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))
        })
        .collect();
    debian.sort_unstable();
    on_path
        .chain(configured)
        .chain(debian.into_iter().rev().map(|(_, dir)| dir))
        .find(|dir| {
            ["initdb", "postgres", "psql", "pg_dump"]
                .iter()
                .all(|name| dir.join(name).is_file())
        })
        .expect("the PostgreSQL server programs are missing: install postgresql (Debian) or postgresql-server")
}
