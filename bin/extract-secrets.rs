//! extract-secrets: copy a homeserver's secrets into files.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("extract-secrets", EmptyPipe::Fails, ess_secrets::run)
}
