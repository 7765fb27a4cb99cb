//! Every secret of a configuration, with exactly the bytes that Synapse uses.
//!
//! Each option follows the `read_config` method of its section in `synapse/config`.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretSlice};
use zeroize::Zeroizing;

use crate::config::{Config, ConfigError, Database, python_str};
use crate::signing_key::{self, SigningKey, SigningKeyError};
use crate::text;
use crate::yaml::Value;

/// One secret.
#[derive(Debug)]
pub struct Secret {
    /// Which one it is.
    pub id: SecretId,
    /// Dotted, without `_path`: `macaroon_secret_key`, `oidc_providers.0.client_secret`.
    pub option: String,
    /// The bytes that Synapse uses, after stripping and conversion.
    pub value: SecretSlice<u8>,
    /// Where the value was found.
    pub origin: Origin,
}

/// Where a secret was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The option that was read, dotted: `macaroon_secret_key_path`.
    pub option: String,
    /// The configuration file that sets it; none if Synapse's default applies.
    pub config: Option<PathBuf>,
    /// The file that the option names, if it names one.
    pub file: Option<PathBuf>,
}

/// The secret that Synapse signs macaroons with, chosen as in `KeyConfig.read_config` (`synapse/config/key.py`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Macaroon {
    /// `macaroon_secret_key`, or the content of the file that `macaroon_secret_key_path` names.
    Own,
    /// The registration shared secret, if there is no macaroon secret.
    RegistrationSharedSecret,
    /// The SHA-256 of the first signing key's seed, if there is neither. It is not text, so it cannot be configured.
    DerivedFromSigningKey,
}

/// All secrets of a configuration.
#[derive(Debug)]
pub struct Secrets {
    /// In an order that does not depend on the files.
    pub secrets: Vec<Secret>,
    /// The public keys of `signing_key`, in the order of the file: Synapse signs events with the first.
    pub signing_keys: Vec<SigningKey>,
    /// Where the value of `macaroon_secret_key` comes from.
    pub macaroon: Macaroon,
    /// What the user should check: sentences without a full stop.
    pub notes: Vec<String>,
}

