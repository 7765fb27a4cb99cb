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
    /// Of whom text is sorted: `c` for the C library, `i` for ICU, `b` for the server itself.
    pub provider: String,
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
        provider: row.get("provider"),
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

    /// Whether Synapse can use such a database: UTF-8, in the order of its bytes.
    ///
    /// A database of ICU has a collation of C too, which its text is not sorted by.
    pub fn is_for_synapse(&self) -> bool {
        let is_c = |locale: &str| locale == "C" || locale == "POSIX";
        self.encoding == "UTF8" && self.provider != "i" && is_c(&self.collate) && is_c(&self.ctype)
    }

    /// Whether text is sorted by its bytes: no update of a library changes that.
    pub fn sorts_by_bytes(&self) -> bool {
        self.provider != "i" && matches!(self.collate.as_str(), "C" | "POSIX" | "C.UTF-8" | "C.utf8")
    }

    /// How to make a database that Synapse can use in the place of one that it cannot.
    pub fn remedy(&self) -> String {
        let provider = if self.provider == "i" {
            " --locale-provider=libc"
        } else {
            ""
        };
        format!("make it anew: createdb --encoding=UTF8{provider} --locale=C --template=template0 --owner=ROLE DBNAME")
    }

    /// Encoding, collation and ctype, such as `UTF8/C/C`.
    pub fn locale(&self) -> String {
        let by = if self.provider == "i" { ", sorted by ICU" } else { "" };
        format!("{}/{}/{}{by}", self.encoding, self.collate, self.ctype)
    }
}
