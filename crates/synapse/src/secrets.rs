//! Every secret of a configuration, with exactly the bytes that Synapse uses.
//!
//! Each option follows the `read_config` method of its section in `synapse/config`.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretSlice};
use zeroize::Zeroizing;

use crate::config::{Config, ConfigError, Database, python_str};
use crate::ess::OWNED;
use crate::signing_key::{self, SigningKey, SigningKeyError};
use crate::text;
use crate::yaml::Value;

/// One secret.
#[derive(Debug)]
pub struct Secret {
    /// Dotted, without `_path`: `macaroon_secret_key`, `oidc_providers.0.client_secret`.
    pub option: String,
    /// The bytes that Synapse uses, after stripping and conversion.
    pub value: SecretSlice<u8>,
    /// Where the value was found.
    pub origin: Origin,
    /// What Synapse uses it for.
    pub purpose: &'static str,
    /// Where it belongs in Element Server Suite.
    pub destination: &'static str,
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

/// An option that contains a secret.
struct Spec {
    option: &'static str,
    /// The option that names a file with the secret instead. Synapse strips the content of that file.
    path: Option<&'static str>,
    /// Synapse reads the option only if this one is true.
    needs: Option<&'static str>,
    purpose: &'static str,
    destination: &'static str,
}

const fn inline(option: &'static str, purpose: &'static str, destination: &'static str) -> Spec {
    Spec {
        option,
        path: None,
        needs: None,
        purpose,
        destination,
    }
}

const fn either(option: &'static str, path: &'static str, purpose: &'static str, destination: &'static str) -> Spec {
    Spec {
        option,
        path: Some(path),
        needs: None,
        purpose,
        destination,
    }
}

const ADDITIONAL: &str = "synapse.additional";
const MAS_OR_ADDITIONAL: &str = "synapse.additional, or an upstream provider of Matrix Authentication Service";
const OF_MAS: &str = "matrixAuthenticationService.synapseSharedSecret";
const NOT_NEEDED: &str = "not needed";
const A_VOLUME: &str = "an extra volume of Synapse";

const SPECS: &[Spec] = &[
    inline(
        "password_config.pepper",
        "mixed into every password hash; without it, no password is accepted",
        "synapse.additional, or a password scheme's secret of Matrix Authentication Service",
    ),
    either(
        "form_secret",
        "form_secret_path",
        "authenticates the forms that are sent to users",
        ADDITIONAL,
    ),
    either(
        "worker_replication_secret",
        "worker_replication_secret_path",
        "authenticates workers to each other",
        NOT_NEEDED,
    ),
    either(
        "turn_shared_secret",
        "turn_shared_secret_path",
        "credentials for the TURN server",
        ADDITIONAL,
    ),
    inline("turn_username", "user of the TURN server", ADDITIONAL),
    inline("turn_password", "password of the TURN server", ADDITIONAL),
    either(
        "recaptcha_public_key",
        "recaptcha_public_key_path",
        "captcha at registration",
        ADDITIONAL,
    ),
    either(
        "recaptcha_private_key",
        "recaptcha_private_key_path",
        "captcha at registration",
        ADDITIONAL,
    ),
    inline("email.smtp_user", "user of the mail server", ADDITIONAL),
    inline("email.smtp_pass", "password of the mail server", ADDITIONAL),
    Spec {
        option: "redis.password",
        path: Some("redis.password_path"),
        needs: Some("redis.enabled"),
        purpose: "password of Redis",
        destination: "not needed, or synapse.redis.password",
    },
    Spec {
        option: "matrix_authentication_service.secret",
        path: Some("matrix_authentication_service.secret_path"),
        needs: Some("matrix_authentication_service.enabled"),
        purpose: "authenticates Synapse and Matrix Authentication Service to each other",
        destination: OF_MAS,
    },
    either(
        "experimental_features.msc3861.client_secret",
        "experimental_features.msc3861.client_secret_path",
        "authenticates Synapse to Matrix Authentication Service",
        NOT_NEEDED,
    ),
    either(
        "experimental_features.msc3861.admin_token",
        "experimental_features.msc3861.admin_token_path",
        "lets Matrix Authentication Service administer Synapse",
        OF_MAS,
    ),
    Spec {
        option: "jwt_config.secret",
        path: None,
        needs: Some("jwt_config.enabled"),
        purpose: "verifies JSON Web Tokens at login",
        destination: ADDITIONAL,
    },
    inline(
        "saml2_config.sp_config.key_file_passphrase",
        "passphrase of the SAML key",
        ADDITIONAL,
    ),
    inline(
        "database.args.sslpassword",
        "passphrase of the client key for the old database",
        NOT_NEEDED,
    ),
    inline("manhole_settings.password", "password of the manhole", NOT_NEEDED),
    inline("sentry.dsn", "reports errors to Sentry", ADDITIONAL),
];

/// Options whose value Synapse accepts as another type too and converts to a string.
const STRINGIFIED: &[&str] = &["turn_username", "turn_password", "redis.password"];

/// Options that name a file whose complete content is a secret, each with the option that must be true for Synapse to
/// read it, the purpose and the destination.
const FILES: &[(&str, Option<&str>, &str, &str)] = &[
    (
        "key_server_signing_keys_path",
        None,
        "signs this server's answers about the keys of other servers",
        ADDITIONAL,
    ),
    ("saml2_config.sp_config.key_file", None, "signs SAML requests", A_VOLUME),
    (
        "redis.private_key_file",
        Some("redis.use_tls"),
        "authenticates to Redis",
        NOT_NEEDED,
    ),
    (
        "manhole_settings.ssh_priv_key_path",
        None,
        "host key of the manhole",
        NOT_NEEDED,
    ),
];

/// Options of `s3_storage_provider` that are secrets.
const STORAGE_SECRETS: &[&str] = &[
    "access_key_id",
    "secret_access_key",
    "session_token",
    "sse_customer_key",
];

/// Further options that are secrets and have a method of their own in [`Reader`], without list indices.
const OWN_METHOD: &[&str] = &[
    "signing_key",
    "macaroon_secret_key",
    "registration_shared_secret",
    "tls_private_key_path",
    "oidc_providers.client_secret",
    "oidc_providers.client_secret_jwt_key.key",
    "oidc_config.client_secret",
    "oidc_config.client_secret_jwt_key.key",
    "app_service_config_files",
    "saml2_config.sp_config.encryption_keypairs.key_file",
    "database.args.password",
];

/// Every option that is read as a secret, without list indices; not those of modules, which can have any name.
pub fn options() -> impl Iterator<Item = String> {
    let specs = SPECS.iter().map(|spec| spec.option.to_owned());
    let files = FILES.iter().map(|(option, ..)| (*option).to_owned());
    let storage = STORAGE_SECRETS
        .iter()
        .map(|key| format!("media_storage_providers.config.{key}"));
    let own = OWN_METHOD.iter().map(|option| (*option).to_owned());
    specs.chain(files).chain(storage).chain(own)
}

/// A value and where it was found.
struct Found {
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
        let signing_keys = reader.kept(signing_keys.map(Some)).unwrap_or_default();
        let macaroon = reader.macaroon_and_registration();
        for spec in SPECS {
            if spec.needs.is_some_and(|needs| config.set(needs).is_none()) {
                continue;
            }
            let found = match spec.path {
                Some(path) => reader.either(spec.option, path),
                None => reader.inline(spec.option),
            };
            reader.add(spec.option, found, spec.purpose, spec.destination);
        }
        for (option, needs, purpose, destination) in FILES {
            if needs.is_none_or(|needs| config.set(needs).is_some()) {
                reader.add(option, reader.whole_file(option), purpose, destination);
            }
        }
        if config.has_tls_listener() {
            let option = "tls_private_key_path";
            let found = reader.whole_file(option);
            reader.add(option, found, "TLS of Synapse's own listeners", NOT_NEEDED);
        }
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
    fn kept<T>(&mut self, outcome: Result<Option<T>, ConfigError>) -> Option<T> {
        outcome.map_err(|error| self.errors.push(error)).ok().flatten()
    }

