//! Contents of a database over which a restore would fail.

use ess_run::text::count;
use tokio_postgres::error::SqlState;

use crate::{Error, Session, escape_identifier};

/// A unique index, by the columns of its key.
#[derive(Debug, Clone)]
pub struct UniqueKey {
    /// The index, qualified and quoted.
    pub index: String,
    /// Its table, qualified and quoted.
    pub table: String,
    /// The key's columns, quoted.
    pub columns: Vec<String>,
    /// Whether it is sorted by a collation, which an update of the operating system can change.
    pub sorts_text: bool,
    /// The size of its table in bytes.
    pub bytes: i64,
}

/// A foreign key.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The referencing table, qualified and quoted.
    pub table: String,
    /// The referenced table, qualified and quoted.
    pub other: String,
    /// The size of the referencing table in bytes.
    pub bytes: i64,
    columns: Vec<String>,
    other_columns: Vec<String>,
    only: String,
    other_only: String,
}

/// Replaces `is_readable(x)` in `sql` with a condition: our role can read all rows of the table in row `x` of
/// `pg_class`.
///
/// On a standby, unlogged tables cannot be read.
fn of_readable(sql: &str) -> String {
    ["c", "r"].iter().fold(sql.to_owned(), |sql, x| {
        sql.replace(
            &format!("is_readable({x})"),
            &format!(
                "has_schema_privilege({x}.relnamespace, 'USAGE') AND has_table_privilege({x}.oid, 'SELECT') \
                 AND NOT row_security_active({x}.oid) AND NOT ({x}.relpersistence = 'u' AND pg_is_in_recovery())"
            ),
        )
    })
}

/// Lists every unique index on plain columns that is not partial, that of the smallest table first.
pub fn unique_keys(session: &Session) -> Result<Vec<UniqueKey>, Error> {
    let sql = of_readable(include_str!("../sql/unique_keys.sql"));
    let rows = session.rows("list the unique keys", &sql, &[])?;
    Ok(rows
        .iter()
        .map(|row| UniqueKey {
            index: row.get("index"),
            table: row.get("table"),
            columns: row.get("columns"),
            sorts_text: row.get("sorts_text"),
            bytes: row.get("bytes"),
        })
        .collect())
}

/// Lists every foreign key that a restore checks, that of the smallest table first.
pub fn foreign_keys(session: &Session) -> Result<Vec<ForeignKey>, Error> {
    let sql = of_readable(include_str!("../sql/foreign_keys.sql"));
    let rows = session.rows("list the foreign keys", &sql, &[])?;
    Ok(rows
        .iter()
        .map(|row| ForeignKey {
            name: row.get("name"),
            table: row.get("table"),
            other: row.get("other"),
            bytes: row.get("bytes"),
            columns: row.get("columns"),
            other_columns: row.get("other_columns"),
            only: row.get("only"),
            other_only: row.get("other_only"),
        })
        .collect())
}

/// SQL that avoids indexes for the rest of the transaction: a damaged index would hide the rows over which a restore,
/// which builds the index again, would fail.
pub const PAST_INDEXES: &str =
    "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off";

impl UniqueKey {
    /// A query that selects `what` for each duplicate key.
    fn query(&self, what: &str) -> String {
        // Keys with a NULL are not equal to any other.
        let not_null: Vec<String> = self.columns.iter().map(|c| format!("{c} IS NOT NULL")).collect();
        format!(
            "SELECT {what} FROM ONLY {} WHERE {} GROUP BY {} HAVING count(*) > 1",
            self.table,
            not_null.join(" AND "),
            self.columns.join(", ")
        )
    }

    /// How many keys occur in several rows. Call it after [`PAST_INDEXES`].
    pub fn duplicates(&self, session: &Session) -> Result<i64, Error> {
        let sql = format!("SELECT count(*) FROM ({}) AS d", self.query(""));
        let what = format!("check for duplicates in {}", self.table);
        Ok(session.one(&what, &sql, &[])?.get(0))
    }

    /// SQL for the user that lists these rows.
    pub fn shown(&self) -> String {
        let columns = self.columns.join(", ");
        format!(
            "BEGIN; {PAST_INDEXES}; SELECT ctid, * FROM {} WHERE ({columns}) IN ({}) ORDER BY {columns}; COMMIT",
            self.table,
            self.query(&columns)
        )
    }
}

impl ForeignKey {
    fn orphans_of(&self, what: &str) -> String {
        let not_null: Vec<String> = self.columns.iter().map(|c| format!("r.{c} IS NOT NULL")).collect();
        let pairs = self.columns.iter().zip(&self.other_columns);
        let equal: Vec<String> = pairs.map(|(column, other)| format!("o.{other} = r.{column}")).collect();
        format!(
            "SELECT {what} FROM {}{} AS r WHERE {} AND NOT EXISTS (SELECT FROM {}{} AS o WHERE {})",
            self.only,
            self.table,
            not_null.join(" AND "),
            self.other_only,
            self.other,
            equal.join(" AND ")
        )
    }

