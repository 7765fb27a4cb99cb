//! Walks through a media store, in portions that fit into memory and in an order that both sides share.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ess_synapse::media::{MediaKind, is_directory, is_place};

use crate::frame::{Entry, Time};

/// media-sync's own directory in the copy.
pub(crate) const OURS: &str = ".media-sync";

/// The files of a directory and of all directories below it.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    /// Relative to the store: a kind's directory and one more component, or two for the kinds that are split by server.
    pub(crate) path: String,
    pub(crate) files: Vec<Entry>,
    /// Whether a part of it could not be read.
    pub(crate) partly: bool,
}

/// Something that is not carried, and why.
#[derive(Debug)]
pub(crate) struct Odd {
    /// Relative to the store, escaped for display.
    pub(crate) path: String,
    pub(crate) why: Why,
}

#[derive(Debug)]
pub(crate) enum Why {
    /// A path that Synapse does not use.
    Name,
    /// A link, a pipe, a device, a socket.
    Special(&'static str),
    /// Missing permission, or a failed disk.
    Unreadable(io::Error),
}

impl std::fmt::Display for Odd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.why {
            Why::Name => write!(f, "{}: not a path that Synapse creates", self.path),
            Why::Special(what) => write!(f, "{}: {what}", self.path),
            Why::Unreadable(error) => write!(f, "{}: {error}", self.path),
        }
    }
}

/// Called with a path relative to the store.
type Keep<'a> = &'a dyn Fn(&str, &Metadata);

/// A walk through a store.
pub(crate) struct Walk<'a> {
    pub(crate) store: &'a Path,
    pub(crate) kinds: &'a [MediaKind],
    /// Called for every file and directory whose path Synapse uses.
    pub(crate) keep: Option<Keep<'a>>,
}

impl Walk<'_> {
    /// Calls `visit` for every unit, in the order of their paths, and `odd` for everything that is not carried.
    pub(crate) fn run<E>(
        &self,
        odd: &mut dyn FnMut(Odd),
        visit: &mut dyn FnMut(MediaKind, Unit) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut kinds = self.kinds.to_vec();
        kinds.sort_unstable_by_key(|kind| kind.name());
        for kind in kinds {
            let top = kind.name().to_owned();
            // Follows links: a kind's directory may be a link to another disk.
            let place = self.store.join(&top);
            match fs::metadata(&place) {
                Ok(found) if found.is_dir() => {
                    if let Some(keep) = self.keep {
                        keep(&top, &found);
                    }
                }
                Ok(_) => {
                    odd(Odd {
                        path: top,
                        why: Why::Special("a file where Synapse has a directory"),
                    });
                    continue;
                }
                // Nothing at all is there. A dangling link is an error: its disk is not mounted.
                Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&place).is_err() => {
                    continue;
                }
                Err(error) => {
                    odd(Odd {
                        path: top,
                        why: Why::Unreadable(error),
                    });
                    continue;
                }
            }
            for name in self.directories(kind, &[&top], odd) {
                if matches!(kind, MediaKind::Remote | MediaKind::RemoteThumbnail) {
                    for part in self.directories(kind, &[&top, &name], odd) {
                        visit(kind, self.unit(kind, &[&top, &name, &part], odd))?;
                    }
                } else {
                    visit(kind, self.unit(kind, &[&top, &name], odd))?;
                }
            }
        }
        Ok(())
    }

    /// The names of the directories in a directory, sorted.
    fn directories(&self, kind: MediaKind, parts: &[&str], odd: &mut dyn FnMut(Odd)) -> Vec<String> {
        let mut names = Vec::new();
        let mut unit = Unit::default();
        let mut level = Level {
            walk: self,
            kind,
            unit: &mut unit,
            odd,
        };
        level.entries(parts, |_, found| {
            if let Accepted::Directory(name) = found {
                names.push(name);
            }
        });
        names.sort_unstable();
        names
    }

    fn unit(&self, kind: MediaKind, parts: &[&str], odd: &mut dyn FnMut(Odd)) -> Unit {
        let mut unit = Unit {
            path: parts.join("/"),
            ..Unit::default()
        };
        let mut level = Level {
            walk: self,
            kind,
            unit: &mut unit,
            odd,
        };
        level.descend(parts, parts.len());
        unit
    }

    /// Calls `odd` for the entries of the store that are not directories of kinds.
    pub(crate) fn other_entries(&self, odd: &mut dyn FnMut(Odd)) -> io::Result<()> {
        for entry in fs::read_dir(self.store)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_empty = || fs::read_dir(entry.path()).map_or(true, |mut inside| inside.next().is_none());
            if MediaKind::of(&name) == MediaKind::Other && name != OURS && !(name == "lost+found" && is_empty()) {
                odd(Odd {
                    path: shown(Path::new(&name)),
                    why: Why::Name,
                });
            }
        }
        Ok(())
    }
}

