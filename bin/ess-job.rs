//! ess-job: print a Kubernetes Job that runs a pipeline next to the database.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main_without_export("ess-job", EmptyPipe::Fails, ess_job::run)
}
