//! well-known: create the well-known documents and DNS changes for ESS, and check that they have taken effect.

mod check;
mod documents;
mod files;
mod records;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ess_cli::{Context, Exit, Stop};
use ess_document::{Document, Next, RecordChange, WellKnown, now};
use ess_run::Report as _;
use ess_run::text::{count, counted};
use ess_servers::{ConfigArgs, contradiction};
use ess_web::{Agent, Detour, Dns, Served, agent, get, host_and_port, read};
use serde_json::Value;

use check::Check;
use documents::{Documents, hosts, merged, naming, templates, with_earlier};
use files::Files;
use records::{Wanted, shown};

/// Public resolvers of Cloudflare, Google and Quad9.
const PUBLIC: [&str; 3] = ["1.1.1.1", "8.8.8.8", "9.9.9.9"];

/// Commands that `--help` shows.
const EXAMPLES: &str = r"# Write the documents and the list of DNS changes
well-known --host matrix.example.org --address 192.0.2.7 \
    < secrets.json > delegated.json
# After the changes, wait for up to an hour until they can be seen
well-known --check --wait 3600 < delegated.json > checked.json";

/// Create the well-known documents and DNS changes, and check them
///
/// Fetches the documents that the server name serves now, and writes new ones that lead to ESS and
/// keep everything else from the old ones; Helm values and web server snippets that serve them; and
/// the list of DNS records to change. With --check, checks whether the new state is publicly visible.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Host of Synapse in ESS: synapse.ingress.host in its values
    #[arg(long, value_name = "HOST", value_parser = host)]
    host: Option<String>,
    /// Host of MatrixRTC in ESS: matrixRTC.ingress.host in its values
    #[arg(long, value_name = "HOST", value_parser = host)]
    rtc_host: Option<String>,
    /// Address of ESS's ingress, required for --check; repeatable
    #[arg(long, value_name = "ADDR")]
    address: Vec<IpAddr>,
    /// Name of the homeserver, if neither the configuration nor the document contains it
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    server_name: Option<String>,
    /// Directory with the old documents (client, server, support), if they cannot be fetched
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    old: Option<PathBuf>,
    /// Directory for the files (default: EXPORT/well-known)
    #[arg(long, value_name = "DIR", conflicts_with = "check")]
    out: Option<PathBuf>,
    /// Check whether the new state is publicly visible; write no files
    #[arg(long)]
    check: bool,
    /// With --check, repeat the check for up to this many seconds until it passes
    #[arg(long, value_name = "SECONDS", default_value_t = 0, requires = "check")]
    wait: u64,
    /// With --wait, seconds between two checks
    #[arg(long, value_name = "SECONDS", default_value_t = 15, requires = "check", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Resolver to check in addition to the zone's servers; repeatable (default: 1.1.1.1, 8.8.8.8 and 9.9.9.9)
    #[arg(long, value_name = "ADDR[:PORT]", requires = "check", value_parser = ess_web::resolver)]
    public: Vec<SocketAddr>,
    /// Name server to query; authoritative servers are then queried on its port too
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = ess_web::resolver)]
    resolver: Option<SocketAddr>,
    /// Connect to ADDR:PORT for HTTPS requests to HOST:PORT; repeatable
    #[arg(long, value_name = "HOST:PORT:ADDR:PORT", value_parser = Detour::parse)]
    resolve: Vec<Detour>,
    #[command(flatten)]
    configuration: ConfigArgs,
}

/// Parses a host name. It is strict because the name is written into URLs and into files of other programs.
fn host(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let labels_are_good = text
        .split('.')
        .all(|label| !label.is_empty() && !label.starts_with('-'));
    if text.chars().all(good) && labels_are_good && text.len() <= 253 {
        Ok(text.to_lowercase())
    } else {
        Err("not a plain host name (no https://, no port)".to_owned())
    }
}

/// Parses the name of a homeserver: a host or an address, with an optional port. It is strict because the name is
/// written into files of other programs.
fn server_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if !text.is_empty() && text.chars().all(good) && text.len() <= 255 {
        Ok(text.to_owned())
    } else {
        Err("not a server name, such as example.org or example.org:8448".to_owned())
    }
}

