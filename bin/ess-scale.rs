//! ess-scale: stop Synapse in its cluster, and start it again unchanged.

fn main() -> std::process::ExitCode {
    ess_migrate::ess_scale()
}
