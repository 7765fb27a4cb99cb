//! Databases that a real Synapse has created, cached in `target/`: most tests need its schema and data, few need the
//! program.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::World;
use super::place::place;
use super::postgres::{Cluster, ESS_PASSWORD, feed};
use super::seed::Seeded;
use super::synapse::{Identity, REQUIREMENTS, Synapse, lock_target, target};

/// A dump in `pg_dump`'s custom format, a description of its content, and the media that belong to it.
struct Template {
    dump: Vec<u8>,
    seeded: Seeded,
    /// A tar archive of the media store.
    media: Vec<u8>,
}

impl Cluster {
    /// Creates a database with the content that [`Seeded`] describes, of the homeserver [`Identity::old`].
    pub(crate) fn load_synapse(&self, database: &str, owner: &str) -> Seeded {
        self.create_database(database, owner);
        self.load(seeded(), database, owner)
    }

    /// Fills the empty database `synapse` of [`Cluster::ess`] as if a Synapse with [`Identity::ess`] had been started
    /// on it once, and tried by one user.
    pub(crate) fn load_fresh(&self) -> Seeded {
        self.load(fresh(), "synapse", "synapse_user")
    }

    fn load(&self, template: &Template, database: &str, owner: &str) -> Seeded {
        let mut restore = self.program("pg_restore");
        restore.args([
            "-U",
            "postgres",
            "--no-owner",
            "--role",
            owner,
            "--exit-on-error",
            "-d",
            database,
        ]);
        feed(restore, &template.dump);
        // Autovacuum would have done this by the time of a migration.
        self.psql(database, "ANALYZE");
        template.seeded.clone()
    }
}

impl Synapse {
    /// Copies the media of [`Cluster::load_synapse`] into the media store.
    pub(crate) fn load_media(&self) {
        place().make_dir(&self.media_store());
        let mut tar = place().command("/bin/tar", &self.media_store());
        tar.args(["-x", "-f", "-"]);
        feed(tar, &seeded().media);
    }
}

fn seeded() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| template("seeded", &Identity::old(), Seeded::fill))
}

fn fresh() -> &'static Template {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    TEMPLATE.get_or_init(|| template("fresh", &Identity::ess(), Seeded::try_out))
}

fn template(name: &str, identity: &Identity, fill: fn(&Synapse) -> Seeded) -> Template {
    let dir = target().join(format!("synapse-{name}-{}", key()));
    let _lock = {
        // Lock only afterwards: creating the interpreter needs the same lock.
        super::synapse::python();
        lock_target()
    };
    if !dir.exists() {
        let outdated = format!("synapse-{name}-");
        for entry in fs::read_dir(target()).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with(&outdated) {
                fs::remove_dir_all(entry.path()).unwrap();
            }
        }
        make(&dir, identity, fill);
    }
    let read = |name| fs::read(dir.join(name)).unwrap();
    Template {
        dump: read("dump"),
        seeded: serde_json::from_slice(&read("seeded.json")).unwrap(),
        media: read("media.tar"),
    }
}

/// Starts a Synapse on an empty database, lets `fill` use it, and stores the result.
fn make(dir: &Path, identity: &Identity, fill: fn(&Synapse) -> Seeded) {
    let world = World::new();
    let cluster = Cluster::ess(&world, "template");
    let synapse = Synapse::new(
        &world,
        "synapse",
        &cluster.database("synapse", "synapse_user", ESS_PASSWORD),
        identity,
    );
    synapse.start();
    let seeded = fill(&synapse);
    wait_for_background_updates(&cluster);
    synapse.stop();

    let mut dump = cluster.program("pg_dump");
    dump.args(["-U", "postgres", "-Fc", "-d", "synapse"]);
    let mut tar = place().command("/bin/tar", &synapse.media_store());
    tar.args(["-c", "-f", "-", "."]);
    let whole = PathBuf::from(format!("{}.making", dir.display()));
    fs::create_dir(&whole).unwrap();
    fs::write(whole.join("dump"), feed(dump, b"")).unwrap();
    fs::write(whole.join("media.tar"), feed(tar, b"")).unwrap();
    fs::write(whole.join("seeded.json"), serde_json::to_vec_pretty(&seeded).unwrap()).unwrap();
    fs::rename(whole, dir).unwrap();
}

/// A key that changes with everything that the content depends on.
fn key() -> String {
    let server = place()
        .command(place().pgbin.join("postgres"), &place().dir)
        .arg("--version")
        .output()
        .unwrap();
    let mut hash = Sha256::new();
    for part in [
        REQUIREMENTS,
        include_str!("seed.rs"),
        include_str!("synapse.rs"),
        include_str!("template.rs"),
    ] {
        hash.update(part);
    }
    hash.update(server.stdout);
    let hash = hash.finalize();
    // A few bytes are enough to distinguish it from older templates.
    ess_files::hex(&hash[..6])
}

/// Waits for the background updates of a new database, which finish by themselves.
fn wait_for_background_updates(cluster: &Cluster) {
    let start = Instant::now();
    loop {
        let left = cluster.psql("synapse", "SELECT update_name FROM background_updates");
        if left.is_empty() {
            return;
        }
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "background updates do not finish:\n{left}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}
