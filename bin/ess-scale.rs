//! ess-scale: stop Synapse in its cluster, and start it again unchanged.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("ess-scale", EmptyPipe::Fails, ess_scale::run)
}
