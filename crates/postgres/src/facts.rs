//! Facts about a server and a database.

use ess_document::Identity;

use crate::{Error, Session};

/// Facts about a server and a database.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The identity of the database.
    pub identity: Identity,
    /// `server_version_num`.
    pub version: i32,
    /// `server_version`, such as `15.18`.
    pub version_text: String,
    /// The encoding; Synapse needs `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE`; must be `C` on a target.
    pub collate: String,
    /// `LC_CTYPE`; must be `C` on a target.
    pub ctype: String,
    /// The locale provider, which sorts text: `c` for the C library, `i` for ICU, `b` for PostgreSQL itself.
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

/// Reads the facts about the session's server and database.
pub fn server_facts(session: &Session) -> Result<Facts, Error> {
    let row = session.one("read facts about the server", include_str!("../sql/facts.sql"), &[])?;
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

    /// Whether Synapse can use this database: encoding UTF8, collation and ctype C.
    ///
    /// With the ICU provider, the collation can be C as well, but text is not sorted by it.
    pub fn is_for_synapse(&self) -> bool {
        let is_c = |locale: &str| locale == "C" || locale == "POSIX";
        self.encoding == "UTF8" && self.provider != "i" && is_c(&self.collate) && is_c(&self.ctype)
    }

    /// Whether text is sorted by its bytes, so that no update of a library can change the order.
    pub fn sorts_by_bytes(&self) -> bool {
        self.provider != "i" && matches!(self.collate.as_str(), "C" | "POSIX" | "C.UTF-8" | "C.utf8")
    }

    /// How to replace this database by one that Synapse can use.
    pub fn remedy(&self) -> String {
        let provider = if self.provider == "i" {
            " --locale-provider=libc"
        } else {
            ""
        };
        format!("recreate it: createdb --encoding=UTF8{provider} --locale=C --template=template0 --owner=ROLE DBNAME")
    }

    /// Encoding, collation and ctype, such as `UTF8/C/C`.
    pub fn locale(&self) -> String {
        let by = if self.provider == "i" { ", sorted by ICU" } else { "" };
        format!("{}/{}/{}{by}", self.encoding, self.collate, self.ctype)
    }
}
