//! The secrets of the other components: Matrix Authentication Service (MAS) and Hookshot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_cli::{Exit, Stop};
use ess_synapse::secrets::{Origin, can_name_a_file, read_private_key};
use ess_synapse::yaml::{self, Value};
use secrecy::{ExposeSecret as _, SecretSlice};
use zeroize::Zeroizing;

use crate::fate::{self, Becomes, Fate};
use crate::suspect;
use crate::yaml::Node;

/// Options of MAS that name files or directories of its old image or host.
const OF_THE_OLD_PLACE: &[&str] = &[
    "policy.wasm_module",
    "templates.assets_manifest",
    "templates.path",
    "templates.translations_path",
];

/// One secret of another component.
pub(crate) struct ComponentSecret {
    /// Dotted, after the name of the component: `mas.secrets.encryption`.
    pub(crate) option: String,
    pub(crate) value: SecretSlice<u8>,
    pub(crate) origin: Origin,
    pub(crate) fate: Fate,
}

/// What was read from the configurations of the other components.
#[derive(Default)]
pub(crate) struct OtherComponents {
    pub(crate) secrets: Vec<ComponentSecret>,
    pub(crate) mas: Option<Mas>,
    /// Configuration files whose copies are kept next to Synapse's, under names that Synapse ignores in a directory.
    pub(crate) files: Vec<(&'static str, PathBuf)>,
    pub(crate) notes: Vec<String>,
}

/// What the values for ESS need from MAS.
pub(crate) struct Mas {
    pub(crate) host: Option<String>,
    /// Fields of `privateKeys`, each with the option that contains the key.
    pub(crate) keys: Vec<(&'static str, String)>,
    /// The sections that the chart does not write, with secrets from files put in the place of the files' names.
    pub(crate) config: Option<Node>,
}

/// The configuration file of a component.
struct File<'a> {
    path: &'a Path,
    value: Value,
    /// The prefix of its options in the export.
    prefix: &'static str,
    path_map: &'a [(PathBuf, PathBuf)],
}

impl OtherComponents {
    pub(crate) fn read(
        mas: Option<&Path>,
        hookshot: Option<&Path>,
        path_map: &[(PathBuf, PathBuf)],
    ) -> anyhow::Result<Self> {
        let mut components = Self::default();
        if let Some(path) = mas {
            components.read_mas(&File::open(path, "mas", path_map)?)?;
        }
        if let Some(path) = hookshot {
            components.read_hookshot(&File::open(path, "hookshot", path_map)?)?;
        }
        Ok(components)
    }

    pub(crate) fn find(&self, option: &str) -> Option<&ComponentSecret> {
        self.secrets.iter().find(|secret| secret.option == option)
    }

    fn read_hookshot(&mut self, file: &File) -> anyhow::Result<()> {
        self.files.push(("hookshot.yml", file.path.to_owned()));
        let name = file.text("passFile").unwrap_or("passkey.pem");
        let path = file.resolve(name);
        let key = read(&path, "passFile")?;
        let option = "passFile";
        self.add(file, option, option, Some(path), &key, fate::HOOKSHOT_PASSKEY);
        self.rest_of_hookshot(file)
    }

    /// The secrets of the services that Hookshot connects to, and their key files.
    fn rest_of_hookshot(&mut self, file: &File) -> anyhow::Result<()> {
        let mut found = Vec::new();
        suspect::walk(&Node::of(&file.value), "", &mut |path, text| {
            found.push((path.to_owned(), Zeroizing::new(text.to_owned())));
        });
        for (option, text) in found {
            if option == "passFile" {
                continue;
            }
            let path = file.resolve(&text);
            let key = read_private_key(&path).with_context(|| format!("cannot read {}", path.display()))?;
            if let Some(key) = key.filter(|_| self.may_name_a_file(file, &option)) {
                self.add(file, &option, &option, Some(path), &key, fate::HOOKSHOT_PRIVATE_KEY);
            } else if suspect::is_secret(&option, &text) && self.may_name_a_file(file, &option) {
                let found = self.either(file, &option, fate::HOOKSHOT_SECRET)?;
                self.note_unless(found, file, &option);
            }
        }
        Ok(())
    }

    /// Whether an option can be the name of a file in the export; adds a note if not.
    fn may_name_a_file(&mut self, file: &File, option: &str) -> bool {
        let may = can_name_a_file(option);
        self.note_unless(may, file, option);
        may
    }

    /// Adds a note on an option that was not extracted. A name that contains a dot, for example, cannot be found by its
    /// dotted path.
    fn note_unless(&mut self, extracted: bool, file: &File, option: &str) {
        if !extracted {
            self.notes.push(format!(
                "an option in {} looks like a secret but is not extracted, because its name is too long or has special \
                 characters: {}",
                file.path.display(),
                option.escape_debug()
            ));
        }
    }

