//! verify: prove that the target holds what the source held.

fn main() -> std::process::ExitCode {
    ess_migrate::verify()
}
