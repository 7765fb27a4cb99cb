//! A run of a tool: its document, its locks, its output.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use ess_document::{Document, Identity, MAX_BYTES, Rehearse, Source, now};
use ess_files::{Lock, make_directory, write_file};
use ess_run::Report;
use ess_stop::{Exit, Stop};
use rustix::fs::{Access, access};
use serde::Serialize;

use crate::{Console, input, output, visible};

/// A run of a tool.
pub struct Context {
    /// The tool's name.
    pub tool: &'static str,
    /// The document that was read, and will be written with this tool's section.
    pub document: Document,
    /// Whether a document was read.
    pub was_read: bool,
    /// Prints messages and progress.
    pub console: Console,
    /// When this run began, RFC 3339.
    pub started_at: String,
    locks: Vec<Lock>,
    /// The file in the export in which this run has saved its document, if it has.
    saved: Option<PathBuf>,
}

impl Context {
    pub(crate) fn new(
        tool: &'static str,
        export: Option<PathBuf>,
        console: Console,
        read: Option<Document>,
    ) -> anyhow::Result<Self> {
        let was_read = read.is_some();
        let mut document = read.unwrap_or_default();
        input::refuse_a_no(&document, section_of(tool))?;
        document.ensure_id();
        if let Some(export) = export {
            document.export = Some(ess_files::absolute(&export)?);
        }
        Ok(Self {
            tool,
            document,
            was_read,
            console,
            started_at: now(),
            locks: Vec::new(),
            saved: None,
        })
    }

    /// `application_name` of this tool's connections: `ess-migrate/TOOL/ID`.
    pub fn application_name(&self) -> String {
        let id = self.document.id.as_deref().unwrap_or("-");
        format!("ess-migrate/{}/{id}", self.tool)
    }

    /// Locks a lock file until the document is written.
    pub fn lock(&mut self, file: &Path) -> anyhow::Result<()> {
        let lock = Lock::take(file, self.tool)?;
        self.locks.push(lock);
        Ok(())
    }

    /// Takes the export's lock, if there is an export.
    pub fn lock_export(&mut self) -> anyhow::Result<()> {
        let Some(export) = self.document.export.clone().filter(|export| export.is_dir()) else {
            return Ok(());
        };
        self.lock(&export.join(".lock"))?;
        // Fail now rather than at the end of the work, when the document could not be saved.
        let documents = export.join("documents");
        if documents.is_dir() && access(&documents, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            return Err(Stop::new(
                Exit::Permission,
                format!("this user cannot write to {}", documents.display()),
            )
            .hint("run as the user who created the export, or as root")
            .into());
        }
        Ok(())
    }

    /// Takes the lock that covers `path`: the export's if `path` is in the export, its own otherwise.
    pub fn lock_around(&mut self, path: &Path) -> anyhow::Result<()> {
        match &self.document.export {
            Some(export) if path.starts_with(export) => self.lock(&export.join(".lock")),
            _ => {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.lock(&path.with_file_name(format!(".{name}.lock")))
            }
        }
    }

    /// The document's source section, created if it is missing.
    pub fn source_section(&mut self) -> &mut Source {
        self.document.source.get_or_insert_default()
    }