    fn read_mas(&mut self, file: &File) -> anyhow::Result<()> {
        self.files.push(("mas.yml", file.path.to_owned()));
        self.either(file, "secrets.encryption", fate::MAS_ENCRYPTION)?;
        self.either(file, "matrix.secret", fate::MAS_SHARED_SECRET)?;
        for option in ["database.uri", "database.password"] {
            self.either(file, option, fate::MAS_DATABASE)?;
        }
        let mut keys = Vec::new();
        for index in 0..file.count("secrets.keys") {
            let option = format!("secrets.keys.{index}.key");
            let locked = ["password", "password_file"].map(|name| format!("secrets.keys.{index}.{name}"));
            if self.either(file, &option, fate::MAS_SIGNING_KEY)? {
                keys.push(format!("mas.{option}"));
            }
            if locked.iter().any(|option| file.get(option).is_some()) {
                self.either(file, &locked[0], fate::MAS_SIGNING_KEY_PASSPHRASE)?;
                self.notes.push(format!(
                    "`mas.{option}` is encrypted with a password, for which ESS has no field: decrypt it with openssl \
                     pkey"
                ));
            }
        }
        keys.extend(self.keys_of_directory(file)?);
        let mut config = Node::Map(
            file.value
                .as_map()
                .into_iter()
                .flat_map(yaml::Map::iter)
                .filter(|(name, _)| fate::of_mas_section(&name.text).becomes == Becomes::Kept)
                .map(|(name, value)| (name.text.to_string(), Node::of(value)))
                .collect(),
        );
        // The chart configures metrics itself.
        config.remove("telemetry.metrics");
        for option in OF_THE_OLD_PLACE {
            if let Some(path) = file.text(option) {
                config.remove(option);
                self.notes.push(format!(
                    "`mas.{option}` is left out of the values, because ESS's pod would not have what it names: {}",
                    file.resolve(path).display()
                ));
            }
        }
        if let Node::Map(map) = &mut config {
            map.retain(|(_, node)| !matches!(node, Node::Map(map) if map.is_empty()));
        }
        self.other_secrets(file, &mut config)?;
        let mas = Mas {
            host: file.text("http.public_base").map(host),
            keys: self.kinds(keys),
            config: Some(config).filter(|config| !matches!(config, Node::Map(map) if map.is_empty())),
        };
        self.mas = Some(mas);
        Ok(())
    }

