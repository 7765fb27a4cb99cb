//! One program each.

mod alone;
mod ess_wipe;
mod ess_wipe_plan;
mod ess_wipe_use;
mod extract_secrets;
mod extract_secrets_emit;
mod extract_secrets_export;
mod extract_secrets_keys;
mod extract_secrets_peer;
mod extract_secrets_values;
mod media_sync;
mod pgdump_wrap;
mod preflight;
mod preflight_host;
mod preflight_network;
mod preflight_output;
mod preflight_public;
mod preflight_source;
mod preflight_target;
mod restore;
mod undo;
mod verify;
mod well_known;
mod wipe_guards;
