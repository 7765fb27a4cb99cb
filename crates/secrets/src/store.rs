//! Writes the files of an export. Later runs compare them with the configuration and never replace a secret.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use ess_cli::{Exit, Stop};
use ess_files::{hex, make_directory, write_file};
use ess_synapse::Config;
use ess_synapse::secrets::Secrets;
use secrecy::{ExposeSecret as _, SecretSlice};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::carry::Sorted;
use crate::components::OtherComponents;
use crate::index::{ConfigFile, Emitted, Index};

/// The directory of the secrets in an export.
pub(crate) const DIRECTORY: &str = "secrets";
/// The directory of the configuration's copies in an export.
pub(crate) const CONFIG_DIRECTORY: &str = "config";
/// The directory of the files for ESS in an export.
pub(crate) const ESS_DIRECTORY: &str = "ess";
pub(crate) const INDEX: &str = "index.json";
/// Largest file that is read back, in bytes. None that these tools write is larger, not even a bundle.
const MAX_BYTES: u64 = 256 << 20;

/// The intended content of an export.
pub(crate) struct ExportPlan<'a> {
    pub(crate) index: Index,
    secrets: Vec<(&'a str, &'a SecretSlice<u8>)>,
    config: Vec<(PathBuf, Zeroizing<Vec<u8>>)>,
    emitted: Vec<(&'static str, &'a str)>,
}

/// What happened to the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Secrets were written.
    Written,
    /// All files existed already.
    Kept,
    /// The secrets existed already; the copies of the configuration were renewed.
    ConfigRenewed,
    /// The secrets existed already; files for ESS were written.
    Emitted,
}

impl<'a> ExportPlan<'a> {
    /// Reads the configuration files again, byte for byte, for their copies.
    pub(crate) fn new(
        config: &Config,
        secrets: &'a Secrets,
        components: &'a OtherComponents,
        options: Sorted,
        notes: Vec<String>,
    ) -> anyhow::Result<Self> {
        let (mut copies, mut contents) = (Vec::new(), Vec::new());
        let own = config
            .files()
            .iter()
            .enumerate()
            .map(|(index, original)| (copy_name(index, original), original));
        let others = components
            .files
            .iter()
            .map(|(component, original)| ((*component).to_owned(), original));
        for (name, original) in own.chain(others) {
            let file = Path::new(CONFIG_DIRECTORY).join(name);
            let content = ess_files::read(original, ess_files::CONFIGURATION)
                .with_context(|| format!("cannot read {}", original.display()))?;
            contents.push((file.clone(), content));
            copies.push(ConfigFile {
                file,
                original: original.clone(),
            });
        }
        let own = secrets.secrets.iter().map(|secret| (&*secret.option, &secret.value));
        let others = components.secrets.iter();
        let others = others.map(|secret| (&*secret.option, &secret.value));
        Ok(Self {
            index: Index::new(config, secrets, &components.secrets, copies, options, notes),
            secrets: own.chain(others).collect(),
            config: contents,
            emitted: Vec::new(),
        })
    }

    /// Adds a file for ESS.
    pub(crate) fn emit(&mut self, name: &'static str, text: &'a str) {
        self.emitted.push((name, text));
        self.index.emitted.push(Emitted {
            file: Path::new(ESS_DIRECTORY).join(name),
            sha256: hex(&Sha256::digest(text)),
        });
    }

    /// All files of the export, by their paths in it. `index` is the text of the plan's index.
    pub(crate) fn files<'f>(&'f self, index: &'f [u8]) -> Vec<File<'f>> {
        let secrets = self.secrets.iter();
        let secrets = secrets.map(|(option, value)| (Path::new(DIRECTORY).join(option), value.expose_secret()));
        let index = [(Path::new(DIRECTORY).join(INDEX), index)];
        let config = self.config.iter().map(|(path, content)| (path.clone(), &content[..]));
        let emitted = self.emitted.iter();
        let emitted = emitted.map(|(name, text)| (Path::new(ESS_DIRECTORY).join(name), text.as_bytes()));
        secrets.chain(index).chain(config).chain(emitted).collect()
    }
}

