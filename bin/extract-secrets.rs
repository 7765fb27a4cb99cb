//! extract-secrets: copy a homeserver's secrets into files.

fn main() -> std::process::ExitCode {
    ess_migrate::extract_secrets()
}