/// Runs well-known.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let mut section = known(args, context)?;
    let (server, port) = host_and_port(&section.server_name);
    let server = server.to_owned();
    if let Some(port) = port {
        context.console.note(&format!(
            "the server name contains the port {port}: other servers connect to it and ignore the well-known documents"
        ));
    }
    let agent = agent(args.resolve.clone(), args.resolver);
    let exit = if args.check {
        check(args, context, &server, &agent, &mut section)?
    } else {
        make(args, context, &server, &agent, &mut section)?;
        Exit::Done
    };
    section.finished_at = now();
    context.document.well_known = Some(section);
    context.finish()?;
    Ok(exit)
}

/// The section as given by the flags, completed from the document: from an earlier run and from the source.
///
/// An error if a flag contradicts the document, or if the server name or Synapse's host is unknown.
fn known(args: &Args, context: &mut Context) -> anyhow::Result<WellKnown> {
    // Read the configuration only if `-c` names it: the one in the document may be on another host.
    let config = if args.configuration.config.is_empty() {
        None
    } else {
        ess_servers::config(context, &args.configuration)?
    };
    let earlier = context.document.well_known.clone().unwrap_or_default();
    refuse_contradictions(args, &context.document, &earlier)?;
    let configured = config.map(|config| config.server_name().to_owned());
    let server_name = known_server_name(args, configured, &context.document, &earlier)?;
    check_hosts(&earlier)?;
    let host = args.host.clone().or(not_empty(&earlier.host)).ok_or_else(|| {
        Stop::usage("the host of Synapse in ESS is unknown")
            .hint("give --host with the value of synapse.ingress.host in ESS's values")
    })?;
    let addresses = if args.address.is_empty() {
        earlier.addresses
    } else {
        args.address.iter().map(ToString::to_string).collect()
    };
    Ok(WellKnown {
        version: context.version(),
        started_at: context.started_at.clone(),
        server_name,
        host,
        rtc_host: args.rtc_host.clone().or(earlier.rtc_host),
        addresses,
        directory: earlier.directory,
        documents: earlier.documents,
        records: earlier.records,
        ..WellKnown::default()
    })
}

