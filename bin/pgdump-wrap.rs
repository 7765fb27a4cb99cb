//! pgdump-wrap: dump Synapse's database and prove what the dump contains.

fn main() -> std::process::ExitCode {
    ess_migrate::pgdump_wrap()
}
