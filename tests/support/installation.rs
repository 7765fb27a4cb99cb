//! A homeserver with its configuration, and a target, as preflight checks them before a migration.

use super::internet::{self, Internet};
use super::{Call, Identity, Ran, Scene, Synapse};

/// A source with its configuration, and a target.
pub(crate) struct Stage {
    pub(crate) scene: Scene,
    pub(crate) synapse: Synapse,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let scene = Scene::new();
        let synapse = Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());
        synapse.load_media();
        Self { scene, synapse }
    }

    /// A run on both servers, with valid public names.
    pub(crate) fn tool<'a>(&self) -> Call<'a> {
        internet::healthy().seen_by(self.scene.tool("preflight"))
    }

    /// A run with the configuration only; the test adds the target.
    pub(crate) fn source_only<'a>(&self) -> Call<'a> {
        self.tool().args(["-n"]).args(self.synapse.config_args())
    }

    pub(crate) fn preflight<'a>(&self) -> Call<'a> {
        self.source_only().args(&self.scene.target_args()[1..])
    }
}

/// Runs preflight on the source and the public names only.
pub(crate) fn public(stage: &Stage, internet: &Internet, args: &[&str]) -> Ran {
    let call = internet.seen_by(stage.scene.tool("preflight")).args(["-n"]);
    call.args(stage.synapse.config_args()).args(args).run()
}
