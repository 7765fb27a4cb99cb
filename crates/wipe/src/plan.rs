//! The plan of a wipe: printed, hashed, checked, and carried out in one transaction.

use anyhow::Context as _;
use ess_cli::{Console, Context, Exit, Stop};
use ess_document::Document;
use ess_files::hex;
use ess_postgres::{
    Error, Inventory, LOCKS_PER_TABLE, Object, Session, change_since, count_by_kind, database_objects, database_state,
    drop_statements, escape_identifier, lock_table, not_in_a_dump, preserved_by_wipe, row_counts,
};
use ess_proof::{Fence, Target};
use ess_run::Report;
use ess_run::text::{count, size};
use sha2::{Digest, Sha256};

/// The rows of a table are counted up to this limit: more than that is no longer a trial database, and counting stays
/// fast.
const COUNTED: i64 = 100_000;

/// What would be dropped, with everything that a person needs to decide whether it can be.
pub(crate) struct Plan {
    /// What would be dropped, in order.
    pub(crate) objects: Vec<Object>,
    /// The plan as text: the database, each object with its owner and row count, each sequence and stream position.
    pub(crate) lines: Vec<String>,
    /// What is erased too, but cannot be in a backup.
    lost: Vec<String>,
    /// Lines that the caller adds to the plan.
    more: Vec<String>,
}

impl Plan {
    /// Reads the target; refuses if it cannot be dropped completely. `more` are lines to add to the plan.
    pub(crate) fn of(target: &Target, more: Vec<String>) -> anyhow::Result<Self> {
        let objects = database_objects(&target.session)?;
        can_be_dropped(&target.session, &objects)?;
        let mut lines = vec![format!("database {}", target.facts.identity)];
        lines.extend_from_slice(&more);
        lines.extend(self::lines(&target.session, &objects)?);
        let lost = not_in_a_dump(&target.session)?;
        let lost = lost
            .into_iter()
            .filter(|left| left.erased)
            .map(|left| left.entry)
            .collect();
        Ok(Self {
            objects,
            lines,
            lost,
            more,
        })
    }

    /// The SHA-256 of the lines, which is the same as long as nothing changes.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for line in &self.lines {
            hasher.update(line);
            hasher.update([0]);
        }
        hex(&hasher.finalize())
    }

    /// Refuses if `hash` is of another plan, and lists the differences if that plan is in a document.
    pub(crate) fn is(&self, hash: &str, context: &Context) -> Result<(), Stop> {
        let now = self.hash();
        if hash == now {
            return Ok(());
        }
        let differences = planned(context, hash).map_or_else(
            || "the differences are unknown, since no document contains that plan".to_owned(),
            |then| differences(&then, &self.lines),
        );
        Err(
            Stop::no(format!("the plan no longer matches the target: {differences}")).hint(format!(
                "check the plan above; if it is what you want, use --plan {now}"
            )),
        )
    }

    /// Prints what would be erased, and from which database.
    pub(crate) fn show(&self, console: &Console, target: &Target, confirmation: &str) {
        let counts: Vec<String> = count_by_kind(&self.objects)
            .into_iter()
            .map(|(kind, n)| count(n, &kind))
            .collect();
        let what = if counts.is_empty() {
            "nothing".to_owned()
        } else {
            counts.join(", ")
        };
        console.line(&format!(
            "target: {confirmation} at {} (cluster {}, {})",
            target.session.server(),
            target.facts.identity.system_identifier,
            size(target.facts.bytes.unsigned_abs())
        ));
        console.line(&format!("to be erased: {what}"));
        if !self.lost.is_empty() {
            console.line(&format!(
                "also erased, but not part of any backup: {}",
                self.lost.join("; ")
            ));
        }
        console.line(&format!("plan: {}", self.hash()));
    }

    /// Drops everything and raises the fence, in one transaction that checks its result before it commits.
    ///
    /// `backup` is what the target held when it was backed up: if it has changed since, nothing is erased.
    pub(crate) fn execute(
        &self,
        target: &Target,
        fence: Option<&Fence>,
        backup: Option<&Inventory>,
    ) -> anyhow::Result<()> {
        let session = &target.session;
        session.batch(
            "begin the wipe",
            "BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL synchronous_commit = on",
        )?;
        let outcome = self.erase(target, fence, backup).context("nothing was erased");
        if outcome.is_err() {
            // If the connection was lost, the server rolls back by itself.
            let _ = session.batch("roll back the wipe", "ROLLBACK");
            return outcome;
        }
        session.batch("commit the wipe", "COMMIT").context(
            "COMMIT failed, so it is unknown whether the target was erased; re-run the same \
             command to continue in either case",
        )
    }

    fn erase(&self, target: &Target, fence: Option<&Fence>, backup: Option<&Inventory>) -> anyhow::Result<()> {
        let session = &target.session;
        let changed = |how: String| {
            Stop::no(format!("the target changed after the plan was made: {how}"))
                .hint("find out what else is using the target, then re-run the same command")
        };
        let tables = table_names(&self.objects);
        if !tables.is_empty() {
            session
                .batch(
                    "lock every table",
                    &format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", tables.join(", ONLY ")),
                )
                .context("the target is in use, or it changed after the plan was made")?;
        }
        // The fence is the reason why no backup was made, so check it again: it was read some time ago.
        if let Some(standing) = &target.fence {
            session.batch("check that the fence is still in place", &standing.require())?;
        }
        // With every table locked no other session can write: what is read now is what will be erased.
        let now = Self::of(target, self.more.clone())?;
        if now.lines != self.lines {
            return Err(changed(differences(&self.lines, &now.lines)).into());
        }
        if let Some(backup) = backup
            && let Some(change) = change_since(session, None, backup)?
        {
            return Err(changed(change).into());
        }
        let stays = preserved_by_wipe(session)?;
        session
            .batch("drop everything", &drop_statements(&self.objects))
            .context("dropping failed")?;
        let left = database_objects(session)?;
        if let Some(object) = left.first() {
            return Err(Stop::new(
                Exit::Software,
                format!("{} {} was not dropped", object.kind, object.name),
            )
            .into());
        }
        if preserved_by_wipe(session)? != stays {
            return Err(Stop::new(Exit::Software, "dropping changed an extension or the schema public").into());
        }
        if let Some(fence) = fence {
            if let Some(role) = target.other_role() {
                session.batch(
                    "become the owner",
                    &format!("SET LOCAL ROLE {}", escape_identifier(role)),
                )?;
            }
            session.batch("raise the fence", &fence.raise())?;
        }
        Ok(())
    }
}

