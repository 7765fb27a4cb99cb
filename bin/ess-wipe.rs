//! ess-wipe: erase the target database, with a backup to undo it.

fn main() -> std::process::ExitCode {
    ess_migrate::ess_wipe()
}
