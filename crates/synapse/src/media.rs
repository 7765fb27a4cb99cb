//! The size of a media store on disk, by kind of media.

mod layout;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use walkdir::WalkDir;

pub use layout::{id_at, is_directory, is_media_repo, is_place, path_of, preview_path_of};

/// The kind of media in a directory directly below the media store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MediaKind {
    /// Uploads of this server's users. No other server has them.
    Local,
    /// Thumbnails of uploads; needed unless `dynamic_thumbnails` is true.
    LocalThumbnail,
    /// Copies of other servers' media.
    Remote,
    /// Thumbnails of other servers' media.
    RemoteThumbnail,
    /// Images of URL previews.
    UrlPreview,
    /// Thumbnails of URL previews.
    UrlPreviewThumbnail,
    /// Anything else, which Synapse did not create.
    Other,
}

impl MediaKind {
    /// In the order of [`Media::kinds`].
    pub const ALL: [Self; 7] = [
        Self::Local,
        Self::LocalThumbnail,
        Self::Remote,
        Self::RemoteThumbnail,
        Self::UrlPreview,
        Self::UrlPreviewThumbnail,
        Self::Other,
    ];

    /// The name of the directory (`synapse/media/filepath.py`); for [`MediaKind::Other`], a word for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local_content",
            Self::LocalThumbnail => "local_thumbnails",
            Self::Remote => "remote_content",
            Self::RemoteThumbnail => "remote_thumbnail",
            Self::UrlPreview => "url_cache",
            Self::UrlPreviewThumbnail => "url_cache_thumbnails",
            Self::Other => "other",
        }
    }

    /// Whether Synapse fetches it again when a client requests it.
    pub fn is_cache(self) -> bool {
        matches!(
            self,
            Self::Remote | Self::RemoteThumbnail | Self::UrlPreview | Self::UrlPreviewThumbnail
        )
    }

    /// The kind of a directory directly below the media store, by its name.
    pub fn of(directory: &std::ffi::OsStr) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| *kind != Self::Other && directory == kind.name())
            .unwrap_or(Self::Other)
    }
}

/// A number of files and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The sum of their sizes.
    pub bytes: u64,
    /// The number of files.
    pub files: u64,
}

impl Usage {
    fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            files: self.files + other.files,
        }
    }
}

/// The measurement of one kind; incomplete if the budget ran out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// The files that were counted.
    pub seen: Usage,
    /// The number of entries directly below the kind's directory.
    pub parts: u64,
    /// The number of these entries that were counted completely.
    pub done: u64,
    /// The files in the entries that were counted completely.
    complete: Usage,
}

impl Measured {
    /// Whether all files of the kind were counted.
    pub fn is_complete(&self) -> bool {
        self.done == self.parts
    }

    /// The files of the kind: counted, or extrapolated from the parts that were counted completely.
    pub fn estimate(&self) -> Usage {
        if self.is_complete() || self.done == 0 {
            return self.seen;
        }
        let all = |n: u64| {
            let n = u128::from(n) * u128::from(self.parts) / u128::from(self.done);
            u64::try_from(n).unwrap_or(u64::MAX)
        };
        Usage {
            bytes: all(self.complete.bytes).max(self.seen.bytes),
            files: all(self.complete.files).max(self.seen.files),
        }
    }
}

/// The measurement of a media store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Media {
    kinds: [Measured; MediaKind::ALL.len()],
    /// The number of files and directories that could not be read. If it is not 0, the figures are too low.
    pub unreadable: u64,
}

impl Media {
    /// Walks a media store once, for no longer than the budget. Symbolic links are not followed, except if a kind's
    /// directory itself is one, to another disk.
    ///
    /// `visit` gets each file, with its path below the kind's directory, and can end the walk. An error means that the
    /// store itself cannot be read.
    pub fn measure(
        store: &Path,
        budget: Option<Duration>,
        mut visit: impl FnMut(MediaKind, &Path) -> ControlFlow<()>,
    ) -> io::Result<Self> {
        let mut media = Self::default();
        let mut places: Vec<(MediaKind, PathBuf)> = Vec::new();
        for entry in fs::read_dir(store)? {
            match entry {
                Ok(entry) => places.push((MediaKind::of(&entry.file_name()), entry.path())),
                Err(_) => media.unreadable += 1,
            }
        }
        // Uploads matter most. They come last, so that they get all the time that the other kinds did not use.
        places.sort_unstable_by(|a, b| b.cmp(a));
        let deadline = budget.map(|budget| Instant::now() + budget);
        for (index, (kind, place)) in places.iter().enumerate() {
            let left = u32::try_from(places.len() - index).unwrap_or(u32::MAX);
            let until = deadline.map(|deadline| {
                let now = Instant::now();
                now + deadline.saturating_duration_since(now) / left
            });
            if media.walk(*kind, place, until, &mut visit).is_break() {
                break;
            }
        }
        Ok(media)
    }

    /// Counts a kind's directory entry by entry. Media ids are random, so some entries are a fair sample of all.
    fn walk(
        &mut self,
        kind: MediaKind,
        place: &Path,
        until: Option<Instant>,
        visit: &mut impl FnMut(MediaKind, &Path) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let metadata = if kind == MediaKind::Other {
            fs::symlink_metadata(place)
        } else {
            fs::metadata(place)
        };
        let Ok(metadata) = metadata else {
            self.unreadable += 1;
            return ControlFlow::Continue(());
        };
        if !metadata.is_dir() {
            self.kinds[kind as usize].parts += 1;
            return self.part(kind, place, place, until, visit);
        }
        let (Ok(count), Ok(parts)) = (fs::read_dir(place), fs::read_dir(place)) else {
            self.unreadable += 1;
            return ControlFlow::Continue(());
        };
        // Read the names twice rather than keep all of them in memory.
        self.kinds[kind as usize].parts += u64::try_from(count.count()).unwrap_or(u64::MAX);
        for part in parts {
            if is_over(until) {
                break;
            }
            match part {
                Ok(part) => self.part(kind, place, &part.path(), until, visit)?,
                Err(_) => self.unreadable += 1,
            }
        }
        ControlFlow::Continue(())
    }

