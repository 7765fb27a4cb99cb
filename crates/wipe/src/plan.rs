//! The plan of a wipe: shown, hashed, checked, carried out in one transaction.

use anyhow::Context as _;
use ess_cli::{Console, Context, Exit, Stop, hex};
use ess_document::Document;
use ess_postgres::{
    Error, Inventory, LOCKS_PER_TABLE, Object, Session, count_by_kind, drop_statements, escape_identifier, keepsakes,
    lock_table, mark, moved, not_in_a_dump, objects, row_counts,
};
use ess_proof::{Fence, Target};
use ess_run::text::{count, size};
use sha2::{Digest, Sha256};

/// Rows of a table are counted no further: that much is no trial any more, and counting it takes no time.
const COUNTED: i64 = 100_000;

/// What would be dropped, and everything by which a person decides that it may.
pub(crate) struct Plan {
    /// What would be dropped, in order.
    pub(crate) objects: Vec<Object>,
    /// The plan as text: which database, of whom, each object, how many rows, where sequences and streams stand.
    pub(crate) lines: Vec<String>,
    /// What goes with it that no backup holds.
    lost: Vec<String>,
    /// What the caller adds to that.
    more: Vec<String>,
}

impl Plan {
    /// Reads the target; refuses what could not be dropped as a whole. `more` is what the plan says besides.
    pub(crate) fn of(target: &Target, more: Vec<String>) -> anyhow::Result<Self> {
        let objects = objects(&target.session)?;
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

    /// The SHA-256 of its lines: the same as long as nothing changes.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for line in &self.lines {
            hasher.update(line);
            hasher.update([0]);
        }
        hex(&hasher.finalize())
    }

    /// Refuses when a person has seen another plan, and says what differs if that plan can be found.
    pub(crate) fn is(&self, hash: &str, context: &Context) -> Result<(), Stop> {
        let now = self.hash();
        if hash == now {
            return Ok(());
        }
        let differences = planned(context, hash).map_or_else(
            || "it cannot be told what, since no document holds that plan".to_owned(),
            |then| differences(&then, &self.lines),
        );
        Err(
            Stop::no(format!("the target is not as it was planned: {differences}")).hint(format!(
                "look at the plan above; if it is what you want, give --plan {now}"
            )),
        )
    }

    /// Tells what would go, from where.
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
                "erased too, and the backup will not hold it: {}",
                self.lost.join("; ")
            ));
        }
        console.line(&format!("plan: {}", self.hash()));
    }

    /// Drops everything and puts the fence up, in one transaction that proves itself before it commits.
    ///
    /// `backup` is what the target held when its backup was taken: what was written later is not in it.
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
            // A lost connection has rolled back already.
            let _ = session.batch("undo the wipe", "ROLLBACK");
            return outcome;
        }
        session.batch("commit the wipe", "COMMIT").context(
            "the answer is lost that would say whether the target is erased; the same line again goes on in either case",
        )
    }

    fn erase(&self, target: &Target, fence: Option<&Fence>, backup: Option<&Inventory>) -> anyhow::Result<()> {
        let session = &target.session;
        let changed = |how: String| {
            Stop::no(format!("the target changed after the plan was made: {how}"))
                .hint("see who else works on it, then run the same line again")
        };
        let tables = table_names(&self.objects);
        if !tables.is_empty() {
            session
                .batch(
                    "lock every table",
                    &format!("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE", tables.join(", ONLY ")),
                )
                .context("somebody uses the target, or it changed after the plan was made")?;
        }
        // By which a backup was left out: long may have passed since it was looked at.
        if let Some(standing) = &target.fence {
            session.batch("see that the fence still stands", &standing.require())?;
        }
        // Nobody can write any more: what is seen now is what goes.
        let now = Self::of(target, self.more.clone())?;
        if now.lines != self.lines {
            return Err(changed(differences(&self.lines, &now.lines)).into());
        }
        if let Some(backup) = backup
            && let Some(change) = moved(session, None, backup)?
        {
            return Err(changed(change).into());
        }
        let stays = keepsakes(session)?;
        session
            .batch("drop everything", &drop_statements(&self.objects))
            .context("dropping failed")?;
        let left = objects(session)?;
        if let Some(object) = left.first() {
            return Err(Stop::new(
                Exit::Software,
                format!("{} {} was not dropped", object.kind, object.name),
            )
            .into());
        }
        if keepsakes(session)? != stays {
            return Err(Stop::new(Exit::Software, "dropping changed an extension or the schema public").into());
        }
        if let Some(fence) = fence {
            if let Some(role) = target.other_role() {
                session.batch(
                    "become the owner",
                    &format!("SET LOCAL ROLE {}", escape_identifier(role)),
                )?;
            }
            session.batch("put up the fence", &fence.raise())?;
        }
        Ok(())
    }
}

/// Refuses what would fail half-way or leave something behind.
fn can_be_dropped(session: &Session, objects: &[Object]) -> anyhow::Result<()> {
    let foreign: Vec<String> = objects
        .iter()
        .filter(|object| !object.ours)
        .take(5)
        .map(|object| format!("{} {} of {}", object.kind, object.name, object.owner))
        .collect();
    if !foreign.is_empty() {
        return Err(Stop::new(
            Exit::Permission,
            format!("the target holds what our role may not drop: {}", foreign.join(", ")),
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
            "the server has room for {} locks, and dropping {tables} tables at once needs about {needed}",
            table.free
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

/// A line for each object, sequence and stream.
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
                    format!(", {rows} rows")
                }
            });
            format!("{kind} {name} of {owner}{rows}")
        })
        .collect();
    let mark = mark(session)?;
    lines.extend(mark.sequences.iter().map(|s| {
        let unused = if s.is_called { "" } else { " (unused)" };
        format!("sequence {}.{} at {}{unused}", s.schema, s.name, s.last_value)
    }));
    let streams = mark.stream_positions.iter();
    lines.extend(streams.map(|s| format!("stream {} of {} at {}", s.stream, s.instance, s.position)));
    Ok(lines)
}

/// The first lines that only one of two plans has.
fn differences(then: &[String], now: &[String]) -> String {
    let only = |these: &[String], those: &[String], what: &str| -> Vec<String> {
        let missing = these.iter().filter(|line| !those.contains(line)).take(3);
        missing.map(|line| format!("{what} {line}")).collect()
    };
    let mut all = only(then, now, "it was:");
    all.extend(only(now, then, "it is:"));
    all.join("; ")
}

/// The plan of that hash, from the document or from one that is kept in the export.
fn planned(context: &Context, hash: &str) -> Option<Vec<String>> {
    let of = |document: &Document| {
        let wipe = document.wipe.as_ref()?;
        (wipe.plan.as_deref() == Some(hash) && !wipe.planned.is_empty()).then(|| wipe.planned.clone())
    };
    of(&context.document).or_else(|| context.kept_documents().iter().find_map(of))
}
