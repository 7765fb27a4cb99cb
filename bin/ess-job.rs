//! ess-job: print a Kubernetes Job that runs a pipeline next to the database.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("ess-job", EmptyPipe::Fails, ess_job::run)
}
