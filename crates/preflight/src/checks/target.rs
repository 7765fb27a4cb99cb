//! The target: whether it can hold the homeserver, and whether it is the right one.

use ess_document::{Finding, Identity};
use ess_postgres::{
    Error, Facts, LockTable, Session, catalogue, catalogue_needs, database_objects, database_state, database_tables,
    database_usage, lock_table, missing_needs, other_sessions, schema_rows, server_names,
};
use ess_proof::{Fence, Standing, locks_needed, standing};

use super::host::clock;
use super::{Check, Findings, OpenSource, all, not_checked};
use crate::finding::{Detail, blocker, info, number, some_of};
use crate::ids::{
    SAME_DATABASE, TARGET_FENCED, TARGET_FRESH, TARGET_LACKS, TARGET_LOCALE, TARGET_LOCKS, TARGET_RESTORED,
    TARGET_RIGHTS, TARGET_SERVER, TARGET_SERVER_NAME, TARGET_SESSIONS, TARGET_STANDBY, TARGET_USED, TARGET_VERSION,
};
use ess_run::text::count;

/// A target with an open connection.
pub(crate) struct Target {
    /// The connection, which only reads.
    pub(crate) session: Session,
    /// Properties of the server and the database.
    pub(crate) facts: Facts,
    /// The role that will own all objects.
    pub(crate) role: String,
    /// The server name of the homeserver being migrated, if known.
    pub(crate) server_name: Option<String>,
    /// Properties of the source, if it could be reached.
    pub(crate) source: Option<Facts>,
}

/// Runs all checks of the target, except those of [`room`].
pub(crate) fn check(target: &Target) -> Vec<Finding> {
    let checks: &[Check<Target>] = &[
        ("the target's server", |target| {
            Ok(server(&target.facts, target.source.as_ref()))
        }),
        ("connections to the target", |target| {
            super::connections::check(&target.session, "the target")
        }),
        ("the target's encoding and collation", |target| {
            Ok(locale(&target.facts))
        }),
        ("permissions on the target", rights),
        ("the contents of the target", content),
        ("sessions on the target", sessions),
        ("settings of the target", |target| {
            super::settings::of_target(&target.session)
        }),
        ("the target's clock", |target| clock(&target.session, "the target")),
    ];
    all(target, checks)
}

fn server(facts: &Facts, source: Option<&Facts>) -> Vec<Finding> {
    let mut found = vec![
        info(
            &TARGET_SERVER,
            format!(
                "the target is database {} of PostgreSQL {}",
                facts.identity.database, facts.version_text
            ),
        )
        .with("version", facts.version_text.as_str())
        .with("role", facts.user.as_str()),
    ];
    if facts.standby {
        found.push(
            blocker(&TARGET_STANDBY, "the target is a standby, which is read-only")
                .hint("name the primary server instead"),
        );
    }
    let Some(source) = source else { return found };
    if source.identity == facts.identity {
        found.push(
            blocker(
                &SAME_DATABASE,
                format!("source and target are the same database, {}", facts.identity),
            )
            .hint("check --target"),
        );
    }
    if facts.major() < source.major() {
        found.push(
            blocker(
                &TARGET_VERSION,
                format!(
                    "the target's PostgreSQL {} is older than the source's {}",
                    facts.version_text, source.version_text
                ),
            )
            .hint(format!("use a server of PostgreSQL {} or newer", source.major()))
            .with("source", source.version_text.as_str())
            .with("target", facts.version_text.as_str()),
        );
    }
    found
}

fn locale(facts: &Facts) -> Vec<Finding> {
    if facts.is_for_synapse() {
        return Vec::new();
    }
    vec![
        blocker(
            &TARGET_LOCALE,
            format!("the target is {}, but Synapse requires UTF8/C/C", facts.locale()),
        )
        .hint(facts.remedy())
        .with("encoding", facts.encoding.as_str())
        .with("collate", facts.collate.as_str())
        .with("ctype", facts.ctype.as_str())
        .with("icu", facts.provider == "i"),
    ]
}