enum Accepted {
    Directory(String),
    File(String, Metadata),
}

struct Level<'a> {
    walk: &'a Walk<'a>,
    kind: MediaKind,
    unit: &'a mut Unit,
    odd: &'a mut dyn FnMut(Odd),
}

impl Level<'_> {
    fn descend(&mut self, parts: &[&str], unit: usize) {
        let mut directories = Vec::new();
        self.entries(parts, |level, found| match found {
            Accepted::Directory(name) => directories.push(name),
            Accepted::File(name, metadata) => {
                let below = parts[unit..].iter().copied().chain([name.as_str()]);
                level.unit.files.push(Entry {
                    path: below.collect::<Vec<_>>().join("/"),
                    size: metadata.len(),
                    time: time_of(&metadata),
                });
            }
        });
        for name in directories {
            let deeper: Vec<&str> = parts.iter().copied().chain([name.as_str()]).collect();
            self.descend(&deeper, unit);
        }
    }

    /// Calls `take` for every entry of a directory whose path Synapse uses; `parts` starts with the kind's directory.
    fn entries(&mut self, parts: &[&str], mut take: impl FnMut(&mut Self, Accepted)) {
        let relative: PathBuf = parts.iter().collect();
        let entries = match fs::read_dir(self.walk.store.join(&relative)) {
            Ok(entries) => entries,
            Err(error) => return self.unreadable(&relative, error),
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.unreadable(&relative, error),
            };
            let path = relative.join(entry.file_name());
            match self.judge(parts, &entry) {
                Ok(found) => {
                    if let (Some(keep), Some(path)) = (self.walk.keep, path.to_str()) {
                        match &found {
                            Accepted::File(_, metadata) => keep(path, metadata),
                            Accepted::Directory(_) => entry.metadata().iter().for_each(|metadata| keep(path, metadata)),
                        }
                    }
                    take(self, found);
                }
                // Deleted since its name was read.
                Err(Why::Unreadable(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(Why::Unreadable(error)) => self.unreadable(&path, error),
                Err(why) => (self.odd)(Odd {
                    path: shown(&path),
                    why,
                }),
            }
        }
    }

    fn judge(&self, parts: &[&str], entry: &DirEntry) -> Result<Accepted, Why> {
        let kind = entry.file_type().map_err(Why::Unreadable)?;
        if kind.is_symlink() {
            return Err(Why::Special("a link"));
        }
        let name = entry.file_name().into_string().map_err(|_| Why::Name)?;
        let place: Vec<&str> = parts[1..].iter().copied().chain([name.as_str()]).collect();
        if kind.is_dir() {
            let is = is_directory(self.kind, &place);
            return is.then_some(Accepted::Directory(name)).ok_or(Why::Name);
        }
        if !kind.is_file() {
            return Err(Why::Special("neither a file nor a directory"));
        }
        if !is_place(self.kind, &place) {
            return Err(Why::Name);
        }
        let metadata = entry.metadata().map_err(Why::Unreadable)?;
        Ok(Accepted::File(name, metadata))
    }

    fn unreadable(&mut self, path: &Path, error: io::Error) {
        self.unit.partly = true;
        (self.odd)(Odd {
            path: shown(path),
            why: Why::Unreadable(error),
        });
    }
}

