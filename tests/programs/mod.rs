//! One program each.

mod alone;
mod ess_wipe;
mod extract_secrets;
mod extract_secrets_peer;
mod media_sync;
mod pgdump_wrap;
mod preflight;
mod preflight_each;
mod restore;
mod undo;
mod verify;
mod well_known;
mod wipe_guards;
