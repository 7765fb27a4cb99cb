//! Runs all checks, in parallel: a check that waits does not delay the others.

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ess_cli::{Console, Context, Stop};
use ess_document::{Document, Finding, Identity};
use ess_postgres::{Conninfo, Error, Facts, SchemaRows, Session, plausible_schema_rows, schema_rows, server_names};
use ess_proof::{Standing, standing};
use ess_run::{Report as _, joined};
use ess_servers::{OnKube, PgVariables, Reached};
use ess_synapse::Config;
use ess_synapse::config::Database;
use ess_synapse::signing_key::SigningKey;

use crate::Args;
use crate::checks::cluster::{self, ReachedTarget};
use crate::checks::endpoint::{self, Endpoint, Reported};
use crate::checks::homeserver::{self, Homeserver};
use crate::checks::rehearsal::{self, Rehearsal};
use crate::checks::target::{self, Target};
use crate::checks::versions::SynapseVersion;
use crate::checks::{OpenSource, source};
use crate::checks::{
    carry, config, connect, export, health, host, logins, media, not_checked, pace, profile, programs, public,
};
use crate::finding::{Detail as _, blocker};
use crate::ids::{Id, SOURCE_EMPTY, SOURCE_FENCED, SOURCE_UNREACHABLE, SPLIT_DATABASES, SQLITE, TARGET_UNREACHABLE};
use crate::select::Selection;

/// Runs every check for which the options and the document name what is needed.
pub(crate) fn run_checks(args: &Args, selection: Selection<'_>, context: &mut Context) -> anyhow::Result<Vec<Finding>> {
    let configuration = ess_servers::config(context, &args.source.configuration)?.map(Arc::new);
    let mut findings = Vec::new();
    let mut network = NetworkChecks::default();
    if let Some(config) = &configuration {
        let (secrets, keys) = config::secrets(config);
        findings.extend(secrets);
        network.start_all(args, selection, config, keys);
    }
    let endpoint = query_endpoint(args);
    let opened = open(args, configuration.as_deref(), context, &mut findings)?;
    let (source, target) = connected(opened.source, opened.target, context, &mut findings)?;
    let rows = source.as_ref().and_then(|source| rows_of(source, &mut findings));
    let state = source
        .as_ref()
        .filter(|_| rows.as_ref().is_some_and(|rows| rows.version.is_some()))
        .map(|source| State {
            uploads: found(homeserver::has_media(&source.session), "uploads", &mut findings),
        });

    let subjects = Subjects {
        config: configuration.as_deref(),
        from: opened.from.as_ref(),
        source: source.as_ref(),
        state: state.as_ref(),
        target: target.as_ref(),
        ess: opened.ess.as_ref(),
    };
    findings.extend(check_in_parallel(args, &subjects, context)?);
    if let Some(target) = &target {
        findings.extend(target::room(target, source.as_ref()));
    }
    // After the other checks, which would distort the measurement.
    if let Some(source) = &source {
        if let Some(target) = &target {
            target::recognise(target, source, &mut findings);
        }
        findings.extend(pace::check(source, target.as_ref()));
    }
    let running = endpoint
        .map(|endpoint| check_endpoint(endpoint, &context.document, &mut findings))
        .transpose()?
        .flatten();
    if let Some(rows) = &rows {
        let version = running
            .or(args.target_synapse_version)
            .or_else(|| opened.ess.as_ref().and_then(cluster::synapse_version));
        compare_schemas(rows, target.as_ref(), version, &mut findings);
    }
    findings.extend(network.wait()?);
    Ok(findings)
}

/// The version query to the target's Synapse: its URL, and the thread that waits for the response.
type EndpointQuery = (String, JoinHandle<Reported>);

