//! Files in a world: what a directory contains, who has access to it, and a disk that is full.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::World;

/// A small file system in memory, until it is dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// `None` if the tests do not run as root, since only root can mount.
    pub(crate) fn mount(world: &World, dir: &str, size: &str) -> Option<Self> {
        world.shell(&format!("mkdir -m 700 {dir}")).success();
        let path = world.path(dir);
        let owner = fs::metadata(&path).unwrap();
        let options = format!("size={size},mode=700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(path));
        }
        fs::remove_dir(&path).unwrap();
        None
    }

    /// Enlarges the file system.
    pub(crate) fn grow(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,size=256m"]).arg(&self.0);
        assert!(mount.status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The names in a directory of the world, sorted, including hidden ones.
pub(crate) fn names_in(world: &World, dir: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(world.path(dir))
        .map(|entries| {
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        })
        .unwrap_or_default();
    names.sort_unstable();
    names
}

/// Fails unless only the owner has access to a path and everything below it.
#[track_caller]
pub(crate) fn assert_private(world: &World, path: &str) {
    for entry in walkdir::WalkDir::new(world.path(path)) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let wanted = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", entry.path().display());
    }
}
