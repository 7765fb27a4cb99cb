//! The rest of Synapse's configuration. Sorts the options into those that ESS sets itself, those that ESS does not
//! need, and those to carry, and separates the secrets among the latter from what can be shown.

use std::collections::BTreeSet;

use ess_synapse::Config;
use ess_synapse::ess::OWNED;
use ess_synapse::secrets::Secrets;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::fate::{self, Becomes};
use crate::files::{File, Files};
use crate::suspect;
use crate::yaml::{Node, join};

/// Options of the old process, host or version, which are not carried.
const UNNEEDED: &[&str] = &[
    "daemonize",
    "database_path",
    "experimental_features.msc3861",
    "log_file",
    "manhole",
    "manhole_settings",
    "pid_file",
    "soft_file_limit",
    "tls_certificate_path",
    "tls_private_key_path",
    "uploads_path",
    "user_agent_suffix_file",
];

/// Sections that may contain secrets under any name. Each is carried in a Secret as one piece.
const FREE_FORM: &[&str] = &[
    "modules",
    "oidc_providers",
    "oidc_config",
    "password_providers",
    "media_storage_providers",
    "saml2_config",
    "spam_checker",
    "third_party_event_rules",
];

/// Options that name files although their names do not end like those in [`names_a_file`].
const FILES: &[&str] = &[
    "federation_certificate_ca_list",
    "federation_custom_ca_list",
    "oembed.additional_providers",
    "saml2_config.sp_config.metadata.local",
];

/// Options that name no file despite their endings: Synapse searches for these names in its template directories.
const TEMPLATES: &[&str] = &[
    "account_validity.account_renewed_html_path",
    "account_validity.invalid_token_html_path",
];

/// Sections that belong to modules. A path in them may be that of a URL.
const MODULES: &[&str] = &["modules", "password_providers"];

/// Options that name files or directories which cannot be carried, and why.
const OF_THE_OLD_PLACE: &[(&str, &str)] = &[
    (
        "backup_media_store_path",
        "it holds media; ESS has synapse.media.storage for them",
    ),
    (
        "saml2_config.config_path",
        "it is a Python program, which may name further files; write its settings as saml2_config.sp_config",
    ),
];

/// The names of the options, by what becomes of them. It contains no values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sorted {
    /// ESS sets them itself.
    pub owned_by_ess: Vec<String>,
    /// ESS does not need them.
    pub not_needed: Vec<String>,
    /// They name a file or directory that ESS's pod would not have. They are left out, because Synapse would not start.
    pub needs_a_file: Vec<String>,
    /// They name a file or directory that is carried in a Secret and mounted.
    #[serde(default)]
    pub carried_as_files: Vec<String>,
    /// Carried in clear.
    pub carried: Vec<String>,
    /// Carried in a Secret, completely or in part.
    pub carried_in_a_secret: Vec<String>,
    /// They look like secrets, by name or by value, and are in no list. If they are carried, they are in a Secret.
    pub look_like_secrets: Vec<String>,
}

/// The configuration to carry.
#[derive(Default)]
pub(crate) struct Carried {
    pub(crate) clear: Option<Node>,
    pub(crate) secret: Option<Node>,
    pub(crate) files: Vec<File>,
    pub(crate) sorted: Sorted,
    /// Why each of `needs_a_file` is not carried.
    pub(crate) notes: Vec<String>,
}

impl Carried {
    pub(crate) fn new(config: &Config, secrets: &Secrets) -> Self {
        let mut carried = Self::default();
        let mut rest = Vec::new();
        for (name, value) in config.options() {
            let node = Node::of(value);
            if OWNED.iter().any(|(owned, _)| *owned == name) {
                carried.sorted.owned_by_ess.push(name.to_owned());
                carried.sorted.look_through(name, &node, secrets);
            } else if UNNEEDED.contains(&name) || name.starts_with("worker_") {
                carried.sorted.not_needed.push(name.to_owned());
                carried.sorted.look_through(name, &node, secrets);
            } else {
                rest.push((name.to_owned(), node));
            }
        }
        let mut rest = Node::Map(rest);
        for option in UNNEEDED.iter().filter(|option| option.contains('.')) {
            if let Some(value) = config.get(option) {
                carried.sorted.look_through(option, &Node::of(value), secrets);
                rest.remove(option);
                carried.sorted.not_needed.push((*option).to_owned());
            }
        }
        keep_the_text_of_the_consent_version(&mut rest);
        let known = inline_secrets(&mut rest, secrets);
        let mut mounting = Mounting {
            files: Files::new(config),
            secrets,
            sorted: &mut carried.sorted,
            notes: Vec::new(),
        };
        mounting.drop_local_storage(&mut rest);
        mounting.mount(&mut rest, "");
        carried.notes = mounting.notes;
        carried.files = mounting.files.carried;
        let mut partition = Partition {
            known: &known,
            sorted: &mut carried.sorted,
        };
        if let Node::Map(options) = rest {
            let (mut clear, mut secret) = (Vec::new(), Vec::new());
            for (name, node) in options {
                let (open, closed) = partition.part(&name, node);
                if closed.is_some() {
                    partition.sorted.carried_in_a_secret.push(name.clone());
                } else if open.is_some() {
                    partition.sorted.carried.push(name.clone());
                }
                clear.extend(open.map(|node| (name.clone(), node)));
                secret.extend(closed.map(|node| (name, node)));
            }
            carried.clear = (!clear.is_empty()).then_some(Node::Map(clear));
            carried.secret = (!secret.is_empty()).then_some(Node::Map(secret));
        }
        carried
    }
}

