//! ess-migrate: all programs in one binary, which is the program that it is called as.
//!
//! Packages install it once, with a link for each program: together the programs are a fifth of their size apart.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_name().unwrap_or_default();
    match ess_migrate::ALL.iter().find(|(program, _)| name == *program) {
        Some((_, run)) => run(),
        None => ess_cli::refuse_name(&ess_migrate::ALL.map(|(program, _)| program)),
    }
}