/// Queries the target's Synapse, if its URL was given.
fn query_endpoint(args: &Args) -> Option<EndpointQuery> {
    let url = args.target_endpoint.clone()?;
    let endpoint = Endpoint {
        url: url.clone(),
        resolver: args.resolver,
        detours: args.resolve.clone(),
    };
    Some((url, thread::spawn(move || endpoint::query(&endpoint))))
}

/// Waits for the response of the target's Synapse, and returns its version.
fn check_endpoint(
    (url, query): EndpointQuery,
    document: &Document,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<SynapseVersion>> {
    let own_name = document
        .source
        .as_ref()
        .and_then(|source| source.server_name.as_deref());
    let reported = awaited(query)?;
    findings.extend(endpoint::check(&url, &reported, own_name));
    Ok(reported.schema())
}

/// Compares the schema of the source with that of the target. `version` is the version of the target's Synapse, for a
/// target without version rows or with a fence in their place.
fn compare_schemas(
    rows: &SchemaRows,
    target: Option<&Target>,
    version: Option<SynapseVersion>,
    findings: &mut Vec<Finding>,
) {
    let of_target = target
        .and_then(|target| found(target_schema(target), "the target's schema", findings)?)
        .filter(|rows| rows.version.is_some())
        .or_else(|| version.map(SynapseVersion::rows));
    findings.extend(homeserver::schema(rows, of_target.as_ref()));
}

/// What the checks are about.
struct Subjects<'a> {
    config: Option<&'a Config>,
    /// How to connect to the source.
    from: Option<&'a Conninfo>,
    source: Option<&'a OpenSource>,
    /// The homeserver in the source.
    state: Option<&'a State>,
    target: Option<&'a Target>,
    ess: Option<&'a OnKube>,
}

/// Runs the checks that can run at the same time. An error only if interrupted.
fn check_in_parallel(args: &Args, on: &Subjects<'_>, context: &Context) -> anyhow::Result<Vec<Finding>> {
    let known = &context.document;
    let place = MediaPlace {
        config: on.config,
        source: on.from.filter(|_| on.state.is_some()),
        application_name: &context.application_name(),
        uploads: on.state.and_then(|state| state.uploads),
        budget: args.budget.0,
        console: &context.console,
    };
    // Without an export, there is no place in which a rehearsal could be recorded.
    let rehearsal = on.source.filter(|_| known.export.is_some()).map(|source| Rehearsal {
        source,
        latest: context.rehearsal(&source.facts.identity),
        target: on.target.map(|target| target.facts.major()),
    });
    let (mut findings, in_cluster) = thread::scope(|scope| {
        let in_cluster = on.ess.map(|ess| {
            let known = cluster::KnownSource {
                database: on.source.map(|source| source.facts.bytes),
                has_mas: on.config.map(has_mas),
            };
            scope.spawn(move || cluster::check(ess, known))
        });
        let groups = [
            scope.spawn(|| {
                let mut findings = of_source(on.source, on.state, on.config, known);
                // In the same thread, because it uses the same session.
                findings.extend(rehearsal.as_ref().map_or_else(Vec::new, of_rehearsal));
                findings
            }),
            scope.spawn(|| on.target.map_or_else(Vec::new, target::check)),
            scope.spawn(|| of_media(&place)),
            scope.spawn(|| of_this_machine(args, on.config, (on.source, on.target), known.export.as_deref())),
        ];
        let findings: Vec<Finding> = groups.into_iter().flat_map(|group| joined(group.join())).collect();
        let in_cluster = in_cluster.map(|check| joined(check.join())).transpose()?;
        anyhow::Ok((findings, in_cluster))
    })?;
    if let Some((found, media)) = in_cluster {
        findings.extend(found);
        let size = cluster::media_size(&findings);
        findings.extend(media.zip(size).and_then(|(media, size)| media.room(size)));
    }
    Ok(findings)
}

/// Checks that query other hosts over the network; on SIGINT or SIGTERM they are abandoned.
#[derive(Default)]
struct NetworkChecks(Vec<JoinHandle<Vec<Finding>>>);

