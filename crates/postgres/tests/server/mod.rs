//! The programs of a PostgreSQL server, for tests that start one. The tests of ess-archive include this file too.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The directory of the server's programs, which also contains a `psql` of the same version.
pub(crate) fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let all = ess_run::installations(None).into_iter().rev();
        let mut directories = all.map(|installation| installation.directory);
        let found = directories.find(|directory| directory.join("initdb").is_file());
        found.expect("these tests need a PostgreSQL server: install postgresql")
    })
}

/// Runs a server program, as `nobody` if this process is root, since these programs refuse to run as root.
pub(crate) fn serve(program: &str, args: &[&str], dir: &Path) {
    let program = bin().join(program);
    let mut command = if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    run(command.args(args).current_dir(dir));
}
