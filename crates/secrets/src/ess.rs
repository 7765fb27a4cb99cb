//! Input for Element Server Suite's Helm chart: Secrets, and the values that refer to them.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_cli::Stop;
use ess_synapse::Config;
use ess_synapse::secrets::{Macaroon, Secret, Secrets};
use ess_synapse::yaml::{ScalarKind, Value};
use secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use crate::carry::{Carried, Sorted};
use crate::components::OtherComponents;
use crate::files::{self, File};
use crate::workers::workers;
use crate::yaml::{self, Node};

const SYNAPSE: &str = "ess-migrated-synapse";
const APP_SERVICES: &str = "ess-migrated-app-services";
const MAS: &str = "ess-migrated-mas";
const HOOKSHOT: &str = "ess-migrated-hookshot";
/// Name of the Secret with files, and of the volume that mounts it.
const FILES: &str = "ess-migrated-files";
/// The key, within a Secret, of a file with options.
const CONFIG_KEY: &str = "config.yaml";
/// Names below `additional`. ESS merges the parts of its configuration in the order of their names.
const CLEAR: &str = "10-migrated.yaml";
const SECRET: &str = "20-migrated-secrets.yaml";

/// The files for ESS, and what the user must know about them.
pub(crate) struct Ess {
    /// `secrets.yaml`: one YAML document per Secret.
    pub(crate) manifests: Zeroizing<String>,
    /// `values.yaml`, which contains no secret.
    pub(crate) values: Zeroizing<String>,
    pub(crate) sorted: Sorted,
    pub(crate) notes: Vec<String>,
    /// Notes that matter only if the values are used.
    pub(crate) notes_on_values: Vec<String>,
}

/// One Secret.
struct Manifest {
    name: &'static str,
    data: Vec<(String, Zeroizing<Vec<u8>>)>,
}

struct Maker {
    namespace: String,
    manifests: Vec<Manifest>,
    notes: Vec<String>,
}

impl Ess {
    pub(crate) fn new(
        config: &Config,
        secrets: &Secrets,
        components: &OtherComponents,
        namespace: &str,
    ) -> anyhow::Result<Self> {
        let mut maker = Maker {
            namespace: namespace.to_owned(),
            manifests: Vec::new(),
            notes: Vec::new(),
        };
        let mas_host = components.mas.as_ref().and_then(|mas| mas.host.as_deref());
        for (option, text) in [
            ("server_name", Some(config.server_name())),
            ("public_baseurl", config.get("public_baseurl").and_then(Value::as_str)),
            ("mas.http.public_base", mas_host),
        ] {
            // The chart evaluates these with `tpl`; of the rest only the paths of files, which `files.rs` restricts.
            if text.is_some_and(|text| text.contains("{{")) {
                let message = format!("`{option}` contains {{{{, which Helm would run as a template");
                return Err(Stop::no(message).hint("correct it in the configuration").into());
            }
        }
        let carried = Carried::new(config, secrets);
        maker.notes.extend(carried.notes.iter().cloned());
        let notes = notes(&carried.sorted);
        let mut values = vec![("serverName", Node::text(config.server_name()))];
        values.extend(maker.hookshot(components));
        values.push(("matrixAuthenticationService", maker.mas(config, secrets, components)?));
        values.push(("synapse", maker.synapse(config, secrets, &carried)?));
        let mut text = heading(&carried.sorted);
        text.push_str(&yaml::write(&Node::map(values))?);
        Ok(Self {
            manifests: maker.write()?,
            values: text,
            sorted: carried.sorted,
            notes,
            notes_on_values: maker.notes,
        })
    }
}

impl Maker {
    /// Stores a value in a Secret, and returns the reference to it.
    fn reference(&mut self, name: &'static str, key: &str, value: &[u8]) -> Node {
        self.store(name, key, value);
        Node::map([("secret", Node::text(name)), ("secretKey", Node::text(key))])
    }