impl NetworkChecks {
    /// Starts the checks of the running Synapse, whose signing keys should be `keys`, and of its public names.
    fn start_all(&mut self, args: &Args, selection: Selection<'_>, config: &Arc<Config>, keys: Vec<SigningKey>) {
        let checked = Arc::clone(config);
        self.start(move || health::synapse(&checked, &keys));
        if selection.selects_any(public::finds) {
            let names = public::Names {
                config: Arc::clone(config),
                resolver: args.resolver,
                detours: args.resolve.clone(),
                max_ttl: args.max_ttl,
            };
            self.start(move || public::check(names));
        }
    }

    fn start(&mut self, check: impl FnOnce() -> Vec<Finding> + Send + 'static) {
        self.0.push(thread::spawn(check));
    }

    fn wait(self) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for check in self.0 {
            findings.extend(awaited(check)?);
        }
        Ok(findings)
    }
}

/// Joins a thread; an error if the program is interrupted before the thread has ended.
fn awaited<T>(thread: JoinHandle<T>) -> anyhow::Result<T> {
    while !thread.is_finished() {
        ess_run::stop_if_interrupted()?;
        thread::sleep(Duration::from_millis(10));
    }
    Ok(joined(thread.join()))
}

/// A connection that is being made, in a thread.
type Connecting = JoinHandle<Result<(Session, Facts), Error>>;

/// The connections to both servers.
struct Opened {
    from: Option<Conninfo>,
    source: Option<Connecting>,
    ess: Option<OnKube>,
    target: Option<Connecting>,
    /// Keeps the port-forward to the target, if there is one, until the checks have ended.
    _reached: Option<Reached>,
}

