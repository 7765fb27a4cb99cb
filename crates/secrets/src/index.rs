//! `secrets/index.json`: what each file is, where its content was found and where it belongs. It contains no secret.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context as _;
use ess_synapse::Config;
use ess_synapse::secrets::{self, Macaroon, Secrets};
use serde::{Deserialize, Serialize};

use crate::carry::Sorted;
use crate::components::ComponentSecret;
use crate::fate::{self, Fate};

/// The format. It gets a new name only if a reader of the old one would misunderstand the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum IndexFormat {
    #[serde(rename = "ess-secrets/1")]
    V1,
}

/// The index. It contains no times, so that extracting the same secrets again gives an equal index.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    pub format: IndexFormat,
    pub server_name: String,
    pub secrets: Vec<Entry>,
    /// In the order of the key file: the first signs events.
    pub signing_keys: Vec<SigningKey>,
    /// The copies of the configuration files, in the order in which Synapse merges them.
    pub config: Vec<ConfigFile>,
    /// What becomes of each of Synapse's other options.
    pub options: Sorted,
    /// The files that were made for ESS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emitted: Vec<Emitted>,
    /// What the user should check.
    pub notes: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Synapse's option, dotted.
    pub option: String,
    /// Its file, next to this index; none if Synapse derives the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    pub origin: Origin,
    pub purpose: String,
    pub destination: String,
    /// What becomes of it on ESS: `kept`, `needed by ESS as ...`, `replaced by ESS`, `no longer needed`.
    pub becomes: String,
    /// What users would notice if it were lost.
    pub if_lost: String,
    /// The field of Element's older installer, with `(inferred)` if Element's documentation does not name it; or
    /// `none known`, or `none needed`.
    pub installer_field: String,
    /// Why there is no file, and what stops working without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub derived: Option<String>,
}

/// Where a value was found.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// The option that was read.
    pub option: String,
    /// The configuration file that sets it; none if Synapse's default applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// The file that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SigningKey {
    pub id: String,
    pub public_key: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    /// The copy, relative to the export.
    pub file: PathBuf,
    pub original: PathBuf,
}

/// A file for ESS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Emitted {
    /// Relative to the export.
    pub file: PathBuf,
    /// Of the file as it was written. If the file has a different one now, a user has edited it.
    pub sha256: String,
}

impl Index {
    pub(crate) fn new(
        config: &Config,
        secrets: &Secrets,
        of_components: &[ComponentSecret],
        copies: Vec<ConfigFile>,
        options: Sorted,
        notes: Vec<String>,
    ) -> Self {
        let own = secrets.secrets.iter().map(|secret| {
            let fate = fate::of(secret.id, &secret.option);
            Entry::with_file(&secret.option, &secret.origin, fate)
        });
        let others = of_components
            .iter()
            .map(|secret| Entry::with_file(&secret.option, &secret.origin, secret.fate));
        let mut entries: Vec<Entry> = own.chain(others).collect();
        if secrets.macaroon == Macaroon::DerivedFromSigningKey {
            entries.push(Entry::derived_macaroon());
        }
        let signing_keys = secrets.signing_keys.iter().map(|key| SigningKey {
            id: key.id.clone(),
            public_key: key.public_key.clone(),
        });
        Self {
            format: IndexFormat::V1,
            server_name: config.server_name().to_owned(),
            secrets: entries,
            signing_keys: signing_keys.collect(),
            config: copies,
            options,
            emitted: Vec::new(),
            notes,
        }
    }

    /// The text of the file.
    pub(crate) fn text(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).context("cannot write the index")?;
        text.push(b'\n');
        Ok(text)
    }
}

impl Entry {
    fn with_file(option: &str, origin: &secrets::Origin, fate: Fate) -> Self {
        let origin = Origin {
            option: origin.option.clone(),
            config: origin.config.clone(),
            file: origin.file.clone(),
        };
        Self {
            file: Some(option.to_owned()),
            ..Self::without_file(option, origin, fate)
        }
    }

    fn without_file(option: &str, origin: Origin, fate: Fate) -> Self {
        Self {
            option: option.to_owned(),
            file: None,
            origin,
            purpose: fate.purpose.to_owned(),
            destination: fate.destination.to_owned(),
            becomes: fate.becomes.to_string(),
            if_lost: fate.if_lost.to_owned(),
            installer_field: fate.installer.to_owned(),
            derived: None,
        }
    }

    fn derived_macaroon() -> Self {
        let origin = Origin {
            option: "signing_key".to_owned(),
            config: None,
            file: None,
        };
        Self {
            becomes: "replaced by ESS".to_owned(),
            derived: Some(
                "it is not set, and what Synapse derives from the signing key is not text and cannot be carried; \
                 with a new secret, guest accounts, single sign-on logins in progress and unsubscribe links in \
                 e-mails stop working, and all other logins stay valid"
                    .to_owned(),
            ),
            ..Self::without_file("macaroon_secret_key", origin, fate::MACAROON)
        }
    }
}

/// In words: `/etc/x.key, which form_secret_path in /etc/homeserver.yaml names`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, config, file } = self;
        match (file, config) {
            (Some(file), Some(config)) => {
                write!(f, "{}, which {option} in {} names", file.display(), config.display())
            }
            (Some(file), None) => write!(f, "{}, the default of {option}", file.display()),
            (None, Some(config)) => write!(f, "{option} in {}", config.display()),
            (None, None) => write!(f, "derived from {option}"),
        }
    }
}
