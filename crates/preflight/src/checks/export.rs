//! The directory of the export: whether it can be written, and has enough space.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use ess_document::Finding;
use rustix::fs::{Access, access, statfs, statvfs};

use crate::finding::{Detail, blocker, info, warning};
use crate::ids::{EXPORT, EXPORT_DIRECTORY, EXPORT_IN_MEMORY, EXPORT_SPACE, NOT_CHECKED};
use ess_run::text::{count, size};

/// Values of `f_type` in statfs(2) for file systems in memory.
const TMPFS: i128 = 0x0102_1994;
const RAMFS: i128 = 0x8584_58f6;

/// Inodes that a dump needs: in the directory format it has a file for each table.
const FILES: u64 = 1_000;

/// Free space of a file system, from statvfs(3) and statfs(2).
struct Room {
    /// Bytes.
    available: u64,
    /// Free inodes; `None` if the file system has no fixed number of them.
    files: Option<u64>,
    /// Whether the file system is in memory.
    memory: bool,
}

/// Checks the directory of the export, which may not exist yet. `needed` is an upper bound for the dump, in bytes.
pub(crate) fn check(export: &Path, needed: Option<u64>) -> Vec<Finding> {
    let place = match place(export) {
        Ok(place) => place,
        Err(finding) => return vec![*finding],
    };
    let room = statvfs(place).and_then(|stat| {
        let kind = i128::from(statfs(place)?.f_type);
        Ok(Room {
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            files: (stat.f_files > 0).then_some(stat.f_favail),
            memory: kind == TMPFS || kind == RAMFS,
        })
    });
    match room {
        Ok(room) => judge(export, &room, needed),
        Err(error) => vec![blocker(
            &NOT_CHECKED,
            format!(
                "not checked: the free space of {}: {}",
                place.display(),
                std::io::Error::from(error)
            ),
        )],
    }
}

/// The directory to measure: the export if it exists, otherwise its parent. An error if the export cannot be used.
fn place(export: &Path) -> Result<&Path, Box<Finding>> {
    let refuse = |why: &str, hint: String| {
        let message = format!("the export {} cannot be written: {why}", export.display());
        Box::new(blocker(&EXPORT_DIRECTORY, message).hint(hint))
    };
    let parent = export.parent().unwrap_or(export);
    let Ok(found) = fs::symlink_metadata(export) else {
        if !parent.is_dir() {
            return Err(refuse(
                "its parent directory does not exist",
                format!("mkdir -p {}", parent.display()),
            ));
        }
        return match access(parent, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(parent),
            Err(_) => Err(refuse(
                "its parent directory is not writable",
                format!("choose another place than {}", parent.display()),
            )),
        };
    };
    if !found.is_dir() {
        return Err(refuse("it is not a directory", "choose another place".to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refuse(
            "it belongs to another user",
            "choose another place, or run the tools as that user".to_owned(),
        ));
    }
    if found.permissions().mode() & 0o077 != 0 {
        return Err(refuse(
            "it is accessible to other users",
            ess_files::hint_for_open(
                found.permissions().mode(),
                &export.join("export"),
                &format!("chmod 700 {}", export.display()),
            ),
        ));
    }
    Ok(export)
}

fn judge(export: &Path, room: &Room, needed: Option<u64>) -> Vec<Finding> {
    let data = |found: Finding| {
        found
            .with("path", export.display().to_string())
            .with("available", room.available)
            .with("needed", needed)
    };
    let shown = export.display();
    let mut found = Vec::new();
    match needed {
        Some(needed) if room.available < needed => found.push(data(
            blocker(
                &EXPORT_SPACE,
                format!(
                    "the export {shown} has {} of free space, but the dump may need {}",
                    size(room.available),
                    size(needed)
                ),
            )
            .hint("choose another place with --export, or free some space"),
        )),
        _ => found.push(data(info(
            &EXPORT,
            format!("the export {shown} has {} of free space", size(room.available)),
        ))),
    }
    if let Some(files) = room.files.filter(|files| *files < FILES) {
        found.push(
            blocker(
                &EXPORT_SPACE,
                format!(
                    "only {} can be created on the file system of the export {shown}",
                    count(files, "more file")
                ),
            )
            .hint("choose another place with --export")
            .with("files", files),
        );
    }
    if room.memory {
        found.push(
            warning(
                &EXPORT_IN_MEMORY,
                format!("the export {shown} is on a file system in memory, and would be lost at a restart"),
            )
            .hint("choose a place on disk with --export"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    fn shown(found: &[Finding]) -> Vec<String> {
        found.iter().map(|f| format!("{:?} {}", f.severity, f.id)).collect()
    }

    #[test]
    fn room_is_judged_by_what_the_dump_needs() {
        let judge = |available, files, memory, needed| {
            shown(&judge(
                Path::new("/x"),
                &Room {
                    available,
                    files,
                    memory,
                },
                needed,
            ))
        };
        assert_eq!(judge(10, None, false, Some(10)), ["Info export"]);
        assert_eq!(judge(10, None, false, None), ["Info export"]);
        assert_eq!(
            judge(9, Some(5_000), true, Some(10)),
            ["Blocker export-space", "Warning export-in-memory"]
        );
        assert_eq!(
            judge(10, Some(999), false, Some(10)),
            ["Info export", "Blocker export-space"]
        );
    }

    #[test]
    fn a_place_that_the_tools_would_refuse_is_refused() {
        let dir = tempfile::tempdir().expect("there is room");
        let (export, file) = (dir.path().join("export"), dir.path().join("file"));
        assert_eq!(place(&export).expect("it can be made"), dir.path());
        fs::write(&file, "").expect("it is writable");
        fs::create_dir(&export).expect("it is writable");
        let message = |place: &Path| {
            self::place(place)
                .err()
                .map(|finding| finding.message)
                .unwrap_or_default()
        };
        fs::set_permissions(&export, Permissions::from_mode(0o700)).expect("it is ours");
        assert_eq!(place(&export).expect("it is private"), export);
        fs::set_permissions(&export, Permissions::from_mode(0o750)).expect("it is ours");
        assert!(message(&export).ends_with("it is accessible to other users"));
        assert!(message(&file).ends_with("it is not a directory"));
        assert!(message(&file.join("export")).ends_with("its parent directory does not exist"));
    }
}