    fn store(&mut self, name: &'static str, key: &str, value: &[u8]) {
        let known = self.manifests.iter().position(|manifest| manifest.name == name);
        let index = known.unwrap_or_else(|| {
            self.manifests.push(Manifest { name, data: Vec::new() });
            self.manifests.len() - 1
        });
        self.manifests[index].data.push((key.to_owned(), value.to_vec().into()));
    }

    fn synapse(&mut self, config: &Config, secrets: &Secrets, carried: &Carried) -> anyhow::Result<Node> {
        let mut synapse = Vec::new();
        let mut additional = Vec::new();
        if let Some(clear) = &carried.clear {
            additional.push((CLEAR, Node::map([("config", Node::Block(yaml::write(clear)?))])));
        }
        if let Some(secret) = &carried.secret {
            additional.push((SECRET, self.config_secret(SYNAPSE, secret)?));
        }
        if !additional.is_empty() {
            synapse.push(("additional", Node::map(additional)));
        }
        let app_services = self.app_services(secrets);
        if !app_services.is_empty() {
            synapse.push(("appservices", Node::List(app_services)));
        }
        if !carried.files.is_empty() {
            synapse.extend(self.files(&carried.files));
        }
        if let Some(host) = self.host(config) {
            synapse.push(("ingress", Node::map([("host", Node::text(host))])));
        }
        if secrets.macaroon == Macaroon::DerivedFromSigningKey {
            self.notes.push(
                "`synapse.macaroon` is left out of the values: Synapse derives it from the signing key, and the result \
                 is not text; ESS generates a new one"
                    .to_owned(),
            );
        }
        for (field, option) in [
            ("macaroon", "macaroon_secret_key"),
            ("registrationSharedSecret", "registration_shared_secret"),
            ("signingKey", "signing_key"),
        ] {
            if let Some(secret) = find(secrets, option)
                && self.survives_stripping(secret)
            {
                let reference = self.reference(SYNAPSE, option, secret.value.expose_secret());
                synapse.push((field, reference));
            }
        }
        if let Some(size) = max_upload_size(config) {
            synapse.push(("media", Node::map([("maxUploadSize", Node::text(size))])));
        }
        let (workers, note) = workers(config);
        synapse.extend(workers.map(|workers| ("workers", workers)));
        self.notes.extend(note);
        synapse.sort_by_key(|(name, _)| *name);
        Ok(Node::map(synapse))
    }

    /// Whether the value is unchanged by stripping: ESS passes these secrets to Synapse in files, which Synapse strips,
    /// unlike values in its configuration.
    fn survives_stripping(&mut self, secret: &Secret) -> bool {
        let value = secret.value.expose_secret();
        let text = std::str::from_utf8(value).unwrap_or_default();
        let survives = secret.option == "signing_key" || text.trim() == text;
        if !survives {
            self.notes.push(format!(
                "`{}` is left out of the values: it begins or ends with a space, which Synapse would strip on ESS; ESS \
                 generates a new one",
                secret.option
            ));
        }
        survives
    }

    fn config_secret(&mut self, name: &'static str, node: &Node) -> anyhow::Result<Node> {
        self.store(name, CONFIG_KEY, yaml::write(node)?.as_bytes());
        Ok(Node::map([
            ("configSecret", Node::text(name)),
            ("configSecretKey", Node::text(CONFIG_KEY)),
        ]))
    }

    fn app_services(&mut self, secrets: &Secrets) -> Vec<Node> {
        let files = secrets.secrets.iter().filter_map(|secret| {
            let index = secret.option.strip_prefix("app_service_config_files.")?;
            Some((format!("app-service-{index}.yaml"), secret))
        });
        files
            .map(|(key, secret)| self.reference(APP_SERVICES, &key, secret.value.expose_secret()))
            .collect()
    }

