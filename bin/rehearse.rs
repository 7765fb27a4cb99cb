//! rehearse: the migration into a scratch database, while Synapse runs.

fn main() -> std::process::ExitCode {
    ess_migrate::rehearse()
}
