//! `secrets.tar.age`: the secrets, configuration and files for ESS of an export, encrypted to its recipients.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use age::Encryptor;
use age::x25519::Recipient;
use anyhow::Context as _;
use ess_cli::Stop;
use ess_files::{hex, write_file};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};
use zeroize::Zeroizing;

use crate::store::{self, File, existing};

/// The bundle's name in an export.
pub(crate) const BUNDLE: &str = "secrets.tar.age";
/// The bundle's record, next to it: what a later run compares with.
pub(crate) const RECORD: &str = "secrets.tar.age.json";

/// The format. It gets a new name only if a reader of the old one would misunderstand the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum BundleFormat {
    #[serde(rename = "ess-bundle/1")]
    V1,
}

/// What the bundle contains, for a run that cannot decrypt it. The record discloses no secret.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: BundleFormat,
    server_name: String,
    /// The public keys that the bundle is encrypted to.
    recipients: BTreeSet<String>,
    /// Of the bundle. If the bundle has a different one now, it is not the one that this record describes.
    sha256: String,
    /// HMAC-SHA-256 of each file, keyed with the signing keys, so that no one without them can test guesses against it.
    files: BTreeMap<PathBuf, String>,
}

/// What happened to the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sealed {
    Written,
    /// An equal bundle exists already.
    Kept,
    /// Encrypted again: the same secrets, for other recipients or with a changed configuration.
    Renewed,
}

/// A bundle that is to be written, unless an equal one exists.
pub(crate) struct Bundle {
    export: PathBuf,
    record: Record,
    content: Vec<u8>,
    sealed: Sealed,
}

/// Reads recipients as `age -r` and `age -R` do.
pub(crate) fn recipients(given: &[String], files: &[PathBuf]) -> anyhow::Result<Vec<Recipient>> {
    let mut recipients = Vec::new();
    for text in given {
        recipients.push(recipient(text, "--recipient")?);
    }
    for path in files {
        // Wiped after use, because the file may contain secret keys by mistake.
        let text = fs::read_to_string(path)
            .map(Zeroizing::new)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let lines = text.lines().map(str::trim).enumerate();
        for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            recipients.push(recipient(line, &format!("line {} of {}", index + 1, path.display()))?);
        }
    }
    Ok(recipients)
}

/// Parses one recipient. An error does not quote the text, which may be a secret key by mistake.
fn recipient(text: &str, place: &str) -> Result<Recipient, Stop> {
    text.parse().map_err(|_| {
        let secret = text.to_ascii_uppercase().starts_with("AGE-SECRET-KEY-");
        let what = if secret { "a secret key" } else { "not an age recipient" };
        Stop::usage(format!("{place} is {what}")).hint(if secret {
            "give its public key, which age-keygen -y prints; anyone who has seen the secret key can decrypt what is \
             encrypted to it"
        } else {
            "give the public key age1... that age-keygen prints; SSH keys and plugins are not supported"
        })
    })
}

impl Bundle {
    /// Encrypts the files, unless an equal bundle exists. An error means that a bundle with different secrets exists.
    pub(crate) fn new(
        files: &[File],
        signing_key: &[u8],
        server_name: &str,
        recipients: &[Recipient],
        export: &Path,
    ) -> anyhow::Result<Self> {
        let mut record = Record {
            format: BundleFormat::V1,
            server_name: server_name.to_owned(),
            recipients: recipients.iter().map(Recipient::to_string).collect(),
            sha256: String::new(),
            files: BTreeMap::new(),
        };
        for (path, content) in files {
            let digest = keyed_digest(signing_key, path, content)?;
            record.files.insert(path.clone(), digest);
        }
        let sealed = compare(&mut record, export)?;
        let mut content = Vec::new();
        if sealed != Sealed::Kept {
            content = encrypt(files, recipients).context("cannot encrypt the bundle")?;
            record.sha256 = hex(&Sha256::digest(&content));
        }
        Ok(Self {
            export: export.to_owned(),
            record,
            content,
            sealed,
        })
    }

