//! preflight: checks for everything that could stop the migration.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("preflight", EmptyPipe::IsNoDocument, ess_preflight::run)
}