    fn host(&mut self, config: &Config) -> Option<String> {
        let url = config
            .get("public_baseurl")
            .and_then(Value::as_str)
            .filter(|url| !url.is_empty());
        let Some(url) = url else {
            self.notes
                .push("`public_baseurl` is not set: add `synapse.ingress.host` to the values".to_owned());
            return None;
        };
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let (authority, path) = authority.split_once('/').unwrap_or((authority, ""));
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => authority,
        };
        if host.len() != authority.len() || !path.is_empty() {
            self.notes.push(format!(
                "`public_baseurl` has a port or a path, which ESS does not support: clients will use https://{host}/"
            ));
        }
        if host == config.server_name() {
            self.notes.push(format!(
                "`synapse.ingress.host` is {host}, the same as the server name: ESS serves /.well-known/matrix there, \
                 so give Synapse another host or set wellKnownDelegation.enabled to false"
            ));
        }
        Some(host.to_owned())
    }

    /// Disabled for a server whose users log in at Synapse itself: once enabled, ESS refuses to disable it, and syn2mas
    /// enables it later.
    fn mas(&mut self, config: &Config, secrets: &Secrets, components: &OtherComponents) -> anyhow::Result<Node> {
        let enabled = |option| config.get(option).is_some_and(Value::is_true);
        let in_use =
            enabled("matrix_authentication_service.enabled") || enabled("experimental_features.msc3861.enabled");
        if !in_use && components.mas.is_none() {
            return Ok(Node::map([("enabled", Node::Bool(false))]));
        }
        let mut mas = vec![("enabled", Node::Bool(true))];
        let Some(own) = &components.mas else {
            self.notes.push(
                "Synapse delegates logins to Matrix Authentication Service, whose own secrets are missing: give \
                 --mas-config FILE"
                    .to_owned(),
            );
            mas.extend(self.shared_secret(secrets, components));
            return Ok(Node::map(mas));
        };
        if let Some(config) = &own.config {
            let reference = self.config_secret(MAS, config)?;
            mas.push(("additional", Node::map([(SECRET, reference)])));
        }
        if let Some(secret) = components.find("mas.secrets.encryption") {
            let reference = self.reference(MAS, "encryption", secret.value.expose_secret());
            mas.push(("encryptionSecret", reference));
        }
        if let Some(host) = &own.host {
            mas.push(("ingress", Node::map([("host", Node::text(&**host))])));
        }
        let mut keys = Vec::new();
        for (field, option) in &own.keys {
            if let Some(secret) = components.find(option) {
                let reference = self.reference(MAS, field, secret.value.expose_secret());
                keys.push((*field, reference));
            }
        }
        if !keys.is_empty() {
            mas.push(("privateKeys", Node::map(keys)));
        }
        mas.extend(self.shared_secret(secrets, components));
        Ok(Node::map(mas))
    }

    fn shared_secret(&mut self, secrets: &Secrets, components: &OtherComponents) -> Option<(&'static str, Node)> {
        let of_synapse = find(secrets, "matrix_authentication_service.secret")
            .or_else(|| find(secrets, "experimental_features.msc3861.admin_token"))
            .map(|secret| &secret.value);
        let of_mas = || components.find("mas.matrix.secret").map(|secret| &secret.value);
        let value = of_synapse.or_else(of_mas)?;
        let reference = self.reference(MAS, "synapse-shared-secret", value.expose_secret());
        Some(("synapseSharedSecret", reference))
    }

    fn hookshot(&mut self, components: &OtherComponents) -> Option<(&'static str, Node)> {
        let secret = components.find("hookshot.passFile")?;
        let reference = self.reference(HOOKSHOT, "passkey.pem", secret.value.expose_secret());
        self.notes.push(
            "the values refer to Hookshot's passkey, but not to its other secrets and the rest of its configuration: \
             see `hookshot.additional`"
                .to_owned(),
        );
        Some(("hookshot", Node::map([("passkey", reference)])))
    }

    /// The files that options name, as `extraVolumes` and `extraVolumeMounts`.
    fn files(&mut self, files: &[File]) -> [(&'static str, Node); 2] {
        let items = files.iter().map(|file| {
            self.store(FILES, &file.key, &file.content);
            Node::map([("key", Node::text(&*file.key)), ("path", Node::text(&*file.path))])
        });
        let secret = Node::map([
            ("items", Node::List(items.collect())),
            ("secretName", Node::text(FILES)),
        ]);
        // `both`: the Job that checks the configuration needs the files as well as Synapse.
        let named = || [("name", Node::text(FILES)), ("mountContext", Node::text("both"))];
        let volume = named().into_iter().chain([("secret", secret)]);
        let mount = [("mountPath", Node::text(files::MOUNT)), ("readOnly", Node::Bool(true))];
        let mount = named().into_iter().chain(mount);
        [
            ("extraVolumeMounts", Node::List(vec![Node::map(mount)])),
            ("extraVolumes", Node::List(vec![Node::map(volume)])),
        ]
    }

    /// The manifests. Values are in `data`, as base64, so that every byte is preserved whatever parses the file.
    fn write(&self) -> anyhow::Result<Zeroizing<String>> {
        let mut text = Zeroizing::new(String::new());
        for Manifest { name, data } in &self.manifests {
            let data = data
                .iter()
                .map(|(key, value)| (key.clone(), Node::text(STANDARD.encode(value.as_slice()))))
                .collect();
            let labels = Node::map([("app.kubernetes.io/managed-by", Node::text("ess-migrate"))]);
            let manifest = Node::map([
                ("apiVersion", Node::text("v1")),
                ("kind", Node::text("Secret")),
                (
                    "metadata",
                    Node::map([
                        ("name", Node::text(*name)),
                        ("namespace", Node::text(&*self.namespace)),
                        ("labels", labels),
                    ]),
                ),
                ("type", Node::text("Opaque")),
                ("data", Node::Map(data)),
            ]);
            text.push_str("---\n");
            text.push_str(&yaml::write(&manifest)?);
        }
        Ok(text)
    }
}

