//! What a role may do on a server.

use crate::{Error, Session};

/// What we may do as another role, and it itself.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// We may act as it.
    pub acts: bool,
    /// We may read what is its own without acting as it.
    pub inherits: bool,
    /// It may make tables in the schema public.
    pub creates: bool,
}

/// Asks for a role's rights; none when there is no such role.
pub fn rights(session: &Session, role: &str) -> Result<Option<Rights>, Error> {
    let rows = session.rows("read our rights", include_str!("../sql/rights.sql"), &[&role])?;
    Ok(rows.first().map(|row| Rights {
        acts: row.get("acts"),
        inherits: row.get("inherits"),
        creates: row.get("creates"),
    }))
}
