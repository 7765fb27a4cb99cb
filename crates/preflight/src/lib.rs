//! preflight: everything that can go wrong, before it does.

mod checks;
mod finding;
mod ids;
mod metrics;
mod report;
mod select;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use ess_cli::{Console, Context, Exit, PgVariables, SourceArgs, Stop, TargetArgs, now};
use ess_document::{Finding, Identity, Next, Preflight, Severity};
use ess_postgres::{Access, Conninfo, Error, SchemaRows, schema_rows, server_names};
use ess_proof::read_fence;
use ess_run::Report;
use ess_synapse::Config;
use ess_synapse::config::Database;
use ess_web::Detour;

use checks::homeserver::{self, Homeserver};
use checks::source::{self, Source};
use checks::target::{self, Target};
use checks::versions::SynapseVersion;
use checks::{carry, config, connect, export, health, host, media, not_checked, profile, programs, public};
use finding::{Blocker, Detail, blocker, count};
use select::{Pattern, Selection};

/// Look for everything that could stop the migration
///
/// Reads Synapse's configuration, looks at source and target without changing them, and reports
/// all that it finds: what blocks the migration, what needs a decision, and what is good to know.
/// Synapse may run meanwhile. Exits 1 when something blocks.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Findings")]
pub struct Args {
    /// Write no document: only the exit status, and the findings on standard error
    #[arg(long)]
    check: bool,
    /// Print a table instead of a line each
    #[arg(long)]
    report: bool,
    /// Write counts for Prometheus's textfile collector
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Report these findings only, such as dns*; repeatable, only with --check
    #[arg(long, value_name = "ID", requires = "check", value_parser = Pattern::parse)]
    only: Vec<Pattern>,
    /// Leave out these findings, such as dns*, unless they block; repeatable
    #[arg(long, value_name = "ID", value_parser = Pattern::parse)]
    skip: Vec<Pattern>,
    /// A blocker that a person has judged and accepts; repeatable
    #[arg(long, value_name = "ID", value_parser = Blocker::acceptable)]
    accept: Vec<Blocker>,
    /// Seconds to look at media; `none` for all of them
    #[arg(long, value_name = "SECONDS", default_value = "8", value_parser = Budget::parse)]
    budget: Budget,
    /// Seconds for which DNS records may be remembered
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    max_ttl: u32,
    /// The name server to ask; authoritative servers are then asked on its port too
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = ess_web::resolver)]
    resolver: Option<SocketAddr>,
    /// Where HTTPS connections to a host go; repeatable
    #[arg(long, value_name = "HOST:PORT:ADDR:PORT", value_parser = Detour::parse)]
    resolve: Vec<Detour>,
    /// The Synapse that ESS brings, where its database cannot be asked
    #[arg(long, value_name = "VERSION", value_parser = SynapseVersion::parse)]
    target_synapse_version: Option<SynapseVersion>,
    /// The directory of pg_dump, pg_restore and psql
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    // Last, because their headings hold for all that follows.
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    target: TargetArgs,
}

/// How long a check that could take hours may take; none for as long as it needs.
#[derive(Debug, Clone, Copy)]
struct Budget(Option<Duration>);

impl Budget {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let seconds = text
            .parse()
            .map_err(|_| "neither `none` nor a number of seconds".to_owned())?;
        Ok(Self(Some(Duration::from_secs(seconds))))
    }
}

/// Does the job of preflight.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let selection = Selection {
        only: &args.only,
        skip: &args.skip,
    };
    let mut findings = look(args, selection, context)?;
    findings.retain(|finding| selection.wants(finding));
    ess_run::check()?;
    findings.sort_by(|a, b| (a.severity, &a.id).cmp(&(b.severity, &b.id)));
    let accepted = accepted(&args.accept, &findings, context);
    let preflight = Preflight {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        findings,
        accepted,
        next: Next {
            go_on: ["extract-secrets", "pgdump-wrap", "ess-wipe", "restore"]
                .map(str::to_owned)
                .to_vec(),
            go_back: None,
        },
    };
    tell(&preflight, args.report, context);
    if let Some(file) = &args.metrics {
        metrics::write(file, &preflight)?;
    }
    let exit = if preflight.open_blockers().is_empty() {
        Exit::Done
    } else {
        Exit::No
    };
    context.document.preflight = Some(preflight);
    if !args.check {
        // Looking needs no export: where it cannot be written, a finding says so.
        context.finish_anyway()?;
    }
    Ok(exit)
}

/// Makes every check that flags and document allow.
fn look(args: &Args, selection: Selection<'_>, context: &mut Context) -> anyhow::Result<Vec<Finding>> {
    let configuration = context.config(&args.source)?.map(Arc::new);
    // Name servers and web servers take their time; nobody waits for them once we are told to stop.
    let public = configuration
        .as_ref()
        .filter(|_| selection.wants_any(public::finds))
        .map(|config| {
            let names = public::Names {
                config: Arc::clone(config),
                resolver: args.resolver,
                detours: args.resolve.clone(),
                max_ttl: args.max_ttl,
            };
            thread::spawn(move || public::check(names))
        });
    let mut findings = look_here(args, configuration.as_deref(), context)?;
    if let Some(public) = public {
        while !public.is_finished() {
            ess_run::check()?;
            thread::sleep(Duration::from_millis(10));
        }
        findings.extend(public.join().unwrap_or_else(|panic| resume_unwind(panic)));
    }
    Ok(findings)
}

