//! Child processes, interruption by signals, progress reports, and text for people.

mod background;
mod interrupt;
mod memory_file;
mod pg_tools;
mod program;
pub mod redact;
mod report;
pub mod text;
mod threads;

pub use background::{Background, User};
pub use interrupt::{Interrupted, interrupt, interrupted, stop_if_interrupted};
pub use memory_file::MemoryFile;
pub use pg_tools::{Installation, LAST_WITHOUT_TRANSACTION_TIMEOUT, Need, choose, installations, servers};
pub use program::{Error, Program, in_quotes, quoted};
pub use report::{Report, Silent};
pub use threads::{joined, locked, unpoisoned};

/// The default number of sessions: the number of processors.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
