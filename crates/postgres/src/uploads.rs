//! Media in the homeserver's database.

use crate::{Error, Session};

/// The number of rows in a page, and the maximum number of ids in one query.
pub const UPLOADS_PAGE: usize = 1_000;

/// A row of `local_media_repository` whose file was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The media id, from which the file's name is derived.
    pub media_id: String,
    /// The size in bytes. Synapse never writes a negative one.
    pub length: i64,
    /// Whether it is an image of a URL preview, which Synapse would fetch again.
    pub is_preview: bool,
    /// The SHA-256 in lower-case hexadecimal, if Synapse stored it.
    pub sha256: Option<String>,
}

/// Reads a page of uploads, those after an id. The last page is shorter than [`UPLOADS_PAGE`].
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

/// Those of these ids that do not belong to an upload.
pub fn not_uploads(session: &Session, ids: &[String]) -> Result<Vec<String>, Error> {
    let rows = session.rows("look up files", include_str!("../sql/not_uploads.sql"), &[&ids])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The SHA-256 that Synapse stored for files with these ids; ids without one are left out.
pub fn upload_digests(session: &Session, ids: &[String]) -> Result<Vec<(String, String)>, Error> {
    let rows = session.rows("look up digests", include_str!("../sql/upload_digests.sql"), &[&ids])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whether the database contains the tables of a Matrix Media Repo.
pub fn has_media_repo(session: &Session) -> Result<bool, Error> {
    let row = session.one("check for a media repo", include_str!("../sql/media_repo.sql"), &[])?;
    Ok(row.get(0))
}
