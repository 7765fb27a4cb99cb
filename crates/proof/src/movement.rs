//! The source must not move after its dump.

use ess_cli::{Context, Stop};
use ess_postgres::{Access, Conninfo, Error, Inventory, Reading, Session, facts, moved};
use ess_run::Report;

/// Refuses when the source, as far as it can be reached, was written to after `then`.
///
/// The other host of a migration often has no route to it: that is said, and is no error.
pub fn source_moved(
    source: &Conninfo,
    application_name: &str,
    identity: &ess_document::Identity,
    then: &Inventory,
    jobs: usize,
    report: &dyn Report,
) -> anyhow::Result<()> {
    let session = match Session::connect(source, application_name, Access::ReadOnly) {
        Ok(session) => session,
        Err(error @ Error::Connect { .. }) => {
            report.note(&format!(
                "cannot see whether the source has moved since the dump: {error}"
            ));
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    if facts(&session)?.identity != *identity {
        report.note(&format!(
            "{source} is not the database that was dumped; not asked whether it has moved"
        ));
        return Ok(());
    }
    let beside = Reading {
        conninfo: source,
        application_name,
        snapshot: None,
        jobs,
        queue: None,
        access: Access::ReadOnly,
        report,
    };
    match moved(&session, Some(&beside), then)? {
        None => Ok(()),
        Some(change) => Err(Stop::no(format!("the old Synapse ran after the dump: {change}"))
            .hint("stop it for good, then take the dump again: pgdump-wrap --replace")
            .into()),
    }
}

/// Notes in the document which database the source is, when no tool before this one did.
///
/// A source that cannot be reached stays unknown, which is said.
pub fn identify_source(context: &mut Context, source: &Conninfo) -> anyhow::Result<()> {
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
