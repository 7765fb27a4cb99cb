//! The options that all programs have, and `--export`, which all that use an export have.
//!
//! The structs have no doc comments: clap would take them for the tool's own description.

use std::path::PathBuf;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExportArg {
    /// Directory of the export on this host
    #[arg(long, value_name = "DIR")]
    pub(crate) export: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Read no document from standard input
    #[arg(short = 'n', long)]
    pub(crate) no_input: bool,
    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print more: stages, commands that are run, and waiting for a document
    #[arg(short, long)]
    pub(crate) verbose: bool,
}