/// The modification time of a file.
pub(crate) fn time_of(metadata: &Metadata) -> Time {
    Time {
        seconds: metadata.mtime(),
        nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

/// A path for display: control characters, which could mislead a terminal, are escaped.
fn shown(path: &Path) -> String {
    let text = path.as_os_str().to_string_lossy();
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.into_owned()
    }
}

/// The kind of a unit's path.
pub(crate) fn kind_of(path: &str) -> MediaKind {
    MediaKind::of(OsStr::new(path.split('/').next().unwrap_or_default()))
}

/// The order of units: by components.
pub(crate) fn order(a: &str, b: &str) -> std::cmp::Ordering {
    a.split('/').cmp(b.split('/'))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::fs::symlink;

    use super::*;

    fn store(files: &[&str]) -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        for path in files {
            let path = store.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "12345").unwrap();
        }
        store
    }

    fn walk(store: &Path, kinds: &[MediaKind]) -> (Vec<Unit>, Vec<String>) {
        let (mut units, mut odd) = (Vec::new(), Vec::new());
        let walk = Walk {
            store,
            kinds,
            keep: None,
        };
        walk.other_entries(&mut |found| odd.push(found.to_string())).unwrap();
        walk.run::<io::Error>(&mut |found| odd.push(found.to_string()), &mut |_, unit| {
            units.push(unit);
            Ok(())
        })
        .unwrap();
        odd.sort();
        (units, odd)
    }

    #[test]
    fn units_come_in_the_order_that_both_sides_keep() {
        let store = store(&[
            "local_content/Ab/Cd/x",
            "local_content/A-/Cd/x",
            "local_content/Ab/Ce/y",
            "remote_content/b.example/Ab/Cd/x",
            "remote_content/a.example/Ab/Cd/x",
            "remote_content/a.example:1/Ab/Cd/x",
            "url_cache/2024-01-01/x",
        ]);
        let (units, odd) = walk(store.path(), &MediaKind::ALL[..6]);
        let paths: Vec<&str> = units.iter().map(|unit| unit.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "local_content/A-",
                "local_content/Ab",
                "remote_content/a.example/Ab",
                "remote_content/a.example:1/Ab",
                "remote_content/b.example/Ab",
                "url_cache/2024-01-01",
            ]
        );
        assert!(
            paths.is_sorted_by(|a, b| order(a, b).is_lt()) && odd.is_empty(),
            "{odd:?}"
        );
        let mut names: Vec<&str> = units[1].files.iter().map(|file| file.path.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["Cd/x", "Ce/y"]);
    }

    #[test]
    fn what_synapse_would_not_make_is_named_and_left() {
        let store = store(&[
            "local_content/Ab/Cd/x",
            "local_content/Ab/Cd/ümlaut",
            "local_content/Ab/Cd/with space",
            "local_content/stray",
            "local_content/Ab/Cd/dir/x",
            "local_content/Abc/Cd/x",
            "backup/x",
            ".media-sync/lock",
            "notes.txt",
        ]);
        fs::create_dir(store.path().join("lost+found")).unwrap();
        symlink("/etc", store.path().join("local_content/Zz")).unwrap();
        symlink("/etc/passwd", store.path().join("local_content/Ab/Cd/link")).unwrap();
        fs::write(store.path().join("local_content/Ab/line\nbreak"), "").unwrap();

        let (units, odd) = walk(store.path(), &[MediaKind::Local]);

        assert_eq!(units.iter().map(|unit| unit.files.len()).sum::<usize>(), 1);
        assert_eq!(
            odd,
            [
                "backup: not a path that Synapse creates",
                "local_content/Ab/Cd/dir: not a path that Synapse creates",
                "local_content/Ab/Cd/link: a link",
                "local_content/Ab/Cd/with space: not a path that Synapse creates",
                "local_content/Ab/Cd/ümlaut: not a path that Synapse creates",
                "local_content/Ab/line\\nbreak: not a path that Synapse creates",
                "local_content/Abc: not a path that Synapse creates",
                "local_content/Zz: a link",
                "local_content/stray: not a path that Synapse creates",
                "notes.txt: not a path that Synapse creates",
            ]
        );
    }
}
