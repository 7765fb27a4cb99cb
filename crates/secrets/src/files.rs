//! Files and directories that options name. Those that are small enough are carried in a Secret that ESS's pod mounts.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use ess_synapse::Config;
use walkdir::WalkDir;
use zeroize::Zeroizing;

use crate::yaml::Node;

/// The directory of the files in ESS's pod.
pub(crate) const MOUNT: &str = "/ess-migrated-files";
/// Limit for all files, in bytes. Kubernetes allows 1 MiB per Secret (`MaxSecretSize`).
const LIMIT: usize = 1_000_000;
/// Most entries in one directory. A directory with more does not contain templates.
const COUNT: usize = 200;

/// A file that is carried.
pub(crate) struct File {
    /// The key in the Secret.
    pub(crate) key: String,
    /// The path below [`MOUNT`].
    pub(crate) path: String,
    pub(crate) content: Zeroizing<Vec<u8>>,
}

/// The files that are carried so far.
pub(crate) struct Files<'a> {
    config: &'a Config,
    pub(crate) carried: Vec<File>,
    /// The number of paths that are carried. Each gets a numbered directory, so that file names cannot clash.
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

    /// Translates a path of the configuration to a path on this host.
    pub(crate) fn resolve(&self, named: &str) -> PathBuf {
        self.config.resolve_path(named)
    }

    /// Carries the files that an option names, and returns the value of the option on ESS. An error is the reason why
    /// they cannot be carried; then none of them is.
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
        // Links are followed, because Synapse would open the files through them.
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
                return Err("it is not a regular file, or contains something that is not one".to_owned());
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
            return Err("it contains no file".to_owned());
        }
        Ok(())
    }

    fn add(&mut self, from: &Path, path: String) -> Result<(), String> {
        // The chart evaluates `extraVolumes` with `tpl` (templates/synapse/_synapse_pod.tpl): no braces.
        let plain = |character: char| character.is_ascii_alphanumeric() || "._-/@+, ".contains(character);
        if !path.chars().all(plain) {
            return Err(format!(
                "the path has characters that cannot be carried: {}",
                path.escape_debug()
            ));
        }
        let used: usize = self.carried.iter().map(|file| file.content.len()).sum();
        let room = LIMIT.saturating_sub(used);
        let mut content = Zeroizing::new(Vec::new());
        let read = ess_files::open(from).and_then(|file| file.take(room as u64 + 1).read_to_end(&mut content));
        read.map_err(|error| error.to_string())?;
        if content.len() > room {
            return Err("it does not fit into a Secret".to_owned());
        }
        self.carried.push(File {
            key: format!("file-{}", self.carried.len()),
            path,
            content,
        });
        Ok(())
    }
}