/// A file of an export: its path in it, and its content.
pub(crate) type File<'a> = (PathBuf, &'a [u8]);

/// The name of a copy. It is numbered so that `-c EXPORT/config`, which sorts by name, merges the copies in the order
/// of the originals.
fn copy_name(index: usize, original: &Path) -> String {
    let name = original.file_name().unwrap_or_default().to_string_lossy();
    let end = if name.ends_with(".yaml") { "" } else { ".yaml" };
    format!("{:03}-{name}{end}", index + 1)
}

/// Writes what the plan contains and the export lacks, and refuses if the export contains different secrets. The caller
/// holds the lock of the export.
pub(crate) fn put(plan: &mut ExportPlan, export: &Path) -> anyhow::Result<Outcome> {
    let directory = export.join(DIRECTORY);
    let mut directories = vec![directory.clone(), export.join(CONFIG_DIRECTORY)];
    directories.extend((!plan.emitted.is_empty()).then(|| export.join(ESS_DIRECTORY)));
    for directory in &directories {
        make_directory(directory)?;
        remove_partials(directory)?;
    }
    let old = old_index(&directory)?;
    let missing = compare(plan, old.as_ref(), &directory)?;
    let emit = to_emit(plan, old.as_ref(), export)?;

    for (option, value) in &missing {
        write_file(&directory.join(option), value.expose_secret())?;
    }
    for (path, text) in &emit {
        write_file(path, text.as_bytes())?;
    }
    // Files for ESS that an earlier run wrote and this one does not stay in the export, and in the index.
    for earlier in old.iter().flat_map(|old| &old.emitted) {
        if plan.index.emitted.iter().all(|emitted| emitted.file != earlier.file) {
            plan.index.emitted.push(earlier.clone());
        }
    }
    plan.index.emitted.sort_by(|a, b| a.file.cmp(&b.file));
    let mut renewed = false;
    for (file, content) in &plan.config {
        let path = export.join(file);
        if existing(&path)?.as_ref() != Some(content) {
            write_file(&path, content)?;
            renewed = true;
        }
    }
    for stale in old.iter().flat_map(|old| &old.config) {
        if !plan.config.iter().any(|(file, _)| *file == stale.file) {
            remove_copy(export, &stale.file)?;
            renewed = true;
        }
    }
    // Written last: an index means that all other files are complete.
    if old.as_ref() != Some(&plan.index) {
        write_file(&directory.join(INDEX), &plan.index.text()?)?;
    }
    Ok(match old {
        Some(_) if missing.is_empty() && renewed => Outcome::ConfigRenewed,
        Some(_) if missing.is_empty() && emit.is_empty() => Outcome::Kept,
        Some(_) if missing.is_empty() => Outcome::Emitted,
        _ => Outcome::Written,
    })
}

/// Removes the partial files of a run that was killed. The caller holds the lock.
fn remove_partials(directory: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot clean up {}", directory.display());
    for entry in fs::read_dir(directory).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.starts_with(b".") && name.ends_with(b".partial") {
            fs::remove_file(entry.path()).with_context(failed)?;
        }
    }
    Ok(())
}

fn old_index(directory: &Path) -> anyhow::Result<Option<Index>> {
    let path = directory.join(INDEX);
    let Some(text) = existing(&path)? else {
        return Ok(None);
    };
    let index = serde_json::from_slice(&text).map_err(|error| {
        Stop::data(format!(
            "{} is not an index that this version can read: {error}",
            path.display()
        ))
    })?;
    Ok(Some(index))
}

