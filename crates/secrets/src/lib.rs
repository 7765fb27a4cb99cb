//! extract-secrets: writes a homeserver's secrets to one file each, with an index, and makes files for ESS.

mod app_service;
mod bundle;
mod carry;
mod components;
mod ess;
mod fate;
mod files;
mod index;
mod known_keys;
mod store;
mod suspect;
mod workers;
mod yaml;

use std::path::{Path, PathBuf};

use age::x25519::Recipient;
use anyhow::Context as _;
use ess_cli::{Context, Exit, Stop};
use ess_document::{Next, SecretEntry, SigningKey, now};
use ess_files::make_directory;
use ess_run::Report;
use ess_servers::ConfigArgs;
use ess_synapse::config::Database;
use ess_synapse::secrets::Secrets;
use ess_synapse::{Config, placeholder};
use secrecy::ExposeSecret as _;

use crate::bundle::{Bundle, Sealed};
use crate::components::OtherComponents;
use crate::ess::Ess;
use crate::index::Index;
use crate::store::{ExportPlan, Outcome};

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Copy the secrets into files in a new directory
extract-secrets -n -c homeserver.yaml --out export > secrets.json
# In a pipeline, and write what ESS needs as well
extract-secrets --out export --emit kubernetes --emit helm < preflight.json";

/// Copy a homeserver's secrets into files
///
/// Reads Synapse's configuration as Synapse does and writes every secret in it, or in a file that it
/// names, to EXPORT/secrets: one file per secret, with exactly the bytes that Synapse uses.
/// EXPORT/secrets/index.json lists the purpose and the destination of each secret; EXPORT/config
/// contains copies of the configuration files. The value of a secret is never printed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    configuration: ConfigArgs,
    /// Directory of the export, closed to other users; created if it does not exist
    #[arg(long, value_name = "EXPORT")]
    out: Option<PathBuf>,
    /// Form in which to write the secrets and what ESS needs of them; repeatable
    #[arg(long, value_enum, value_name = "FORM", default_value = "dir")]
    emit: Vec<Form>,
    /// Public key (age1...) that the bundle of `--emit age` is encrypted to; repeatable
    #[arg(short, long, value_name = "AGE1")]
    recipient: Vec<String>,
    /// File with one recipient per line; repeatable
    #[arg(short = 'R', long, value_name = "FILE")]
    recipients_file: Vec<PathBuf>,
    /// Namespace of ESS, for the manifests (default: that of the target, or ess)
    #[arg(long, value_name = "NAME", value_parser = namespace)]
    namespace: Option<String>,
    /// Configuration of Matrix Authentication Service, if you run it
    #[arg(long, value_name = "FILE")]
    mas_config: Option<PathBuf>,
    /// Configuration of Hookshot, if you run it
    #[arg(long, value_name = "FILE")]
    hookshot_config: Option<PathBuf>,
}

/// A form in which secrets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// One file per secret, and index.json; always, except with age alone
    Dir,
    /// Manifests of Kubernetes Secrets, in EXPORT/ess/secrets.yaml
    Kubernetes,
    /// Helm values that refer to those Secrets, in EXPORT/ess/values.yaml
    Helm,
    /// One encrypted bundle of these files, EXPORT/secrets.tar.age; without dir, none is written in clear
    Age,
}

impl Form {
    /// The name of the file in `EXPORT/ess`, if the form has one.
    fn file(self) -> Option<&'static str> {
        match self {
            Self::Dir | Self::Age => None,
            Self::Kubernetes => Some("secrets.yaml"),
            Self::Helm => Some("values.yaml"),
        }
    }
}

/// Namespace and release of ESS: the namespace of the flag, otherwise those of the target, otherwise `ess`.
fn place_in_cluster(args: &Args, context: &Context) -> (String, String) {
    let target = context.document.target.as_ref();
    let (of_target, release) = target
        .and_then(|target| target.kube.as_ref())
        .map(|kube| (kube.namespace.clone(), kube.release.clone()))
        .unzip();
    let usual = || "ess".to_owned();
    (
        args.namespace.clone().or(of_target).unwrap_or_else(usual),
        release.unwrap_or_else(usual),
    )
}

