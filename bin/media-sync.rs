//! media-sync: copy the media store and check every upload.

fn main() -> std::process::ExitCode {
    ess_migrate::media_sync()
}
