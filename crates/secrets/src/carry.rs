//! The rest of Synapse's configuration: what ESS sets itself, what means nothing there, and what to carry, the part
//! with secrets apart from the part without.

use std::collections::BTreeSet;

use ess_synapse::Config;
use ess_synapse::ess::OWNED;
use ess_synapse::secrets::Secrets;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::fate::{self, Becomes};
use crate::files::{File, Files};
use crate::suspect;
use crate::yaml::Node;

/// Of a process, a host or a version that is left behind.
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

/// Anything may be in them, under any name: they go into a Secret whole.
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

/// Files, which no ending gives away.
const FILES: &[&str] = &[
    "federation_certificate_ca_list",
    "federation_custom_ca_list",
    "oembed.additional_providers",
    "saml2_config.sp_config.metadata.local",
];

/// Not files, whatever their endings say: Synapse looks for templates of these names where its templates are.
const TEMPLATES: &[&str] = &[
    "account_validity.account_renewed_html_path",
    "account_validity.invalid_token_html_path",
];

/// What is below is the affair of a module, and a path there may be one of a website.
const MODULES: &[&str] = &["modules", "password_providers"];

/// Files and directories that are no use on ESS as they are, and why.
const OF_THE_OLD_PLACE: &[(&str, &str)] = &[
    (
        "backup_media_store_path",
        "it holds media; ESS has synapse.media.storage",
    ),
    (
        "saml2_config.config_path",
        "it is a program of its own, which may name more files; write it as saml2_config.sp_config",
    ),
];

/// What becomes of each option: names, never values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sorted {
    /// ESS sets them itself.
    pub owned_by_ess: Vec<String>,
    /// They mean nothing on ESS.
    pub not_needed: Vec<String>,
    /// They name a file or directory that ESS's pod does not have; left out, because Synapse would not start.
    pub needs_a_file: Vec<String>,
    /// They name a file or directory that goes into a Secret and is mounted.
    #[serde(default)]
    pub carried_as_files: Vec<String>,
    /// Carried in clear.
    pub carried: Vec<String>,
    /// Carried in a Secret, whole or in part.
    pub carried_in_a_secret: Vec<String>,
    /// Not known to us and like a secret by name or value; in a Secret, if they are carried.
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
    /// Names what is left out, looks like a secret, and is in no file of its own.
    fn look_through(&mut self, option: &str, node: &Node, secrets: &Secrets) {
        suspect::walk(node, option, &mut |path, text| {
            // Whichever of the databases it is of.
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

/// `1.0` in this place is a string to Synapse, and the renderer would make it `1`: every user would be asked again.
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

/// Puts the value where the configuration names a file with it. Returns the options that hold a secret.
fn inline_secrets(rest: &mut Node, secrets: &Secrets) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for secret in &secrets.secrets {
        if !matches!(fate::of(&secret.option).becomes, Becomes::Kept) {
            // `redis.password` and the like: their sections are gone already.
            continue;
        }
        if secret.origin.file.is_some() && secret.origin.option == secret.option {
            // A whole file, which an option cannot hold.
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
    /// Lets what names a file name the mounted one. Takes it out where there is none, and then what is empty for that.
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
                "`{path}` names the directory {}, which ESS's pod lacks: look by eye at what the module wants there",
                named.display()
            ));
        }
        named.is_file()
    }

    /// Says whether the option stays.
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
            "`{path}` is left out of the values, because ESS's pod would lack what it names: {why}"
        ));
        self.sorted.needs_a_file.push(path.to_owned());
    }

    /// Synapse would make the directory and stop when it cannot.
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
            let why = "a directory of media; see that they move with the rest";
            self.leave_out(&format!("media_storage_providers.{index}"), why);
        }
        list.retain(|node| !is_local(node));
    }
}

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
    /// What can be shown, and what cannot. ESS merges mappings, so these may be parted; lists it appends, so they not.
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

    /// Is there a secret below? Notes those that we did not know of.
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

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
#[path = "carry_tests.rs"]
mod tests;