    /// How many rows refer to a row that does not exist. Call it after [`PAST_INDEXES`].
    pub fn orphans(&self, session: &Session) -> Result<i64, Error> {
        let what = format!("check for rows of {} without a referenced row", self.table);
        Ok(session.one(&what, &self.orphans_of("count(*)"), &[])?.get(0))
    }

    /// SQL for the user that lists these rows.
    pub fn shown(&self) -> String {
        format!("BEGIN; {PAST_INDEXES}; {}; COMMIT", self.orphans_of("r.ctid, r.*"))
    }
}

/// An expression that a restore evaluates for each row.
#[derive(Debug, Clone)]
pub struct Condition {
    /// What evaluates it: a constraint, an index, a column or a materialized view.
    pub name: String,
    /// The table or materialized view, qualified and quoted.
    pub table: String,
    kind: Kind,
    /// What to select from.
    rows: String,
    expression: String,
    must_hold: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    CheckConstraint,
    Domain,
    GeneratedColumn,
    Index,
    IndexKey,
    MaterializedView,
}

impl Kind {
    /// The kind of this name in conditions.sql.
    fn named(name: &str) -> Self {
        match name {
            "check constraint" => Self::CheckConstraint,
            "domain" => Self::Domain,
            "generated column" => Self::GeneratedColumn,
            "index key" => Self::IndexKey,
            "materialized view" => Self::MaterializedView,
            _ => Self::Index,
        }
    }
}

/// What to do about values that violate a constraint of their domain.
const DOMAIN: &str =
    "on the source, correct the values, or drop the constraint of the domain and add it again as NOT VALID";

/// Why a restore fails over a condition.
#[derive(Debug)]
pub struct Violation {
    /// What cannot be loaded, and why, without values of rows: the end of the sentence "restore cannot load ...".
    pub what: String,
    /// What to do about it on the source.
    pub remedy: String,
}

/// Lists what a restore evaluates for rows: every validated check constraint, every column of a domain with such a
/// constraint, keys of indexes that are no longer compressed, and the indexes, generated columns and materialized views
/// that call user-defined functions.
pub fn conditions(session: &Session) -> Result<Vec<Condition>, Error> {
    let sql = of_readable(include_str!("../sql/conditions.sql"));
    let rows = session.rows("list the conditions on rows", &sql, &[])?;
    Ok(rows
        .iter()
        .map(|row| Condition {
            name: row.get("name"),
            table: row.get("table"),
            kind: Kind::named(row.get("kind")),
            rows: row.get("rows"),
            expression: row.get("expression"),
            must_hold: row.get("must_hold"),
        })
        .collect())
}

impl Condition {
    /// Evaluates it for each row, within a savepoint of the current transaction.
    pub fn violation(&self, session: &Session) -> Result<Option<Violation>, Error> {
        let Self { expression, rows, .. } = self;
        let sql = if self.must_hold {
            format!("SELECT count(*) FROM {rows} WHERE NOT ({expression})")
        } else {
            format!("SELECT 0 * count(({expression})) FROM {rows}")
        };
        // A view is only evaluated as far as it is fast, and as a refresh does it.
        let limits = if self.kind == Kind::MaterializedView {
            "; SET LOCAL enable_indexscan = on; SET LOCAL enable_indexonlyscan = on; SET LOCAL enable_bitmapscan = on; \
             SET LOCAL statement_timeout = '3s'"
        } else {
            ""
        };
        session.batch("begin an evaluation", &format!("SAVEPOINT evaluation{limits}"))?;
        let outcome = session.one(&format!("evaluate {} of {}", self.name, self.table), &sql, &[]);
        let found = match outcome {
            Ok(row) => match row.get(0) {
                0 => None,
                rows => Some(self.violated_by(rows)),
            },
            Err(error) => match error.db().map(|db| db.code().code().to_owned()) {
                // It writes, or our role may not run it: a load differs in both.
                Some(code) if ["25006", "42501"].contains(&code.as_str()) => None,
                Some(code) if code == "57014" && self.kind == Kind::MaterializedView => None,
                // Errors of these SQLSTATE classes (transaction state, rollback, insufficient resources, object state,
                // operator intervention, system error) and lost connections do not show that the expression fails.
                Some(code) if !["25", "40", "53", "55", "57", "58"].contains(&&code[..2]) => {
                    Some(self.failed(error.db().map_or("", |db| db.message())))
                }
                _ => return Err(error),
            },
        };
        session.batch(
            "end an evaluation",
            "ROLLBACK TO SAVEPOINT evaluation; RELEASE SAVEPOINT evaluation",
        )?;
        Ok(found)
    }

