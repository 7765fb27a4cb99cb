//! preflight: everything that can go wrong, before it does.

mod checks;
mod finding;
mod ids;
mod look;
mod metrics;
mod report;
mod select;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ess_cli::{Console, Context, Exit, SourceArgs, Stop, TargetArgs, now};
use ess_document::{Finding, Next, Preflight, Severity};
use ess_run::Report;
use ess_run::text::count;
use ess_web::Detour;
use rustix::termios::tcgetwinsize;

use checks::endpoint;
use checks::versions::SynapseVersion;
use finding::Blocker;
use look::look;
use select::{Pattern, Selection};

/// Check for everything that could stop the migration
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
    /// Where the target's Synapse answers, such as a port-forward
    #[arg(long, value_name = "URL", value_parser = endpoint::parse)]
    target_endpoint: Option<String>,
    /// The directory of pg_dump and pg_restore
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
    // cron mails whatever is said; a table is asked for.
    let silent = args.check && !args.report;
    if silent {
        context.console.hold();
    }
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
    let exit = if preflight.open_blockers().is_empty() {
        Exit::Done
    } else {
        Exit::No
    };
    if !silent || exit == Exit::No {
        context.console.release();
        tell(&preflight, args.report, context);
    }
    if let Some(file) = &args.metrics {
        metrics::write(file, &preflight)?;
    }
    context.document.preflight = Some(preflight);
    if !args.check {
        // Looking needs no export: where it cannot be written, a finding says so.
        context.finish_anyway()?;
    }
    Ok(exit)
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
        let stderr = std::io::stderr();
        let colours = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let columns = tcgetwinsize(&stderr).ok().map(|size| size.ws_col.into());
        for row in report::table(preflight, columns) {
            console.coloured(colours.then_some(row.colour), &row.word, &row.rest);
        }
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
