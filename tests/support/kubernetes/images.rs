//! The images of the pods: a Debian with PostgreSQL, Python and Redis, a Synapse on top, and our own programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ess_files::{hash_file, hex};
use ess_run::Silent;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::machine::Machine;
use super::programs::cache;
use crate::support::{TOOLS, synapse_python};

/// Debian with the servers, also the image of a pod's sandbox.
pub(super) const BASE: &str = "registry.test/base:1";
/// The base, and Synapse's virtual environment at the path that it has on this machine.
pub(super) const SYNAPSE: &str = "registry.test/synapse:v1.159.0";
/// The base, and our programs.
pub(super) const PROGRAMS: &str = "registry.test/ess-migrate:1";

const PACKAGES: &str = "postgresql,python3,redis-server";

/// initdb needs a name for the user that it runs as: the one of ESS's pods, and of the older ESS's.
const USERS: &str = "echo ess:x:10091:10091::/tmp:/bin/sh >>\"$1/etc/passwd\"; \
                     echo onprem:x:10991:10991::/tmp:/bin/sh >>\"$1/etc/passwd\"";

/// Makes the images and imports them into containerd.
pub(super) fn import_all(machine: &Machine, dir: &Path) {
    let base = base();
    let synapse = synapse(dir);
    let programs = programs(dir);
    import(machine, dir, BASE, &[&base]);
    import(machine, dir, SYNAPSE, &[&base, &synapse]);
    import(machine, dir, PROGRAMS, &[&base, &programs]);
}

/// The layer with Debian, from the cache or from Debian's archive.
fn base() -> PathBuf {
    let digest = hex(&Sha256::digest([PACKAGES, USERS].concat())[..6]);
    let layer = cache().join(format!("debian-12-{digest}.tar"));
    if !layer.exists() {
        let partial = layer.with_extension("partial.tar");
        run(Command::new("mmdebstrap")
            .args(["--variant=minbase", "--format=tar", "--include", PACKAGES])
            .arg(format!("--customize-hook={USERS}"))
            // No manual pages, and no cluster of PostgreSQL's package.
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
            ])
            .args(["--customize-hook=rm -rf \"$1/var/lib/postgresql\" \"$1/var/cache/apt\""])
            .arg("bookworm")
            .arg(&partial));
        fs::rename(partial, &layer).unwrap();
    }
    layer
}

fn synapse(dir: &Path) -> PathBuf {
    let environment = synapse_python().parent().unwrap().parent().unwrap();
    let layer = dir.join("synapse.tar");
    run(Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--file"])
        .arg(&layer)
        .arg("--directory=/")
        .arg(environment.strip_prefix("/").unwrap()));
    layer
}

fn programs(dir: &Path) -> PathBuf {
    let root = dir.join("programs/usr/local/bin");
    fs::create_dir_all(&root).unwrap();
    for (name, built) in TOOLS {
        // Without the names for debuggers, which are most of it.
        run(Command::new("strip").arg("-o").arg(root.join(name)).arg(built));
    }
    let layer = dir.join("programs.tar");
    run(Command::new("tar")
        .args(["--create", "--owner=0", "--group=0", "--file"])
        .arg(&layer)
        .arg("--directory")
        .arg(dir.join("programs"))
        .arg("usr"));
    layer
}

/// Imports an image of these layers, in the form of `docker save`.
fn import(machine: &Machine, dir: &Path, name: &str, layers: &[&Path]) {
    let image = dir.join("image");
    fs::create_dir(&image).unwrap();
    let mut digests = Vec::new();
    let mut names = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("{number}.tar");
        fs::hard_link(layer, image.join(&name))
            .or_else(|_| fs::copy(layer, image.join(&name)).map(drop))
            .unwrap();
        digests.push(format!("sha256:{}", hash_file(layer, &Silent).unwrap().0));
        names.push(name);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sleep", "infinity"],
        "Env": ["PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": digests}});
    fs::write(image.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": [name], "Layers": names}]);
    fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = dir.join("image.tar");
    run(Command::new("tar")
        .args(["--create", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&image)
        .arg("."));
    fs::remove_dir_all(&image).unwrap();
    machine.run(&format!(
        "ctr --address {0}/containerd.sock --namespace k8s.io images import --no-unpack=false {0}/image.tar",
        dir.display()
    ));
    fs::remove_file(archive).unwrap();
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}
