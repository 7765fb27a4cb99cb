//! pgdump-wrap: dump Synapse's database and prove what the dump contains.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("pgdump-wrap", EmptyPipe::Fails, ess_dump::run)
}
