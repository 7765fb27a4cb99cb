//! ess-job: print a Kubernetes Job that runs a pipeline next to the database.

fn main() -> std::process::ExitCode {
    ess_migrate::ess_job()
}