    /// Adds a secret. An empty value counts as not set, as most options do in Synapse.
    fn add(
        &mut self,
        option: &str,
        found: Result<Option<Found>, ConfigError>,
        purpose: &'static str,
        destination: &'static str,
    ) {
        let found = self.kept(found);
        if let Some(Found { value, origin }) = found.filter(|found| !found.value.is_empty()) {
            let value = SecretSlice::from(value.to_vec());
            self.secrets.push(Secret {
                option: option.into(),
                value,
                origin,
                purpose,
                destination,
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
    fn inline(&self, option: &str) -> Result<Option<Found>, ConfigError> {
        let Some(value) = self.config.set(option) else {
            return Ok(None);
        };
        let text = match value {
            Value::Scalar(scalar) if STRINGIFIED.contains(&option) => python_str(scalar),
            _ => value.as_str().map(str::to_owned),
        };
        let text = text.ok_or_else(|| self.config.not_a("a string", option, value))?;
        Ok(Some(Found {
            value: text.into_bytes().into(),
            origin: self.origin(option, None),
        }))
    }

    /// The value in the configuration, or the stripped content of the file that `path_option` names.
    fn either(&self, option: &str, path_option: &str) -> Result<Option<Found>, ConfigError> {
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
    fn file(&self, option: &str, path: &Value, part: impl Fn(&str) -> &str) -> Result<Found, ConfigError> {
        let path = self.path(option, path)?;
        let text = text::read(&path).map_err(|source| cannot_read(option, &path, source))?;
        let value = part(&text).as_bytes().to_vec();
        Ok(Found {
            value: value.into(),
            origin: self.origin(option, Some(&path)),
        })
    }

    /// The content of a file, byte for byte.
    fn whole_file(&self, option: &str) -> Result<Option<Found>, ConfigError> {
        let Some(path) = self.config.set(option) else {
            return Ok(None);
        };
        let path = self.path(option, path)?;
        let value =
            ess_files::read(&path, ess_files::CONFIGURATION).map_err(|source| cannot_read(option, &path, source))?;
        Ok(Some(Found {
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
        const PURPOSE: &str = "this server's identity: signs its events and requests";
        const DESTINATION: &str = "synapse.signingKey";
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
            let found = Found {
                value: line.as_bytes().to_vec().into(),
                origin: self.origin("signing_key", None),
            };
            self.add("signing_key", Ok(Some(found)), PURPOSE, DESTINATION);
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
        let found = Found {
            value,
            origin: self.origin(option, Some(&path)),
        };
        self.add("signing_key", Ok(Some(found)), PURPOSE, DESTINATION);
        Ok(keys)
    }

    fn macaroon_and_registration(&mut self) -> Macaroon {
        let registration = self.registration();
        let registration = self.kept(registration);
        let own = self.either("macaroon_secret_key", "macaroon_secret_key_path");
        let own = self.kept(own);
        let (macaroon, found) = match (own, &registration) {
            (Some(own), _) if !own.value.is_empty() => (Macaroon::Own, Some(own)),
            (_, Some(found)) if !found.value.is_empty() => {
                let same = Found {
                    value: found.value.clone(),
                    origin: found.origin.clone(),
                };
                (Macaroon::RegistrationSharedSecret, Some(same))
            }
            _ => (Macaroon::DerivedFromSigningKey, None),
        };
        self.add(
            "macaroon_secret_key",
            Ok(found),
            "signs short-lived tokens",
            "synapse.macaroon",
        );
        self.add(
            "registration_shared_secret",
            Ok(registration),
            "registers users even if registration is closed",
            "synapse.registrationSharedSecret",
        );
        macaroon
    }

    /// A missing file is not an error: nothing is lost, because Synapse creates it at the next start
    /// (`RegistrationConfig.generate_files`, `synapse/config/registration.py`).
    fn registration(&mut self) -> Result<Option<Found>, ConfigError> {
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
        self.add(
            &secret,
            found,
            "authenticates Synapse to the identity provider",
            MAS_OR_ADDITIONAL,
        );

        let (key, path) = (
            format!("{name}.client_secret_jwt_key.key"),
            format!("{name}.client_secret_jwt_key.key_file"),
        );
        let found = match self.config.set(&path) {
            Some(value) => self.file(&path, value, |text| text).map(Some),
            None => self.inline(&key),
        };
        self.add(
            &key,
            found,
            "signs the client secret for the identity provider",
            MAS_OR_ADDITIONAL,
        );
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
            let found = self.whole_file(&option);
            self.add(
                &option,
                found,
                "registration of an application service, with its tokens",
                "synapse.appservices",
            );
        }
        for index in 0..count("saml2_config.sp_config.encryption_keypairs") {
            let option = format!("saml2_config.sp_config.encryption_keypairs.{index}.key_file");
            let found = self.whole_file(&option);
            self.add(&option, found, "decrypts SAML messages", A_VOLUME);
        }
        for index in 0..count("media_storage_providers") {
            for key in STORAGE_SECRETS {
                let option = format!("media_storage_providers.{index}.config.{key}");
                let found = self.inline(&option);
                self.add(&option, found, "access to media in object storage", ADDITIONAL);
            }
        }
    }

    fn database(&mut self) {
        let database = self.config.database();
        let Some(Database::Postgres {
            password: Some(password),
            ..
        }) = self.kept(database.map(Some))
        else {
            return;
        };
        let option = "database.args.password";
        let found = Found {
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
        self.add(option, Ok(Some(found)), "password of the old database", NOT_NEEDED);
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
        let section = option.split('.').next().unwrap_or_default();
        let left_behind = section.starts_with("tls_") || OWNED.iter().any(|(owned, _)| *owned == section);
        let destination = if left_behind { NOT_NEEDED } else { A_VOLUME };
        self.notes.push(format!(
            "`{option}` names a private key, which is extracted; the purpose of the option is unknown to these tools"
        ));
        let found = Found {
            value: key,
            origin: self.origin(option, Some(path)),
        };
        self.add(option, Ok(Some(found)), "a private key", destination);
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
#[path = "secrets_tests.rs"]
mod tests;
