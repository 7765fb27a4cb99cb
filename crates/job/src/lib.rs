//! ess-job: print the manifests of a Job that runs a pipeline of these tools next to the database.

mod manifests;
mod pipeline;

use std::path::Path;

use ess_cli::{Context, Exit, Stop};
use ess_document::{Document, PasswordAt};
use ess_run::Report as _;

use manifests::{Job, SecretFile, Storage};

/// Commands that `--help` shows.
const EXAMPLES: &str = r"# Repeat the proof in the cluster, with a dump in an existing volume
ess-job -n --image registry.example.org/ess-migrate:1 --claim dumps \
    --service-account ess-migrate \
    'verify -n --from dump --target kube:ess' |
    kubectl apply --server-side -f -";

/// Print a Kubernetes Job that runs a pipeline next to the database
///
/// Writes manifests for `kubectl apply --server-side -f -` to standard output: the Job, a claim for a volume
/// unless --claim names one, and a ConfigMap with the document if one was read. The pipeline runs as an
/// unprivileged user in /work, which is that volume; secrets are files in /secrets.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Pipeline to run, as one argument for a shell: 'preflight -n ... | pgdump-wrap'
    #[arg(value_name = "PIPELINE", help_heading = "Arguments")]
    pipeline: String,
    /// Image with these programs, PostgreSQL's client programs and a shell
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Name of the Job, and prefix of the names of its volume and document
    #[arg(long, value_name = "NAME", default_value = "ess-migrate", value_parser = name)]
    name: String,
    /// Namespace of ESS
    #[arg(short = 'N', long, value_name = "NAMESPACE", default_value = "ess", value_parser = name)]
    namespace: String,
    /// Size of a new volume for dumps and the export
    #[arg(long, value_name = "SIZE", value_parser = quantity, required_unless_present = "claim")]
    storage: Option<String>,
    /// Storage class of the new volume (default: the cluster's default class)
    #[arg(long, value_name = "CLASS", requires = "storage", value_parser = name)]
    storage_class: Option<String>,
    /// Existing PersistentVolumeClaim to use instead of a new volume
    #[arg(long, value_name = "CLAIM", conflicts_with = "storage", value_parser = name)]
    claim: Option<String>,
    /// File to create in /secrets, from a key of a Secret; repeatable
    #[arg(long, value_name = "FILE=SECRET/KEY", value_parser = SecretFile::parse)]
    secret: Vec<SecretFile>,
    /// Processors to request, for example 2 or 500m
    #[arg(long, value_name = "CPU", default_value = "1", value_parser = quantity)]
    cpu: String,
    /// Memory to request, which is also the limit, for example 1Gi
    #[arg(long, value_name = "SIZE", default_value = "1Gi", value_parser = quantity)]
    memory: String,
    /// Run on this node (default: the database's node, if there is room)
    #[arg(long, value_name = "NODE", value_parser = name)]
    node: Option<String>,
    /// User and group ID to run as; the default is that of ESS's Synapse
    #[arg(long, value_name = "UID", default_value_t = 10_091, value_parser = clap::value_parser!(u32).range(1..))]
    user: u32,
    /// Service account, for targets such as kube:ess; without one the Job cannot access the cluster
    #[arg(long, value_name = "NAME", value_parser = name)]
    service_account: Option<String>,
    /// Let Kubernetes retry the Job this many times; only for pipelines that neither erase nor load
    #[arg(long, value_name = "N", default_value_t = 0)]
    retries: u32,
}

/// Parses a name that Kubernetes accepts.
fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    // A Job's pods have its name as a label, which has at most 63 characters.
    if text.chars().all(good) && ends(text.chars().next()) && ends(text.chars().last()) && text.len() <= 63 {
        Ok(text.to_owned())
    } else {
        Err("not a name for Kubernetes: lower-case letters, digits, - and .".to_owned())
    }
}

/// Parses a quantity that Kubernetes accepts.
fn quantity(text: &str) -> Result<String, String> {
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let units = ["", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];
    if number.parse::<f64>().is_ok_and(|number| number > 0.0) && units.contains(&unit) {
        Ok(text.to_owned())
    } else {
        Err("not a quantity such as 500m, 2 or 50Gi".to_owned())
    }
}