    fn violated_by(&self, rows: i64) -> Violation {
        let Self { name, table, .. } = self;
        let rows = count(rows, "row");
        if self.kind == Kind::IndexKey {
            return Violation {
                what: format!(
                    "table {table} with index {name}, whose keys are too long for {rows}: they fit while the column was \
                     compressed"
                ),
                remedy: format!(
                    "on the source, DROP INDEX {name} (or drop the constraint that it belongs to), or shorten the values \
                     in: SELECT ctid FROM {} WHERE NOT ({})",
                    self.rows, self.expression
                ),
            };
        }
        if self.kind == Kind::Domain {
            return Violation {
                what: format!("table {table}: {rows} violate a constraint of the domain of column {name}"),
                remedy: DOMAIN.to_owned(),
            };
        }
        Violation {
            what: format!(
                "table {table} with check constraint {name}, which is marked as valid on the source, but is violated by {rows}"
            ),
            remedy: format!("on the source, correct the rows, or drop {name} and add it again as NOT VALID"),
        }
    }

    fn failed(&self, why: &str) -> Violation {
        let Self { name, table, .. } = self;
        let part = match self.kind {
            Kind::Domain => {
                return Violation {
                    what: format!("column {name} of table {table}, whose domain cannot be checked: {why}"),
                    remedy: DOMAIN.to_owned(),
                };
            }
            Kind::MaterializedView => format!("materialized view {table}, whose query"),
            Kind::GeneratedColumn => format!("table {table} with generated column {name}, which"),
            Kind::CheckConstraint => format!("table {table} with check constraint {name}, which"),
            Kind::Index | Kind::IndexKey => format!("table {table} with index {name}, which"),
        };
        Violation {
            what: format!("{part} cannot be evaluated with an empty search_path: {why}"),
            remedy: "on the source, schema-qualify the names in the functions that it calls, or set their search_path: ALTER \
                     FUNCTION ... SET search_path = public"
                .to_owned(),
        }
    }
}

/// The first table and column, in order of table size, that contains text that is not UTF-8.
///
/// For a database whose encoding is not UTF8: only there can such text exist.
pub fn text_not_in_utf8(session: &Session) -> Result<Option<(String, String)>, Error> {
    let sql = of_readable(include_str!("../sql/text_columns.sql"));
    for row in session.rows("list the text columns", &sql, &[])? {
        let (table, columns): (String, Vec<String>) = (row.get("table"), row.get("columns"));
        if is_utf8(session, &table, &columns)? {
            continue;
        }
        for column in columns {
            if !is_utf8(session, &table, std::slice::from_ref(&column))? {
                return Ok(Some((table, column)));
            }
        }
    }
    Ok(None)
}

fn is_utf8(session: &Session, table: &str, columns: &[String]) -> Result<bool, Error> {
    let decoded: Vec<String> = columns
        .iter()
        .map(|column| {
            format!(
                "count(convert_from(textsend({}::text), 'UTF8'))",
                escape_identifier(column)
            )
        })
        .collect();
    let sql = format!("SELECT {} FROM ONLY {table}", decoded.join(" + "));
    match session.rows(&format!("check {table} for text that is not UTF-8"), &sql, &[]) {
        Ok(_) => Ok(true),
        Err(error)
            if error.db().map(tokio_postgres::error::DbError::code) == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Lists objects that a dump contains although they need an object that it does not contain, such as a view of a
/// foreign table.
pub fn objects_without_support(session: &Session) -> Result<Vec<String>, Error> {
    let sql = include_str!("../sql/without_support.sql");
    let rows = session.rows("check for objects that a dump cannot carry", sql, &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Lists the foreign tables, which our dumps do not contain, by schema and name.
pub fn foreign_tables(session: &Session) -> Result<Vec<(String, String)>, Error> {
    let sql = include_str!("../sql/foreign_tables.sql");
    let rows = session.rows("list the foreign tables", sql, &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Lists the configuration tables of extensions, whose rows our dumps do not contain, by schema and name.
pub fn extension_rows(session: &Session) -> Result<Vec<(String, String)>, Error> {
    let sql = include_str!("../sql/extension_rows.sql");
    let rows = session.rows("list the tables of extensions", sql, &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_question_are_shown_past_the_indexes() {
        let key = UniqueKey {
            index: "public.i".to_owned(),
            table: "public.t".to_owned(),
            columns: vec!["a".to_owned(), "\"B\"".to_owned()],
            sorts_text: true,
            bytes: 0,
        };
        assert!(key.shown().starts_with("BEGIN; SET LOCAL enable_indexscan = off;"));
        assert!(key.shown().ends_with(
            "SELECT ctid, * FROM public.t WHERE (a, \"B\") IN (SELECT a, \"B\" FROM ONLY public.t WHERE a IS NOT NULL AND \
             \"B\" IS NOT NULL GROUP BY a, \"B\" HAVING count(*) > 1) ORDER BY a, \"B\"; COMMIT"
        ));
        let key = ForeignKey {
            name: "k".to_owned(),
            table: "public.t".to_owned(),
            other: "public.o".to_owned(),
            bytes: 0,
            columns: vec!["a".to_owned()],
            other_columns: vec!["id".to_owned()],
            only: "ONLY ".to_owned(),
            other_only: "ONLY ".to_owned(),
        };
        assert!(key.shown().contains(
            "SELECT r.ctid, r.* FROM ONLY public.t AS r WHERE r.a IS NOT NULL AND NOT EXISTS (SELECT FROM ONLY public.o AS o \
             WHERE o.id = r.a)"
        ));
    }
}
