//! verify: prove that the target holds what the source held.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("verify", EmptyPipe::Fails, ess_verify::run)
}
