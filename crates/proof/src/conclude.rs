//! Classifies what a target holds, and lifts the fence: the only code that does.

use anyhow::Context as _;
use ess_archive::{DumpKind, Manifest};
use ess_document::{Against, FenceState, Identity, SourceCheck};
use ess_postgres::{
    Inventory, Session, database_objects, plausible_schema_rows, schema_rows, sequences, stream_positions,
};
use ess_run::text::count;
use ess_stop::Stop;

use crate::fence::Fence;
use crate::movement::{SourceToCheck, check_source};
use crate::prove::{Proof, Proving, is_loaded};
use crate::{Target, wait_until_unused};

/// What a target must hold, and which database those contents come from.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What it must hold.
    pub inventory: Inventory,
    /// What states it: a manifest, the source, or nothing.
    pub against: Against,
    /// The source that the contents were read from; `None` for a backup and for unproven contents.
    source: Option<Origin>,
}

#[derive(Debug, Clone)]
struct Origin {
    identity: Identity,
    in_use: bool,
}

impl Expected {
    /// What a dump with a manifest holds. A backup was made of the target itself, so it has no source to check.
    pub fn of_dump(manifest: &Manifest) -> Self {
        Self {
            inventory: manifest.inventory.clone(),
            against: Against::Manifest,
            source: (manifest.kind == DumpKind::Migration).then(|| Origin {
                identity: manifest.source.clone(),
                in_use: manifest.source_was_running,
            }),
        }
    }

    /// What a stopped source holds.
    pub fn of_source(identity: Identity, inventory: Inventory) -> Self {
        let in_use = false;
        Self {
            inventory,
            against: Against::Source,
            source: Some(Origin { identity, in_use }),
        }
    }

    /// What was loaded, accepted by the user although nothing shows whether it is right.
    pub fn accepted(inventory: Inventory) -> Self {
        Self {
            inventory,
            against: Against::Nothing,
            source: None,
        }
    }

    /// Whether these are the contents of a target before its wipe.
    fn is_backup(&self) -> bool {
        self.against == Against::Manifest && self.source.is_none()
    }

    /// The source database whose contents these are.
    pub fn source(&self) -> Option<&Identity> {
        self.source.as_ref().map(|source| &source.identity)
    }
}

/// What a target holds.
#[derive(Debug)]
pub enum State {
    /// Nothing.
    Empty,
    /// Contents that these tools did not load.
    Foreign,
    /// A fence, and behind it anything other than the complete expected contents.
    Fenced,
    /// A fence, and behind it the expected contents, completely loaded but not yet proven.
    Loaded,
    /// The expected contents, proven, without a fence: Synapse can start.
    Proven(Proof),
}

/// The result of a proof.
#[derive(Debug)]
pub struct Conclusion {
    /// What was compared, and what differs.
    pub proof: Proof,
    /// Whether the source has changed; `None` if there is no source to check.
    pub source: Option<SourceCheck>,
    /// The state of the fence afterwards.
    pub fence: FenceState,
}

impl Conclusion {
    /// The number of differences, for a message; `None` if the proof holds.
    pub fn differences(&self) -> Option<String> {
        match self.proof.differences.len() {
            0 => None,
            n => Some(count(n, "difference")),
        }
    }

    /// A clause about the source to append to a message; empty if the source has not changed.
    pub fn caveat(&self) -> String {
        match &self.source {
            None | Some(SourceCheck::Unchanged) => String::new(),
            Some(check) => format!("; {check}"),
        }
    }
}

