//! The fence: rows that make any Synapse refuse to start on a database.
//!
//! On an empty `schema_version` Synapse silently founds a new homeserver, and clients log out.
//! So from the wipe until the proof holds, both version tables say that the database is too new
//! (`prepare_database` in Synapse refuses a `compat_version` above its own).
//!
//! A comment names the migration that put the fence up. The comment alone is no fence: once the true rows are back,
//! Synapse starts, and people write.

use std::fmt;

use ess_cli::Stop;
use ess_document::Identity;
use ess_postgres::{Error, FENCE_VERSION, SchemaRows, Session, escape_literal};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
        format!(
            "
CREATE TABLE IF NOT EXISTS public.schema_version (
    lock character(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'), version integer NOT NULL, upgraded boolean NOT NULL);
CREATE TABLE IF NOT EXISTS public.schema_compat_version (
    lock character(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'), compat_version integer NOT NULL);
DELETE FROM public.schema_version;
DELETE FROM public.schema_compat_version;
INSERT INTO public.schema_version (version, upgraded) VALUES ({FENCE_VERSION}, true);
INSERT INTO public.schema_compat_version (compat_version) VALUES ({FENCE_VERSION});
COMMENT ON TABLE public.schema_version IS {};
",
            escape_literal(&self.comment())
        )
    }

    /// Refuses what is of another database than the one for which it stands.
    pub fn awaits(&self, other: &Identity) -> Result<(), Stop> {
        match &self.source {
            Some(awaited) if awaited != other => Err(Stop::no(format!(
                "the target awaits {awaited}, and what is to be there is of {other}"
            ))
            .hint("check --target and what it is compared with; ess-wipe clears it for another migration")),
            _ => Ok(()),
        }
    }

    /// Fails the transaction of the caller unless this very fence stands, and keeps it as it is until that ends.
    ///
    /// plpgsql is there: Synapse's own triggers are written in it.
    pub fn require(&self) -> String {
        format!(
            "LOCK TABLE public.schema_version, public.schema_compat_version IN ACCESS EXCLUSIVE MODE;
DO $fence$ BEGIN
    IF obj_description('public.schema_version'::regclass, 'pg_class')::jsonb IS DISTINCT FROM {}::jsonb
       OR (SELECT array_agg(version) FROM public.schema_version) IS DISTINCT FROM ARRAY[{FENCE_VERSION}]
       OR (SELECT array_agg(compat_version) FROM public.schema_compat_version) IS DISTINCT FROM ARRAY[{FENCE_VERSION}]
    THEN RAISE 'the fence is no longer whole: Synapse may have run'; END IF;
END $fence$;
",
            escape_literal(&self.comment())
        )
    }

    /// Takes the fence down, in the transaction of the caller: the source's version rows, last of all.
    ///
    /// A table that the source does not have, by `has`, goes again.
    pub(crate) fn lift(rows: &SchemaRows, has: impl Fn(&str) -> bool) -> String {
        let mut sql = vec![
            "DELETE FROM public.schema_version".to_owned(),
            "DELETE FROM public.schema_compat_version".to_owned(),
        ];
        if let Some(version) = rows.version {
            let upgraded = or_null(rows.upgraded);
            sql.push(format!(
                "INSERT INTO public.schema_version (version, upgraded) VALUES ({version}, {upgraded})"
            ));
        }
        if let Some(compat) = rows.compat_version {
            sql.push(format!(
                "INSERT INTO public.schema_compat_version (compat_version) VALUES ({compat})"
            ));
        }
        sql.push("COMMENT ON TABLE public.schema_version IS NULL".to_owned());
        let gone = ["schema_version", "schema_compat_version"]
            .into_iter()
            .filter(|table| !has(table));
        sql.extend(gone.map(|table| format!("DROP TABLE public.{table}")));
        sql.join(";\n")
    }

    /// What it says about itself, as it stands on the table.
    fn comment(&self) -> String {
        // A struct of strings is always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A value of SQL; the columns of both version tables refuse NULL.
fn or_null(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// What of a fence stands on a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Nothing,
    /// All of it: no Synapse can start.
    Whole(Fence),
    /// A part, by which it cannot be known whether a Synapse has run.
    Half(Half),
}

/// A fence that was damaged, or taken down in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Half {
    /// What of it is not as it should be.
    pub what: String,
    /// What makes it a fence again, or a live database.
    pub remedy: String,
}

/// Looks for a fence: its comment, and the sentinel row in both version tables.
pub fn standing(session: &Session) -> Result<Standing, Error> {
    let sql = "SELECT obj_description(to_regclass('public.schema_version'), 'pg_class')";
    let comment: Option<String> = session.one("look for the fence", sql, &[])?.get(0);
    let version = versions(session, "schema_version", "version")?;
    let compat = versions(session, "schema_compat_version", "compat_version")?;
    Ok(judge(comment.as_deref(), &version, &compat))
}

fn judge(comment: Option<&str>, version: &Versions, compat: &Versions) -> Standing {
    let damaged = [("schema_version", version), ("schema_compat_version", compat)]
        .into_iter()
        .find(|(_, versions)| !versions.are_sentinel());
    let fence = comment.map(|text| -> Result<Fence, serde_json::Error> {
        let fence: Fence = serde_json::from_str(text)?;
        // What another version of these tools has added, this one could not require.
        if serde_json::from_str::<Value>(text)? == serde_json::to_value(&fence)? {
            Ok(fence)
        } else {
            Err(serde::de::Error::custom("it says more than is known"))
        }
    });
    match (fence, damaged) {
        (Some(Ok(fence)), None) => Standing::Whole(fence),
        (Some(Ok(_)), Some((table, versions))) => Standing::Half(Half {
            what: format!("its comment stands, but {table} {versions}"),
            remedy: format!(
                "if Synapse has run on it since, declare it live: COMMENT ON TABLE public.schema_version IS NULL; if \
                 not, put the fence back: the one row of both version tables has version {FENCE_VERSION}"
            ),
        }),
        (other, None) => Standing::Half(Half {
            what: match other {
                Some(_) => "both version rows stand, but the comment is not one of these tools".to_owned(),
                None => "both version rows stand, but its comment is missing".to_owned(),
            },
            remedy: "if everything on the target may be erased, DROP TABLE public.schema_version, \
                     public.schema_compat_version; ess-wipe then treats it like a live database"
                .to_owned(),
        }),
        (_, Some(_)) => Standing::Nothing,
    }
}

/// What a version table holds: nothing at all when it is missing.
#[derive(Debug, PartialEq, Eq)]
struct Versions(Option<Vec<Option<i32>>>);

impl Versions {
    fn are_sentinel(&self) -> bool {
        self.0.as_deref() == Some(&[Some(FENCE_VERSION)])
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_deref() {
            None => f.write_str("is missing"),
            Some([]) => f.write_str("is empty"),
            Some([Some(version)]) => write!(f, "holds version {version}"),
            Some([None]) => f.write_str("holds no version"),
            Some(_) => f.write_str("holds several rows"),
        }
    }
}

/// The rows of a version table, which may be another program's; a view of that name is none.
fn versions(session: &Session, table: &str, column: &str) -> Result<Versions, Error> {
    let what = "look for the fence";
    let sql = "SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r')";
    let is_table: bool = session.one(what, sql, &[&format!("public.{table}")])?.get(0);
    if !is_table {
        return Ok(Versions(None));
    }
    let sql = format!("SELECT to_jsonb(t) ->> '{column}' FROM public.{table} t LIMIT 2");
    let rows = session.rows(what, &sql, &[])?;
    let texts = rows.iter().map(|row| row.get::<_, Option<String>>(0));
    Ok(Versions(Some(texts.map(|text| text?.parse().ok()).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(version: i32) -> Versions {
        Versions(Some(vec![Some(version)]))
    }

    #[test]
    fn a_fence_is_its_comment_and_both_sentinel_rows() {
        let fence = Fence::new("i'd".to_owned(), None, Some("/x\\y".to_owned()));
        let text = fence.comment();
        assert_eq!(text, r#"{"ess-migrate":"fence","id":"i'd","backup":"/x\\y"}"#);
        let whole = judge(Some(&text), &holds(FENCE_VERSION), &holds(FENCE_VERSION));
        assert_eq!(whole, Standing::Whole(fence));
        for (comment, version, compat) in [
            (Some(text.as_str()), holds(94), holds(FENCE_VERSION)),
            (Some(&text), holds(FENCE_VERSION), holds(84)),
            (Some(&text), holds(FENCE_VERSION), Versions(None)),
            (
                Some(&text),
                Versions(Some(vec![Some(FENCE_VERSION); 2])),
                holds(FENCE_VERSION),
            ),
            (Some(r#"{"id":"x"}"#), holds(FENCE_VERSION), holds(FENCE_VERSION)),
            (
                Some(r#"{"ess-migrate":"other","id":"x"}"#),
                holds(FENCE_VERSION),
                holds(FENCE_VERSION),
            ),
            (None, holds(FENCE_VERSION), holds(FENCE_VERSION)),
        ] {
            let judged = judge(comment, &version, &compat);
            assert!(
                matches!(judged, Standing::Half(_)),
                "{comment:?} {version:?} {compat:?}: {judged:?}"
            );
        }
        assert_eq!(judge(Some("users' own"), &holds(94), &holds(84)), Standing::Nothing);
        assert_eq!(judge(None, &Versions(None), &Versions(None)), Standing::Nothing);
    }
}