/// Refuses if dropping everything would fail midway or leave something behind.
fn can_be_dropped(session: &Session, objects: &[Object]) -> anyhow::Result<()> {
    let foreign: Vec<String> = objects
        .iter()
        .filter(|object| !object.ours)
        .take(5)
        .map(|object| format!("{} {} (owner {})", object.kind, object.name, object.owner))
        .collect();
    if !foreign.is_empty() {
        return Err(Stop::new(
            Exit::Permission,
            format!(
                "the target contains objects that the connecting role cannot drop: {}",
                foreign.join(", ")
            ),
        )
        .hint("connect as the owner, or as a superuser with --role")
        .into());
    }
    let tables = table_names(objects).len();
    let needed = i64::try_from(tables)
        .unwrap_or(i64::MAX)
        .saturating_mul(LOCKS_PER_TABLE);
    let table = lock_table(session)?;
    if let Some(wanted) = table.wanted(needed) {
        return Err(Stop::no(format!(
            "the server has room for {}, but dropping {} at once needs about {needed}",
            count(table.free, "lock"),
            count(tables, "table")
        ))
        .hint(format!(
            "on the target, set max_locks_per_transaction to {wanted} and restart it"
        ))
        .into());
    }
    Ok(())
}

fn table_names(objects: &[Object]) -> Vec<&str> {
    let tables = objects.iter().filter(|object| object.kind == "table");
    tables.map(|object| object.name.as_str()).collect()
}

/// One line for each object, sequence and stream.
fn lines(session: &Session, objects: &[Object]) -> Result<Vec<String>, Error> {
    let mut counts = row_counts(session, &table_names(objects), COUNTED)?.into_iter();
    let mut lines: Vec<String> = objects
        .iter()
        .map(|Object { kind, name, owner, .. }| {
            let rows = (kind == "table").then(|| counts.next()).flatten();
            let rows = rows.map_or_else(String::new, |rows| {
                if rows > COUNTED {
                    format!(", more than {COUNTED} rows")
                } else {
                    format!(", {}", count(rows, "row"))
                }
            });
            format!("{kind} {name} owned by {owner}{rows}")
        })
        .collect();
    let mark = database_state(session)?;
    lines.extend(mark.sequences.iter().map(|s| {
        let unused = if s.is_called { "" } else { " (unused)" };
        format!("sequence {}.{} at {}{unused}", s.schema, s.name, s.last_value)
    }));
    let streams = mark.stream_positions.iter();
    lines.extend(streams.map(|s| format!("stream {} of instance {} at {}", s.stream, s.instance, s.position)));
    Ok(lines)
}

/// The first few lines that are in only one of two plans.
fn differences(then: &[String], now: &[String]) -> String {
    let only = |these: &[String], those: &[String], what: &str| -> Vec<String> {
        let missing = these.iter().filter(|line| !those.contains(line)).take(3);
        missing.map(|line| format!("{what} {line}")).collect()
    };
    let mut all = only(then, now, "planned:");
    all.extend(only(now, then, "found:"));
    all.join("; ")
}

/// The lines of the plan with this hash, from the document or from a saved document in the export.
fn planned(context: &Context, hash: &str) -> Option<Vec<String>> {
    let of = |document: &Document| {
        let wipe = document.wipe.as_ref()?;
        (wipe.plan.as_deref() == Some(hash) && !wipe.planned.is_empty()).then(|| wipe.planned.clone())
    };
    of(&context.document).or_else(|| context.saved_documents().iter().find_map(of))
}
