//! A homeserver that is to move, and an ESS into which it moves.

use super::{Cluster, Database, ESS_PASSWORD, Identity, Ran, Seeded, Synapse, World, readme};

/// A stopped homeserver as packaged by Debian, and an unused ESS.
pub(crate) struct Move {
    pub(crate) world: World,
    pub(crate) source: Cluster,
    pub(crate) target: Cluster,
    pub(crate) from: Database,
    to: Database,
    pub(crate) old: Synapse,
    pub(crate) seeded: Seeded,
}

impl Move {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let source = Cluster::new(&world, "source");
        let target = Cluster::ess(&world, "target");
        let from = Database::awkward(&source);
        let seeded = source.load_synapse(&from.name, &from.role);
        target.load_fresh();
        let to = target.database("synapse", "synapse_user", ESS_PASSWORD);
        let old = Synapse::debian(&world, "old", &from, &Identity::old());
        old.load_media();
        world.write("target.pw", format!("{ESS_PASSWORD}\n"));
        Self {
            world,
            source,
            target,
            from,
            to,
            old,
            seeded,
        }
    }

    /// Runs the pipeline of the README and of ess-migrate(7).
    pub(crate) fn line(&self) -> Ran {
        let line = readme::line("--target \"$TARGET\"", &self.old.config_args());
        let script = format!("set -o pipefail; {line}");
        let url = self.target.url("synapse", "synapse_user");
        self.world.script(&script).env("TARGET", url).run()
    }

    /// A Synapse on the target, with the extracted secrets.
    pub(crate) fn new_synapse(&self) -> Synapse {
        let identity = Identity::extracted(&self.world.path("export/secrets"));
        Synapse::new(&self.world, "new", &self.to, &identity)
    }
}
