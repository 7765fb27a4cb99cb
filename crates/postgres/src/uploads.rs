//! Media that the homeserver's database knows.

use crate::{Error, Session};

/// How many rows a page has, and how many ids are asked for at once.
pub const UPLOADS_PAGE: usize = 1_000;

/// A row of `local_media_repository` whose file was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Names its file.
    pub media_id: String,
    /// Bytes; negative in no database that Synapse wrote.
    pub length: i64,
    /// A picture of a URL preview, which Synapse fetches again.
    pub is_preview: bool,
    /// Lower-case hexadecimal, where Synapse has noted it.
    pub sha256: Option<String>,
}

/// The page of uploads after an id; shorter than [`UPLOADS_PAGE`] when it is the last.
pub fn uploads(session: &Session, after: &str, with_previews: bool) -> Result<Vec<Upload>, Error> {
    let sql = include_str!("../sql/uploads.sql");
    let rows = session.rows("read the uploads", sql, &[&after, &with_previews])?;
    Ok(rows
        .iter()
        .map(|row| Upload {
            media_id: row.get(0),
            length: row.get(1),
            is_preview: row.get(2),
            sha256: row.get(3),
        })
        .collect())
}

/// Of these ids, those that no upload has.
pub fn not_uploads(session: &Session, ids: &[String]) -> Result<Vec<String>, Error> {
    let rows = session.rows("look files up", include_str!("../sql/not_uploads.sql"), &[&ids])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Of these ids, the digests that Synapse has of their files.
pub fn upload_digests(session: &Session, ids: &[String]) -> Result<Vec<(String, String)>, Error> {
    let rows = session.rows("look digests up", include_str!("../sql/upload_digests.sql"), &[&ids])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whether a Matrix Media Repo keeps its tables here.
pub fn has_media_repo(session: &Session) -> Result<bool, Error> {
    let row = session.one("look for a media repo", include_str!("../sql/media_repo.sql"), &[])?;
    Ok(row.get(0))
}
