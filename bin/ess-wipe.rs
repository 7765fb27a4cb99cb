//! ess-wipe: empty the target database, with a way back.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("ess-wipe", EmptyPipe::Fails, ess_wipe::run)
}
