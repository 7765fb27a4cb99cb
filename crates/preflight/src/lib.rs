//! preflight: checks for everything that could stop the migration, and changes nothing.

mod checks;
mod finding;
mod ids;
mod metrics;
mod parallel;
mod report;
mod select;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ess_cli::{Console, Context, Exit, Stop};
use ess_document::{Finding, Next, Preflight, Severity, now};
use ess_run::Report;
use ess_run::text::count;
use ess_servers::{SourceArgs, TargetArgs};
use ess_web::Detour;
use rustix::termios::tcgetwinsize;

use checks::endpoint;
use checks::versions::SynapseVersion;
use ids::Id;
use parallel::run_checks;
use select::{Pattern, Selection};

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Print all findings as a table, and write no document
preflight -n --check --report -c homeserver.yaml --target kube:ess
# For cron: print nothing unless there is a blocker
preflight -n --check -c /etc/matrix-synapse/homeserver.yaml
# Begin a pipeline
preflight -c homeserver.yaml --target kube:ess | extract-secrets --out export";

/// Check for everything that could stop the migration
///
/// Reads Synapse's configuration, checks source and target without changing them, and reports
/// all findings: blockers, warnings that need an action or a decision, and information.
/// Synapse can keep running. Exits with status 1 if there is a blocker that was not accepted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    target: TargetArgs,
    /// Write no document, and print the findings only if there is a blocker
    #[arg(long)]
    check: bool,
    /// Print the findings as a table
    #[arg(long)]
    report: bool,
    /// Write metrics to a file for the textfile collector of Prometheus's node exporter
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Report only findings with this id, such as dns*; repeatable, requires --check
    #[arg(long, value_name = "ID", requires = "check", value_parser = Pattern::parse)]
    only: Vec<Pattern>,
    /// Omit findings with this id, such as dns*, unless they are blockers; repeatable
    #[arg(long, value_name = "ID", value_parser = Pattern::parse)]
    skip: Vec<Pattern>,
    /// Accept a blocker that you have reviewed; repeatable
    #[arg(long, value_name = "ID", value_parser = ids::acceptable)]
    accept: Vec<&'static Id>,
    /// Seconds to spend on the media store; `none` for no limit
    #[arg(long, value_name = "SECONDS", default_value = "8", value_parser = Budget::parse)]
    budget: Budget,
    /// Warn if the TTL of a public DNS record exceeds this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    max_ttl: u32,
    /// Name server to query; authoritative servers are then queried on the same port
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = ess_web::resolver)]
    resolver: Option<SocketAddr>,
    /// Connect to ADDR:PORT for HTTPS requests to HOST:PORT; repeatable
    #[arg(long, value_name = "HOST:PORT:ADDR:PORT", value_parser = Detour::parse)]
    resolve: Vec<Detour>,
    /// Version of ESS's Synapse, for when its database cannot be queried
    #[arg(long, value_name = "VERSION", value_parser = SynapseVersion::parse)]
    target_synapse_version: Option<SynapseVersion>,
    /// URL of the target's Synapse, such as that of a port-forward
    #[arg(long, value_name = "URL", value_parser = endpoint::parse)]
    target_endpoint: Option<String>,
    /// Directory of pg_dump and pg_restore
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
}

/// Time limit of the checks of media, which could take hours; `None` for no limit.
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

/// Runs the checks and reports the findings. Exits with [`Exit::No`] if a blocker was not accepted.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    // cron mails all output, so that --check prints nothing unless something blocks; a table is always wanted.
    let silent = args.check && !args.report;
    if silent {
        context.console.hold();
    }
    let selection = Selection {
        only: &args.only,
        skip: &args.skip,
    };
    let mut findings = run_checks(args, selection, context)?;
    findings.retain(|finding| selection.selects(finding));
    ess_run::stop_if_interrupted()?;
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
    let exit = if preflight.open_blockers().is_empty() {
        Exit::Done
    } else {
        Exit::No
    };
    if !silent || exit == Exit::No {
        context.console.release();
        print_summary(&preflight, args.report, context);
    }
    if let Some(file) = &args.metrics {
        metrics::write(file, &preflight)?;
    }
    context.document.preflight = Some(preflight);
    if !args.check {
        // preflight does not need the export; if it cannot be written, there is a finding.
        context.finish_anyway()?;
    }
    Ok(exit)
}

/// The ids of `--accept` that were found; prints a note for each of the others.
fn accepted(accept: &[&Id], findings: &[Finding], context: &Context) -> Vec<String> {
    let mut ids: Vec<String> = accept.iter().map(|id| id.name.to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| {
        let is_found = findings.iter().any(|f| f.severity == Severity::Blocker && f.id == *id);
        if !is_found {
            context.console.note(&format!("nothing to accept: {id} was not found"));
        }
        is_found
    });
    ids
}

/// Prints the findings for people; open blockers even with `--quiet`.
fn print_summary(preflight: &Preflight, report: bool, context: &Context) {
    let console = &context.console;
    if report {
        let stderr = std::io::stderr();
        let colours = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let columns = tcgetwinsize(&stderr).ok().map(|size| size.ws_col.into());
        for row in report::table(preflight, columns) {
            console.coloured(colours.then_some(row.colour), &row.word, &row.rest);
        }
    } else {
        print_findings(preflight, console);
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

fn print_findings(preflight: &Preflight, console: &Console) {
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
