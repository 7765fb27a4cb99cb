//! The paths that Synapse creates below its media store: `MediaFilePaths` of `synapse/media/filepath.py`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::MediaKind;

/// The path of an upload below [`MediaKind::Local`]'s directory (`local_media_filepath_rel`); `None` for an id that
/// Synapse would refuse.
pub fn path_of(media_id: &str) -> Option<PathBuf> {
    let parts = split(media_id)?;
    is_place(MediaKind::Local, &parts).then(|| parts.iter().collect())
}

/// The path of an image of a URL preview below [`MediaKind::UrlPreview`]'s directory (`url_cache_filepath_rel`).
pub fn preview_path_of(media_id: &str) -> Option<PathBuf> {
    let parts = match (media_id.get(..10), media_id.get(11..)) {
        // The character between date and rest is not part of the path.
        (Some(date), Some(rest)) if is_date(date) => vec![date, rest],
        _ => split(media_id)?.to_vec(),
    };
    is_place(MediaKind::UrlPreview, &parts).then(|| parts.iter().collect())
}

/// The id of the upload at a path below [`MediaKind::Local`]'s directory; `None` if the path is not that of an upload.
pub fn id_at(path: &Path) -> Option<String> {
    let id: String = path.iter().map(OsStr::to_str).collect::<Option<_>>()?;
    (path_of(&id).as_deref() == Some(path)).then_some(id)
}

/// Whether Synapse could create a file at this path below the kind's directory.
pub fn is_place(kind: MediaKind, parts: &[&str]) -> bool {
    if !parts.iter().all(|part| is_component(part)) {
        return false;
    }
    match (kind, parts) {
        (MediaKind::Local, id)
        | (MediaKind::Remote, [_, id @ ..])
        | (MediaKind::LocalThumbnail, [id @ .., _])
        | (MediaKind::RemoteThumbnail, [_, id @ .., _]) => is_id(id),
        (MediaKind::UrlPreview, id) | (MediaKind::UrlPreviewThumbnail, [id @ .., _]) => {
            is_id(id) || matches!(id, [date, _] if is_date(date))
        }
        _ => false,
    }
}

/// Whether Synapse could create a directory at this path below the kind's directory.
pub fn is_directory(kind: MediaKind, parts: &[&str]) -> bool {
    (1..=4).any(|more| {
        let place: Vec<&str> = parts.iter().copied().chain(std::iter::repeat_n("00", more)).collect();
        is_place(kind, &place)
    })
}

/// Whether this is a store of Matrix Media Repo, which is recognised by its configuration file.
pub fn is_media_repo(store: &Path) -> bool {
    ["media-repo.yaml", "../media-repo.yaml"]
        .iter()
        .any(|name| store.join(name).is_file())
}

/// Splits a media id into the parts of its path.
fn split(media_id: &str) -> Option<[&str; 3]> {
    Some([media_id.get(..2)?, media_id.get(2..4)?, media_id.get(4..)?])
}

/// `_validate_path_component` of `synapse/media/filepath.py`.
fn is_component(part: &str) -> bool {
    let good = |c: u8| c.is_ascii_alphanumeric() || b"_-.[]:".contains(&c);
    !part.is_empty() && part.bytes().all(good) && !matches!(part, "." | "..")
}

fn is_id(parts: &[&str]) -> bool {
    matches!(parts, [first, second, _] if first.len() == 2 && second.len() == 2)
}