impl Sorted {
    /// Records what looks like a secret in an option that is left out, unless it has a file of its own.
    fn look_through(&mut self, option: &str, node: &Node, secrets: &Secrets) {
        suspect::walk(node, option, &mut |path, text| {
            // The password of any of the databases.
            let of_database = path.starts_with("database") && path.ends_with(".args.password");
            let known = secrets
                .secrets
                .iter()
                .any(|secret| secret.option == path || secret.origin.option == path);
            if !known && !of_database && suspect::is_plainly_secret(path, text) {
                self.look_like_secrets.push(path.to_owned());
            }
        });
    }
}

/// Makes `user_consent.version` a string. Synapse converts it to one (`ConsentConfig.read_config`), and ESS's renderer
/// would change `1.0` to `1`: every user would have to consent again.
fn keep_the_text_of_the_consent_version(rest: &mut Node) {
    if let Node::Map(options) = rest
        && let Some((_, Node::Map(consent))) = options.iter_mut().find(|(name, _)| name == "user_consent")
    {
        for (_, version) in consent.iter_mut().filter(|(name, _)| name == "version") {
            if let Node::Number(text) = version {
                *version = Node::text(&**text);
            }
        }
    }
}

/// Replaces each option that names a file with a secret by the option that contains the secret itself. Returns the
/// options that contain a secret.
fn inline_secrets(rest: &mut Node, secrets: &Secrets) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for secret in &secrets.secrets {
        if !matches!(fate::of(secret.id, &secret.option).becomes, Becomes::Kept) {
            // Not carried, such as `redis.password`: its section was removed before.
            continue;
        }
        if secret.origin.file.is_some() && secret.origin.option == secret.option {
            // The secret is a complete file, and no option can contain that.
            continue;
        }
        let Ok(text) = std::str::from_utf8(secret.value.expose_secret()) else {
            continue;
        };
        if secret.origin.option != secret.option {
            rest.remove(&secret.origin.option);
        }
        if let Some(place) = rest.at(&secret.option) {
            *place = Node::text(text);
            known.insert(secret.option.clone());
        }
    }
    known
}

struct Mounting<'a> {
    files: Files<'a>,
    secrets: &'a Secrets,
    sorted: &'a mut Sorted,
    notes: Vec<String>,
}

