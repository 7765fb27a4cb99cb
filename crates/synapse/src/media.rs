//! The media store on disk, by kind.

use std::fs;
use std::io;
use std::path::Path;

use walkdir::WalkDir;

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

    fn of(directory: &std::ffi::OsStr) -> Self {
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

/// A media store, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Media {
    kinds: [Usage; Kind::ALL.len()],
    /// Files and directories that could not be read: what is counted is then too little.
    pub unreadable: u64,
}

impl Media {
    /// Walks a media store once. Links are not followed, except a kind's own directory on another disk.
    pub fn measure(store: &Path) -> io::Result<Self> {
        let mut media = Self::default();
        for entry in fs::read_dir(store)? {
            let Ok(entry) = entry else {
                media.unreadable += 1;
                continue;
            };
            let kind = Kind::of(&entry.file_name());
            let walk = WalkDir::new(entry.path()).follow_root_links(kind != Kind::Other);
            for file in walk {
                match file.and_then(|file| file.metadata()) {
                    Ok(metadata) if metadata.is_file() => {
                        let usage = &mut media.kinds[kind as usize];
                        usage.bytes += metadata.len();
                        usage.files += 1;
                    }
                    Ok(_) => {}
                    Err(_) => media.unreadable += 1,
                }
            }
        }
        Ok(media)
    }

    /// Every kind, also those without a file.
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, Usage)> {
        Kind::ALL.into_iter().zip(self.kinds)
    }

    /// All kinds together.
    pub fn total(&self) -> Usage {
        self.kinds.iter().fold(Usage::default(), |sum, usage| Usage {
            bytes: sum.bytes + usage.bytes,
            files: sum.files + usage.files,
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::{Kind, Media, Usage};
    use std::fs;
    use std::os::unix::fs::symlink;

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

        let media = Media::measure(store.path()).unwrap();

        let of = |kind| media.kinds().find(|(found, _)| *found == kind).unwrap().1;
        assert_eq!(of(Kind::Local), Usage { bytes: 15, files: 2 });
        assert_eq!(of(Kind::RemoteThumbnail), Usage { bytes: 3, files: 1 });
        assert_eq!(of(Kind::Remote), Usage::default());
        assert_eq!(of(Kind::Other), Usage { bytes: 2, files: 2 });
        assert_eq!(media.total(), Usage { bytes: 22, files: 6 });
        assert_eq!(media.unreadable, 0);
    }

    #[test]
    fn links_are_not_followed_except_to_a_kind_on_another_disk() {
        let store = tempfile::tempdir().unwrap();
        let disk = tempfile::tempdir().unwrap();
        fs::write(disk.path().join("file"), "12345").unwrap();
        symlink(disk.path(), store.path().join("remote_content")).unwrap();
        symlink(disk.path(), store.path().join("elsewhere")).unwrap();
        symlink("/", disk.path().join("root")).unwrap();

        let media = Media::measure(store.path()).unwrap();

        assert_eq!(media.total(), Usage { bytes: 5, files: 1 });
    }
}