/// Checks a namespace by Kubernetes' rules: a label of RFC 1123.
fn namespace(text: &str) -> Result<String, &'static str> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edges = !text.starts_with('-') && !text.ends_with('-');
    let good = (1..=63).contains(&text.len()) && text.bytes().all(inner) && edges;
    good.then(|| text.to_owned())
        .ok_or("a namespace consists of 1 to 63 lower-case letters, digits and hyphens, and no hyphen at either end")
}

/// Runs extract-secrets.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let export = export(args.out.as_deref(), context.document.export.as_deref())?;
    let recipients = recipients(args)?;
    let config = ess_servers::config(context, &args.configuration)?.ok_or_else(|| {
        Stop::usage("there is no configuration: neither -c nor the document's `source.config` names one")
            .hint("give -c /etc/matrix-synapse/homeserver.yaml")
    })?;
    let secrets = read(&config, context)?;
    let components = other_components(args, context)?;
    let ess = Ess::new(&config, &secrets, &components, &place_in_cluster(args, context).0)?;
    let mut notes = secrets.notes.clone();
    notes.extend(app_service::notes(&secrets.secrets));
    notes.extend(placeholder::options(&config, &secrets).iter().map(|option| {
        format!(
            "the value of `{option}` is what a template left: check that the running Synapse reads this configuration"
        )
    }));
    notes.extend(components.notes.iter().chain(&ess.notes).cloned());
    if args.emits(Form::Helm) {
        notes.extend(ess.notes_on_values.iter().cloned());
    }
    let mut plan = ExportPlan::new(&config, &secrets, &components, ess.sorted.clone(), notes)?;
    for (form, text) in [(Form::Kubernetes, &ess.manifests), (Form::Helm, &ess.values)] {
        if let Some(file) = form.file().filter(|_| args.emits(form)) {
            plan.emit(file, text);
        }
    }

    make_directory(&export)?;
    require_own(&export)?;
    context.document.export = Some(export.clone());
    context.lock(&export.join(".lock"))?;
    let bundle = bundle(&plan, &secrets, &recipients, &export)?;
    let outcome = args.in_clear().then(|| store::put(&mut plan, &export)).transpose()?;
    let sealed = bundle.as_ref().map(Bundle::write).transpose()?;

    print_summary(context, &plan.index, outcome, sealed, &export);
    print_next_steps(context, args, &export);
    if let Some(note) = known_keys::note(&config, &secrets.signing_keys, &context.application_name()) {
        context.console.note(&note);
    }
    note_database(context, &config)?;
    context.document.secrets = Some(section(context, &plan.index, outcome, sealed));
    context.finish()?;
    Ok(Exit::Done)
}

/// Reads all secrets, or prints every error, so that the user can correct all of them at once.
fn read(config: &Config, context: &Context) -> anyhow::Result<Secrets> {
    let (secrets, mut errors) = Secrets::look(config);
    let Some(last) = errors.pop() else { return Ok(secrets) };
    let in_context = |error| anyhow::Error::from(error).context("cannot read Synapse's secrets");
    for error in errors {
        context.console.error(&in_context(error));
    }
    Err(in_context(last))
}

impl Args {
    fn emits(&self, form: Form) -> bool {
        self.emit.contains(&form)
    }

    /// Whether to write files in clear: a bundle replaces them, unless `dir` is given too.
    fn in_clear(&self) -> bool {
        self.emits(Form::Dir) || !self.emits(Form::Age)
    }
}

/// The recipients of the bundle; empty if none is to be written.
fn recipients(args: &Args) -> anyhow::Result<Vec<Recipient>> {
    let recipients = bundle::recipients(&args.recipient, &args.recipients_file)?;
    match (args.emits(Form::Age), recipients.is_empty()) {
        (true, true) => Err(Stop::usage("--emit age needs at least one recipient")
            .hint("give --recipient age1..., the public key that age-keygen prints")
            .into()),
        (false, false) => Err(Stop::usage("recipients are given, but nothing is encrypted to them")
            .hint("add --emit age")
            .into()),
        _ => Ok(recipients),
    }
}

fn bundle(
    plan: &ExportPlan,
    secrets: &Secrets,
    recipients: &[Recipient],
    export: &Path,
) -> anyhow::Result<Option<Bundle>> {
    if recipients.is_empty() {
        return Ok(None);
    }
    let signing_key = secrets.secrets.iter().find(|secret| secret.option == "signing_key");
    let signing_key = signing_key.context("there is no signing key")?.value.expose_secret();
    let index = plan.index.text()?;
    let files = plan.files(&index);
    Bundle::new(&files, signing_key, &plan.index.server_name, recipients, export).map(Some)
}

