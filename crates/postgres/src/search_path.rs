//! The schema in which Synapse finds its tables. Synapse does not qualify their names, so the `search_path` of its role
//! decides.

use crate::{Error, Session};

/// Why Synapse would not find its tables in `public`, the only schema that these tools support.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// Its tables are in this other schema.
    In(String),
    /// The `search_path` of its role, which this is, does not contain `public`.
    SearchPath(String),
}

/// Checks whether Synapse, connected as `role`, finds or would create its tables in `public`; `None` if so.
pub fn tables_outside_public(session: &Session, role: &str) -> Result<Option<Elsewhere>, Error> {
    let what = "determine the schema of Synapse's tables";
    let path: String = session
        .one(what, include_str!("../sql/search_path.sql"), &[&role])?
        .get(0);
    // Every version of Synapse has this table, and no other program uses this name.
    let sql = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname = 'applied_schema_deltas' AND c.relkind IN ('r', 'p') ORDER BY 1";
    let homes: Vec<String> = session.rows(what, sql, &[])?.iter().map(|row| row.get(0)).collect();
    Ok(judge(&path, role, &homes))
}

fn judge(path: &str, role: &str, homes: &[String]) -> Option<Elsewhere> {
    let schemas: Vec<String> = elements(path)
        .into_iter()
        .map(|name| if name == "$user" { role.to_owned() } else { name })
        .collect();
    let found = schemas.iter().find(|schema| homes.contains(schema));
    match found {
        Some(schema) if schema != "public" => Some(Elsewhere::In(schema.clone())),
        _ if !schemas.iter().any(|schema| schema == "public") => Some(Elsewhere::SearchPath(path.to_owned())),
        Some(_) => None,
        None => homes.first().cloned().map(Elsewhere::In),
    }
}

/// The names in a list, parsed like `SplitIdentifierString` in PostgreSQL's `varlena.c`: in lower case unless quoted.
fn elements(path: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let mut quoted = false;
    for c in path.chars() {
        match (c, names.last_mut()) {
            ('"', Some(name)) => {
                // A doubled quote inside quotes stands for one.
                if !quoted && !name.is_empty() {
                    name.push('"');
                }
                quoted = !quoted;
            }
            (',', _) if !quoted => names.push(String::new()),
            (c, _) if !quoted && c.is_whitespace() => {}
            (c, Some(name)) if quoted => name.push(c),
            (c, Some(name)) => name.extend(c.to_lowercase()),
            (_, None) => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_the_server_reads_it() {
        assert_eq!(elements("\"$user\", public"), ["$user", "public"]);
        assert_eq!(elements("Matrix,\"Ma,\"\"trix\""), ["matrix", "Ma,\"trix"]);
        assert_eq!(elements(""), [""]);
    }

    #[test]
    fn synapse_finds_its_tables_in_public_or_these_tools_do_not_move_them() {
        let judged = |path: &str, homes: &[&str]| {
            let homes: Vec<String> = homes.iter().map(|home| (*home).to_owned()).collect();
            judge(path, "synapse", &homes)
        };
        let usual = "\"$user\", public";
        assert_eq!(judged(usual, &[]), None);
        assert_eq!(judged(usual, &["public"]), None);
        assert_eq!(judged(usual, &["copy", "public"]), None);
        assert_eq!(judged("other, public", &["public"]), None);
        let inside = |schema: &str| Some(Elsewhere::In(schema.to_owned()));
        assert_eq!(judged(usual, &["public", "synapse"]), inside("synapse"));
        assert_eq!(judged(usual, &["matrix"]), inside("matrix"));
        assert_eq!(judged("matrix", &["matrix"]), inside("matrix"));
        let path = |path: &str| Some(Elsewhere::SearchPath(path.to_owned()));
        assert_eq!(judged("matrix", &["public"]), path("matrix"));
        assert_eq!(judged("", &[]), path(""));
    }
}
