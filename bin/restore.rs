//! restore: load a dump, prove that it is complete, and let Synapse start.

fn main() -> std::process::ExitCode {
    ess_migrate::restore()
}
