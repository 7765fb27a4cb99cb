//! What a database holds although no other can take it: a restore would fail over it.

use tokio_postgres::error::SqlState;

use crate::{Error, Session, escape_identifier};

/// A unique index, by the columns of its key.
#[derive(Debug, Clone)]
pub struct UniqueKey {
    /// Qualified and quoted.
    pub index: String,
    /// Qualified and quoted.
    pub table: String,
    /// Quoted.
    pub columns: Vec<String>,
    /// Whether its order is that of a collation, which an update of the system can change.
    pub sorts_text: bool,
    /// How much its table takes.
    pub bytes: i64,
}

/// A foreign key.
#[derive(Debug, Clone)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The table that refers, qualified and quoted.
    pub table: String,
    /// The table referred to, qualified and quoted.
    pub other: String,
    /// How much the table that refers takes.
    pub bytes: i64,
    columns: Vec<String>,
    other_columns: Vec<String>,
    only: String,
    other_only: String,
}

/// Puts in place of `is_readable(x)` in `sql` whether our role may read all rows of the table `x` of `pg_class` here.
///
/// A standby has no rows of unlogged tables, and refuses to read them.
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

/// Every unique index over plain columns of a whole table, that of the smallest table first.
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

/// Every foreign key that a restore checks, that of the smallest table first.
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

/// Reads tables past their indexes from here to the end of the transaction, as building these anew does.
pub const PAST_INDEXES: &str =
    "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off";

impl UniqueKey {
    /// A query for its duplicates, `what` of them.
    fn query(&self, what: &str) -> String {
        // An empty key is equal to no other.
        let there: Vec<String> = self.columns.iter().map(|c| format!("{c} IS NOT NULL")).collect();
        format!(
            "SELECT {what} FROM ONLY {} WHERE {} GROUP BY {} HAVING count(*) > 1",
            self.table,
            there.join(" AND "),
            self.columns.join(", ")
        )
    }

    /// How many keys several rows have; to be asked with [`PAST_INDEXES`].
    pub fn duplicates(&self, session: &Session) -> Result<i64, Error> {
        let sql = format!("SELECT count(*) FROM ({}) AS d", self.query(""));
        let what = format!("look for duplicates in {}", self.table);
        Ok(session.one(&what, &sql, &[])?.get(0))
    }

    /// SQL that shows the rows in question.
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
        let there: Vec<String> = self.columns.iter().map(|c| format!("r.{c} IS NOT NULL")).collect();
        let pairs = self.columns.iter().zip(&self.other_columns);
        let equal: Vec<String> = pairs.map(|(ours, theirs)| format!("o.{theirs} = r.{ours}")).collect();
        format!(
            "SELECT {what} FROM {}{} AS r WHERE {} AND NOT EXISTS (SELECT FROM {}{} AS o WHERE {})",
            self.only,
            self.table,
            there.join(" AND "),
            self.other_only,
            self.other,
            equal.join(" AND ")
        )
    }

    /// How many rows refer to one that is not there; to be asked with [`PAST_INDEXES`].
    pub fn orphans(&self, session: &Session) -> Result<i64, Error> {
        let what = format!("look for rows of {} that refer to nothing", self.table);
        Ok(session.one(&what, &self.orphans_of("count(*)"), &[])?.get(0))
    }

    /// SQL that shows the rows in question.
    pub fn shown(&self) -> String {
        format!("BEGIN; {PAST_INDEXES}; {}; COMMIT", self.orphans_of("r.ctid, r.*"))
    }
}

/// What a restore evaluates for each row of a table.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Such as `check constraint`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table, qualified and quoted.
    pub table: String,
    expression: String,
    must_hold: bool,
}

/// Whether rows are as a restore needs them.
#[derive(Debug)]
pub enum Held {
    /// They are.
    All,
    /// So many are not.
    Not(i64),
    /// It cannot be evaluated with an empty `search_path`, as a restore does: why.
    Fails(String),
}

/// Every validated check constraint, and what calls functions of the database's users.
pub fn conditions(session: &Session) -> Result<Vec<Condition>, Error> {
    let sql = of_readable(include_str!("../sql/conditions.sql"));
    let rows = session.rows("list the conditions on rows", &sql, &[])?;
    Ok(rows
        .iter()
        .map(|row| Condition {
            kind: row.get("kind"),
            name: row.get("name"),
            table: row.get("table"),
            expression: row.get("expression"),
            must_hold: row.get("must_hold"),
        })
        .collect())
}

impl Condition {
    /// Evaluates it for each row, in a transaction in which it may fail.
    pub fn holds(&self, session: &Session) -> Result<Held, Error> {
        let Self { expression, table, .. } = self;
        let sql = if self.must_hold {
            format!("SELECT count(*) FROM ONLY {table} WHERE NOT ({expression})")
        } else {
            format!("SELECT 0 * count(({expression})) FROM ONLY {table}")
        };
        session.batch("begin an evaluation", "SAVEPOINT evaluation")?;
        let outcome = session.one(&format!("evaluate {} {}", self.kind, self.name), &sql, &[]);
        match outcome {
            Ok(row) => Ok(match row.get(0) {
                0 => Held::All,
                rows => Held::Not(rows),
            }),
            // Limits of ours, a server in need and lost connections are no answer.
            Err(error) => match error.db() {
                Some(db) if !["53", "55", "57", "58"].contains(&&db.code().code()[..2]) => {
                    let why = db.message().to_owned();
                    session.batch("end an evaluation", "ROLLBACK TO SAVEPOINT evaluation")?;
                    Ok(Held::Fails(why))
                }
                _ => Err(error),
            },
        }
    }
}

/// The first table and column, smallest table first, with text that is not UTF-8.
///
/// In a database of another encoding than UTF-8, where such a text can be.
pub fn not_utf8(session: &Session) -> Result<Option<(String, String)>, Error> {
    let sql = of_readable(include_str!("../sql/text_columns.sql"));
    for row in session.rows("list the columns of text", &sql, &[])? {
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
    match session.rows(&format!("look for text in {table} that is not UTF-8"), &sql, &[]) {
        Ok(_) => Ok(true),
        Err(error)
            if error.db().map(tokio_postgres::error::DbError::code) == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// What would be dumped although it needs what is not, such as a view of a foreign table.
pub fn without_support(session: &Session) -> Result<Vec<String>, Error> {
    let sql = include_str!("../sql/without_support.sql");
    let rows = session.rows("look for what a dump cannot carry", sql, &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Foreign tables, by schema and name: no dump of ours holds them.
pub fn foreign_tables(session: &Session) -> Result<Vec<(String, String)>, Error> {
    let sql = include_str!("../sql/foreign_tables.sql");
    let rows = session.rows("list the foreign tables", sql, &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Tables of extensions with rows of the users', by schema and name: no dump of ours holds these rows.
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