/// Reads the configurations of the other components that flags name.
fn other_components(args: &Args, context: &Context) -> anyhow::Result<OtherComponents> {
    let source = context.document.source.as_ref();
    let path_map = match source.and_then(|source| source.config.as_ref()) {
        Some(config) => ess_servers::options(config)?.path_map,
        None => Vec::new(),
    };
    OtherComponents::read(args.mas_config.as_deref(), args.hookshot_config.as_deref(), &path_map)
}

/// The directory of the export: that of the flag or of the document, which must not contradict each other.
fn export(out: Option<&Path>, known: Option<&Path>) -> anyhow::Result<PathBuf> {
    let out = out.map(ess_files::absolute).transpose()?;
    match (out, known) {
        (Some(out), Some(known)) if out != known => {
            let stop = Stop::contradiction("--out", out.display(), "export", known.display());
            Err(stop
                .hint("drop --out, or name the export's directory on this host with --export")
                .into())
        }
        (Some(out), _) => Ok(out),
        (None, Some(known)) => Ok(known.to_owned()),
        (None, None) => Err(
            Stop::usage("there is no export: neither --out nor the document's `export` names one")
                .hint("give --out DIR")
                .into(),
        ),
    }
}

/// What these tools write into an export, and what a new file system contains.
const OF_AN_EXPORT: [&str; 13] = [
    ".lock",
    "documents",
    "dump",
    "ess-before-wipe",
    "ess-before-wipe.undone",
    "lost+found",
    "media",
    "well-known",
    store::DIRECTORY,
    store::CONFIG_DIRECTORY,
    store::ESS_DIRECTORY,
    bundle::BUNDLE,
    bundle::RECORD,
];

/// Refuses a directory that contains files but is not an export: secrets do not belong among them.
fn require_own(directory: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let names: Vec<std::ffi::OsString> = entries
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()
        .with_context(|| format!("cannot read {}", directory.display()))?;
    let is_known = |name: &&std::ffi::OsString| OF_AN_EXPORT.iter().any(|known| name == known);
    // An earlier run leaves these; preflight leaves its document in any directory that it is given.
    let is_export = names
        .iter()
        .any(|name| name == store::DIRECTORY || name == bundle::BUNDLE);
    let Some(first) = names.iter().find(|name| !is_known(name)).filter(|_| !is_export) else {
        return Ok(());
    };
    Err(Stop::no(format!(
        "will not write to {}: it is not an export, and it contains {}",
        directory.display(),
        first.display()
    ))
    .hint(format!(
        "choose a directory of its own, such as {}",
        directory.join("export").display()
    ))
    .into())
}

/// Records the database connection of the configuration, unless a tool that connected has recorded one.
fn note_database(context: &mut Context, config: &Config) -> anyhow::Result<()> {
    let source = context.source_section();
    if source.connection.is_empty()
        && let Database::Postgres { args, password, .. } = config.database()?
    {
        source.connection = args;
        source.password = password.map(|_| ess_document::PasswordAt::Config);
    }
    Ok(())
}

fn section(
    context: &Context,
    index: &Index,
    outcome: Option<Outcome>,
    sealed: Option<Sealed>,
) -> ess_document::Secrets {
    ess_document::Secrets {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        directory: outcome.map(|_| store::DIRECTORY.into()),
        bundle: sealed.map(|_| bundle::BUNDLE.into()),
        entries: index
            .secrets
            .iter()
            .map(|entry| SecretEntry {
                option: entry.option.clone(),
                file: entry.file.clone(),
                origin: entry.origin.to_string(),
                purpose: entry.purpose.clone(),
                destination: entry.destination.clone(),
                becomes: entry.becomes.clone(),
                if_lost: entry.if_lost.clone(),
            })
            .collect(),
        signing_keys: index
            .signing_keys
            .iter()
            .map(|key| SigningKey {
                id: key.id.clone(),
                public_key: key.public_key.clone(),
            })
            .collect(),
        emitted: index.emitted.iter().map(|emitted| emitted.file.clone()).collect(),
        kept: outcome.is_none_or(|outcome| outcome == Outcome::Kept)
            && sealed.is_none_or(|sealed| sealed == Sealed::Kept),
        next: Next {
            go_on: vec!["pgdump-wrap".to_owned()],
            go_back: None,
        },
    }
}

