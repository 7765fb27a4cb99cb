//! Identifies the source, and checks that it has not changed since its dump.

use ess_archive::{Kind, Manifest};
use ess_cli::{Context, SourceBeside, Stop};
use ess_document::{Identity, SourceCheck};
use ess_postgres::{Access, Conninfo, Error, Inventory, Reading, Session, facts, moved};
use ess_run::Report;

use crate::Proving;

/// Checks whether the source of a dump was written to since the dump; refuses if it was.
///
/// The host of the target often has no route to the source. That is not an error here: the caller, which may lift a
/// fence, decides by the returned [`SourceCheck`].
pub(crate) fn check_source(
    proving: &Proving<'_>,
    source: &SourceBeside,
    identity: &Identity,
    dumped: &Inventory,
) -> anyhow::Result<SourceCheck> {
    let conninfo = match source {
        SourceBeside::NotNamed => return Ok(SourceCheck::NotNamed),
        SourceBeside::Unusable(reason) => {
            return Ok(SourceCheck::Unchecked { reason: reason.clone() });
        }
        SourceBeside::Known(conninfo) => conninfo,
    };
    match ask(proving, conninfo, identity, dumped) {
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

fn ask(proving: &Proving<'_>, source: &Conninfo, identity: &Identity, dumped: &Inventory) -> Result<Answer, Error> {
    let session = Session::connect(source, proving.application_name, Access::ReadOnly)?;
    let found = facts(&session)?.identity;
    if found != *identity {
        return Ok(Answer::Another(found));
    }
    let beside = Reading::now(source, proving.application_name, proving.jobs, proving.report);
    let change = moved(&session, Some(&beside), dumped)?;
    Ok(change.map_or(Answer::Unchanged, Answer::Changed))
}

/// Records in the document which database a dump is of; refuses a dump of a database other than the document's source.
pub fn adopt_source(context: &mut Context, manifest: &Manifest) -> Result<(), Stop> {
    if manifest.kind != Kind::Migration {
        return Ok(());
    }
    let known = context
        .source_section()
        .identity
        .get_or_insert_with(|| manifest.source.clone());
    if *known == manifest.source {
        return Ok(());
    }
    Err(Stop::data(format!(
        "the dump is of {}, but the document's source is {known}",
        manifest.source
    ))
    .hint("use the dump that pgdump-wrap made in this migration"))
}

/// Records in the document which database the source is, unless an earlier tool did.
///
/// If the source cannot be reached, it stays unidentified, with a note.
pub fn identify_source(context: &mut Context, source: &SourceBeside) -> anyhow::Result<()> {
    let Some(source) = source.conninfo() else {
        return Ok(());
    };
    if context.source_section().identity.is_some() {
        return Ok(());
    }
    match Session::connect(source, &context.application_name(), Access::ReadOnly) {
        Ok(session) => context.source_section().identity = Some(facts(&session)?.identity),
        Err(error @ Error::Connect { .. }) => {
            context
                .console
                .note(&format!("cannot identify the source database: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