    /// The keys in `secrets.keys_dir`: MAS reads every file in it as a key.
    fn keys_of_directory(&mut self, file: &File) -> anyhow::Result<Vec<String>> {
        let option = "secrets.keys_dir";
        let Some(directory) = file.text(option).map(|path| file.resolve(path)) else {
            return Ok(Vec::new());
        };
        let failed = || format!("cannot read {}, which `{option}` names", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(&directory).with_context(failed)? {
            let path = entry.with_context(failed)?.path();
            if path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        let mut keys = Vec::new();
        for (index, path) in paths.into_iter().enumerate() {
            let key = read(&path, option)?;
            let name = format!("{option}.{index}");
            self.add(file, &name, option, Some(path), &key, fate::MAS_SIGNING_KEY);
            keys.push(format!("mas.{name}"));
        }
        Ok(keys)
    }

    /// Assigns the keys to the chart's fields, of which there is one for each kind of key.
    fn kinds(&mut self, options: Vec<String>) -> Vec<(&'static str, String)> {
        let mut keys: Vec<(&'static str, String)> = Vec::new();
        for option in options {
            let Some(secret) = self.find(&option) else { continue };
            let kind = kind_of_key(secret.value.expose_secret());
            match kind {
                None => self
                    .notes
                    .push(format!("`{option}` is not a kind of key that ESS has a field for")),
                Some(kind) if keys.iter().any(|(known, _)| *known == kind) => self.notes.push(format!(
                    "`{option}` is a second key for matrixAuthenticationService.privateKeys.{kind}, which accepts one: \
                     it is extracted, but not in the values"
                )),
                Some(kind) => keys.push((kind, option)),
            }
        }
        keys.sort();
        keys
    }

    /// Extracts what looks like a secret in any other option, and replaces options that name files by their content.
    fn other_secrets(&mut self, file: &File, config: &mut Node) -> anyhow::Result<()> {
        let mut found = Vec::new();
        suspect::walk(&Node::of(&file.value), "", &mut |path, text| {
            let inline = path.strip_suffix("_file").filter(|name| suspect::is_secret(name, "x"));
            let known = inline.unwrap_or(path);
            let asked = known.starts_with("secrets.") || self.find(&format!("mas.{known}")).is_some();
            if !asked && (inline.is_some() || suspect::is_secret(path, text)) {
                found.push(known.to_owned());
            }
        });
        for option in found {
            if !self.may_name_a_file(file, &option) {
                continue;
            }
            let fate = fate::of_mas_section(option.split('.').next().unwrap_or_default());
            let carried = fate.becomes == Becomes::Kept;
            match self.either(file, &option, fate) {
                Err(error) if !carried => {
                    self.notes.push(format!(
                        "`mas.{option}` is not extracted, but ESS does not need it: {error:#}"
                    ));
                    continue;
                }
                found => self.note_unless(found?, file, &option),
            }
            let named = format!("{option}_file");
            if carried
                && file.get(&named).is_some()
                && let Some(secret) = self.find(&format!("mas.{option}"))
            {
                let text = String::from_utf8_lossy(secret.value.expose_secret()).into_owned();
                config.remove(&named);
                if let Some(place) = config.at(&option) {
                    *place = Node::text(text);
                }
            }
        }
        Ok(())
    }

    /// Extracts an option, or the file that the option with the suffix `_file` names. Returns whether either is set.
    fn either(&mut self, file: &File, option: &str, fate: Fate) -> anyhow::Result<bool> {
        let named = format!("{option}_file");
        if let Some(path) = file.text(&named) {
            let path = file.resolve(path);
            let content = read(&path, &named)?;
            let is_key = option.rsplit('.').next() == Some("key");
            let value = if is_key { &content[..] } else { content.trim_ascii() };
            self.add(file, option, &named, Some(path), value, fate);
        } else if let Some(text) = file
            .get(option)
            .and_then(Value::as_scalar)
            .map(|scalar| scalar.text.clone())
        {
            self.add(file, option, option, None, text.as_bytes(), fate);
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    fn add(&mut self, file: &File, option: &str, from: &str, path: Option<PathBuf>, value: &[u8], fate: Fate) {
        if value.is_empty() {
            return;
        }
        self.secrets.push(ComponentSecret {
            option: format!("{}.{option}", file.prefix),
            value: SecretSlice::from(value.to_vec()),
            origin: Origin {
                option: from.to_owned(),
                config: Some(file.path.to_owned()),
                file: path,
            },
            fate,
        });
    }
}

impl<'a> File<'a> {
    fn open(path: &'a Path, prefix: &'static str, path_map: &'a [(PathBuf, PathBuf)]) -> anyhow::Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let content = ess_files::read(path, ess_files::CONFIGURATION).with_context(failed)?;
        let value = yaml::load(&content).map_err(|error| Stop::new(Exit::Config, format!("{}: {error}", failed())))?;
        if value.as_map().is_none() {
            let message = format!("{}: it contains {}, not a mapping", failed(), value.kind_name());
            return Err(Stop::new(Exit::Config, message).into());
        }
        Ok(Self {
            path,
            value,
            prefix,
            path_map,
        })
    }

    fn get(&self, option: &str) -> Option<&Value> {
        option
            .split('.')
            .try_fold(&self.value, |value, name| match value {
                Value::Map(map) => map.get(name),
                Value::List(list) => list.get(name.parse::<usize>().ok()?),
                Value::Scalar(_) => None,
            })
            .filter(|value| !value.is_null())
    }

    fn text(&self, option: &str) -> Option<&str> {
        self.get(option).and_then(Value::as_str)
    }

    fn count(&self, option: &str) -> usize {
        self.get(option).and_then(Value::as_list).map_or(0, <[Value]>::len)
    }

    /// Translates a path of the configuration to a path on this host. Relative paths are resolved against the directory
    /// of the configuration file, from which both components are usually started.
    fn resolve(&self, path: &str) -> PathBuf {
        let nearest = self
            .path_map
            .iter()
            .filter_map(|(original, here)| Some((here, Path::new(path).strip_prefix(original).ok()?)))
            .min_by_key(|(_, rest)| rest.components().count());
        match nearest {
            Some((here, rest)) if rest.as_os_str().is_empty() => here.clone(),
            Some((here, rest)) => here.join(rest),
            None => self.path.parent().unwrap_or(Path::new(".")).join(path),
        }
    }
}

fn read(path: &Path, option: &str) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    ess_files::read(path, ess_files::SECRET)
        .with_context(|| format!("cannot read {}, which `{option}` names", path.display()))
}

fn host(url: &str) -> String {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    authority.split(':').next().unwrap_or_default().to_owned()
}

/// The field of `privateKeys` for a PEM or DER key, by the object identifiers that it contains: rsaEncryption,
/// prime256v1, secp256k1 or secp384r1.
fn kind_of_key(key: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 4] = [
        (b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01", "rsa"),
        (b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", "ecdsaPrime256v1"),
        (b"\x06\x05\x2b\x81\x04\x00\x0a", "ecdsaSecp256k1"),
        (b"\x06\x05\x2b\x81\x04\x00\x22", "ecdsaSecp384r1"),
    ];
    let mut der = Zeroizing::new(key.to_vec());
    if let Some(pem) = std::str::from_utf8(key).ok().filter(|text| text.contains("-----BEGIN")) {
        if pem.contains("BEGIN RSA PRIVATE KEY") {
            return Some("rsa");
        }
        // All blocks are searched, because a key can follow a block EC PARAMETERS.
        der.clear();
        for block in pem.split("-----BEGIN ").skip(1) {
            let body = block.split("-----").nth(1).unwrap_or_default();
            let body = Zeroizing::new(body.split_whitespace().collect::<String>());
            der.extend(STANDARD.decode(body.as_bytes()).unwrap_or_default());
        }
    }
    let holds = |id: &[u8]| der.windows(id.len()).any(|window| window == id);
    KINDS.iter().find(|(id, _)| holds(id)).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests;