/// How an option is read.
enum Read {
    /// From the configuration itself.
    Inline,
    /// From the configuration, or from the file that this option names. Synapse strips the content of that file.
    Either(&'static str),
    /// From the file that the option names, whose complete content is the secret.
    File,
    /// By a method of [`Reader`].
    OwnMethod,
}

/// A row of the table.
struct Row {
    id: SecretId,
    /// Dotted, without list indices.
    option: &'static str,
    read: Read,
    /// Synapse reads the option only if this one is true.
    needs: Option<&'static str>,
}

/// Declares [`SecretId`] and the table: for each secret its id, its option, how it is read, and after `if` the option
/// that must be true for Synapse to read it.
macro_rules! secrets {
    (@needs) => { None };
    (@needs $needs:literal) => { Some($needs) };
    ($($id:ident $option:literal $read:ident $(($path:literal))? $(if $needs:literal)?;)*) => {
        /// Which secret of a configuration it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum SecretId {
            $(#[doc = concat!("`", $option, "`")] $id,)*
            /// A private key in a file that is named by an option which is not in the table.
            PrivateKey,
        }

        const TABLE: &[Row] = &[
            $(Row {
                id: SecretId::$id,
                option: $option,
                read: Read::$read $(($path))?,
                needs: secrets!(@needs $($needs)?),
            },)*
        ];
    };
}

// In the order of the output. What becomes of each on ESS is in `fate.rs` of the crate `secrets`.
secrets! {
    SigningKey "signing_key" OwnMethod;
    MacaroonSecretKey "macaroon_secret_key" OwnMethod;
    RegistrationSharedSecret "registration_shared_secret" OwnMethod;
    PasswordPepper "password_config.pepper" Inline;
    FormSecret "form_secret" Either("form_secret_path");
    WorkerReplicationSecret "worker_replication_secret" Either("worker_replication_secret_path");
    TurnSharedSecret "turn_shared_secret" Either("turn_shared_secret_path");
    TurnUsername "turn_username" Inline;
    TurnPassword "turn_password" Inline;
    RecaptchaPublicKey "recaptcha_public_key" Either("recaptcha_public_key_path");
    RecaptchaPrivateKey "recaptcha_private_key" Either("recaptcha_private_key_path");
    SmtpUser "email.smtp_user" Inline;
    SmtpPassword "email.smtp_pass" Inline;
    RedisPassword "redis.password" Either("redis.password_path") if "redis.enabled";
    MasSecret "matrix_authentication_service.secret" Either("matrix_authentication_service.secret_path") if "matrix_authentication_service.enabled";
    Msc3861ClientSecret "experimental_features.msc3861.client_secret" Either("experimental_features.msc3861.client_secret_path");
    Msc3861AdminToken "experimental_features.msc3861.admin_token" Either("experimental_features.msc3861.admin_token_path");
    JwtSecret "jwt_config.secret" Inline if "jwt_config.enabled";
    SamlKeyPassphrase "saml2_config.sp_config.key_file_passphrase" Inline;
    DatabaseKeyPassphrase "database.args.sslpassword" Inline;
    ManholePassword "manhole_settings.password" Inline;
    SentryDsn "sentry.dsn" Inline;
    KeyServerSigningKeys "key_server_signing_keys_path" File;
    SamlKey "saml2_config.sp_config.key_file" File;
    RedisKey "redis.private_key_file" File if "redis.use_tls";
    ManholeHostKey "manhole_settings.ssh_priv_key_path" File;
    ListenerKey "tls_private_key_path" OwnMethod;
    OidcClientSecret "oidc_providers.client_secret" OwnMethod;
    OidcClientSecretKey "oidc_providers.client_secret_jwt_key.key" OwnMethod;
    AppServiceRegistration "app_service_config_files" OwnMethod;
    SamlEncryptionKey "saml2_config.sp_config.encryption_keypairs.key_file" OwnMethod;
    ObjectStorage "media_storage_providers.config" OwnMethod;
    DatabasePassword "database.args.password" OwnMethod;
}

/// Options whose value Synapse accepts as another type too and converts to a string.
const STRINGIFIED: &[&str] = &["turn_username", "turn_password", "redis.password"];

/// Options of `s3_storage_provider` that are secrets.
const STORAGE_SECRETS: &[&str] = &[
    "access_key_id",
    "secret_access_key",
    "session_token",
    "sse_customer_key",
];

/// A value and where it was found.
struct FoundValue {
    value: Zeroizing<Vec<u8>>,
    origin: Origin,
}

impl Secrets {
    /// Reads all secrets, or returns the first error, such as a file that an option names and that cannot be read.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let (secrets, errors) = Self::look(config);
        errors.into_iter().next().map_or(Ok(secrets), Err)
    }

    /// Reads the secrets that can be read, and returns every error, so that the user can correct all of them at once.
    pub fn look(config: &Config) -> (Self, Vec<ConfigError>) {
        let mut reader = Reader {
            config,
            secrets: Vec::new(),
            notes: Vec::new(),
            errors: Vec::new(),
        };
        let signing_keys = reader.signing_key();
        let signing_keys = reader.value_of(signing_keys.map(Some)).unwrap_or_default();
        let macaroon = reader.macaroon_and_registration();
        for row in TABLE {
            reader.row(row);
        }
        reader.listener_key();
        reader.oidc();
        reader.lists();
        reader.database();
        reader.private_keys();
        reader.note_what_is_free_form();
        let Reader {
            secrets, notes, errors, ..
        } = reader;
        let found = Self {
            secrets,
            signing_keys,
            macaroon,
            notes,
        };
        (found, errors)
    }
}