    /// Writes the record first: a record without its bundle means that a run was interrupted.
    pub(crate) fn write(&self) -> anyhow::Result<Sealed> {
        if self.sealed != Sealed::Kept {
            let mut record = serde_json::to_vec_pretty(&self.record).context("cannot write the bundle's record")?;
            record.push(b'\n');
            write_file(&self.export.join(RECORD), &record)?;
            write_file(&self.export.join(BUNDLE), &self.content)?;
        }
        Ok(self.sealed)
    }
}

/// Compares with the bundle of an earlier run, and refuses to replace it if the secrets differ.
fn compare(record: &mut Record, export: &Path) -> anyhow::Result<Sealed> {
    let path = export.join(BUNDLE);
    let Some(bundle) = existing(&path)? else {
        return Ok(Sealed::Written);
    };
    let refuse = |why: &str| {
        let hint = format!("to write it again, first move it away: mv {0} {0}.old", path.display());
        Err(Stop::no(format!("will not replace {}: {why}", path.display()))
            .hint(hint)
            .into())
    };
    let old = existing(&export.join(RECORD))?.and_then(|text| serde_json::from_slice::<Record>(&text).ok());
    let sha256 = hex(&Sha256::digest(&bundle));
    let Some(old) = old.filter(|old| old.sha256 == sha256) else {
        return refuse(&format!("its record {RECORD} is missing or does not match it"));
    };
    if old.server_name != record.server_name {
        return refuse(&format!("it contains the secrets of {}", old.server_name));
    }
    let different = different(&old.files, &record.files);
    if !different.is_empty() {
        return refuse(&format!(
            "it contains secrets that differ from the configuration: {}",
            different.join(", ")
        ));
    }
    record.sha256 = sha256;
    Ok(if old == *record { Sealed::Kept } else { Sealed::Renewed })
}

/// The options of the secrets that differ.
fn different<'a>(old: &'a BTreeMap<PathBuf, String>, new: &'a BTreeMap<PathBuf, String>) -> Vec<&'a str> {
    let option = |path: &'a Path| path.strip_prefix(store::DIRECTORY).ok()?.to_str();
    let mut different: Vec<&str> = old
        .keys()
        .chain(new.keys().filter(|path| !old.contains_key(*path)))
        .filter(|path| old.get(*path) != new.get(*path))
        .filter_map(|path| option(path))
        .filter(|option| *option != store::INDEX)
        .collect();
    if different.contains(&"signing_key") {
        // The digests were made with different keys, so the others cannot be compared.
        different = vec!["signing_key"];
    }
    different
}

fn keyed_digest(key: &[u8], path: &Path, content: &[u8]) -> anyhow::Result<String> {
    let mut digest = Hmac::<Sha256>::new_from_slice(key).context("cannot compute digests with the signing keys")?;
    digest.update(path.as_os_str().as_encoded_bytes());
    digest.update(b"\0");
    digest.update(content);
    Ok(hex(&digest.finalize().into_bytes()))
}

/// Encrypts a tar archive of the files. The plain text is only in the files' own buffers, which are wiped after use.
fn encrypt(files: &[File], recipients: &[Recipient]) -> anyhow::Result<Vec<u8>> {
    let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
    let mut content = Vec::new();
    let encrypting = Encryptor::with_recipients(recipients)?.wrap_output(&mut content)?;
    let mut tar = Builder::new(encrypting);
    let mut directories = BTreeSet::new();
    for (path, content) in files {
        // The mode is set here, so that files are private whatever the umask at unpacking.
        if let Some(directory) = path.parent()
            && directories.insert(directory)
        {
            tar.append_data(&mut header(EntryType::Directory, 0o700, 0), directory, &[][..])?;
        }
        let size = content.len().try_into()?;
        tar.append_data(&mut header(EntryType::Regular, 0o600, size), path, *content)?;
    }
    let mut encrypting = tar.into_inner()?;
    encrypting.flush()?;
    encrypting.finish()?;
    Ok(content)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}
