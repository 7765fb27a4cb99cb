//! What a server and its database say about themselves.

use ess_document::Identity;

use crate::{Error, Session};

/// What a server and its database say about themselves.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which database this is.
    pub identity: Identity,
    /// `server_version_num`.
    pub version: i32,
    /// Such as `15.18`.
    pub version_text: String,
    /// `UTF8`, wanted.
    pub encoding: String,
    /// `C`, wanted of a target.
    pub collate: String,
    /// `C`, wanted of a target.
    pub ctype: String,
    /// The database's owner.
    pub owner: String,
    /// The role of this session.
    pub user: String,
    /// Whether that role is a superuser.
    pub superuser: bool,
    /// Whether the server is a standby.
    pub standby: bool,
    /// `pg_database_size`.
    pub bytes: i64,
}

/// Asks the server who it is.
pub fn facts(session: &Session) -> Result<Facts, Error> {
    let row = session.one("read what the server is", include_str!("../sql/facts.sql"), &[])?;
    Ok(Facts {
        identity: Identity {
            system_identifier: row.get("system_identifier"),
            database: row.get("database"),
        },
        version: row.get("version"),
        version_text: row.get("version_text"),
        encoding: row.get("encoding"),
        collate: row.get("collate"),
        ctype: row.get("ctype"),
        owner: row.get("owner"),
        user: row.get("user"),
        superuser: row.get("superuser"),
        standby: row.get("standby"),
        bytes: row.get("bytes"),
    })
}

impl Facts {
    /// The major version, such as 15.
    pub fn major(&self) -> u32 {
        u32::try_from(self.version / 10_000).unwrap_or(0)
    }
}
