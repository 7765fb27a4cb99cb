//! extract-secrets: a homeserver's secrets, one file each, with an index of what goes where.

mod index;
mod store;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_cli::{Context, Exit, SourceArgs, Stop, make_directory, now};
use ess_document::{Next, SecretEntry, SigningKey};
use ess_run::Report;
use ess_synapse::Config;
use ess_synapse::config::Database;
use ess_synapse::secrets::Secrets;

use crate::index::Index;
use crate::store::{Outcome, Plan};

/// Copy a homeserver's secrets into files
///
/// Reads Synapse's configuration as Synapse does and writes every secret in it, or in a file that it
/// names, to EXPORT/secrets: one file a secret, holding exactly the bytes that Synapse uses.
/// EXPORT/secrets/index.json says what each is for and where it goes; EXPORT/config keeps the
/// configuration files. No value is ever printed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The export: a directory of our own, made when it is not there
    #[arg(long, value_name = "EXPORT")]
    out: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
}

/// Does the job of extract-secrets.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    let Args { source, out } = args;
    if source.source.is_some() || source.source_password_file.is_some() {
        return Err(
            Stop::usage("secrets come from Synapse's configuration, not from a database")
                .hint("give -c /etc/matrix-synapse/homeserver.yaml instead of --source")
                .into(),
        );
    }
    let export = export(out.as_deref(), context.document.export.as_deref())?;
    let config = context.config(source)?.ok_or_else(|| {
        Stop::usage("there is no configuration: neither -c nor the document's `source.config` names one")
            .hint("give -c /etc/matrix-synapse/homeserver.yaml")
    })?;
    let secrets = Secrets::read(&config).context("cannot read Synapse's secrets")?;
    let plan = Plan::new(&config, &secrets)?;

    make_directory(&export)?;
    context.document.export = Some(export.clone());
    context.lock(&export.join(".lock"))?;
    let outcome = store::put(&plan, &export)?;

    say(context, &secrets, &plan.index, outcome, &export);
    note_database(context, &config)?;
    context.document.secrets = Some(section(context, &plan.index, outcome));
    context.finish()?;
    Ok(Exit::Done)
}

/// The export's place, by flag or by the document, which may not contradict each other.
fn export(out: Option<&Path>, known: Option<&Path>) -> anyhow::Result<PathBuf> {
    let out = out
        .map(|out| std::path::absolute(out).with_context(|| format!("cannot use {}", out.display())))
        .transpose()?;
    match (out, known) {
        (Some(out), Some(known)) if out != known => {
            let (out, known) = (out.display(), known.display());
            Err(
                Stop::usage(format!("--out says {out}, the document's `export` says {known}"))
                    .hint("drop --out, or say with --export where the export lies on this host")
                    .into(),
            )
        }
        (Some(out), _) => Ok(out),
        (None, Some(known)) => Ok(known.to_owned()),
        (None, None) => Err(
            Stop::usage("there is no export: neither --out nor the document's `export` says where")
                .hint("give --out DIR")
                .into(),
        ),
    }
}

/// The connection as the configuration has it, unless a tool that connected knows better.
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

fn section(context: &Context, index: &Index, outcome: Outcome) -> ess_document::Secrets {
    ess_document::Secrets {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        directory: store::DIRECTORY.into(),
        entries: index
            .secrets
            .iter()
            .map(|entry| SecretEntry {
                option: entry.option.clone(),
                file: entry.file.clone(),
                origin: entry.origin.to_string(),
                purpose: entry.purpose.clone(),
                destination: entry.destination.clone(),
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
        kept: outcome == Outcome::Kept,
        next: Next {
            go_on: vec!["pgdump-wrap".to_owned()],
            go_back: None,
        },
    }
}

fn say(context: &Context, secrets: &Secrets, index: &Index, outcome: Outcome, export: &Path) {
    let console = &context.console;
    let place = export.join(store::DIRECTORY);
    let count = secrets.secrets.len();
    let name = &index.server_name;
    match outcome {
        Outcome::Written => {
            console.note(&format!("wrote {count} secrets of {name} to {}", place.display()));
        }
        Outcome::Kept => console.note(&format!(
            "the {count} secrets of {name} are in {} already; nothing was written",
            place.display()
        )),
        Outcome::ConfigRenewed => console.note(&format!(
            "the {count} secrets of {name} are in {} already; the configuration has changed, its copies are renewed",
            place.display()
        )),
    }
    for key in &secrets.signing_keys {
        console.note(&format!("signing key {}, public key {}", key.id, key.public_key));
    }
    for entry in &index.secrets {
        if let Some(lost) = &entry.derived {
            console.note(&format!("`{}`: {lost}", entry.option));
        }
    }
    for note in &secrets.notes {
        console.note(note);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::path::Path;

    use super::export;
    use ess_cli::Exit;

    #[test]
    fn flag_and_document_may_not_contradict_each_other() {
        let [a, b] = ["/a", "/b"].map(Path::new);

        assert_eq!(export(Some(a), None).unwrap(), a);
        assert_eq!(export(None, Some(a)).unwrap(), a);
        assert_eq!(export(Some(a), Some(a)).unwrap(), a);
        let error = export(Some(a), Some(b)).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("/a") && error.to_string().contains("/b"));
        assert_eq!(Exit::of(&export(None, None).unwrap_err()), Exit::Usage);
    }
}
