//! Identifies the source, and checks that it has not changed since its dump.

use ess_archive::{DumpKind, Manifest};
use ess_document::{Identity, SourceCheck};
use ess_postgres::{Access, Conninfo, Error, Inventory, Reading, Session, change_since, server_facts};
use ess_run::{Report, Silent};
use ess_stop::Stop;

use crate::Proving;
use crate::jobs::jobs;

/// The source, for a tool that works on the target and only checks whether the source has changed.
#[derive(Debug)]
pub enum SourceToCheck {
    /// Neither an option nor the document names one.
    NotNamed,
    /// How to connect to it.
    Known(Conninfo),
    /// The document names it, but it cannot be used from here, for this reason.
    Unusable(String),
}

impl SourceToCheck {
    /// How to connect to it, if that is known.
    pub fn conninfo(&self) -> Option<&Conninfo> {
        match self {
            Self::Known(conninfo) => Some(conninfo),
            Self::NotNamed | Self::Unusable(_) => None,
        }
    }
}

/// Checks whether the source of a dump was written to since the dump; refuses if it was.
///
/// The host of the target often has no route to the source. That is not an error here: the caller, which may lift a
/// fence, decides by the returned [`SourceCheck`].
pub(crate) fn check_source(
    proving: &Proving<'_>,
    source: &SourceToCheck,
    identity: &Identity,
    dumped: &Inventory,
) -> anyhow::Result<SourceCheck> {
    let conninfo = match source {
        SourceToCheck::NotNamed => return Ok(SourceCheck::NotNamed),
        SourceToCheck::Unusable(reason) => {
            return Ok(SourceCheck::Unchecked { reason: reason.clone() });
        }
        SourceToCheck::Known(conninfo) => conninfo,
    };
    match compare_with_source(proving, conninfo, identity, dumped) {
        Ok(Answer::Unchanged) => Ok(SourceCheck::Unchanged),
        Ok(Answer::Changed(change)) => Err(Stop::no(format!("the old Synapse ran after the dump: {change}"))
            .hint("stop the old Synapse for good, then repeat the dump: pgdump-wrap --replace")
            .into()),
        Ok(Answer::Another(other)) => Ok(SourceCheck::Unchecked {
            reason: format!("{conninfo} is database {other}, but the dump is of {identity}"),
        }),
        Err(error @ Error::Interrupted(_)) => Err(error.into()),
        Err(error) => Ok(SourceCheck::Unchecked {
            reason: error.to_string(),
        }),
    }
}

enum Answer {
    Unchanged,
    Changed(String),
    Another(Identity),
}

fn compare_with_source(
    proving: &Proving<'_>,
    source: &Conninfo,
    identity: &Identity,
    dumped: &Inventory,
) -> Result<Answer, Error> {
    let session = Session::connect(source, proving.application_name, Access::ReadOnly)?;
    let found = server_facts(&session)?.identity;
    if found != *identity {
        return Ok(Answer::Another(found));
    }
    // The source can accept fewer connections than the target.
    let jobs = proving.jobs.min(jobs(&session, None, &Silent));
    let reading = Reading::now(source, proving.application_name, jobs, proving.report);
    let change = change_since(&session, Some(&reading), dumped)?;
    Ok(change.map_or(Answer::Unchanged, Answer::Changed))
}

/// The source's identity according to a dump; refuses a dump of a database other than the known source.
pub fn source_of(manifest: &Manifest, known: Option<Identity>) -> Result<Option<Identity>, Stop> {
    if manifest.kind != DumpKind::Migration {
        return Ok(known);
    }
    match known {
        Some(known) if known != manifest.source => Err(Stop::data(format!(
            "the dump is of {}, but the document's source is {known}",
            manifest.source
        ))
        .hint("use the dump that pgdump-wrap made in this migration")),
        _ => Ok(Some(manifest.source.clone())),
    }
}

/// The source's identity; `None` if it is not named or, with a note, if it cannot be reached.
pub fn identify(
    source: &SourceToCheck,
    application_name: &str,
    report: &dyn Report,
) -> anyhow::Result<Option<Identity>> {
    let Some(source) = source.conninfo() else {
        return Ok(None);
    };
    match Session::connect(source, application_name, Access::ReadOnly) {
        Ok(session) => Ok(Some(server_facts(&session)?.identity)),
        Err(error @ Error::Connect { .. }) => {
            report.note(&format!("cannot identify the source database: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
