//! media-sync: copy the media store and check every upload.

use std::process::ExitCode;

use ess_cli::EmptyPipe;

fn main() -> ExitCode {
    ess_cli::main("media-sync", EmptyPipe::Fails, ess_media::run)
}
