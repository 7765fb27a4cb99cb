//! A Python environment with Element's ess-migration-tool and readers of YAML, created when it is first needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const REQUIREMENTS: &str = include_str!("../data/peer-requirements.txt");

/// The directory of programs of a Python environment with the tool, created when it is first needed.
pub(crate) fn environment() -> &'static Path {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let venv = target.join("peer");
        // Written last: an environment with this file is complete.
        let made_of = venv.join("requirements.txt");
        let lock = File::create(target.join("peer.lock")).unwrap();
        lock.lock().unwrap();
        if fs::read_to_string(&made_of).ok().as_deref() != Some(REQUIREMENTS) {
            let _ = fs::remove_dir_all(&venv);
            ran(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv));
            let wanted = venv.join("wanted.txt");
            fs::write(&wanted, REQUIREMENTS).unwrap();
            let mut pip = Command::new(venv.join("bin/python"));
            pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:"]);
            // It declares Python 3.11.7, but works with Debian 12's.
            ran(pip.args(["--ignore-requires-python", "--requirement"]).arg(&wanted));
            fs::rename(&wanted, &made_of).unwrap();
        }
        venv.join("bin")
    })
}

/// Runs a command that must succeed, and returns its output.
pub(crate) fn ran(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// Runs a Python program in that environment, and returns the JSON that it prints.
pub(crate) fn python(program: &str, files: &[PathBuf]) -> Value {
    let output = ran(Command::new(environment().join("python"))
        .args(["-c", program])
        .args(files));
    serde_json::from_slice(&output).unwrap()
}
