//! What a target holds, and the one way in which a fence comes down.

use anyhow::Context as _;
use ess_archive::{Kind, Manifest};
use ess_cli::{Console, LiftArgs, SourceBeside, Stop};
use ess_document::{Against, FenceState, Identity, SourceCheck};
use ess_postgres::{Inventory, Session, objects, plausible_schema_rows, schema_rows, sequences, stream_positions};

use crate::fence::Fence;
use crate::movement::check_source;
use crate::prove::{Proof, Proving, is_loaded};
use crate::{Target, nobody_else};

/// What a target must hold, and of which database that is.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What it must hold.
    pub inventory: Inventory,
    /// Where that is known from.
    pub against: Against,
    /// The database it was read from, if that could have changed since.
    source: Option<Origin>,
}

#[derive(Debug, Clone)]
struct Origin {
    identity: Identity,
    in_use: bool,
}

impl Expected {
    /// What a dump of ours holds. A backup is of the target itself, which has no source to ask.
    pub fn of_dump(manifest: &Manifest) -> Self {
        Self {
            inventory: manifest.inventory.clone(),
            against: Against::Manifest,
            source: (manifest.kind == Kind::Migration).then(|| Origin {
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

    /// What was loaded: a person accepted that nothing shows whether it is right.
    pub fn accepted(inventory: Inventory) -> Self {
        Self {
            inventory,
            against: Against::Nothing,
            source: None,
        }
    }

    /// Whether it is what a target held before its wipe.
    fn is_backup(&self) -> bool {
        self.against == Against::Manifest && self.source.is_none()
    }

    /// The database whose contents these are.
    pub fn source(&self) -> Option<&Identity> {
        self.source.as_ref().map(|source| &source.identity)
    }
}

/// What a target holds.
#[derive(Debug)]
pub enum State {
    /// Nothing.
    Empty,
    /// What these tools did not put there.
    Foreign,
    /// A fence, and behind it anything but the whole of what is expected.
    Fenced,
    /// What is expected, loaded to its end behind the fence, and not proven yet.
    Loaded,
    /// What is expected, proven, with no fence in the way of Synapse.
    Proven(Proof),
}

/// What came of a proof.
#[derive(Debug)]
pub struct Conclusion {
    /// What was compared, and what differs.
    pub proof: Proof,
    /// Whether the source has changed; none when there is no source to ask.
    pub source: Option<SourceCheck>,
    /// What became of the fence.
    pub fence: FenceState,
}

impl Conclusion {
    /// How many differences, for people; none when the proof holds.
    pub fn differences(&self) -> Option<String> {
        match self.proof.differences.len() {
            0 => None,
            1 => Some("1 difference".to_owned()),
            n => Some(format!("{n} differences")),
        }
    }

    /// What is to be known of the source, in words that follow others; nothing when all is as it should be.
    pub fn caveat(&self) -> String {
        match &self.source {
            None | Some(SourceCheck::Unchanged) => String::new(),
            Some(check) => format!("; {check}"),
        }
    }
}

impl Proving<'_> {
    /// Asks the database whose contents are expected whether it has changed since; refuses if it has.
    pub fn check_source(&self, expected: &Expected, source: &SourceBeside) -> anyhow::Result<Option<SourceCheck>> {
        match &expected.source {
            None => Ok(None),
            Some(Origin { in_use: true, .. }) => Ok(Some(SourceCheck::InUse)),
            Some(Origin { identity, .. }) => check_source(self, source, identity, &expected.inventory).map(Some),
        }
    }

    /// As [`Proving::check_source`], before work that would end with a fence that nothing may lift: refuses a source
    /// that is known and cannot be asked, too, unless a person allows it.
    pub fn require_source(
        &self,
        expected: &Expected,
        source: &SourceBeside,
        allow: LiftArgs,
    ) -> anyhow::Result<Option<SourceCheck>> {
        let check = self.check_source(expected, source)?;
        match &check {
            Some(SourceCheck::Unchecked { reason }) if !allow.allow_unchecked_source => Err(unchecked(reason).into()),
            _ => Ok(check),
        }
    }

    /// Decides what a target holds, for every tool in the same way.
    ///
    /// What is quickly read comes first: only what may well be proven is read whole.
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
        if objects(session)?.is_empty() {
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
    /// Nothing else lifts a fence. The source is asked last, since a proof takes time. An error leaves the fence up;
    /// so does a proof that does not hold, whose differences are listed.
    pub fn conclude(&self, target: &Target, expected: &Expected, way: &Way<'_>) -> anyhow::Result<Conclusion> {
        let proof = self.prove(&target.session, &expected.inventory, way.analyze)?;
        for difference in &proof.differences {
            way.console.line(&format!("  {difference}"));
        }
        self.settle(target, expected, proof, way)
    }

    /// The end of [`Proving::conclude`], for a target that was proven just now.
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
            && !way.allow.allow_running_source
        {
            return Ok(conclusion);
        }
        nobody_else(&target.session, way.ignored_roles, "target")?;
        lift(&target.session, fence, expected, &conclusion.proof)?;
        conclusion.fence = FenceState::Lifted;
        Ok(conclusion)
    }
}

/// How a proof is made and what may be lifted.
pub struct Way<'a> {
    /// Who is asked whether it has changed.
    pub source: &'a SourceBeside,
    /// What a person allows.
    pub allow: LiftArgs,
    /// Roles that may be connected to the target, such as a monitor's.
    pub ignored_roles: &'a [String],
    /// Gather the planner's statistics in the same pass.
    pub analyze: bool,
    /// Where differences are listed.
    pub console: &'a Console,
}

/// A source that is known, and could not be asked.
fn unchecked(reason: &str) -> Stop {
    Stop::no(format!(
        "the source cannot be checked for changes since the dump: {reason}"
    ))
    .hint(
        "make it reachable from here; if it is certain that the old Synapse has not run since, give \
         --allow-unchecked-source",
    )
}

/// The proof's last transaction: the source's version rows, durably.
///
/// It fails if the target is no longer what was proven: a Synapse that ran before the wipe may have come back, since
/// the fence keeps out only one that starts.
fn lift(session: &Session, fence: &Fence, expected: &Expected, proof: &Proof) -> anyhow::Result<()> {
    let inventory = &expected.inventory;
    let has = |name: &str| inventory.tables.iter().any(|t| t.schema == "public" && t.name == name);
    if let Some(why) = inventory.schema.implausible()
        && !expected.is_backup()
    {
        return Err(
            Stop::data(format!("there is no version with which Synapse would start: {why}"))
                .hint("take the dump again from a database that Synapse has used")
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
            return Err(Stop::no("somebody wrote to the target while it was proven")
                .hint("see that no process of ESS's Synapse runs, then run the same line again")
                .into());
        }
        // What a trigger or a rule made of it is not what was asked for.
        let why = match plausible_schema_rows(session)? {
            Ok(rows) if rows == inventory.schema => return Ok(()),
            // Before a wipe, Synapse may not have come so far.
            Err(_) if expected.is_backup() && schema_rows(session)? == inventory.schema => return Ok(()),
            Ok(_) => "they are others".to_owned(),
            Err(why) => why,
        };
        Err(Stop::no(format!(
            "the target's version rows are not those of the dump once they are written: {why}"
        ))
        .hint("look for a rule or a trigger on public.schema_version and public.schema_compat_version")
        .into())
    });
    if let Err(error) = lifted {
        // A lost connection has rolled back already.
        let _ = session.batch("leave the fence", "ROLLBACK");
        return Err(error);
    }
    session.batch("lift the fence", "COMMIT").context(
        "the target was proven, but the connection was lost while lifting the fence; run verify to check and lift it",
    )
}
