//! What the target must hold when the restore is done.

use ess_archive::FoundDump;
use ess_cli::{Context, Stop};
use ess_postgres::{Access, Conninfo, Session, server_facts};
use ess_proof::{Expected, Proving, SourceToCheck};
use ess_run::Report;

use crate::Args;

/// Decides, before anything is loaded, what to compare the target with; `None` if the user accepted an unproven dump.
///
/// The source is checked first, so that a dump is not loaded if it is out of date or its fence could not be lifted in
/// the end.
pub(crate) fn choose(
    context: &Context,
    args: &Args,
    proving: &Proving<'_>,
    source: &SourceToCheck,
    found: &FoundDump,
) -> anyhow::Result<Option<Expected>> {
    if let FoundDump::WithManifest { manifest, .. } = found {
        let expected = Expected::of_dump(manifest);
        proving.require_source(&expected, source, args.lift.allow())?;
        return Ok(Some(expected));
    }
    if args.accept_unproven {
        return Ok(None);
    }
    let unproven = |why: String| {
        Stop::no(format!("nothing shows what this dump should contain: {why}"))
            .hint("name the stopped source with -c or --source, or use --accept-unproven to load it without proof")
    };
    let source = match source {
        SourceToCheck::Known(source) => source,
        SourceToCheck::NotNamed => {
            return Err(unproven("it has no manifest, and no source is named".to_owned()).into());
        }
        SourceToCheck::Unusable(reason) => return Err(unproven(format!("it has no manifest, and {reason}")).into()),
    };
    let session = Session::connect(source, proving.application_name, Access::ReadOnly)
        .map_err(|error| unproven(format!("it has no manifest, and {error}")))?;
    context
        .console
        .note("the dump has no manifest: what is loaded will be compared with the stopped source");
    read(args, proving, source, &session).map(Some)
}

/// Reads what the stopped source holds; refuses a source that is in use or cannot be read completely.
fn read(args: &Args, proving: &Proving<'_>, source: &Conninfo, session: &Session) -> anyhow::Result<Expected> {
    let facts = server_facts(session)?;
    ess_proof::require_primary(session, facts.standby)?;
    ess_proof::refuse_subscriber(session)?;
    ess_proof::wait_until_unused(session, &args.ignore_role, "source")?;
    let inventory = ess_proof::live_inventory(source, proving.application_name, proving.jobs, proving.report)?;
    Ok(Expected::of_source(facts.identity, inventory))
}
