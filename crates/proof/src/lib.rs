//! Is the target equal to the manifest, or to the live source? Owns the fence, and loads behind it.

mod compare;
mod expected;
mod fence;
mod load;
mod movement;
mod prove;
mod source;
mod target;

pub use compare::differences;
pub use expected::live_inventory;
pub use fence::{Fence, read_fence};
pub use load::{Loaded, Loading};
pub use movement::{identify_source, source_moved};
pub use prove::{Proof, Proving, is_loaded};
pub use source::{is_no_subscriber, is_whole};
pub use target::{Target, nobody_else, not_synapse, take_lock};
