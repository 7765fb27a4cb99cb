//! The programs of a cluster: taken from KUBEBUILDER_ASSETS, or built from their Go modules.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ess_files::hex;
use sha2::{Digest as _, Sha256};

use crate::support::place;

/// The version of Kubernetes in programs/go.mod. Without it in the programs, Helm takes the API server for v0.0.0.
const VERSION: &str = "1.37.2";

const NAMES: [&str; 9] = [
    "coredns",
    "etcd",
    "helm",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
];

/// What the programs are built from.
const SOURCES: [(&str, &str); 3] = [
    ("go.mod", include_str!("programs/go.mod")),
    ("go.sum", include_str!("programs/go.sum")),
    ("main.go", include_str!("programs/main.go")),
];

/// A directory with each program, in which the unprivileged user of the tests finds them.
pub(super) fn programs() -> PathBuf {
    let links = place().dir.join("kubernetes-bin");
    fs::create_dir(&links).unwrap();
    let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    for name in NAMES {
        let given = assets.as_ref().map(|assets| assets.join(name));
        let program = given.filter(|path| path.is_file()).unwrap_or_else(built);
        fs::hard_link(&program, links.join(name))
            .or_else(|_| fs::copy(&program, links.join(name)).map(drop))
            .unwrap();
    }
    links
}

/// The program that is all of them, in a cache outside the checkout, because a build takes minutes.
fn built() -> PathBuf {
    let digest = SOURCES
        .iter()
        .fold(Sha256::new(), |digest, (_, text)| digest.chain_update(text));
    let digest = hex(&digest.finalize()[..6]);
    let program = cache().join(format!("kubernetes-{VERSION}-{digest}"));
    if !program.exists() {
        build(&program);
    }
    program
}

/// Where files are kept that take minutes to make and serve every checkout.
pub(super) fn cache() -> PathBuf {
    let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let cache = base.expect("HOME is set").join("ess-migrate");
    fs::create_dir_all(&cache).unwrap();
    cache
}

fn build(program: &Path) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/kubernetes/programs");
    let version = "k8s.io/component-base/version";
    let (major, minor) = VERSION.split_once('.').unwrap();
    let minor = minor.split_once('.').unwrap().0;
    let flags = format!(
        "-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor={major} -X {version}.gitMinor={minor} \
         -X {version}.gitTreeState=clean"
    );
    // Renamed when it is complete.
    let partial = program.with_extension("partial");
    // The one that .ci/needs installs where the distribution's is too old.
    let own = cache().join("go/bin/go");
    let go = if own.exists() { own } else { PathBuf::from("go") };
    let output = Command::new(go)
        .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(&partial)
        .arg(".")
        .current_dir(&sources)
        .env("CGO_ENABLED", "0")
        .stdin(Stdio::null())
        .output()
        .expect("go starts: install Go 1.26 or later");
    assert!(
        output.status.success(),
        "Kubernetes builds: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    fs::rename(partial, program).unwrap();
}