/// Runs ess-job.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let may_repeat = pipeline::may_repeat(&args.pipeline);
    if args.retries > 0 && !may_repeat {
        return Err(Stop::usage(format!(
            "--retries {}: the pipeline contains a step that must not be retried automatically",
            args.retries
        ))
        .hint("omit --retries; if the Job fails, read its log and apply it again under another --name; see ess-job(1)")
        .into());
    }
    let storage = match (&args.claim, &args.storage) {
        (Some(claim), _) => Storage::Claim(claim),
        (None, Some(size)) => Storage::New {
            size,
            class: args.storage_class.as_deref(),
        },
        (None, None) => return Err(Stop::usage("no volume is given: neither --storage nor --claim").into()),
    };
    let job = Job {
        name: &args.name,
        namespace: &args.namespace,
        image: &args.image,
        pipeline: &args.pipeline,
        storage,
        secrets: &args.secret,
        cpu: &args.cpu,
        memory: &args.memory,
        node: args.node.as_deref(),
        user: args.user,
        service_account: args.service_account.as_deref(),
        retries: args.retries,
        document: context.was_read.then_some(&context.document),
    };
    let list = job.list()?;
    if context.was_read {
        for (what, flag) in elsewhere(&context.document, &args.pipeline) {
            context.console.note(&format!(
                "{what}, which the Job cannot access: give the first program {flag}"
            ));
        }
    }
    if args.pipeline.contains("kube:") && args.service_account.is_none() {
        context
            .console
            .note("the pipeline contains kube:, but without --service-account the Job cannot access the cluster");
    }
    context.hand_out(&list)?;
    context.console.line(&format!(
        "ess-job: pipe this into `kubectl apply --server-side -f -`, then follow the Job with `kubectl logs -n {} -f job/{}`",
        args.namespace, args.name
    ));
    Ok(Exit::Done)
}

/// What is on this host according to the document, and is not replaced by a flag in the pipeline; each with that flag.
fn elsewhere(document: &Document, pipeline: &str) -> Vec<(String, &'static str)> {
    let is_outside = |path: &Path| !["/work", "/secrets"].iter().any(|place| path.starts_with(place));
    let export = document.export.as_ref().filter(|path| is_outside(path));
    let place = |password: &PasswordAt| match password {
        PasswordAt::File { path } => is_outside(path).then(|| path.display().to_string()),
        PasswordAt::Config => Some("Synapse's configuration".to_owned()),
        PasswordAt::Passfile => Some("libpq's password file".to_owned()),
        PasswordAt::Environment { name } => Some(format!("the variable {name}")),
        PasswordAt::Secret { .. } => None,
    };
    let source = document.source.as_ref().and_then(|source| source.password.as_ref());
    // Only these programs connect to the source.
    let source = source.filter(|_| ["preflight", "pgdump-wrap"].iter().any(|tool| pipeline.contains(tool)));
    let target = document.target.as_ref().and_then(|target| target.password.as_ref());
    let named = [
        (
            export.map(|path| format!("the export is {}", path.display())),
            "--export /work/...",
        ),
        (
            source
                .and_then(place)
                .map(|place| format!("the source's password is in {place}")),
            "--source-password-file /secrets/...",
        ),
        (
            target
                .and_then(place)
                .map(|place| format!("the target's password is in {place}")),
            "--target-password-file /secrets/...",
        ),
    ];
    named
        .into_iter()
        .filter_map(|(what, flag)| Some((what?, flag)))
        .filter(|(_, flag)| flag.split(' ').next().is_some_and(|flag| !pipeline.contains(flag)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_quantities_are_those_of_kubernetes() {
        for good in ["ess", "ess-migrate-2", "a.b", "0"] {
            assert!(name(good).is_ok(), "{good}");
        }
        for wrong in ["", "-a", "a-", "A", "a_b", "a/b", "a\n", &"a".repeat(64)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        for good in ["1", "500m", "0.5", "50Gi", "2T"] {
            assert!(quantity(good).is_ok(), "{good}");
        }
        for wrong in ["", "0", "-1", "1GB", "Gi", "1 Gi", "1e3x", "inf"] {
            assert!(quantity(wrong).is_err(), "{wrong}");
        }
    }
}