/// `YYYY-MM-DD`: `NEW_FORMAT_ID_RE` of `synapse/media/filepath.py`.
fn is_date(part: &str) -> bool {
    part.len() == 10
        && part.bytes().enumerate().all(|(at, c)| match at {
            4 | 7 => c == b'-',
            _ => c.is_ascii_digit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_path_when_synapse_takes_it_for_one() {
        assert_eq!(path_of("AbCdEfGh"), Some(PathBuf::from("Ab/Cd/EfGh")));
        for id in ["AbCd", "..CdEf", "Ab/dEfGh", "AbCd..", "äbCdEf", "Abé_Ef"] {
            assert_eq!(path_of(id), None, "{id}");
        }
        assert_eq!(id_at(Path::new("Ab/Cd/EfGh")), Some("AbCdEfGh".to_owned()));
        for path in ["Ab/CdEfGh", "Ab/Cd/Ef/Gh", "README.md"] {
            assert_eq!(id_at(Path::new(path)), None, "{path}");
        }
        let preview = |id| preview_path_of(id).map(|path| path.display().to_string());
        assert_eq!(preview("2017-09-28-fsdRDt").as_deref(), Some("2017-09-28/fsdRDt"));
        assert_eq!(preview("2017-09-28_fsdRDt").as_deref(), Some("2017-09-28/fsdRDt"));
        assert_eq!(preview("AbCdEfGh").as_deref(), Some("Ab/Cd/EfGh"));
        assert_eq!(preview("2017-09-28-").as_deref(), None);
    }

    #[test]
    fn a_directory_is_one_on_the_way_to_a_place() {
        let is = |kind, path: &str| is_directory(kind, &path.split('/').collect::<Vec<_>>());
        for (kind, path) in [
            (MediaKind::Local, "Ab"),
            (MediaKind::Local, "Ab/Cd"),
            (MediaKind::LocalThumbnail, "Ab/Cd/EfGh"),
            (MediaKind::Remote, "example.org:8448/Ab/Cd"),
            (MediaKind::UrlPreview, "2024-01-31"),
            (MediaKind::UrlPreviewThumbnail, "2024-01-31/x"),
        ] {
            assert!(is(kind, path), "{path}");
        }
        for (kind, path) in [
            (MediaKind::Local, "Abc"),
            (MediaKind::Local, "Ab/Cd/EfGh"),
            (MediaKind::Remote, "example.org/Ab/Cd/EfGh"),
            (MediaKind::Remote, ".."),
            (MediaKind::UrlPreview, "2024-01-31/x"),
            (MediaKind::Other, "Ab"),
        ] {
            assert!(!is(kind, path), "{path}");
        }
    }

    #[test]
    fn a_place_is_one_where_synapse_would_look() {
        let is = |kind, path: &str| is_place(kind, &path.split('/').collect::<Vec<_>>());
        for (kind, path) in [
            (MediaKind::Local, "Ab/Cd/EfGh"),
            (MediaKind::LocalThumbnail, "Ab/Cd/EfGh/96-96-image-png-crop"),
            (MediaKind::Remote, "example.org:8448/Ab/Cd/EfGh"),
            (MediaKind::Remote, "[2001:db8::1]/Ab/Cd/EfGh"),
            (MediaKind::RemoteThumbnail, "example.org/Ab/Cd/EfGh/96-96-image-png"),
            (MediaKind::UrlPreview, "2024-01-31/x"),
            (MediaKind::UrlPreview, "Ab/Cd/EfGh"),
            (MediaKind::UrlPreviewThumbnail, "2024-01-31/x/32-32-image-png-scale"),
            (MediaKind::UrlPreviewThumbnail, "Ab/Cd/EfGh/32-32-image-png-scale"),
        ] {
            assert!(is(kind, path), "{path}");
        }
        for (kind, path) in [
            (MediaKind::Local, "Ab/Cd"),
            (MediaKind::Local, "Ab/Cd/EfGh/x"),
            (MediaKind::Local, "Abc/d/EfGh"),
            (MediaKind::Local, "Ab/../EfGh"),
            (MediaKind::Local, "Ab/Cd/with space"),
            (MediaKind::Local, "Ab/Cd/ümlaut"),
            (MediaKind::Local, "Ab/Cd/"),
            (MediaKind::LocalThumbnail, "Ab/Cd/EfGh"),
            (MediaKind::Remote, "Ab/Cd/EfGh"),
            (MediaKind::UrlPreview, "2024-1-31/x"),
            (MediaKind::Other, "Ab/Cd/EfGh"),
        ] {
            assert!(!is(kind, path), "{path}");
        }
    }
}
