//! The programs as functions: a binary named after a program calls one of them, and the binary `ess-migrate` the one
//! that it is called as.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

/// A program: its name, and its function.
pub type Program = (&'static str, fn() -> ExitCode);

/// All programs.
pub const ALL: [Program; 11] = [
    ("rehearse", rehearse),
    ("preflight", preflight),
    ("extract-secrets", extract_secrets),
    ("pgdump-wrap", pgdump_wrap),
    ("media-sync", media_sync),
    ("ess-scale", ess_scale),
    ("ess-wipe", ess_wipe),
    ("restore", restore),
    ("verify", verify),
    ("well-known", well_known),
    ("ess-job", ess_job),
];

/// Rehearses the migration into a scratch database, while Synapse runs.
pub fn rehearse() -> ExitCode {
    ess_cli::main("rehearse", EmptyPipe::IsNoDocument, ess_rehearse::run)
}

/// Checks for everything that could stop the migration.
pub fn preflight() -> ExitCode {
    ess_cli::main("preflight", EmptyPipe::IsNoDocument, ess_preflight::run)
}

/// Copies a homeserver's secrets into files.
pub fn extract_secrets() -> ExitCode {
    ess_cli::main("extract-secrets", EmptyPipe::Fails, ess_secrets::run)
}

/// Dumps Synapse's database and proves what the dump contains.
pub fn pgdump_wrap() -> ExitCode {
    ess_cli::main("pgdump-wrap", EmptyPipe::Fails, ess_dump::run)
}

/// Copies the media store and checks every upload.
pub fn media_sync() -> ExitCode {
    ess_cli::main("media-sync", EmptyPipe::Fails, ess_media::run)
}

/// Stops Synapse in its cluster, and starts it again unchanged.
pub fn ess_scale() -> ExitCode {
    ess_cli::main("ess-scale", EmptyPipe::Fails, ess_scale::run)
}

/// Erases the target database, with a backup to undo it.
pub fn ess_wipe() -> ExitCode {
    ess_cli::main("ess-wipe", EmptyPipe::Fails, ess_wipe::run)
}

/// Loads a dump, proves that it is complete, and lets Synapse start.
pub fn restore() -> ExitCode {
    ess_cli::main("restore", EmptyPipe::Fails, ess_restore::run)
}

/// Proves that the target holds what the source held.
pub fn verify() -> ExitCode {
    ess_cli::main("verify", EmptyPipe::Fails, ess_verify::run)
}

/// Creates the well-known documents and DNS changes, and checks them.
pub fn well_known() -> ExitCode {
    ess_cli::main("well-known", EmptyPipe::Fails, ess_well_known::run)
}

/// Prints a Kubernetes Job that runs a pipeline next to the database.
pub fn ess_job() -> ExitCode {
    ess_cli::main_without_export("ess-job", EmptyPipe::Fails, ess_job::run)
}