/// The secrets whose files are missing. An error names the secrets that differ from those of the export.
fn compare<'a>(
    plan: &ExportPlan<'a>,
    old: Option<&Index>,
    directory: &Path,
) -> anyhow::Result<Vec<(&'a str, &'a SecretSlice<u8>)>> {
    if let Some(old) = old
        && old.server_name != plan.index.server_name
    {
        let message = format!(
            "{} contains the secrets of {}, not of {}",
            directory.display(),
            old.server_name,
            plan.index.server_name
        );
        return Err(Stop::no(message).hint("give a different --out").into());
    }
    let wanted: BTreeSet<&str> = options(&plan.index);
    // Without an index it is unknown which secrets an interrupted run meant to write: only existing files are compared.
    let known = old.map_or_else(|| wanted.clone(), options);
    let mut different: BTreeSet<&str> = wanted.symmetric_difference(&known).copied().collect();
    let mut missing = Vec::new();
    for (option, value) in &plan.secrets {
        match existing(&directory.join(option))? {
            None => missing.push((*option, *value)),
            Some(found) if found.as_slice() == value.expose_secret() => {}
            Some(_) => drop(different.insert(option)),
        }
    }
    if different.is_empty() {
        return Ok(missing);
    }
    let names = different.into_iter().collect::<Vec<_>>().join(", ");
    let message = format!(
        "{} contains secrets that differ from the configuration: {names}",
        directory.display()
    );
    let hint = format!(
        "to extract again, first move it away: mv {0} {0}.old",
        directory.display()
    );
    Err(Stop::no(message).hint(hint).into())
}

/// The files for ESS that are to be written. Refuses to replace a file that a user has edited.
fn to_emit<'a>(plan: &ExportPlan<'a>, old: Option<&Index>, export: &Path) -> anyhow::Result<Vec<(PathBuf, &'a str)>> {
    let mut emit = Vec::new();
    for (name, text) in &plan.emitted {
        let path = export.join(ESS_DIRECTORY).join(name);
        match existing(&path)? {
            Some(found) if found.as_slice() == text.as_bytes() => {}
            Some(found) if !is_unedited(old, name, &found) => {
                let message = format!("will not replace {}: it was edited", path.display());
                let hint = format!("to write it again, first move it away: mv {0} {0}.old", path.display());
                return Err(Stop::no(message).hint(hint).into());
            }
            _ => emit.push((path, *text)),
        }
    }
    Ok(emit)
}

/// Whether a file is unchanged since an earlier run wrote it.
fn is_unedited(old: Option<&Index>, name: &str, found: &[u8]) -> bool {
    let sha256 = hex(&Sha256::digest(found));
    let mut emitted = old.iter().flat_map(|old| &old.emitted);
    emitted.any(|emitted| emitted.file.ends_with(name) && emitted.sha256 == sha256)
}

/// The options that have a file.
fn options(index: &Index) -> BTreeSet<&str> {
    index.secrets.iter().filter_map(|entry| entry.file.as_deref()).collect()
}

/// The content of a file that these tools wrote earlier; `None` if it does not exist. A link, a file of another user
/// and a file that others can read are refused.
pub(crate) fn existing(path: &Path) -> anyhow::Result<Option<Zeroizing<Vec<u8>>>> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot access {}", path.display()));
        }
    };
    let directory = path.parent().map(fs::metadata).transpose().ok().flatten();
    let refuse = |why: &str| {
        let message = format!("will not use {}: {why}", path.display());
        Err(Stop::new(Exit::Permission, message).into())
    };
    if !found.is_file() {
        return refuse("it is not a regular file");
    }
    // `make_directory` has checked that the directory belongs to this user.
    if directory.is_none_or(|directory| directory.uid() != found.uid()) {
        return refuse("it belongs to another user");
    }
    if found.permissions().mode() & 0o077 != 0 {
        return refuse("others can read it");
    }
    let content = ess_files::read(path, MAX_BYTES).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Some(content))
}

/// Removes a copy of a configuration file. Only the file's name is used, so that a manipulated index cannot name a file
/// outside the directory of the copies.
fn remove_copy(export: &Path, file: &Path) -> anyhow::Result<()> {
    let Some(name) = file.file_name() else {
        return Ok(());
    };
    let path = export.join(CONFIG_DIRECTORY).join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