/// Finds source and target by options, document and configuration, and begins to connect to both.
fn open(
    args: &Args,
    configuration: Option<&Config>,
    context: &mut Context,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Opened> {
    // libpq's environment variables apply to the target if there is one, otherwise to the source.
    let has_target = args.target.target.is_some()
        || context
            .document
            .target
            .as_ref()
            .is_some_and(|target| !target.connection.is_empty() || target.kube.is_some());
    let variables = if has_target {
        PgVariables::ForTheOther
    } else {
        PgVariables::ForThisServer
    };
    let from = match configuration
        .filter(|_| args.source.source.is_none())
        .and_then(unmovable)
    {
        Some(finding) => {
            findings.push(finding);
            None
        }
        None => ess_servers::source(context, &args.source, variables)?,
    };
    if configuration.is_none() && from.is_none() && !has_target {
        return Err(Stop::usage(
            "nothing to check: there is no -c, --source or --target, and no document that names a database",
        )
        .hint("give -c /etc/matrix-synapse/homeserver.yaml, or --source postgresql://USER@HOST/DBNAME")
        .into());
    }
    let name = context.application_name();
    let connecting = |conninfo: &Conninfo| -> Connecting {
        let (conninfo, name) = (conninfo.clone(), name.clone());
        thread::spawn(move || connect(&conninfo, &name))
    };
    let source = from.as_ref().map(connecting);
    let to = if has_target {
        cluster::open(context, &args.target, findings)?
    } else {
        ReachedTarget::default()
    };
    Ok(Opened {
        from,
        source,
        ess: to.ess,
        target: to.database.as_ref().map(|to| connecting(&to.conninfo)),
        _reached: to.database,
    })
}

/// Whether Synapse delegates logins to Matrix Authentication Service.
fn has_mas(config: &Config) -> bool {
    let options = [
        "matrix_authentication_service.enabled",
        "experimental_features.msc3861.enabled",
    ];
    let is_on = |option: &&str| config.get(option).is_some_and(ess_synapse::yaml::Value::is_true);
    options.iter().any(is_on)
}

/// The finding about a database that these tools do not migrate.
fn unmovable(config: &Config) -> Option<Finding> {
    match config.database() {
        Ok(Database::Sqlite { path }) => Some(
            blocker(
                &SQLITE,
                format!(
                    "Synapse uses SQLite ({}), which these tools do not migrate",
                    path.display()
                ),
            )
            .hint("port the database to PostgreSQL first, with synapse_port_db"),
        ),
        Ok(Database::Split { names }) => Some(
            blocker(
                &SPLIT_DATABASES,
                format!(
                    "Synapse's data is split across several databases ({}), which these tools do not migrate",
                    names.join(", ")
                ),
            )
            .hint("merge them into one database first"),
        ),
        // `Context::source` reads the same option, and reports the error.
        Ok(Database::Postgres { .. }) | Err(_) => None,
    }
}

/// Waits for both connections, and writes the identities of the servers into the document.
fn connected(
    source: Option<Connecting>,
    target: Option<Connecting>,
    context: &mut Context,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<(Option<OpenSource>, Option<Target>)> {
    let from = source.map(awaited).transpose()?;
    let to = target.map(awaited).transpose()?;
    let hint = "check database.args of the configuration, or --source and --source-password-file";
    let source = reached(from, &SOURCE_UNREACHABLE, hint, findings);
    if let Some((_, facts)) = &source {
        identify(&mut context.source_section().identity, &facts.identity, "source")?;
    }
    let source = source.map(|(session, facts)| OpenSource { session, facts });
    let server_name = server_name(source.as_ref(), context, findings);
    let hint = "check --target and --target-password-file";
    let Some((session, facts)) = reached(to, &TARGET_UNREACHABLE, hint, findings) else {
        return Ok((source, None));
    };
    let known = context.document.target.get_or_insert_default();
    identify(&mut known.identity, &facts.identity, "target")?;
    known.server_version = Some(facts.version_text.clone());
    let target = Target {
        role: known.role.clone().unwrap_or_else(|| facts.owner.clone()),
        session,
        facts,
        server_name,
        source: source.as_ref().map(|source| source.facts.clone()),
    };
    Ok((source, Some(target)))
}

/// The connection, if there is one and it succeeded; otherwise a finding with this id.
fn reached(
    server: Option<Result<(Session, Facts), Error>>,
    id: &'static Id,
    hint: &str,
    findings: &mut Vec<Finding>,
) -> Option<(Session, Facts)> {
    server?
        .map_err(|error| findings.push(blocker(id, error.to_string()).hint(error.hint().unwrap_or(hint))))
        .ok()
}

/// Notes the identity of a server in the document; an error if the document was made for another one.
fn identify(known: &mut Option<Identity>, is: &Identity, whose: &str) -> Result<(), Stop> {
    match known {
        Some(known) if known != is => Err(Stop::no(format!(
            "the {whose} is {is}, but the document was made for {known}"
        ))
        .hint(format!(
            "check the connection to the {whose}; a tunnel may now lead to another server"
        ))),
        _ => {
            *known = Some(is.clone());
            Ok(())
        }
    }
}

/// The server name in the configuration or the document; otherwise that of the users, which is noted in the document.
fn server_name(source: Option<&OpenSource>, context: &mut Context, findings: &mut Vec<Finding>) -> Option<String> {
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

/// A homeserver in the source.
struct State {
    /// Whether its users uploaded anything, if that could be queried.
    uploads: Option<bool>,
}

/// The source's schema version rows; a finding if it is fenced, or not a database of Synapse.
fn rows_of(source: &OpenSource, findings: &mut Vec<Finding>) -> Option<SchemaRows> {
    let fence = standing(&source.session);
    if let Standing::Complete(_) = found(fence, "the fence of an earlier migration", findings)? {
        findings.push(
            blocker(
                &SOURCE_FENCED,
                "the source is fenced: it is the target of an unfinished migration",
            )
            .hint("check that -c and --target are not swapped"),
        );
        return None;
    }
    let rows = found(plausible_schema_rows(&source.session), "the source's schema", findings)?;
    match rows {
        Ok(rows) => Some(rows),
        Err(why) => {
            findings.push(
                blocker(
                    &SOURCE_EMPTY,
                    format!("the source is not a database that Synapse can use: {why}"),
                )
                .hint("check that -c or --source names the database that Synapse uses"),
            );
            None
        }
    }
}

/// Checks the source as a database, and then the homeserver in it.
fn of_source(
    source: Option<&OpenSource>,
    state: Option<&State>,
    config: Option<&Config>,
    known: &Document,
) -> Vec<Finding> {
    let Some(source) = source else { return Vec::new() };
    let mut findings = source::check(source);
    let Some(state) = state else { return findings };
    let homeserver = Homeserver {
        session: &source.session,
        server_name: known.source.as_ref().and_then(|source| source.server_name.as_deref()),
    };
    findings.extend(homeserver::check(&homeserver));
    if state.uploads.is_some() {
        let profile = profile::check(&source.session, config);
        let profile = found(profile, "users", &mut findings);
        findings.extend(profile.unwrap_or_default());
        let logins = config.map(|config| logins::check(&source.session, config));
        let logins = logins.and_then(|logins| found(logins, "the login providers", &mut findings));
        findings.extend(logins.unwrap_or_default());
    }
    findings
}

fn of_rehearsal(rehearsal: &Rehearsal<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let checked = found(rehearsal::check(rehearsal), "the rehearsal", &mut findings);
    findings.extend(checked.unwrap_or_default());
    findings
}

/// What the checks of media need.
struct MediaPlace<'a> {
    config: Option<&'a Config>,
    /// The source, if it contains a homeserver.
    source: Option<&'a Conninfo>,
    application_name: &'a str,
    uploads: Option<bool>,
    budget: Option<Duration>,
    console: &'a Console,
}

/// Checks the media store against the database. Uses a separate connection because it takes longest.
fn of_media(place: &MediaPlace<'_>) -> Vec<Finding> {
    let Some(config) = place.config else { return Vec::new() };
    let mut findings = Vec::new();
    let session = place.source.filter(|_| place.uploads.is_some()).and_then(|source| {
        found(
            connect(source, place.application_name),
            "media in the database",
            &mut findings,
        )
    });
    place.console.stage("measuring the media store", None);
    findings.extend(media::check(&media::Place {
        config,
        session: session.as_ref().map(|(session, _)| session),
        uploads: place.uploads,
        budget: place.budget,
    }));
    place.console.done();
    findings
}

/// Checks that need no server: programs, configuration, this machine, space for the export.
fn of_this_machine(
    args: &Args,
    config: Option<&Config>,
    (source, target): (Option<&OpenSource>, Option<&Target>),
    export: Option<&Path>,
) -> Vec<Finding> {
    let (from, to) = (source.map(|it| it.facts.major()), target.map(|it| it.facts.major()));
    let mut findings = programs::check(args.pg_bin.as_deref(), from, to);
    findings.extend(config.map_or_else(Vec::new, carry::check));
    findings.extend(host::check(export));
    if let Some(place) = export {
        let needed = source.map(|source| source::dump_size(&source.facts));
        findings.extend(export::check(place, needed));
    }
    findings
}

/// The version rows that Synapse wrote to the target; `None` if they belong to a fence.
fn target_schema(target: &Target) -> Result<Option<SchemaRows>, Error> {
    if standing(&target.session)? != Standing::Nothing {
        return Ok(None);
    }
    schema_rows(&target.session).map(Some)
}

/// The value; if there is none, a finding that the check of `what` failed.
fn found<T>(outcome: Result<T, Error>, what: &str, findings: &mut Vec<Finding>) -> Option<T> {
    outcome.map_err(|error| findings.push(not_checked(what, &error))).ok()
}