/// Makes the checks on both servers and on this machine.
fn look_here(args: &Args, configuration: Option<&Config>, context: &mut Context) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    // libpq's variables are the target's when there is one.
    let has_target = args.target.target.is_some()
        || context
            .document
            .target
            .as_ref()
            .is_some_and(|target| !target.connection.is_empty());
    let to = if has_target {
        context.target(&args.target)?
    } else {
        None
    };
    let variables = if has_target {
        PgVariables::BelongToTheOther
    } else {
        PgVariables::Serve
    };
    let from = match configuration
        .filter(|_| args.source.source.is_none())
        .and_then(unmovable)
    {
        Some(finding) => {
            findings.push(finding);
            None
        }
        None => context.source(&args.source, variables)?,
    };
    if configuration.is_none() && from.is_none() && to.is_none() {
        return Err(Stop::usage(
            "there is nothing to look at: no -c, no --source, no --target, and no document that names one",
        )
        .hint("give -c /etc/matrix-synapse/homeserver.yaml, or --source postgresql://USER@HOST/DBNAME")
        .into());
    }

    let source = match from {
        Some(conninfo) => open_source(&conninfo, context, &mut findings)?,
        None => None,
    };
    let target = match to {
        Some(conninfo) => open_target(&conninfo, source.as_ref(), context, &mut findings)?,
        None => None,
    };
    let mut uploads = None;
    if let Some(source) = &source {
        findings.extend(source::check(source));
        uploads = look_at_homeserver(source, target.as_ref(), args, context, &mut findings);
        if uploads.is_some() {
            let profile = profile::check(&source.session, configuration);
            let profile = found(profile, "users", &mut findings);
            findings.extend(profile.unwrap_or_default());
        }
    }
    if let Some(target) = &target {
        findings.extend(target::check(target));
    }
    let major = source.as_ref().map(|source| source.facts.major());
    findings.extend(programs::check(args.pg_bin.as_deref(), major));
    if let Some(configuration) = configuration {
        let (secrets, keys) = config::secrets(configuration);
        findings.extend(secrets);
        findings.extend(carry::check(configuration));
        context.console.stage("measuring the media store", None);
        let place = media::Place {
            config: configuration,
            session: source
                .as_ref()
                .map(|source| &source.session)
                .filter(|_| uploads.is_some()),
            uploads,
            budget: args.budget.0,
        };
        findings.extend(media::check(&place).context("cannot look for the media store")?);
        context.console.done();
        findings.extend(health::synapse(configuration, &keys));
    }
    findings.extend(host::check(context.document.export.as_deref()));
    if let Some(place) = &context.document.export {
        findings.extend(export::check(
            place,
            source.as_ref().map(|source| source::dump_size(&source.facts)),
        ));
    }
    Ok(findings)
}

/// What no tool here moves.
fn unmovable(config: &Config) -> Option<Finding> {
    match config.database() {
        Ok(Database::Sqlite { path }) => Some(
            blocker(
                Blocker::Sqlite,
                format!(
                    "Synapse uses SQLite ({}), which these tools do not move",
                    path.display()
                ),
            )
            .hint("port it to PostgreSQL first, with synapse_port_db"),
        ),
        Ok(Database::Split { names }) => Some(
            blocker(
                Blocker::SplitDatabases,
                format!(
                    "Synapse's data is split over several databases ({}), which these tools do not move",
                    names.join(", ")
                ),
            )
            .hint("bring all data into one database first"),
        ),
        // An error is the configuration's, and `Context::source` meets it too.
        Ok(Database::Postgres { .. }) | Err(_) => None,
    }
}

