//! The options that all programs have.

use std::path::PathBuf;

// No doc comment: clap would take it for the tool's own description.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Directory of the export on this host
    #[arg(long, value_name = "DIR")]
    pub(crate) export: Option<PathBuf>,
    /// Read no document from standard input
    #[arg(short = 'n', long)]
    pub(crate) no_input: bool,
    /// Print errors only
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Print the commands that are run and each stage
    #[arg(short, long)]
    pub(crate) verbose: bool,
}