    fn part(
        &mut self,
        kind: MediaKind,
        place: &Path,
        part: &Path,
        until: Option<Instant>,
        visit: &mut impl FnMut(MediaKind, &Path) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let measured = &mut self.kinds[kind as usize];
        let mut here = Usage::default();
        let mut complete = true;
        let mut flow = ControlFlow::Continue(());
        for file in WalkDir::new(part).follow_root_links(false) {
            if is_over(until) {
                complete = false;
                break;
            }
            let file = file.and_then(|file| Ok((file.metadata()?, file)));
            match file {
                Ok((metadata, file)) if metadata.is_file() => {
                    here = here.plus(Usage {
                        bytes: metadata.len(),
                        files: 1,
                    });
                    if access(file.path(), Access::READ_OK).is_err() {
                        self.unreadable += 1;
                    }
                    flow = visit(kind, file.path().strip_prefix(place).unwrap_or(file.path()));
                    if flow.is_break() {
                        complete = false;
                        break;
                    }
                }
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        measured.seen = measured.seen.plus(here);
        if complete {
            measured.complete = measured.complete.plus(here);
            measured.done += 1;
        }
        flow
    }

    /// Every kind, including those without a file.
    pub fn kinds(&self) -> impl Iterator<Item = (MediaKind, Measured)> {
        MediaKind::ALL.into_iter().zip(self.kinds)
    }

    /// Whether all files of all kinds were counted.
    pub fn is_complete(&self) -> bool {
        self.kinds.iter().all(Measured::is_complete)
    }

    /// The sum of all kinds, extrapolated where a kind was not counted completely.
    pub fn total(&self) -> Usage {
        self.sum(|_| true)
    }

    /// The sum of the kinds that cannot be fetched again.
    pub fn irreplaceable(&self) -> Usage {
        self.sum(|kind| !kind.is_cache())
    }

    fn sum(&self, of: impl Fn(MediaKind) -> bool) -> Usage {
        self.kinds()
            .filter(|(kind, _)| of(*kind))
            .fold(Usage::default(), |sum, (_, measured)| sum.plus(measured.estimate()))
    }
}

fn is_over(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() >= until)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::{Media, MediaKind, Usage};
    use std::fs;
    use std::ops::ControlFlow;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    fn all(store: &Path) -> Media {
        Media::measure(store, None, |_, _| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn a_store_is_counted_by_kind() {
        let store = tempfile::tempdir().unwrap();
        for (path, size) in [
            ("local_content/aa/bb/rest", 10),
            ("local_content/aa/cc/rest", 5),
            ("remote_thumbnail/example.org/aa/bb/rest/96-96-image-png-crop", 3),
            ("url_cache/2024-01-01/rest", 2),
            ("lost+found/x", 1),
            ("stray", 1),
        ] {
            let path = store.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; size]).unwrap();
        }

        let mut visited = Vec::new();
        let media = Media::measure(store.path(), None, |kind, path| {
            visited.push((kind, path.to_owned()));
            ControlFlow::Continue(())
        })
        .unwrap();

        let of = |kind| media.kinds().find(|(found, _)| *found == kind).unwrap().1.seen;
        assert_eq!(of(MediaKind::Local), Usage { bytes: 15, files: 2 });
        assert_eq!(of(MediaKind::RemoteThumbnail), Usage { bytes: 3, files: 1 });
        assert_eq!(of(MediaKind::Remote), Usage::default());
        assert_eq!(of(MediaKind::Other), Usage { bytes: 2, files: 2 });
        assert_eq!(media.total(), Usage { bytes: 22, files: 6 });
        assert_eq!(media.irreplaceable(), Usage { bytes: 17, files: 4 });
        assert_eq!((media.unreadable, media.is_complete()), (0, true));
        assert!(visited.contains(&(MediaKind::Local, PathBuf::from("aa/bb/rest"))));
    }

    #[test]
    fn what_was_not_reached_is_reckoned_and_not_complete() {
        let store = tempfile::tempdir().unwrap();
        for n in 10..20 {
            let path = store.path().join(format!("local_content/{n}/bb/rest"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "12345").unwrap();
        }

        let nothing = Media::measure(store.path(), Some(Duration::ZERO), |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!((nothing.total(), nothing.is_complete()), (Usage::default(), false));

        let mut files = 0;
        let some = Media::measure(store.path(), None, |_, _| {
            files += 1;
            if files == 5 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
        assert_eq!(
            (some.total(), some.is_complete()),
            (Usage { bytes: 50, files: 10 }, false)
        );
    }

    #[test]
    fn links_are_not_followed_except_to_a_kind_on_another_disk() {
        let store = tempfile::tempdir().unwrap();
        let disk = tempfile::tempdir().unwrap();
        fs::write(disk.path().join("file"), "12345").unwrap();
        symlink(disk.path(), store.path().join("remote_content")).unwrap();
        symlink(disk.path(), store.path().join("elsewhere")).unwrap();
        symlink("/", disk.path().join("root")).unwrap();

        assert_eq!(all(store.path()).total(), Usage { bytes: 5, files: 1 });
    }
}
