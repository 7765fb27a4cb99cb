//! What a run has found, for people at once and for the document at the end.

use std::collections::BTreeMap;

use ess_document::{Amount, Named};
use ess_run::Report;
use ess_synapse::media::Kind;

/// As many names as the document has of each sort; how many there are is always said.
const NAMES: usize = 1_000;

/// Sums and lists of one run.
pub(crate) struct Found<'a> {
    report: &'a dyn Report,
    /// What lies at the source.
    pub(crate) kinds: BTreeMap<Kind, Amount>,
    pub(crate) unchanged: Amount,
    /// At the target only.
    pub(crate) surplus: Named,
    pub(crate) removed: u64,
    /// Not carried: links, odd names, what cannot be read or cannot be written.
    pub(crate) left: Named,
    /// Known to the database, and not there.
    pub(crate) missing: Named,
    /// There, and not what the database says.
    pub(crate) wrong: Named,
    /// There, and not known to the database.
    pub(crate) unknown: Named,
    /// At the target, and not what was sent.
    pub(crate) damaged: Named,
    /// Rows of the database that were compared.
    pub(crate) rows: Option<u64>,
}

impl<'a> Found<'a> {
    pub(crate) fn new(report: &'a dyn Report) -> Self {
        Self {
            report,
            kinds: BTreeMap::new(),
            unchanged: Amount::default(),
            surplus: Named::default(),
            removed: 0,
            left: Named::default(),
            missing: Named::default(),
            wrong: Named::default(),
            unknown: Named::default(),
            damaged: Named::default(),
            rows: None,
        }
    }

    pub(crate) fn there(&mut self, kind: Kind, bytes: u64) {
        add(self.kinds.entry(kind).or_default(), bytes);
    }

    pub(crate) fn left(&mut self, what: String) {
        // Reading both sides comes by it once more.
        if self.left.names.contains(&what) {
            return;
        }
        self.report.note(&format!("left out: {what}"));
        name(&mut self.left, what);
    }

    pub(crate) fn missing(&mut self, what: String) {
        self.report.note(&format!("missing: {what}"));
        name(&mut self.missing, what);
    }

    /// `id` and why.
    pub(crate) fn wrong(&mut self, id: &str, why: &str) {
        // One file, however often it was read and however many things are wrong with it.
        let what = format!("{id}: {why}");
        if self
            .wrong
            .names
            .iter()
            .any(|named| named.starts_with(&what[..id.len() + 2]))
        {
            return;
        }
        self.report.note(&format!("not what the database says: {what}"));
        name(&mut self.wrong, what);
    }

    pub(crate) fn damaged(&mut self, what: String) {
        self.report.note(&format!("damaged in the copy, sent again: {what}"));
        name(&mut self.damaged, what);
    }

    /// Nothing is lost, and nothing has to be done.
    pub(crate) fn unknown(&mut self, what: String) {
        name(&mut self.unknown, what);
    }

    pub(crate) fn surplus(&mut self, what: String) {
        name(&mut self.surplus, what);
    }

    /// Whether all that should be in the copy is in it.
    pub(crate) fn is_complete(&self) -> bool {
        self.left.count == 0 && self.missing.count == 0 && self.wrong.count == 0
    }
}

/// One more file.
pub(crate) fn add(to: &mut Amount, bytes: u64) {
    to.files += 1;
    to.bytes += bytes;
}

fn name(list: &mut Named, what: String) {
    list.count += 1;
    if list.names.len() < NAMES {
        list.names.push(what);
    }
}
