//! Compares a target with a manifest or with the stopped source. Owns the fence, and loads behind it.

mod compare;
mod conclude;
mod expected;
mod fence;
mod fit;
mod jobs;
mod load;
mod loadable;
mod movement;
mod prove;
mod source;
mod streams;
mod target;
mod undo_command;

pub use compare::{catalogue_sha256, differences};
pub use conclude::{Allow, Conclusion, Expected, State, Way};
pub use expected::live_inventory;
pub use fence::{Fence, IncompleteFence, Standing, standing};
pub use fit::{locks_needed, other_tables, require_compatible, require_locale, require_own_tables};
pub use jobs::{RAISE, connections_for, jobs, jobs_of_dump};
pub use load::{Loaded, Loading, not_empty};
pub use loadable::require_loadable;
pub use movement::{SourceToCheck, identify, source_of};
pub use prove::{Proof, Proving};
pub use source::{lock_source, refuse_subscriber, require_primary};
pub use target::{Target, refuse_ignoring_synapse, require_public, wait_until_unused};
pub use undo_command::undo_command;
