//! preflight: checks for everything that could stop the migration.

fn main() -> std::process::ExitCode {
    ess_migrate::preflight()
}
