//! Results of a run: reported as they occur, and written into the document at the end.

use std::collections::BTreeMap;

use ess_document::{Amount, Named};
use ess_run::Report;
use ess_synapse::media::MediaKind;

/// Maximum number of names in each list of the document. The counts are always complete.
const NAMES: usize = 1_000;

/// Totals and lists of one run.
pub(crate) struct Tally<'a> {
    report: &'a dyn Report,
    /// The files of the store.
    pub(crate) kinds: BTreeMap<MediaKind, Amount>,
    pub(crate) unchanged: Amount,
    /// Files that only the copy has.
    pub(crate) surplus: Named,
    pub(crate) removed: u64,
    /// Not carried: links, names that Synapse does not use, files that cannot be read or written.
    pub(crate) left: Named,
    /// Uploads in the database that have no file.
    pub(crate) missing: Named,
    /// Uploads whose file differs from the database in size or SHA-256.
    pub(crate) wrong: Named,
    /// Files of uploads that are not in the database.
    pub(crate) unknown: Named,
    /// Files of the copy that differed from the store when they were read or written.
    pub(crate) damaged: Named,
    /// Rows of the database that were compared.
    pub(crate) rows: Option<u64>,
}

impl<'a> Tally<'a> {
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

    pub(crate) fn present(&mut self, kind: MediaKind, bytes: u64) {
        add(self.kinds.entry(kind).or_default(), bytes);
    }

    pub(crate) fn left(&mut self, what: String) {
        // The second pass, which reads both sides, may meet it again.
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

    /// Records why the file of upload `id` differs from the database.
    pub(crate) fn wrong(&mut self, id: &str, why: &str) {
        // Record a file once, however often it is read and in however many ways it differs.
        let what = format!("{id}: {why}");
        if self
            .wrong
            .names
            .iter()
            .any(|named| named.starts_with(&what[..id.len() + 2]))
        {
            return;
        }
        self.report.note(&format!("different from the database: {what}"));
        name(&mut self.wrong, what);
    }

    pub(crate) fn damaged(&mut self, what: String) {
        self.report.note(&format!("damaged in the copy, sent again: {what}"));
        name(&mut self.damaged, what);
    }

    /// Not reported to the user: the file is copied, and nothing has to be done.
    pub(crate) fn unknown(&mut self, what: String) {
        name(&mut self.unknown, what);
    }

    pub(crate) fn surplus(&mut self, what: String) {
        name(&mut self.surplus, what);
    }

    /// Whether everything that should be in the copy is in it.
    pub(crate) fn is_complete(&self) -> bool {
        self.left.count == 0 && self.missing.count == 0 && self.wrong.count == 0
    }
}

/// Adds a file of `bytes`.
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