fn rights(target: &Target) -> Findings {
    let (user, role) = (&target.facts.user, &target.role);
    let lacks = |message: String| {
        blocker(&TARGET_RIGHTS, message)
            .hint("connect as the role that Synapse uses there, or specify it with --role")
            .with("user", user.as_str())
            .with("role", role.as_str())
    };
    let Some(rights) = ess_postgres::role_rights(&target.session, role)? else {
        return Ok(vec![lacks(format!("the target has no role {role}"))]);
    };
    let mut found = Vec::new();
    if !rights.acts {
        found.push(lacks(format!(
            "role {user} cannot act as {role}, which must own everything on the target"
        )));
    }
    if rights.acts && !rights.inherits {
        found.push(lacks(format!(
            "role {user} can act as {role}, but does not inherit its privileges, which reading the target requires"
        )));
    }
    if !rights.creates {
        found.push(lacks(format!(
            "role {role} cannot create objects in the target's schema public"
        )));
    }
    let foreign: Vec<String> = database_objects(&target.session)?
        .into_iter()
        .filter(|object| !object.ours)
        .map(|object| format!("{} {} of {}", object.kind, object.name, object.owner))
        .collect();
    if !foreign.is_empty() {
        let message = format!(
            "role {user} cannot drop these objects on the target: {}",
            some_of(&foreign)
        );
        found.push(lacks(message).with("objects", foreign));
    }
    Ok(found)
}

fn content(target: &Target) -> Findings {
    let source = target.source.as_ref().map(|facts| &facts.identity);
    match standing(&target.session)? {
        Standing::Nothing => {}
        Standing::Complete(fence) => return Ok(vec![fenced(&fence, source)]),
        Standing::Incomplete(incomplete) => {
            let message = format!("the target has an incomplete fence: {}", incomplete.what);
            return Ok(vec![blocker(&TARGET_FENCED, message).hint(incomplete.remedy)]);
        }
    }
    let mut found = Vec::new();
    let names = server_names(&target.session)?;
    if let Some(own_name) = &target.server_name
        && let Some(other_name) = names.iter().find(|name| *name != own_name)
    {
        found.push(
            blocker(
                &TARGET_SERVER_NAME,
                format!("the target serves {other_name}, but the homeserver being migrated is {own_name}"),
            )
            .hint("check --target, or install ESS with the old server name")
            .with("server_names", names.as_slice()),
        );
    }
    let usage = database_usage(&target.session)?;
    let data = |found: Finding| {
        found
            .with("users", number(usage.users))
            .with("events", number(usage.events))
            .with("media", number(usage.media))
    };
    found.push(data(match usage.used() {
        Some(why) => blocker(&TARGET_USED, format!("the target is in use: {why}")).hint(
            "check --target; if everything on it can be erased, use --accept target-used here and --allow-used \
                 with ess-wipe",
        ),
        None if names.is_empty() => info(&TARGET_FRESH, "the target has no users yet"),
        None => info(&TARGET_FRESH, "the target has only been tried out"),
    }));
    Ok(found)
}

/// Replaces the finding `target-used` if the target is in the same state as the source, as it is when a pipeline is
/// re-run after its end.
///
/// Only compares what is read quickly; ess-wipe and restore prove the target before they leave it unchanged.
pub(crate) fn recognise(target: &Target, source: &OpenSource, findings: &mut Vec<Finding>) {
    let used = TARGET_USED.name;
    let Some(used) = findings.iter_mut().find(|finding| finding.id == used) else {
        return;
    };
    match is_in_same_state(&target.session, &source.session) {
        Ok(false) => {}
        Ok(true) => {
            let found = info(
                &TARGET_RESTORED,
                "the target is in the same state as the source: it already contains this homeserver",
            );
            *used = found.hint("re-run the same command: each program verifies this and skips what is already done");
        }
        Err(error) => findings.push(not_checked("whether the target already contains the source", &error)),
    }
}

fn is_in_same_state(target: &Session, source: &Session) -> Result<bool, Error> {
    let (of_target, of_source) = (database_state(target)?, database_state(source)?);
    Ok(of_target.sequences == of_source.sequences
        && of_target.stream_positions == of_source.stream_positions
        && schema_rows(target)? == schema_rows(source)?
        && catalogue(target)? == catalogue(source)?)
}

fn fenced(fence: &Fence, source: Option<&Identity>) -> Finding {
    match (&fence.source, source) {
        (Some(awaited), Some(source)) if awaited != source => blocker(
            &TARGET_FENCED,
            format!("the target is fenced by a migration from another source, {awaited}"),
        )
        .hint("check --target, or finish that migration first"),
        _ => info(&TARGET_FENCED, "the target was wiped, and is ready for restore"),
    }
    .with("id", fence.id.as_str())
}

/// Checks that the target can drop its objects and load the source.
pub(crate) fn room(target: &Target, source: Option<&OpenSource>) -> Vec<Finding> {
    let checks: &[Check<(&Target, Option<&OpenSource>)>] = &[
        ("the target's lock table", |(target, source)| locks(target, *source)),
        ("prerequisites of the source on the target", |(target, source)| {
            source.map_or_else(|| Ok(Vec::new()), |source| lacks(target, source))
        }),
    ];
    all(&(target, source), checks)
}

