//! A disk that is soon full.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::World;

/// A small file system, until it is dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None where we may not: only root can.
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
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