fn print_summary(context: &Context, index: &Index, outcome: Option<Outcome>, sealed: Option<Sealed>, export: &Path) {
    let console = &context.console;
    let count = index.secrets.iter().filter(|entry| entry.file.is_some()).count();
    let secrets = format!("{} of {}", ess_run::text::count(count, "secret"), index.server_name);
    let directory = outcome.map(|outcome| {
        let news = match outcome {
            Outcome::Written => None,
            Outcome::Kept => Some("nothing was written"),
            Outcome::ConfigRenewed => Some("the configuration has changed, so its copies were renewed"),
            Outcome::Emitted => Some("the files for ESS were written"),
        };
        (store::DIRECTORY, news)
    });
    let bundle = sealed.map(|sealed| {
        let news = match sealed {
            Sealed::Written => None,
            Sealed::Kept => Some("nothing was written"),
            Sealed::Renewed => Some("the recipients or the configuration changed, so it was encrypted again"),
        };
        (bundle::BUNDLE, news)
    });
    for (place, news) in directory.into_iter().chain(bundle) {
        let place = export.join(place);
        let place = place.display();
        console.note(&match news {
            None => format!("wrote {secrets} to {place}"),
            Some(news) => format!("{place} already contains the {secrets}; {news}"),
        });
    }
    let earlier = export.join(store::DIRECTORY);
    if outcome.is_none() && earlier.exists() {
        let earlier = earlier.display();
        console.note(&format!(
            "an earlier run wrote secrets in clear to {earlier}; they are still there"
        ));
    }
    for key in &index.signing_keys {
        console.note(&format!("signing key {}, public key {}", key.id, key.public_key));
    }
    for entry in &index.secrets {
        if let Some(lost) = &entry.derived {
            console.note(&format!("`{}`: {lost}", entry.option));
        }
    }
    for note in &index.notes {
        console.note(note);
    }
}

/// Prints the commands that use the files for ESS.
fn print_next_steps(context: &Context, args: &Args, export: &Path) {
    if args.emits(Form::Age) {
        let path = export.join(bundle::BUNDLE);
        context.console.note(&format!(
            "to open the bundle: age -d -i KEY {} | tar -x -C DIRECTORY",
            path.display()
        ));
    }
    let place = |form: Form| {
        let file = form.file().filter(|_| args.emits(form) && args.in_clear())?;
        Some(export.join(store::ESS_DIRECTORY).join(file))
    };
    let (namespace, release) = place_in_cluster(args, context);
    if let Some(path) = place(Form::Kubernetes) {
        let message = format!(
            "to apply the Secrets: kubectl apply --server-side -n {namespace} -f {}",
            path.display()
        );
        context.console.note(&message);
    }
    if let Some(path) = place(Form::Helm) {
        let message = format!(
            "to use the values: helm upgrade --install -n {namespace} {release} \
             oci://ghcr.io/element-hq/ess-helm/matrix-stack -f YOUR-VALUES -f {} (they refer to the Secrets of --emit \
             kubernetes; YOUR-VALUES must contain the hosts of the other components)",
            path.display()
        );
        context.console.note(&message);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use super::{export, namespace};
    use ess_cli::Exit;

    #[test]
    fn a_namespace_is_one_to_kubernetes() {
        assert_eq!(namespace("ess-2").as_deref(), Ok("ess-2"));
        for bad in ["", "-a", "a-", "A", "a.b", "a\nb", &"a".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn flag_and_document_may_not_contradict_each_other() {
        let [a, b] = ["/a", "/b"].map(Path::new);

        assert_eq!(export(Some(a), None).unwrap(), a);
        assert_eq!(export(None, Some(a)).unwrap(), a);
        assert_eq!(export(Some(a), Some(a)).unwrap(), a);
        let error = export(Some(a), Some(b)).unwrap_err();
        assert_eq!(ess_cli::exit_of(&error), Exit::Usage);
        assert!(error.to_string().contains("/a") && error.to_string().contains("/b"));
        assert_eq!(ess_cli::exit_of(&export(None, None).unwrap_err()), Exit::Usage);
    }
}