/// Checks the size of the lock table: ess-wipe drops everything in one transaction, and restore creates everything in
/// one.
fn locks(target: &Target, source: Option<&OpenSource>) -> Findings {
    let objects = database_objects(&target.session)?;
    let dropped = objects.iter().filter(|object| object.kind == "table").count();
    let loaded = source.map_or(Ok(0), |source| {
        database_tables(&source.session).map(|tables| tables.len())
    })?;
    Ok(lock_room(dropped, loaded, lock_table(&target.session)?)
        .into_iter()
        .collect())
}

fn lock_room(dropped: usize, loaded: usize, table: LockTable) -> Option<Finding> {
    let needed = locks_needed(dropped, loaded);
    let wanted = table.wanted(needed)?;
    Some(
        blocker(
            &TARGET_LOCKS,
            format!(
                "the target's lock table has room for {}, but dropping {} and loading {loaded} needs about {needed}",
                count(table.free, "lock"),
                count(dropped, "table")
            ),
        )
        .hint(format!(
            "on the target, set max_locks_per_transaction to {wanted} and restart PostgreSQL"
        ))
        .with("free", number(table.free))
        .with("needed", number(needed))
        .with("max_locks_per_transaction", number(wanted)),
    )
}

/// What the carried data need but is not carried itself: extensions, roles, collations.
fn lacks(target: &Target, source: &OpenSource) -> Findings {
    let lacking = missing_needs(&target.session, &target.role, &catalogue_needs(&source.session)?)?;
    Ok(lacking
        .into_iter()
        .map(|(need, remedy)| {
            blocker(
                &TARGET_LACKS,
                format!("the target lacks what the source's data need: {need}"),
            )
            .hint(remedy)
            .with("need", need)
        })
        .collect())
}

fn sessions(target: &Target) -> Findings {
    let others = other_sessions(&target.session, &[])?;
    if others.is_empty() {
        return Ok(Vec::new());
    }
    let who: Vec<String> = others.iter().map(ToString::to_string).collect();
    let message = format!("{} on the target: {}", count(others.len(), "session"), some_of(&who));
    Ok(vec![
        info(&TARGET_SESSIONS, message)
            .hint("scale ESS down before ess-wipe")
            .with("sessions", others.len())
            .with("who", who),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(database: &str, version: i32, standby: bool) -> Facts {
        Facts {
            identity: Identity {
                system_identifier: "1".to_owned(),
                database: database.to_owned(),
            },
            version,
            version_text: (version / 10_000).to_string(),
            encoding: "UTF8".to_owned(),
            collate: "C".to_owned(),
            ctype: "C".to_owned(),
            provider: "c".to_owned(),
            owner: "synapse_user".to_owned(),
            user: "synapse_user".to_owned(),
            superuser: false,
            standby,
            bytes: 0,
        }
    }

    #[test]
    fn a_target_is_another_server_as_new_as_the_source() {
        let source = facts("a", 170_006, false);
        let ids = |target: &Facts| -> Vec<String> {
            server(target, Some(&source))
                .into_iter()
                .skip(1)
                .map(|finding| finding.id)
                .collect()
        };
        assert!(ids(&facts("b", 170_002, false)).is_empty());
        assert_eq!(ids(&facts("a", 180_000, false)), ["same-database"]);
        assert_eq!(ids(&facts("b", 160_010, true)), ["target-standby", "target-version"]);
    }

    #[test]
    fn a_lock_table_holds_all_tables_or_the_wipe_fails() {
        let table = |free| LockTable {
            free,
            each: 64,
            transactions: 100,
        };
        assert!(lock_room(170, 170, table(6_400)).is_none());
        assert!(lock_room(170, 0, table(1_700)).is_none());
        let small = lock_room(170, 100, table(1_700)).expect("it is small");
        assert_eq!(
            (small.id.as_str(), &small.data["max_locks_per_transaction"]),
            ("target-locks", &69.into())
        );
    }

    #[test]
    fn a_fence_of_another_source_is_not_ours() {
        let identity = |database: &str| Identity {
            system_identifier: "1".to_owned(),
            database: database.to_owned(),
        };
        let fence = Fence::new("an id".to_owned(), Some(identity("a")), None);
        assert_eq!(fenced(&fence, Some(&identity("a"))).id, "target-fenced");
        assert_eq!(
            fenced(&fence, Some(&identity("a"))).severity,
            ess_document::Severity::Info
        );
        assert_eq!(
            fenced(&fence, Some(&identity("b"))).severity,
            ess_document::Severity::Blocker
        );
        assert_eq!(fenced(&fence, None).severity, ess_document::Severity::Info);
    }
}
