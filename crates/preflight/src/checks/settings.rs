//! Settings that only a superuser can change, so that the sessions of these tools cannot override them.

use ess_document::Finding;
use ess_postgres::Session;

use super::Findings;
use crate::finding::{Detail, warning};
use crate::ids::{DAMAGE_HIDDEN, LOG_HOLDS_ROWS, TEMP_FILE_LIMIT};

/// Findings about the settings of the source.
pub(crate) fn of_source(session: &Session) -> Findings {
    Ok(set(session)?.iter().filter_map(|set| hidden(set, "source")).collect())
}

/// Findings about the settings of the target, including those that affect loading.
pub(crate) fn of_target(session: &Session) -> Findings {
    let finding = |set: &Set| hidden(set, "target").or_else(|| loading(set));
    Ok(set(session)?.iter().filter_map(finding).collect())
}

/// A name and its value.
type Set = (String, String);

fn set(session: &Session) -> Result<Vec<Set>, ess_postgres::Error> {
    let rows = session.rows("read the settings", include_str!("../../sql/settings.sql"), &[])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn hidden((name, _): &Set, whose: &str) -> Option<Finding> {
    ["zero_damaged_pages", "ignore_checksum_failure"]
        .contains(&name.as_str())
        .then(|| {
            warning(
                &DAMAGE_HIDDEN,
                format!(
                    "{name} is on at the {whose}: damaged pages are read as empty, or despite a wrong checksum, \
                     without an error"
                ),
            )
            .hint(format!(
                "as a superuser, set {name} to off, then check the data for damage"
            ))
            .with("setting", name.as_str())
        })
}

fn loading((name, value): &Set) -> Option<Finding> {
    let found = match name.as_str() {
        "temp_file_limit" => warning(
            &TEMP_FILE_LIMIT,
            format!("temp_file_limit is {value} kB at the target: restore fails if building an index needs more"),
        )
        .hint("as a superuser: ALTER ROLE NAME SET temp_file_limit = -1"),
        "log_statement" | "log_min_duration_statement" => warning(
            &LOG_HOLDS_ROWS,
            format!(
                "{name} is {value} at the target: its log will contain rows that are loaded by INSERT, and large \
                 objects"
            ),
        )
        .hint(format!(
            "as a superuser: ALTER ROLE NAME SET {name} = {}",
            if name == "log_statement" { "none" } else { "-1" }
        )),
        _ => return None,
    };
    Some(found.with("setting", name.as_str()).with("value", value.as_str()))
}