fn find<'a>(secrets: &'a Secrets, option: &str) -> Option<&'a Secret> {
    secrets.secrets.iter().find(|secret| secret.option == option)
}

/// Names the options that look like secrets but have no file of their own.
fn notes(sorted: &Sorted) -> Vec<String> {
    let names = sorted.look_like_secrets.join(", ");
    let note = format!("options that look like secrets but have no file of their own: {names}");
    (!names.is_empty()).then_some(note).into_iter().collect()
}

/// The comment at the head of the values, which lists the options that are left out.
fn heading(sorted: &Sorted) -> Zeroizing<String> {
    let mut text =
        Zeroizing::new("# Values for ESS Community, from a migrated Synapse. They contain no secret.\n".to_owned());
    for (why, names) in [
        ("ESS sets these itself", &sorted.owned_by_ess),
        ("These have no meaning on ESS", &sorted.not_needed),
        (
            "These name files that the pod would not have; see synapse.extraVolumes",
            &sorted.needs_a_file,
        ),
    ] {
        if !names.is_empty() {
            let _ = writeln!(text, "# {why}; left out:");
        }
        for name in names {
            // Escaped, so that a line break in a name cannot end the comment.
            let _ = writeln!(text, "#   {}", name.escape_debug());
        }
    }
    text
}

/// The upload size as the chart accepts it, in mebibytes, or in kibibytes rounded up. Reads what Synapse's
/// `Config.parse_size` reads.
fn max_upload_size(config: &Config) -> Option<String> {
    let scalar = config.get("max_upload_size")?.as_scalar()?;
    let bytes = match scalar.kind {
        ScalarKind::Int(Some(bytes)) => u64::try_from(bytes).ok()?,
        ScalarKind::Text => {
            let text = scalar.text.as_str();
            let power = "KMGT".find(text.chars().last()?).map_or(0, |index| index + 1);
            let digits = if power == 0 { text } else { &text[..text.len() - 1] };
            digits.trim().parse::<u64>().ok()?.checked_mul(1 << (10 * power))?
        }
        _ => return None,
    };
    Some(if bytes % (1 << 20) == 0 {
        format!("{}M", bytes >> 20)
    } else {
        format!("{}K", bytes.div_ceil(1 << 10))
    })
}

#[cfg(test)]
mod tests;
