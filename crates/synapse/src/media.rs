//! The media store on disk, by kind.

mod layout;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use walkdir::WalkDir;

pub use layout::{id_at, is_directory, is_media_repo, is_place, path_of, preview_path_of};

/// What a directory directly below the media store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Uploads of this server's users: nobody else has them.
    Local,
    /// Thumbnails of uploads; needed unless thumbnails are made on demand.
    LocalThumbnail,
    /// Copies of other servers' media.
    Remote,
    /// Thumbnails of other servers' media.
    RemoteThumbnail,
    /// Pictures of URL previews.
    UrlPreview,
    /// Thumbnails of URL previews.
    UrlPreviewThumbnail,
    /// Anything that Synapse does not put there.
    Other,
}

impl Kind {
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

    /// The directory's name; of [`Kind::Other`], a word for people.
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

    /// Whether Synapse fetches it again when somebody asks for it.
    pub fn is_cache(self) -> bool {
        matches!(
            self,
            Self::Remote | Self::RemoteThumbnail | Self::UrlPreview | Self::UrlPreviewThumbnail
        )
    }

    /// Of a directory directly below the media store.
    pub fn of(directory: &std::ffi::OsStr) -> Self {
        Self::ALL
            .into_iter()
            .find(|kind| *kind != Self::Other && directory == kind.name())
            .unwrap_or(Self::Other)
    }
}

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Their sizes, summed.
    pub bytes: u64,
    /// How many.
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

/// One kind, as far as it was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// What was counted.
    pub seen: Usage,
    /// Entries directly below the kind's directory, and those of them that were counted to their end.
    pub parts: u64,
    /// See `parts`.
    pub done: u64,
    /// What the parts that are done hold.
    whole: Usage,
}

impl Measured {
    /// Whether everything was counted.
    pub fn is_complete(&self) -> bool {
        self.done == self.parts
    }

    /// What the kind holds: counted, or reckoned from the parts that are done.
    pub fn estimate(&self) -> Usage {
        if self.is_complete() || self.done == 0 {
            return self.seen;
        }
        let all = |n: u64| {
            let n = u128::from(n) * u128::from(self.parts) / u128::from(self.done);
            u64::try_from(n).unwrap_or(u64::MAX)
        };
        Usage {
            bytes: all(self.whole.bytes).max(self.seen.bytes),
            files: all(self.whole.files).max(self.seen.files),
        }
    }
}

/// A media store, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Media {
    kinds: [Measured; Kind::ALL.len()],
    /// Files and directories that could not be read: what is counted is then too little.
    pub unreadable: u64,
}

impl Media {
    /// Walks a media store once, for no longer than the budget. Links are not followed, except a kind's own
    /// directory on another disk.
    ///
    /// `visit` sees each file with its path below the kind's directory, and may end the walk.
    pub fn measure(
        store: &Path,
        budget: Option<Duration>,
        mut visit: impl FnMut(Kind, &Path) -> ControlFlow<()>,
    ) -> io::Result<Self> {
        let mut media = Self::default();
        let mut places: Vec<(Kind, PathBuf)> = Vec::new();
        for entry in fs::read_dir(store)? {
            match entry {
                Ok(entry) => places.push((Kind::of(&entry.file_name()), entry.path())),
                Err(_) => media.unreadable += 1,
            }
        }
        // Uploads matter most: last, they have all the time that the others leave.
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

    /// A kind's directory, part by part: their names are random, so that some speak for all.
    fn walk(
        &mut self,
        kind: Kind,
        place: &Path,
        until: Option<Instant>,
        visit: &mut impl FnMut(Kind, &Path) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let metadata = if kind == Kind::Other {
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
        // Twice through the names rather than all of them in memory.
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
        kind: Kind,
        place: &Path,
        part: &Path,
        until: Option<Instant>,
        visit: &mut impl FnMut(Kind, &Path) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let measured = &mut self.kinds[kind as usize];
        let mut here = Usage::default();
        let mut whole = true;
        let mut flow = ControlFlow::Continue(());
        for file in WalkDir::new(part).follow_root_links(false) {
            if is_over(until) {
                whole = false;
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
                        whole = false;
                        break;
                    }
                }
                Ok(_) => {}
                Err(_) => self.unreadable += 1,
            }
        }
        measured.seen = measured.seen.plus(here);
        if whole {
            measured.whole = measured.whole.plus(here);
            measured.done += 1;
        }
        flow
    }

    /// Every kind, also those without a file.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, Measured)> {
        Kind::ALL.into_iter().zip(self.kinds)
    }

    /// Whether all of it was counted.
    pub fn is_complete(&self) -> bool {
        self.kinds.iter().all(Measured::is_complete)
    }

    /// All kinds together, reckoned where they were not counted.
    pub fn total(&self) -> Usage {
        self.sum(|_| true)
    }

    /// What nobody can fetch again.
    pub fn irreplaceable(&self) -> Usage {
        self.sum(|kind| !kind.is_cache())
    }

    fn sum(&self, of: impl Fn(Kind) -> bool) -> Usage {
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

    use super::{Kind, Media, Usage};
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
        assert_eq!(of(Kind::Local), Usage { bytes: 15, files: 2 });
        assert_eq!(of(Kind::RemoteThumbnail), Usage { bytes: 3, files: 1 });
        assert_eq!(of(Kind::Remote), Usage::default());
        assert_eq!(of(Kind::Other), Usage { bytes: 2, files: 2 });
        assert_eq!(media.total(), Usage { bytes: 22, files: 6 });
        assert_eq!(media.irreplaceable(), Usage { bytes: 17, files: 4 });
        assert_eq!((media.unreadable, media.is_complete()), (0, true));
        assert!(visited.contains(&(Kind::Local, PathBuf::from("aa/bb/rest"))));
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
