//! What a long job says while it runs. `crates/cli` prints it; libraries only call it.

/// Someone who listens to a long job.
pub trait Report: Send + Sync {
    /// A line for people.
    fn note(&self, line: &str);
    /// A command that is run, for `-v`.
    fn command(&self, line: &str);
    /// A new stage begins: what it is and how many bytes it will take, when known.
    fn stage(&self, what: &str, bytes: Option<u64>);
    /// So many bytes of the stage are done.
    fn advance(&self, bytes: u64);
    /// The stage is over.
    fn done(&self);
}

/// Nobody listens.
pub struct Silent;

impl Report for Silent {
    fn note(&self, _: &str) {}
    fn command(&self, _: &str) {}
    fn stage(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn done(&self) {}
}
