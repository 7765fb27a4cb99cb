//! The permissions of a role on a server.

use crate::{Error, Session};

/// What our role can do as another role, and what that role can do itself.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// Our role can act as it (`SET ROLE`).
    pub acts: bool,
    /// Our role inherits its privileges, and can read its tables without `SET ROLE`.
    pub inherits: bool,
    /// It can create tables in the schema public.
    pub creates: bool,
}

/// Reads the permissions that concern a role; `None` if it does not exist.
pub fn role_rights(session: &Session, role: &str) -> Result<Option<Rights>, Error> {
    let rows = session.rows("read our permissions", include_str!("../sql/rights.sql"), &[&role])?;
    Ok(rows.first().map(|row| Rights {
        acts: row.get("acts"),
        inherits: row.get("inherits"),
        creates: row.get("creates"),
    }))
}
