//! Directories of PostgreSQL's programs in which some are replaced.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use super::{World, place};

/// Writes a program that replaces a real one.
pub(crate) fn write_program(world: &World, path: &str, script: &str) {
    write_script(world, path, &format!("#!/bin/bash\n{script}"));
}

/// Writes a program with its first line, which names the interpreter.
pub(crate) fn write_script(world: &World, path: &str, script: &str) {
    let file = world.write(path, script);
    fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
}

/// Adds to a directory programs that run the real ones, except for names that it has already.
pub(crate) fn link_programs(world: &World, dir: &str) {
    for name in ["pg_dump", "pg_restore", "psql"] {
        let path = format!("{dir}/{name}");
        if !world.path(&path).exists() {
            write_program(world, &path, &format!("exec {}/{name} \"$@\"\n", pgbin()));
        }
    }
}

/// The directory of the real `PostgreSQL` programs.
pub(crate) fn pgbin() -> String {
    place().pgbin.display().to_string()
}
