//! The source must not change after its dump.

use ess_archive::{Kind, Manifest};
use ess_cli::{Context, SourceBeside, Stop};
use ess_document::{Identity, SourceCheck};
use ess_postgres::{Access, Conninfo, Error, Inventory, Reading, Session, facts, moved};
use ess_run::Report;

use crate::Proving;

/// Asks the source of a dump whether it was written to since; refuses if it was.
///
/// The other host of a migration often has no route to it. That is no error here: [`SourceCheck`] says what was
/// found, and whoever lifts a fence decides.
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
            .hint("stop it for good, then take the dump again: pgdump-wrap --replace")
            .into()),
        Ok(Answer::Another(other)) => Ok(SourceCheck::Unchecked {
            reason: format!("{conninfo} is {other}, and the dump is of {identity}"),
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

/// Notes in the document which database a dump is of; refuses a dump of another than the document's.
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
        "the dump is of {}, and the document's source is {known}",
        manifest.source
    ))
    .hint("look for the dump that pgdump-wrap made in this migration"))
}

/// Notes in the document which database the source is, when no tool before this one did.
///
/// A source that cannot be reached stays unknown, which is said.
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
                .note(&format!("cannot see which database the source is: {error}"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