    /// The version to record in sections.
    pub fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    /// Saves the document in the export, then writes it completely to standard output.
    ///
    /// Locks are released first: the next program of the pipeline starts when this output ends.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        let saved = self.save()?;
        self.hand_on(saved)
    }

    /// Writes something other than the document to standard output, such as manifests for kubectl.
    pub fn hand_out(&mut self, what: &impl Serialize) -> anyhow::Result<()> {
        self.console.clear();
        deliver(what).map_err(|error| Stop::new(Exit::Io, format!("cannot write to standard output: {error}")).into())
    }

    /// As [`Context::finish`], for a tool that only checks: a document that cannot be saved is a note, not an error.
    pub fn finish_anyway(&mut self) -> anyhow::Result<()> {
        let saved = self.lock_export().and_then(|()| self.save()).unwrap_or_else(|error| {
            self.console
                .note(&format!("the document was not saved in the export: {error:#}"));
            None
        });
        self.hand_on(saved)
    }

    fn hand_on(&mut self, saved: Option<PathBuf>) -> anyhow::Result<()> {
        self.locks.clear();
        self.console.clear();
        if output::discards(&io::stdout()) {
            let place = saved
                .as_ref()
                .map_or_else(String::new, |path| format!("; it is saved as {}", path.display()));
            self.console.note(&format!(
                "standard output is closed or discarded, so the document is not passed on{place}"
            ));
        }
        deliver(&self.document).map_err(|error| {
            let message = format!("cannot write the document to standard output: {error}");
            let stop = Stop::new(Exit::Io, message);
            let stop = match saved {
                Some(path) => stop.hint(format!(
                    "the work is done and the document is saved; continue with: NEXT-TOOL < {}",
                    path.display()
                )),
                None => stop,
            };
            stop.into()
        })
    }

    /// The saved documents in the export, the newest first. Files that are not documents are skipped.
    pub fn saved_documents(&self) -> Vec<Document> {
        let directory = self.document.export.as_ref().map(|export| export.join("documents"));
        let entries = directory.and_then(|directory| std::fs::read_dir(directory).ok());
        let mut saved: Vec<(u32, PathBuf)> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((number_of(&entry.file_name())?, entry.path())))
            .collect();
        saved.sort_unstable_by(|one, other| other.cmp(one));
        let parsed = saved
            .iter()
            .filter_map(|(_, path)| Document::parse(&ess_files::read(path, MAX_BYTES).ok()?).ok());
        parsed.collect()
    }

    /// The latest rehearsal of this source, in the document or in one that is saved in the export.
    pub fn rehearsal(&self, source: &Identity) -> Option<Rehearse> {
        let of = |document: &Document| {
            let identity = document.source.as_ref()?.identity.as_ref()?;
            document.rehearse.clone().filter(|_| identity == source)
        };
        let saved = self.saved_documents();
        let all = saved.iter().chain([&self.document]).filter_map(of);
        all.max_by(|one, other| one.finished_at.cmp(&other.finished_at))
    }

    /// If no document was read, continues with the newest saved document that names the target.
    pub fn adopt_saved(&mut self) {
        if self.was_read {
            return;
        }
        let export = self.document.export.clone();
        let names_target = |document: &&Document| document.target.as_ref().is_some_and(|t| t.identity.is_some());
        // Prefer one that shows how to undo a wipe: a later `preflight` or `verify` may have used another target.
        let names_backup = |document: &&Document| {
            let wipe = document.wipe.as_ref();
            names_target(document) && wipe.is_some_and(|wipe| wipe.next.go_back.is_some())
        };
        let saved = self.saved_documents();
        let saved = saved
            .iter()
            .find(names_backup)
            .or_else(|| saved.iter().find(names_target));
        if let Some(saved) = saved.cloned() {
            self.document = Document { export, ..saved };
        }
    }

    /// Saves the document as `EXPORT/documents/NN-TOOL.json`, if there is an export. Each run has one such file, which
    /// later calls overwrite.
    pub fn save(&mut self) -> anyhow::Result<Option<PathBuf>> {
        let Some(export) = self.document.export.as_deref().filter(|e| e.is_dir()) else {
            return Ok(None);
        };
        let directory = export.join("documents");
        make_directory(&directory)?;
        let path = match &self.saved {
            Some(path) => path.clone(),
            None => directory.join(format!("{:02}-{}.json", next_number(&directory)?, self.tool)),
        };
        let mut text = serde_json::to_vec_pretty(&self.document).context("cannot write the document")?;
        text.push(b'\n');
        write_file(&path, &text)?;
        self.saved = Some(path.clone());
        Ok(Some(path))
    }
}

/// The number of the next saved document in a directory.
fn next_number(directory: &Path) -> anyhow::Result<u32> {
    let names = std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let last = names.flatten().filter_map(|entry| number_of(&entry.file_name())).max();
    Ok(last.unwrap_or(0) + 1)
}

/// The number in the name of a saved document.
fn number_of(name: &std::ffi::OsStr) -> Option<u32> {
    name.to_str()?.split_once('-')?.0.parse().ok()
}

/// Writes JSON to standard output: on one line, or indented if it is a terminal.
fn deliver(what: &impl Serialize) -> io::Result<()> {
    let stdout = io::stdout();
    let mut text = if stdout.is_terminal() {
        visible::json(serde_json::to_string_pretty(what)?)
    } else {
        serde_json::to_string(what)?
    };
    text.push('\n');
    // Not through the buffer of std's `Stdout`, so that a failed write is reported.
    output::write_all(stdout.as_fd(), text.as_bytes(), Duration::ZERO)
}

/// The section that a tool writes.
fn section_of(tool: &str) -> &str {
    match tool {
        "extract-secrets" => "secrets",
        "pgdump-wrap" => "dump",
        "ess-wipe" => "wipe",
        "ess-scale" => "scale",
        "media-sync" => "media",
        "well-known" => "well_known",
        other => other,
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.console.done();
    }
}
