//! well-known: create the well-known documents and DNS changes, and check them.

fn main() -> std::process::ExitCode {
    ess_migrate::well_known()
}