impl Proving<'_> {
    /// Checks whether the source has changed since its contents were read.
    ///
    /// # Errors
    ///
    /// It has changed. A source that cannot be checked is not an error.
    pub fn check_source(&self, expected: &Expected, source: &SourceToCheck) -> anyhow::Result<Option<SourceCheck>> {
        match &expected.source {
            None => Ok(None),
            Some(Origin { in_use: true, .. }) => Ok(Some(SourceCheck::InUse)),
            Some(Origin { identity, .. }) => check_source(self, source, identity, &expected.inventory).map(Some),
        }
    }

    /// As [`Proving::check_source`], for use before work that would otherwise end with a fence that cannot be lifted.
    ///
    /// # Errors
    ///
    /// The source has changed, or it is known but cannot be checked and the user has not allowed that.
    pub fn require_source(
        &self,
        expected: &Expected,
        source: &SourceToCheck,
        allow: Allow,
    ) -> anyhow::Result<Option<SourceCheck>> {
        let check = self.check_source(expected, source)?;
        match &check {
            Some(SourceCheck::Unchecked { reason }) if !allow.unchecked_source => Err(unchecked(reason).into()),
            _ => Ok(check),
        }
    }

    /// Classifies what a target holds, in the same way for every tool.
    ///
    /// Cheap checks come first: all rows are read only if the target is likely to be proven.
    pub fn state(&self, target: &Target, expected: Option<&Expected>) -> anyhow::Result<State> {
        let session = &target.session;
        if let Some(fence) = &target.fence {
            let loaded = match expected {
                Some(expected) if expected.source.is_none() || fence.source.as_ref() == expected.source() => {
                    is_loaded(session, &expected.inventory)?
                }
                _ => false,
            };
            return Ok(if loaded { State::Loaded } else { State::Fenced });
        }
        if database_objects(session)?.is_empty() {
            return Ok(State::Empty);
        }
        if let Some(Expected { inventory, .. }) = expected
            && schema_rows(session)? == inventory.schema
            && is_loaded(session, inventory)?
        {
            let proof = self.prove(session, inventory, false)?;
            if proof.holds() {
                return Ok(State::Proven(proof));
            }
        }
        Ok(State::Foreign)
    }

    /// Proves the target, and lifts its fence if the proof holds and the source has not changed.
    ///
    /// Nothing else lifts a fence. The source is checked last, since a proof takes time. After an error, or if the
    /// proof does not hold, the fence stays; each difference is printed.
    pub fn conclude(&self, target: &Target, expected: &Expected, way: &Way<'_>) -> anyhow::Result<Conclusion> {
        let proof = self.prove(&target.session, &expected.inventory, way.analyze)?;
        for difference in &proof.differences {
            self.report.line(&format!("  {difference}"));
        }
        self.settle(target, expected, proof, way)
    }

    /// The second part of [`Proving::conclude`], for a target that has just been compared.
    pub fn settle(
        &self,
        target: &Target,
        expected: &Expected,
        proof: Proof,
        way: &Way<'_>,
    ) -> anyhow::Result<Conclusion> {
        let stands = if target.fence.is_some() {
            FenceState::Standing
        } else {
            FenceState::Absent
        };
        let mut conclusion = Conclusion {
            proof,
            source: None,
            fence: stands,
        };
        if !conclusion.proof.holds() {
            return Ok(conclusion);
        }
        let Some(fence) = &target.fence else {
            conclusion.source = self.check_source(expected, way.source)?;
            return Ok(conclusion);
        };
        expected.source().map_or(Ok(()), |source| fence.awaits(source))?;
        conclusion.source = self.require_source(expected, way.source, way.allow)?;
        if let Some(SourceCheck::InUse) = conclusion.source
            && !way.allow.running_source
        {
            return Ok(conclusion);
        }
        wait_until_unused(&target.session, way.ignored_roles, "target")?;
        lift(&target.session, fence, expected, &conclusion.proof)?;
        conclusion.fence = FenceState::Lifted;
        Ok(conclusion)
    }
}

/// What the user allows when a fence is lifted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allow {
    /// The source is known but cannot be checked for changes since the dump.
    pub unchecked_source: bool,
    /// The dump is of a source that was in use.
    pub running_source: bool,
}

/// How to make a proof, and under which conditions to lift the fence.
pub struct Way<'a> {
    /// The source, which is checked for changes.
    pub source: &'a SourceToCheck,
    /// What the user allows.
    pub allow: Allow,
    /// Roles whose connections to the target are ignored, such as a monitor's.
    pub ignored_roles: &'a [String],
    /// Gather the planner's statistics in the same pass.
    pub analyze: bool,
}

/// The refusal for a source that is known but cannot be checked.
fn unchecked(reason: &str) -> Stop {
    Stop::no(format!(
        "the source cannot be checked for changes since the dump: {reason}"
    ))
    .hint(
        "make the source reachable from this host; if it is certain that the old Synapse has not run since the dump, \
         add --allow-unchecked-source",
    )
}

/// Replaces the fence with the source's version rows, in one durable transaction.
///
/// Fails if the target has changed since it was proven: the fence stops only a Synapse that starts, not one that has
/// been running since before the wipe and reconnects.
fn lift(session: &Session, fence: &Fence, expected: &Expected, proof: &Proof) -> anyhow::Result<()> {
    let inventory = &expected.inventory;
    let has = |name: &str| inventory.tables.iter().any(|t| t.schema == "public" && t.name == name);
    if let Some(why) = inventory.schema.implausible()
        && !expected.is_backup()
    {
        return Err(
            Stop::data(format!("Synapse would not start on this schema version: {why}"))
                .hint("repeat the dump, from a database that Synapse has used")
                .into(),
        );
    }
    let sql = format!("{}{}", fence.require(), Fence::lift(&inventory.schema, has));
    session.batch("begin to lift the fence", "BEGIN; SET LOCAL synchronous_commit = on")?;
    let lifted = session.batch("lift the fence", &sql).map_err(anyhow::Error::from);
    let lifted = lifted.and_then(|()| {
        if (sequences(session)?, stream_positions(session)?)
            != (proof.mark.sequences.clone(), proof.mark.stream_positions.clone())
        {
            return Err(Stop::no("the target was written to while it was being proven")
                .hint("make sure that no Synapse process of ESS is running, then re-run the same command")
                .into());
        }
        // Read the rows back: a trigger or a rule may have changed what was written.
        let why = match plausible_schema_rows(session)? {
            Ok(rows) if rows == inventory.schema => return Ok(()),
            // A backup may be of a database on which Synapse had not finished its first start.
            Err(_) if expected.is_backup() && schema_rows(session)? == inventory.schema => return Ok(()),
            Ok(_) => "they have other values".to_owned(),
            Err(why) => why,
        };
        Err(
            Stop::no(format!("the target's version rows are not as they were written: {why}"))
                .hint("check for a rule or a trigger on public.schema_version and public.schema_compat_version")
                .into(),
        )
    });
    if let Err(error) = lifted {
        // If the connection was lost, the server rolls back by itself.
        let _ = session.batch("leave the fence in place", "ROLLBACK");
        return Err(error);
    }
    session.batch("lift the fence", "COMMIT").context(
        "the target was proven, but the connection was lost while lifting the fence; run verify to check and lift it",
    )
}
