//! well-known: create the well-known documents and DNS changes, and check them.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("well-known", EmptyPipe::Fails, ess_well_known::run)
}
