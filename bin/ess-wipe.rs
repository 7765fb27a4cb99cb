//! ess-wipe: erase the target database, with a backup to undo it.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("ess-wipe", EmptyPipe::Fails, ess_wipe::run)
}
