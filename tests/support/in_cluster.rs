//! A homeserver that is to move, and an ESS in a cluster, reached through the stand-in for its API server.

use std::ops::Deref;

use super::migration::Move;
use super::{Call, Cluster, Kube, OFFLINE, Ran, World, readme};

/// A stopped homeserver, and an ESS in a cluster.
pub(crate) struct Stage {
    it: Move,
    pub(crate) kube: Kube,
}

impl Deref for Stage {
    type Target = Move;

    fn deref(&self) -> &Move {
        &self.it
    }
}

impl Stage {
    pub(crate) fn new(kube: impl FnOnce(&World, &Cluster) -> Kube) -> Self {
        let it = Move::new();
        let kube = kube(&it.world, &it.target);
        Self { it, kube }
    }

    pub(crate) fn community() -> Self {
        Self::new(Kube::community)
    }

    pub(crate) fn script<'a>(&self, script: &str) -> Call<'a> {
        self.kube
            .seen_by(self.world.script(&format!("set -o pipefail; {script}")))
    }

    pub(crate) fn tool<'a>(&self, tool: &str) -> Call<'a> {
        self.kube.seen_by(self.world.tool(tool))
    }

    /// Runs preflight on the target only.
    pub(crate) fn preflight(&self) -> Ran {
        self.script(&format!("preflight -n {OFFLINE} --target kube:ess")).run()
    }

    /// Runs the pipeline of the README.
    pub(crate) fn line(&self) -> Ran {
        self.script(&readme::line("--target kube:ess", &self.old.config_args()))
            .run()
    }

    pub(crate) fn rows(&self) -> (String, String) {
        let count = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM users), (SELECT max(stream_ordering) FROM events)";
        (
            self.source.psql(&self.from.name, count),
            self.target.psql("synapse", count),
        )
    }
}
