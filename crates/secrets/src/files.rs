//! Files and directories that options name: ESS's pod gets those that are small, from a Secret, whatever they are.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ess_synapse::Config;
use walkdir::WalkDir;
use zeroize::Zeroizing;

use crate::yaml::Node;

/// Where ESS's pod finds them.
pub(crate) const MOUNT: &str = "/ess-migrated-files";
/// Kubernetes takes 1 MiB in one Secret.
const LIMIT: usize = 1_000_000;
/// A directory with more is no directory of templates.
const COUNT: usize = 200;

/// A file that is carried.
pub(crate) struct File {
    /// In the Secret.
    pub(crate) key: String,
    /// Beneath [`MOUNT`].
    pub(crate) path: String,
    pub(crate) content: Zeroizing<Vec<u8>>,
}

/// What is carried so far.
pub(crate) struct Files<'a> {
    config: &'a Config,
    pub(crate) carried: Vec<File>,
    /// How many options have theirs: each has a directory of its own, so that names cannot clash.
    options: usize,
}

impl<'a> Files<'a> {
    pub(crate) fn new(config: &'a Config) -> Self {
        Self {
            config,
            carried: Vec::new(),
            options: 0,
        }
    }

    /// Where it lies on this host.
    pub(crate) fn resolve(&self, named: &str) -> PathBuf {
        self.config.resolve_path(named)
    }

    /// Carries what an option names, and returns what the option has to say on ESS.
    pub(crate) fn carry(&mut self, node: &Node) -> Result<Node, String> {
        match node {
            Node::Text(path) => self.carry_path(path).map(Node::text),
            Node::List(list) => {
                let before = self.carried.len();
                let carried: Result<_, _> = list.iter().map(|node| self.carry(node)).collect();
                carried.map(Node::List).inspect_err(|_| self.carried.truncate(before))
            }
            _ => Err("it is not a path".to_owned()),
        }
    }

    fn carry_path(&mut self, named: &str) -> Result<String, String> {
        let path = self.resolve(named);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let top = format!("{}/{name}", self.options);
        let before = self.carried.len();
        self.add_below(&path, &top)
            .map_err(|why| format!("{}: {why}", path.display()))
            .inspect_err(|_| self.carried.truncate(before))?;
        self.options += 1;
        Ok(format!("{MOUNT}/{top}"))
    }

    fn add_below(&mut self, root: &Path, top: &str) -> Result<(), String> {
        let before = self.carried.len();
        // As Synapse opens them, through links.
        for (number, entry) in WalkDir::new(root)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter()
            .enumerate()
        {
            if number > COUNT {
                return Err(format!("it has more than {COUNT} files"));
            }
            let entry = entry.map_err(|error| {
                let source = error.io_error();
                source.map_or_else(|| error.to_string(), ToString::to_string)
            })?;
            if entry.file_type().is_dir() {
                continue;
            }
            if !entry.file_type().is_file() {
                return Err("it is no regular file, or has other things in it".to_owned());
            }
            let below = entry.path().strip_prefix(root).unwrap_or(Path::new(""));
            let path = if below.as_os_str().is_empty() {
                top.to_owned()
            } else {
                format!("{top}/{}", below.to_string_lossy())
            };
            self.add(entry.path(), path)?;
        }
        if self.carried.len() == before {
            return Err("there is no file in it".to_owned());
        }
        Ok(())
    }

    fn add(&mut self, from: &Path, path: String) -> Result<(), String> {
        // Helm takes the values for a template, and Kubernetes the path for one without `..`.
        let plain = |character: char| character.is_ascii_alphanumeric() || "._-/@+, ".contains(character);
        if !path.chars().all(plain) {
            return Err(format!("a name is not plain: {}", path.escape_debug()));
        }
        let used: usize = self.carried.iter().map(|file| file.content.len()).sum();
        let room = LIMIT.saturating_sub(used);
        let mut content = Zeroizing::new(Vec::new());
        let read = ess_files::open(from).and_then(|file| file.take(room as u64 + 1).read_to_end(&mut content));
        read.map_err(|error| error.to_string())?;
        if content.len() > room {
            return Err("a Secret has no room for it".to_owned());
        }
        self.carried.push(File {
            key: format!("file-{}", self.carried.len()),
            path,
            content,
        });
        Ok(())
    }
}
