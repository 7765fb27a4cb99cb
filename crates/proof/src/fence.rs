//! The fence: rows that make any Synapse refuse to start on a database.
//!
//! If `schema_version` is empty, Synapse silently sets up a new homeserver, and clients are logged out. So from the
//! wipe until the proof holds, both version tables claim that the database is too new: `prepare_database` in
//! `synapse/storage/prepare_database.py` refuses a `compat_version` above its own `SCHEMA_VERSION`.
//!
//! A comment on `schema_version` names the migration that raised the fence. The comment alone is not a fence: once the
//! real version rows are back, Synapse starts and users write to the database.

use std::fmt;

use ess_document::Identity;
use ess_postgres::{Error, FENCE_VERSION, SchemaRows, Session, escape_literal};
use ess_stop::Stop;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The description of a fence, stored as JSON in the comment on `schema_version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// Marks the comment as written by these tools.
    #[serde(rename = "ess-migrate")]
    pub mark: Mark,
    /// The id of the migration that raised it.
    pub id: String,
    /// The database whose contents will be loaded here, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Identity>,
    /// The backup of what was here before the first wipe, which undoes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

/// What marks a comment as a fence's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// The only value.
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

    /// SQL that raises the fence in the caller's transaction, whether or not a dump has already created the tables.
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

    /// Refuses contents of a database other than the one that the fence names.
    pub fn awaits(&self, other: &Identity) -> Result<(), Stop> {
        match &self.source {
            Some(awaited) if awaited != other => Err(Stop::no(format!(
                "the target is fenced for source {awaited}, not for {other}"
            ))
            .hint(
                "check --target, and the dump or source that it is compared with; ess-wipe clears the target for \
                 another migration",
            )),
            _ => Ok(()),
        }
    }

    /// SQL that fails the caller's transaction unless exactly this fence is in place, and locks it until the end.
    ///
    /// It relies on plpgsql, in which Synapse's own triggers are written.
    pub fn require(&self) -> String {
        format!(
            "LOCK TABLE public.schema_version, public.schema_compat_version IN ACCESS EXCLUSIVE MODE;
DO $fence$ BEGIN
    IF obj_description('public.schema_version'::regclass, 'pg_class')::jsonb IS DISTINCT FROM {}::jsonb
       OR (SELECT array_agg(version) FROM public.schema_version) IS DISTINCT FROM ARRAY[{FENCE_VERSION}]
       OR (SELECT array_agg(compat_version) FROM public.schema_compat_version) IS DISTINCT FROM ARRAY[{FENCE_VERSION}]
    THEN RAISE 'the fence is no longer complete: Synapse may have run'; END IF;
END $fence$;
",
            escape_literal(&self.comment())
        )
    }

    /// SQL that replaces the fence with the source's version rows, in the caller's transaction.
    ///
    /// A version table that the source lacks, according to `has`, is dropped again.
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

    /// The JSON text of the comment on `schema_version`.
    fn comment(&self) -> String {
        // Cannot fail: the struct contains only strings.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A value in SQL text. NULL makes the transaction fail, since both version tables declare their columns NOT NULL.
fn or_null(value: Option<impl fmt::Display>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |value| value.to_string())
}

/// What of a fence is in place on a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Nothing,
    /// All of it: no Synapse can start.
    Complete(Fence),
    /// A part of it, so that it is unknown whether a Synapse has run.
    Incomplete(IncompleteFence),
}

/// A fence that is damaged or was removed in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncompleteFence {
    /// What of it is wrong.
    pub what: String,
    /// How to turn it into a fence again, or into a live database.
    pub remedy: String,
}

/// Checks for a fence: its comment, and the sentinel row (`FENCE_VERSION`) in both version tables.
pub fn standing(session: &Session) -> Result<Standing, Error> {
    let sql = "SELECT obj_description(to_regclass('public.schema_version'), 'pg_class')";
    let comment: Option<String> = session.one("check for the fence", sql, &[])?.get(0);
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
        // Reject fields that another version of these tools has added: `require` compares the complete comment.
        if serde_json::from_str::<Value>(text)? == serde_json::to_value(&fence)? {
            Ok(fence)
        } else {
            Err(serde::de::Error::custom("it has unknown fields"))
        }
    });
    match (fence, damaged) {
        (Some(Ok(fence)), None) => Standing::Complete(fence),
        (Some(Ok(_)), Some((table, versions))) => Standing::Incomplete(IncompleteFence {
            what: format!("its comment is present, but {table} {versions}"),
            remedy: format!(
                "if Synapse has run on it since, declare it live: COMMENT ON TABLE public.schema_version IS NULL; if \
                 not, restore the fence: each version table must contain one row, with version {FENCE_VERSION}"
            ),
        }),
        (other, None) => Standing::Incomplete(IncompleteFence {
            what: match other {
                Some(_) => "both version rows are present, but the comment is not one of these tools'".to_owned(),
                None => "both version rows are present, but its comment is missing".to_owned(),
            },
            remedy: "if everything on the target can be erased, run DROP TABLE public.schema_version, \
                     public.schema_compat_version; ess-wipe then treats the target as a live database"
                .to_owned(),
        }),
        (_, Some(_)) => Standing::Nothing,
    }
}

/// Up to two versions of a version table (`None` for one that is not a number); `None` if the table is missing.
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
            Some([Some(version)]) => write!(f, "contains version {version}"),
            Some([None]) => f.write_str("contains a row without a valid version"),
            Some(_) => f.write_str("contains several rows"),
        }
    }
}

/// Reads a version table, whose columns may be another program's. A view of that name counts as missing.
fn versions(session: &Session, table: &str, column: &str) -> Result<Versions, Error> {
    let what = "check for the fence";
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
        let complete = judge(Some(&text), &holds(FENCE_VERSION), &holds(FENCE_VERSION));
        assert_eq!(complete, Standing::Complete(fence));
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
                matches!(judged, Standing::Incomplete(_)),
                "{comment:?} {version:?} {compat:?}: {judged:?}"
            );
        }
        assert_eq!(judge(Some("users' own"), &holds(94), &holds(84)), Standing::Nothing);
        assert_eq!(judge(None, &Versions(None), &Versions(None)), Standing::Nothing);
    }
}