struct Reader<'a> {
    config: &'a Config,
    secrets: Vec<Secret>,
    notes: Vec<String>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// The value of a success; an error is added to `errors`.
    fn value_of<T>(&mut self, outcome: Result<Option<T>, ConfigError>) -> Option<T> {
        outcome.map_err(|error| self.errors.push(error)).ok().flatten()
    }

    /// Reads and adds the secret of a row that has no method of its own.
    fn row(&mut self, row: &Row) {
        if row.needs.is_some_and(|needs| self.config.set(needs).is_none()) {
            return;
        }
        let found = match row.read {
            Read::Inline => self.inline(row.option),
            Read::Either(path) => self.either(row.option, path),
            Read::File => self.complete_file(row.option),
            Read::OwnMethod => return,
        };
        self.add(row.id, row.option, found);
    }

    /// Adds a secret. An empty value counts as not set, as most options do in Synapse.
    fn add(&mut self, id: SecretId, option: &str, found: Result<Option<FoundValue>, ConfigError>) {
        let found = self.value_of(found);
        if let Some(FoundValue { value, origin }) = found.filter(|found| !found.value.is_empty()) {
            let value = SecretSlice::from(value.to_vec());
            self.secrets.push(Secret {
                id,
                option: option.into(),
                value,
                origin,
            });
        }
    }

    fn origin(&self, option: &str, file: Option<&Path>) -> Origin {
        Origin {
            option: option.into(),
            config: self.config.file_of(option).map(Path::to_owned),
            file: file.map(Path::to_owned),
        }
    }

    /// The value in the configuration itself.
    fn inline(&self, option: &str) -> Result<Option<FoundValue>, ConfigError> {
        let Some(value) = self.config.set(option) else {
            return Ok(None);
        };
        let text = match value {
            Value::Scalar(scalar) if STRINGIFIED.contains(&option) => python_str(scalar),
            _ => value.as_str().map(str::to_owned),
        };
        let text = text.ok_or_else(|| self.config.not_a("a string", option, value))?;
        Ok(Some(FoundValue {
            value: text.into_bytes().into(),
            origin: self.origin(option, None),
        }))
    }

    /// The value in the configuration, or the stripped content of the file that `path_option` names.
    fn either(&self, option: &str, path_option: &str) -> Result<Option<FoundValue>, ConfigError> {
        match (self.config.set(option), self.config.set(path_option)) {
            (_, None) => self.inline(option),
            (Some(_), Some(_)) => {
                let message = format!("`{path_option}` is set too, and Synapse accepts only one of them");
                Err(self.config.wrong(option, &message))
            }
            (None, Some(path)) => self.file(path_option, path, text::strip).map(Some),
        }
    }

    /// The part of a text file that `part` returns.
    fn file(&self, option: &str, path: &Value, part: impl Fn(&str) -> &str) -> Result<FoundValue, ConfigError> {
        let path = self.path(option, path)?;
        let text = text::read(&path).map_err(|source| cannot_read(option, &path, source))?;
        let value = part(&text).as_bytes().to_vec();
        Ok(FoundValue {
            value: value.into(),
            origin: self.origin(option, Some(&path)),
        })
    }

    /// The content of a file, byte for byte.
    fn complete_file(&self, option: &str) -> Result<Option<FoundValue>, ConfigError> {
        let Some(path) = self.config.set(option) else {
            return Ok(None);
        };
        let path = self.path(option, path)?;
        let value =
            ess_files::read(&path, ess_files::CONFIGURATION).map_err(|source| cannot_read(option, &path, source))?;
        Ok(Some(FoundValue {
            value,
            origin: self.origin(option, Some(&path)),
        }))
    }

    fn path(&self, option: &str, path: &Value) -> Result<PathBuf, ConfigError> {
        let path = path
            .as_str()
            .ok_or_else(|| self.config.not_a("a string", option, path))?;
        Ok(self.config.resolve_path(path))
    }

    /// `signing_key` wins over `signing_key_path`, even if it is null: `KeyConfig.read_config` only tests whether it is
    /// present.
    fn signing_key(&mut self) -> Result<Vec<SigningKey>, ConfigError> {
        if let Some(value) = self.config.get("signing_key") {
            let text = value
                .as_str()
                .ok_or_else(|| self.config.not_a("a string", "signing_key", value))?;
            let key = signing_key::parse_line(text, 1).map_err(|source| ConfigError::SigningKey {
                option: "signing_key".into(),
                path: None,
                source,
            })?;
            let mut line: Zeroizing<String> = text.split_whitespace().collect::<Vec<_>>().join(" ").into();
            line.push('\n');
            let found = FoundValue {
                value: line.as_bytes().to_vec().into(),
                origin: self.origin("signing_key", None),
            };
            self.add(SecretId::SigningKey, "signing_key", Ok(Some(found)));
            return Ok(vec![key]);
        }
        let option = "signing_key_path";
        let path = self.config.signing_key_path()?;
        let value = ess_files::read(&path, ess_files::SECRET).map_err(|source| cannot_read(option, &path, source))?;
        let keys = std::str::from_utf8(&value)
            .map_err(|_| SigningKeyError::NotText)
            .and_then(|text| signing_key::parse(&text::newlines(text)))
            .map_err(|source| ConfigError::SigningKey {
                option: option.into(),
                path: Some(path.clone()),
                source,
            })?;
        let found = FoundValue {
            value,
            origin: self.origin(option, Some(&path)),
        };
        self.add(SecretId::SigningKey, "signing_key", Ok(Some(found)));
        Ok(keys)
    }

    fn macaroon_and_registration(&mut self) -> Macaroon {
        let registration = self.registration();
        let registration = self.value_of(registration);
        let own = self.either("macaroon_secret_key", "macaroon_secret_key_path");
        let own = self.value_of(own);
        let (macaroon, found) = match (own, &registration) {
            (Some(own), _) if !own.value.is_empty() => (Macaroon::Own, Some(own)),
            (_, Some(found)) if !found.value.is_empty() => {
                let same = FoundValue {
                    value: found.value.clone(),
                    origin: found.origin.clone(),
                };
                (Macaroon::RegistrationSharedSecret, Some(same))
            }
            _ => (Macaroon::DerivedFromSigningKey, None),
        };
        self.add(SecretId::MacaroonSecretKey, "macaroon_secret_key", Ok(found));
        self.add(
            SecretId::RegistrationSharedSecret,
            "registration_shared_secret",
            Ok(registration),
        );
        macaroon
    }

    /// A missing file is not an error: nothing is lost, because Synapse creates it at the next start
    /// (`RegistrationConfig.generate_files`, `synapse/config/registration.py`).
    fn registration(&mut self) -> Result<Option<FoundValue>, ConfigError> {
        match self.either("registration_shared_secret", "registration_shared_secret_path") {
            Err(ConfigError::File { option, path, source }) if source.kind() == io::ErrorKind::NotFound => {
                self.notes.push(format!(
                    "{}, which `{option}` names, does not exist; Synapse would create it with a new secret",
                    path.display()
                ));
                Ok(None)
            }
            other => other,
        }
    }

    /// The key of Synapse's own listeners, if one of them uses TLS.
    fn listener_key(&mut self) {
        if self.config.has_tls_listener() {
            let option = "tls_private_key_path";
            let found = self.complete_file(option);
            self.add(SecretId::ListenerKey, option, found);
        }
    }

    fn oidc(&mut self) {
        let providers = self
            .config
            .get("oidc_providers")
            .and_then(Value::as_list)
            .unwrap_or_default();
        let mut names: Vec<String> = (0..providers.len())
            .map(|index| format!("oidc_providers.{index}"))
            .collect();
        if self.config.set("oidc_config.enabled").is_some() {
            names.push("oidc_config".into());
        }
        for name in names {
            self.provider(&name);
        }
    }

    fn provider(&mut self, name: &str) {
        let is_set = |option: &str| self.config.get(option).filter(|value| !value.is_null());
        let (secret, path) = (format!("{name}.client_secret"), format!("{name}.client_secret_path"));
        // Unlike the other options, an empty string counts as set here, and only newlines at the end are removed
        // (`_parse_oidc_config_dict` in synapse/config/oidc.py).
        let found = match (is_set(&secret), is_set(&path)) {
            (_, None) => self.inline(&secret),
            (None, Some(value)) => self.file(&path, value, |text| text.trim_end_matches('\n')).map(Some),
            (Some(_), Some(_)) => {
                let message = format!("`{path}` is set too, and Synapse accepts only one of them");
                Err(self.config.wrong(&secret, &message))
            }
        };
        self.add(SecretId::OidcClientSecret, &secret, found);

        let (key, path) = (
            format!("{name}.client_secret_jwt_key.key"),
            format!("{name}.client_secret_jwt_key.key_file"),
        );
        let found = match self.config.set(&path) {
            Some(value) => self.file(&path, value, |text| text).map(Some),
            None => self.inline(&key),
        };
        self.add(SecretId::OidcClientSecretKey, &key, found);
    }

    fn lists(&mut self) {
        let count = |option| {
            self.config
                .get(option)
                .and_then(Value::as_list)
                .map_or(0, <[Value]>::len)
        };
        for index in 0..count("app_service_config_files") {
            let option = format!("app_service_config_files.{index}");
            let found = self.complete_file(&option);
            self.add(SecretId::AppServiceRegistration, &option, found);
        }
        for index in 0..count("saml2_config.sp_config.encryption_keypairs") {
            let option = format!("saml2_config.sp_config.encryption_keypairs.{index}.key_file");
            let found = self.complete_file(&option);
            self.add(SecretId::SamlEncryptionKey, &option, found);
        }
        for index in 0..count("media_storage_providers") {
            for key in STORAGE_SECRETS {
                let option = format!("media_storage_providers.{index}.config.{key}");
                let found = self.inline(&option);
                self.add(SecretId::ObjectStorage, &option, found);
            }
        }
    }

    fn database(&mut self) {
        let database = self.config.database();
        let Some(Database::Postgres {
            password: Some(password),
            ..
        }) = self.value_of(database.map(Some))
        else {
            return;
        };
        let option = "database.args.password";
        let found = FoundValue {
            value: password.expose_secret().as_bytes().to_vec().into(),
            origin: self.origin(
                if self.config.set("database").is_some() {
                    option
                } else {
                    "databases"
                },
                None,
            ),
        };
        self.add(SecretId::DatabasePassword, option, Ok(Some(found)));
    }

    /// Private keys in files named by options that are in no list here: `database.args.sslkey`, a module's DKIM key.
    fn private_keys(&mut self) {
        for (name, value) in self.config.options() {
            self.private_keys_below(name, value);
        }
    }

    fn private_keys_below(&mut self, option: &str, value: &Value) {
        match value {
            Value::List(list) => {
                for (index, value) in list.iter().enumerate() {
                    self.private_keys_below(&format!("{option}.{index}"), value);
                }
            }
            Value::Map(map) => {
                for (name, value) in map.iter() {
                    self.private_keys_below(&format!("{option}.{}", &*name.text), value);
                }
            }
            Value::Scalar(_) => {
                let known = |secret: &Secret| secret.option == option || secret.origin.option == option;
                let Some(path) = value.as_str().filter(|_| !self.secrets.iter().any(known)) else {
                    return;
                };
                self.private_key(option, &self.config.resolve_path(path));
            }
        }
    }

    fn private_key(&mut self, option: &str, path: &Path) {
        let place = path.display();
        let key = match read_private_key(path) {
            Ok(Some(key)) => key,
            Ok(None) => return,
            Err(error) => {
                self.notes.push(format!(
                    "cannot check whether `{option}` names a private key: cannot read {place}: {error}"
                ));
                return;
            }
        };
        if !can_name_a_file(option) {
            self.notes.push(format!(
                "{place} is a private key but is not extracted, because the option's name is too long or has special \
                 characters: {}",
                option.escape_debug()
            ));
            return;
        }
        self.notes.push(format!(
            "`{option}` names a private key, which is extracted; the purpose of the option is unknown to these tools"
        ));
        let found = FoundValue {
            value: key,
            origin: self.origin(option, Some(path)),
        };
        self.add(SecretId::PrivateKey, option, Ok(Some(found)));
    }

    fn note_what_is_free_form(&mut self) {
        for option in ["modules", "password_providers", "saml2_config.config_path"] {
            if self.config.set(option).is_some() {
                self.notes
                    .push(format!("`{option}` may contain further secrets; check it by hand"));
            }
        }
        if self.config.set("old_signing_keys").is_some() {
            self.notes
                .push("`old_signing_keys` is public and goes to synapse.additional unchanged".into());
        }
    }
}

/// The content of a file that contains a private key in PEM; `None` if it contains none, is too large for one, or does
/// not exist.
pub fn read_private_key(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Most of the values that are tried are not paths at all.
    let is_one = std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= ess_files::SECRET);
    if !is_one {
        return Ok(None);
    }
    let content = ess_files::read(path, ess_files::SECRET)?;
    let is_key = content.windows(11).any(|text| text == b"PRIVATE KEY");
    Ok(is_key.then_some(content))
}

/// Whether an option's name can be the name of its file in an export. A configuration may contain any name.
pub fn can_name_a_file(option: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-.:".contains(character);
    option.len() <= 200 && option.starts_with(|first: char| first.is_ascii_alphanumeric()) && option.chars().all(plain)
}

fn cannot_read(option: &str, path: &Path, source: io::Error) -> ConfigError {
    ConfigError::File {
        option: option.into(),
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