impl Mounting<'_> {
    /// Carries the files that options name, and changes the options to the mounted paths. Removes options whose files
    /// cannot be carried, and mappings that become empty as a result.
    fn mount(&mut self, node: &mut Node, path: &str) {
        match node {
            Node::Map(map) => map.retain_mut(|(name, node)| {
                let path = join(path, name);
                if self.is_file(&path, node) {
                    return self.mount_one(&path, node);
                }
                let was_empty = matches!(node, Node::Map(map) if map.is_empty());
                self.mount(node, &path);
                was_empty || !matches!(node, Node::Map(map) if map.is_empty())
            }),
            Node::List(list) => {
                for (index, node) in list.iter_mut().enumerate() {
                    self.mount(node, &join(path, &index.to_string()));
                }
            }
            _ => {}
        }
    }

    fn is_file(&mut self, path: &str, node: &Node) -> bool {
        let section = path.split('.').next().unwrap_or_default();
        if !MODULES.contains(&section) {
            return names_a_file(path, node);
        }
        let Node::Text(text) = node else { return false };
        if !text.starts_with('/') {
            return false;
        }
        let named = self.files.resolve(text);
        if named.is_dir() && names_a_file(path, node) {
            self.notes.push(format!(
                "`{path}` names the directory {}, which ESS's pod does not have: check what the module needs there",
                named.display()
            ));
        }
        named.is_file()
    }

    /// Carries the files of one option. Returns whether the option stays.
    fn mount_one(&mut self, path: &str, node: &mut Node) -> bool {
        let why_not = OF_THE_OLD_PLACE.iter().find(|(known, _)| *known == path);
        let before = self.files.carried.len();
        let carried = match why_not {
            Some((_, why)) => Err((*why).to_owned()),
            None => self.files.carry(node),
        };
        let is_key = |file: &File| file.content.windows(11).any(|text| text == b"PRIVATE KEY");
        let known = self.secrets.secrets.iter().any(|secret| secret.option == path);
        if !known && self.files.carried[before..].iter().any(is_key) {
            self.sorted.look_like_secrets.push(path.to_owned());
        }
        match carried {
            Ok(mounted) => {
                *node = mounted;
                self.sorted.carried_as_files.push(path.to_owned());
                true
            }
            Err(why) => {
                self.leave_out(path, &why);
                false
            }
        }
    }

    fn leave_out(&mut self, path: &str, why: &str) {
        self.notes.push(format!(
            "`{path}` is left out of the values, because ESS's pod would not have what it names: {why}"
        ));
        self.sorted.needs_a_file.push(path.to_owned());
    }

    /// Removes storage providers of the local file system: Synapse would create their directory, and would not start if
    /// it cannot.
    fn drop_local_storage(&mut self, rest: &mut Node) {
        let Node::Map(options) = rest else { return };
        let providers = options.iter_mut().find(|(name, _)| name == "media_storage_providers");
        let Some((_, Node::List(list))) = providers else {
            return;
        };
        let is_local = |node: &Node| {
            let Node::Map(provider) = node else { return false };
            let module = provider.iter().find(|(name, _)| name == "module");
            matches!(module, Some((_, Node::Text(module)))
                if **module == "file_system" || module.ends_with("FileStorageProviderBackend"))
        };
        let local = list.iter().enumerate().filter(|(_, node)| is_local(node));
        let local: Vec<usize> = local.map(|(index, _)| index).collect();
        for index in &local {
            let why = "it is a directory of media; make sure that they are copied with the rest";
            self.leave_out(&format!("media_storage_providers.{index}"), why);
        }
        list.retain(|node| !is_local(node));
    }
}

/// Whether an option names files, by its name and value.
fn names_a_file(path: &str, node: &Node) -> bool {
    const ENDS: [&str; 6] = ["_path", "_file", "_dir", "_directory", "_files", "_paths"];
    let is_file = FILES.contains(&path) || ENDS.iter().any(|end| path.ends_with(end)) && !TEMPLATES.contains(&path);
    let names_one = |node: &Node| matches!(node, Node::Text(text) if !text.is_empty() && !text.contains("://"));
    is_file
        && match node {
            Node::List(list) => !list.is_empty() && list.iter().all(names_one),
            node => names_one(node),
        }
}

struct Partition<'a> {
    known: &'a BTreeSet<String>,
    sorted: &'a mut Sorted,
}

impl Partition<'_> {
    /// Splits a node into the part that can be shown and the part that cannot. A mapping can be split, because ESS
    /// merges mappings; a list cannot, because ESS appends lists.
    fn part(&mut self, path: &str, node: Node) -> (Option<Node>, Option<Node>) {
        let secrets = self.secrets_in(path, &node);
        if FREE_FORM.contains(&path) {
            return (None, Some(node));
        }
        if !secrets {
            return (Some(node), None);
        }
        let Node::Map(map) = node else {
            return (None, Some(node));
        };
        let (mut clear, mut secret) = (Vec::new(), Vec::new());
        for (name, node) in map {
            let (open, closed) = self.part(&join(path, &name), node);
            clear.extend(open.map(|node| (name.clone(), node)));
            secret.extend(closed.map(|node| (name, node)));
        }
        let some = |map: Vec<_>| (!map.is_empty()).then_some(Node::Map(map));
        (some(clear), some(secret))
    }

    /// Whether a node contains a secret. Records those that are in no list.
    fn secrets_in(&mut self, path: &str, node: &Node) -> bool {
        let mut found = Vec::new();
        suspect::walk(node, path, &mut |path, text| {
            if self.known.contains(path) {
                found.push(None);
            } else if suspect::is_secret(path, text) {
                found.push(Some(path.to_owned()));
            }
        });
        let any = !found.is_empty();
        for path in found.into_iter().flatten() {
            if !self.sorted.look_like_secrets.contains(&path) {
                self.sorted.look_like_secrets.push(path);
            }
        }
        any
    }
}

#[cfg(test)]
mod tests;
