//! restore: load a dump, prove that it is complete, and let Synapse start.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("restore", EmptyPipe::Fails, ess_restore::run)
}
