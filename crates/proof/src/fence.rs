//! The fence: rows that make any Synapse refuse to start on a database.
//!
//! On an empty `schema_version` Synapse silently founds a new homeserver, and clients log out.
//! So from the wipe until the proof holds, both version tables say that the database is too new
//! (`prepare_database` in Synapse refuses a `compat_version` above its own).

use ess_document::Identity;
use ess_postgres::{Error, SchemaRows, Session, escape_literal};
use serde::{Deserialize, Serialize};

/// Newer than any Synapse.
const SENTINEL: i32 = i32::MAX;

/// What a fence says about itself, as the comment on `schema_version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Marks the comment as ours.
    #[serde(rename = "ess-migrate")]
    pub mark: Mark,
    /// The migration that put it up.
    pub id: String,
    /// The database that is to come here, when it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Identity>,
    /// The first dump of what was here before: the undo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

/// The one mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// A fence of ours.
    #[serde(rename = "fence")]
    Fence,
}

impl Fence {
    /// A fence for a migration.
    pub fn new(id: String, source: Option<Identity>, backup: Option<String>) -> Self {
        Self {
            mark: Mark::Fence,
            id,
            source,
            backup,
        }
    }

    /// Puts the fence up, in the transaction of the caller, whatever a dump has made of the tables.
    pub fn raise(&self) -> String {
        // A struct of strings is always JSON.
        let comment = serde_json::to_string(self).unwrap_or_default();
        format!(
            "
CREATE TABLE IF NOT EXISTS public.schema_version (
    lock character(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'), version integer NOT NULL, upgraded boolean NOT NULL);
CREATE TABLE IF NOT EXISTS public.schema_compat_version (
    lock character(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'), compat_version integer NOT NULL);
DELETE FROM public.schema_version;
DELETE FROM public.schema_compat_version;
INSERT INTO public.schema_version (version, upgraded) VALUES ({SENTINEL}, true);
INSERT INTO public.schema_compat_version (compat_version) VALUES ({SENTINEL});
COMMENT ON TABLE public.schema_version IS {};
",
            escape_literal(&comment)
        )
    }

    /// Takes the fence down: the true rows, last of all.
    ///
    /// A table that the source does not have goes again.
    pub fn lift(rows: &SchemaRows) -> String {
        let number = |n: i32| n.to_string();
        let version = match (rows.version, rows.upgraded) {
            (Some(version), upgraded) => format!(
                "INSERT INTO public.schema_version (version, upgraded) VALUES ({}, {});",
                number(version),
                upgraded.unwrap_or(true)
            ),
            (None, _) => String::new(),
        };
        let compat = rows.compat_version.map_or_else(String::new, |compat| {
            format!(
                "INSERT INTO public.schema_compat_version (compat_version) VALUES ({});",
                number(compat)
            )
        });
        format!(
            "DELETE FROM public.schema_version;
DELETE FROM public.schema_compat_version;
{version}
{compat}
COMMENT ON TABLE public.schema_version IS NULL;
"
        )
    }
}

/// The fence that stands on a database, if one of ours does.
pub fn read_fence(session: &Session) -> Result<Option<Fence>, Error> {
    let row = session.one(
        "look for the fence",
        "SELECT obj_description(to_regclass('public.schema_version'), 'pg_class')",
        &[],
    )?;
    let comment: Option<String> = row.get(0);
    Ok(comment.and_then(|text| serde_json::from_str(&text).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_recognised_by_its_comment_alone() {
        let fence = Fence::new("i'd".to_owned(), None, Some("/x\\y".to_owned()));
        let text = serde_json::to_string(&fence).expect("it is JSON");
        assert_eq!(text, r#"{"ess-migrate":"fence","id":"i'd","backup":"/x\\y"}"#);
        assert_eq!(serde_json::from_str::<Fence>(&text).ok(), Some(fence));
        assert!(serde_json::from_str::<Fence>(r#"{"id":"x"}"#).is_err());
        assert!(serde_json::from_str::<Fence>(r#"{"ess-migrate":"other","id":"x"}"#).is_err());
    }
}