fn not_empty(name: &str) -> Option<String> {
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

/// The server name according to the section `source`.
fn of_source(document: &Document) -> Option<String> {
    document.source.as_ref()?.server_name.clone()
}

/// Refuses flags that differ from the document.
fn refuse_contradictions(args: &Args, document: &Document, earlier: &WellKnown) -> Result<(), Stop> {
    if args.check {
        // A check is for the documents of the run that wrote them, so its flags cannot differ from that run's.
        for (flag, given, field, known) in [
            ("--host", &args.host, "well_known.host", not_empty(&earlier.host)),
            (
                "--rtc-host",
                &args.rtc_host,
                "well_known.rtc_host",
                earlier.rtc_host.clone(),
            ),
        ] {
            if let (Some(given), Some(known)) = (given, known)
                && *given != known
            {
                return Err(contradiction(flag, given, field, &known));
            }
        }
    }
    for (field, known) in [
        ("source.server_name", of_source(document)),
        ("well_known.server_name", not_empty(&earlier.server_name)),
    ] {
        if let (Some(given), Some(known)) = (&args.server_name, known)
            && *given != known
        {
            return Err(contradiction("--server-name", given, field, &known));
        }
    }
    Ok(())
}

/// The server name of the flag, the configuration or the document.
fn known_server_name(
    args: &Args,
    configured: Option<String>,
    document: &Document,
    earlier: &WellKnown,
) -> Result<String, Stop> {
    let name = args
        .server_name
        .clone()
        .or(configured)
        .or_else(|| of_source(document))
        .or_else(|| not_empty(&earlier.server_name))
        .ok_or_else(|| {
            Stop::usage("no server name: neither --server-name nor -c nor the document provides one")
                .hint("give --server-name example.org")
        })?;
    server_name(&name).map_err(|why| Stop::data(format!("the server name {name:?} is {why}")))
}

/// Refuses hosts in the document that a flag could not name.
fn check_hosts(earlier: &WellKnown) -> Result<(), Stop> {
    for (field, name) in [
        ("well_known.host", not_empty(&earlier.host)),
        ("well_known.rtc_host", earlier.rtc_host.clone()),
    ] {
        if let Some(name) = name {
            host(&name).map_err(|why| Stop::data(format!("the document's `{field}` {name:?} is {why}")))?;
        }
    }
    Ok(())
}

fn addresses(section: &WellKnown) -> Vec<IpAddr> {
    section
        .addresses
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Writes the files: documents, Helm values, snippets and the list of DNS records.
fn make(
    args: &Args,
    context: &mut Context,
    server: &str,
    agent: &Agent,
    section: &mut WellKnown,
) -> anyhow::Result<()> {
    let directory = lock_directory(args, context)?;
    let old = match &args.old {
        Some(directory) => read_old(directory)?,
        None => fetch_old(server, agent, context)?,
    };
    // Keep what an earlier run carried: after the switch, ESS may serve less than the old server did.
    let carried = with_earlier(old.clone(), &section.documents);
    let documents = merged(&carried, &section.host, section.rtc_host.as_deref());
    refuse_templates(&documents)?;
    let own: BTreeSet<String> = [section.host.clone()]
        .into_iter()
        .chain(section.rtc_host.clone())
        .collect();
    let noted = hosts(&old);
    let gone: BTreeSet<String> = noted.difference(&own).cloned().collect();
    for key in naming(&documents, &gone) {
        context.console.note(&format!(
            "{key} still names an old host; edit it if that host is to be shut down"
        ));
    }
    if server.parse::<IpAddr>().is_ok() || server == "localhost" {
        context.console.note(&format!(
            "the server name {server} is not in the DNS, so there are no records to change"
        ));
        section.records = Vec::new();
    } else {
        section.records = changes(args, server, section, &own, &noted)?;
    }
    let files = Files {
        directory: &directory,
        server_name: &section.server_name,
        host: &section.host,
        rtc_host: section.rtc_host.as_deref(),
        documents: &documents,
        records: &section.records,
    };
    let written = files.write()?;
    for change in &section.records {
        context.console.line(&format!("  {}", shown(change)));
    }
    context.console.line(&format!(
        "well-known: {} in {}; {} to review",
        count(written.len(), "file"),
        directory.display(),
        count(section.records.len(), "DNS record")
    ));
    section.documents = documents;
    section.directory = Some(Document::relative(context.document.export.as_deref(), &directory));
    section.next = Next {
        go_on: vec!["well-known --check --wait 3600".to_owned()],
        go_back: None,
    };
    Ok(())
}

/// The directory of the files, locked; that of the export is created if the files are to be in it.
fn lock_directory(args: &Args, context: &mut Context) -> anyhow::Result<PathBuf> {
    let directory = match (&args.out, &context.document.export) {
        (Some(out), _) => ess_files::absolute(out)?,
        (None, Some(export)) => export.join("well-known"),
        (None, None) => {
            return Err(Stop::usage(
                "no directory for the files: no --out was given, and the document names no export",
            )
            .hint("give --out DIR")
            .into());
        }
    };
    if let Some(export) = context.document.export.clone()
        && directory.starts_with(&export)
    {
        ess_files::make_directory(&export)?;
    }
    context.lock_around(&directory)?;
    Ok(directory)
}

/// Refuses documents that the Helm values could not contain.
fn refuse_templates(documents: &Documents) -> Result<(), Stop> {
    let templates = templates(documents);
    if templates.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the documents contain {{{{, which Helm would run as a template: {}",
        templates.join(", ")
    );
    Err(Stop::no(message).hint(format!("remove it from them: {SAVED}")))
}

fn changes(
    args: &Args,
    server: &str,
    section: &WellKnown,
    own: &BTreeSet<String>,
    noted: &BTreeSet<String>,
) -> anyhow::Result<Vec<RecordChange>> {
    let addresses = addresses(section);
    let wanted = Wanted {
        server,
        hosts: own.clone(),
        noted: noted.clone(),
        addresses: &addresses,
        to: &section.host,
    };
    Dns::new(args.resolver)
        .and_then(|dns| wanted.changes(&dns))
        .map_err(|error| {
            Stop::new(Exit::Unavailable, format!("the DNS lookup failed: {error}"))
                .hint("run it on a host that reaches name servers, or name one with --resolver ADDR")
                .into()
        })
}

const SAVED: &str = "save the old documents as client, server and support in a directory, and give it with --old DIR";

/// Fetches the documents that the server name serves now.
///
/// An error if one cannot be fetched or is not valid: what it contains would be lost.
fn fetch_old(server: &str, agent: &Agent, context: &Context) -> anyhow::Result<Documents> {
    let mut old = Documents::new();
    for name in ["client", "server", "support"] {
        ess_run::stop_if_interrupted()?;
        let url = format!("https://{server}/.well-known/matrix/{name}");
        let response = get(agent, &url)
            .map_err(|error| Stop::new(Exit::Unavailable, format!("{url} cannot be fetched: {error}")).hint(SAVED))?;
        match read(name, &response) {
            Served::Absent => context
                .console
                .note(&format!("{url} is not served: there is nothing to keep")),
            Served::Valid(value) => drop(old.insert(name.to_owned(), value)),
            Served::Broken(why) => {
                return Err(Stop::new(Exit::Unavailable, format!("{url} is invalid: {why}"))
                    .hint(SAVED)
                    .into());
            }
        }
    }
    Ok(old)
}

fn read_old(directory: &std::path::Path) -> anyhow::Result<Documents> {
    let mut old = Documents::new();
    for name in ["client", "server", "support"] {
        let path = directory.join(name);
        let text = match ess_files::read_text(&path, ess_files::CONFIGURATION) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let value: Value = serde_json::from_str(&text)
            .ok()
            .filter(Value::is_object)
            .ok_or_else(|| Stop::data(format!("{} is not a JSON object", path.display())))?;
        old.insert(name.to_owned(), value);
    }
    if old.is_empty() {
        return Err(Stop::data(format!(
            "{} contains none of the files client, server and support",
            directory.display()
        ))
        .into());
    }
    Ok(old)
}

/// Runs the check until everything is up to date or `--wait` seconds have passed.
fn check(
    args: &Args,
    context: &mut Context,
    server: &str,
    agent: &Agent,
    section: &mut WellKnown,
) -> anyhow::Result<Exit> {
    let documents = if section.documents.is_empty() {
        merged(&Documents::new(), &section.host, section.rtc_host.as_deref())
    } else {
        section.documents.clone()
    };
    let addresses = addresses(section);
    if addresses.is_empty() {
        return Err(
            Stop::usage("the address of ESS is unknown, so name servers cannot be checked")
                .hint("give --address with an address of ESS's ingress")
                .into(),
        );
    }
    let hosts: Vec<String> = [section.host.clone()]
        .into_iter()
        .chain(section.rtc_host.clone())
        .collect();
    let public: Vec<SocketAddr> = if args.public.is_empty() {
        PUBLIC
            .iter()
            .filter_map(|address| ess_web::resolver(address).ok())
            .collect()
    } else {
        args.public.clone()
    };
    let signing_keys = context
        .document
        .secrets
        .as_ref()
        .map(|secrets| secrets.signing_keys.clone());
    let check = Check {
        server,
        documents: &documents,
        hosts: &hosts,
        addresses: &addresses,
        signing_keys: signing_keys.as_deref().unwrap_or_default(),
        resolver: args.resolver,
        public: &public,
        agent,
    };
    let lagging = wait_until_current(args, context, &check)?;
    let verdict = match lagging.len() {
        0 => format!("all checks pass: {} leads to {}", section.server_name, section.host),
        n => format!("{} not up to date", counted(n, "item is", "items are")),
    };
    context.console.line(&format!("well-known: {verdict}"));
    let exit = if lagging.is_empty() { Exit::Done } else { Exit::No };
    section.lagging = Some(lagging);
    Ok(exit)
}

/// Repeats the check until nothing lags or `--wait` seconds have passed; returns what still lags. Prints each change.
fn wait_until_current(args: &Args, context: &Context, check: &Check<'_>) -> anyhow::Result<Vec<String>> {
    let until = Instant::now() + Duration::from_secs(args.wait);
    let mut reported = None;
    loop {
        let lagging = check.lagging();
        ess_run::stop_if_interrupted()?;
        if reported.as_ref() != Some(&lagging) {
            for what in &lagging {
                context.console.line(&format!("  {what}"));
            }
            if !lagging.is_empty() && Instant::now() < until {
                context.console.note(&format!(
                    "{} not up to date; checking again every {} s",
                    counted(lagging.len(), "item is", "items are"),
                    args.every
                ));
            }
        }
        if lagging.is_empty() || Instant::now() >= until {
            return Ok(lagging);
        }
        reported = Some(lagging);
        let next = (Instant::now() + Duration::from_secs(args.every)).min(until);
        while Instant::now() < next {
            ess_run::stop_if_interrupted()?;
            thread::sleep(Duration::from_millis(100));
        }
    }
}