fn open_source(
    conninfo: &Conninfo,
    context: &mut Context,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<Source>> {
    match connect(conninfo, &context.application_name(), Access::ReadOnly) {
        Ok((session, facts)) => {
            identify(&mut context.source_section().identity, &facts.identity, "source")?;
            Ok(Some(Source { session, facts }))
        }
        Err(error) => {
            findings.push(unreachable(
                Blocker::SourceUnreachable,
                &error,
                "check database.args of the configuration, or --source and --source-password-file",
            ));
            Ok(None)
        }
    }
}

fn open_target(
    conninfo: &Conninfo,
    source: Option<&Source>,
    context: &mut Context,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<Target>> {
    let server_name = server_name(source, context, findings);
    match connect(conninfo, &context.application_name(), Access::ReadOnly) {
        Ok((session, facts)) => {
            let known = context.document.target.get_or_insert_default();
            identify(&mut known.identity, &facts.identity, "target")?;
            Ok(Some(Target {
                role: known.role.clone().unwrap_or_else(|| facts.owner.clone()),
                session,
                facts,
                server_name,
                source: source.map(|source| source.facts.clone()),
            }))
        }
        Err(error) => {
            let hint = "check --target and --target-password-file";
            findings.push(unreachable(Blocker::TargetUnreachable, &error, hint));
            Ok(None)
        }
    }
}

fn unreachable(id: Blocker, error: &Error, hint: &str) -> Finding {
    blocker(id, error.to_string()).hint(hint)
}

/// A document is about one source and one target.
fn identify(known: &mut Option<Identity>, is: &Identity, whose: &str) -> Result<(), Stop> {
    match known {
        Some(known) if known != is => Err(Stop::no(format!(
            "the {whose} is {is}, and the document was made for {known}"
        ))
        .hint(format!(
            "check the connection to the {whose}; a tunnel may lead elsewhere now"
        ))),
        _ => {
            *known = Some(is.clone());
            Ok(())
        }
    }
}

/// By configuration or document; otherwise by the users, and then the document is told.
fn server_name(source: Option<&Source>, context: &mut Context, findings: &mut Vec<Finding>) -> Option<String> {
    if let Some(known) = context
        .document
        .source
        .as_ref()
        .and_then(|source| source.server_name.clone())
    {
        return Some(known);
    }
    let names = found(server_names(&source?.session), "the server name", findings)?;
    let [one] = names.as_slice() else { return None };
    context.source_section().server_name = Some(one.clone());
    Some(one.clone())
}

/// Returns whether it has media of its users.
fn look_at_homeserver(
    source: &Source,
    target: Option<&Target>,
    args: &Args,
    context: &mut Context,
    findings: &mut Vec<Finding>,
) -> Option<bool> {
    if found(
        read_fence(&source.session),
        "the fence of an earlier migration",
        findings,
    )?
    .is_some()
    {
        findings.push(
            blocker(
                Blocker::SourceFenced,
                "the source is the target of a migration that has not ended",
            )
            .hint("see whether -c and --target are the right way round"),
        );
        return None;
    }
    let rows = found(schema_rows(&source.session), "the source's schema", findings)?;
    let theirs = target.and_then(|target| found(target_schema(target), "the target's schema", findings)?);
    // Behind a fence the flag is all that is known.
    let theirs = theirs
        .filter(|rows| rows.version.is_some())
        .or_else(|| args.target_synapse_version.map(SynapseVersion::rows));
    findings.extend(homeserver::schema(&rows, theirs.as_ref()));
    rows.version?;
    let server_name = server_name(Some(source), context, findings);
    let homeserver = Homeserver {
        session: &source.session,
        server_name: server_name.as_deref(),
    };
    findings.extend(homeserver::check(&homeserver));
    found(homeserver::has_media(&source.session), "uploads", findings)
}

/// The rows that a Synapse left there, rather than our fence.
fn target_schema(target: &Target) -> Result<Option<SchemaRows>, Error> {
    if read_fence(&target.session)?.is_some() {
        return Ok(None);
    }
    schema_rows(&target.session).map(Some)
}

fn found<T>(outcome: Result<T, Error>, what: &str, findings: &mut Vec<Finding>) -> Option<T> {
    outcome.map_err(|error| findings.push(not_checked(what, &error))).ok()
}

/// Of what was accepted, that which was found.
fn accepted(accept: &[Blocker], findings: &[Finding], context: &Context) -> Vec<String> {
    let mut ids: Vec<String> = accept.iter().map(|blocker| blocker.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| {
        let there = findings.iter().any(|f| f.severity == Severity::Blocker && f.id == *id);
        if !there {
            context.console.note(&format!("nothing to accept: {id} was not found"));
        }
        there
    });
    ids
}

/// What was found, for people; open blockers even when they asked for quiet.
fn tell(preflight: &Preflight, report: bool, context: &Context) {
    let console = &context.console;
    if report {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        console.line(&report::table(preflight, colours));
    } else {
        each(preflight, console);
    }
    let of = |severity| preflight.findings.iter().filter(|f| f.severity == severity).count();
    let accepted = preflight
        .findings
        .iter()
        .filter(|f| preflight.accepted.contains(&f.id))
        .count();
    console.note(&format!(
        "{}, {accepted} accepted, {}, {}",
        count(of(Severity::Blocker), "blocker"),
        count(of(Severity::Warning), "warning"),
        count(of(Severity::Info), "info"),
    ));
}

fn each(preflight: &Preflight, console: &Console) {
    for Finding {
        id,
        severity,
        message,
        hint,
        ..
    } in &preflight.findings
    {
        let label = match severity {
            Severity::Blocker if preflight.accepted.contains(id) => "accepted",
            Severity::Blocker => {
                let stop = Stop::no(format!("blocker: {message} ({id})"));
                let stop = hint.iter().fold(stop, Stop::hint);
                console.error(&stop.into());
                continue;
            }
            Severity::Warning => "warning",
            Severity::Info => "info",
        };
        console.note(&format!("{label}: {message} ({id})"));
        if let Some(hint) = hint {
            console.line(&format!("hint: {hint}"));
        }
    }
}
