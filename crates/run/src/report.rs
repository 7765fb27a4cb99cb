//! Progress reports of long jobs: libraries call this trait, and `crates/cli` prints.

/// Receives the notes and the progress of a job.
pub trait Report: Send + Sync {
    /// A note for people, of one line.
    fn note(&self, line: &str);
    /// A line without the program's name in front: part of a list, or a result.
    fn line(&self, line: &str);
    /// A command that is about to be run, printed with `-v`.
    fn command(&self, line: &str);
    /// A new stage begins: its name, and how many bytes it will process, if known.
    fn stage(&self, what: &str, bytes: Option<u64>);
    /// This many more bytes of the stage are done.
    fn advance(&self, bytes: u64);
    /// The stage has ended.
    fn done(&self);
}

/// Discards all reports.
pub struct Silent;

impl Report for Silent {
    fn note(&self, _: &str) {}
    fn line(&self, _: &str) {}
    fn command(&self, _: &str) {}
    fn stage(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn done(&self) {}
}
