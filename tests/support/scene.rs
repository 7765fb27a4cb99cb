//! The start of most tests of the data path: a source that people have used and a target as Element Server Suite leaves
//! it, on two servers that all tests share.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::{
    Call, Cluster, Database, ESS_PASSWORD, Ran, Running, SERVER_NAME, Seeded, Stdin, World, link_programs, pgbin,
    text_of, wait_for_a_waiter, wait_until, write_program,
};

/// A source database, a target database and a directory, for one test.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) source: Database,
    /// The name of the target database.
    pub(crate) target: String,
}

/// What the tests share. A test that changes a database has a copy of its own.
struct Servers {
    source: Cluster,
    target: Cluster,
    seeded: Seeded,
    source_database: Database,
    _world: World,
}

/// A source that is copied for each test.
const SEEDED: &str = "seeded";
/// Targets that are copied: used once by one user; wiped and fenced; restored and proven.
const FRESH: &str = "synapse";
const FENCED: &str = "fenced";
const RESTORED: &str = "restored";

fn servers() -> &'static Servers {
    static SERVERS: OnceLock<Servers> = OnceLock::new();
    SERVERS.get_or_init(|| {
        let world = World::new();
        let source = Cluster::new(&world, "source");
        let target = Cluster::ess(&world, "target");
        let source_database = Database::awkward(&source);
        let seeded = source.load_synapse(SEEDED, &source_database.role);
        target.load_fresh();
        for cluster in [&source, &target] {
            // Several tests drop all objects of a database at once.
            cluster.psql("postgres", "ALTER SYSTEM SET max_locks_per_transaction = 1000");
            cluster.psql("postgres", "ALTER SYSTEM SET max_connections = 200");
            cluster.stop();
            cluster.start();
        }
        Servers {
            source,
            target,
            seeded,
            source_database,
            _world: world,
        }
    })
}

/// The server of all sources.
pub(crate) fn source_cluster() -> &'static Cluster {
    &servers().source
}

/// The server of all targets.
pub(crate) fn target_cluster() -> &'static Cluster {
    &servers().target
}

/// The content of the sources.
pub(crate) fn seeded() -> &'static Seeded {
    &servers().seeded
}

/// The directory of a dump of the unchanged source, which is taken once.
fn dump() -> &'static PathBuf {
    static DUMP: OnceLock<(World, PathBuf)> = OnceLock::new();
    &DUMP
        .get_or_init(|| {
            let scene = Scene::named("Synapse-Prod", FRESH.to_owned());
            scene.dump().success();
            let dump = scene.world.path("export/dump");
            (scene.world, dump)
        })
        .1
}

/// The name of a target that was wiped for that dump.
fn fenced() -> &'static str {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let scene = Scene::on(FRESH, FENCED.to_owned()).with_dump();
        let source = &scene.manifest()["source"];
        let identity = format!(
            "{}/{}",
            source["system_identifier"].as_str().unwrap(),
            source["database"].as_str().unwrap()
        );
        let wiping = scene.wiper().args(["--source-identity", &identity]);
        wiping
            .args(["--execute", "--confirm", &scene.confirmation()])
            .run()
            .success();
    });
    FENCED
}

/// The name of a target into which that dump was restored.
fn restored() -> &'static str {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let scene = Scene::on(fenced(), RESTORED.to_owned()).with_dump();
        scene.restore().run().success();
    });
    RESTORED
}

impl Scene {
    /// A source, and a target that Element Server Suite has set up and one user has tried.
    pub(crate) fn new() -> Self {
        let number = next();
        let scene = Self::on(FRESH, format!("synapse_{number}"));
        let source = Database {
            name: format!("Synapse-Prod-{number}"),
            ..scene.source.clone()
        };
        copy_database(source_cluster(), SEEDED, &source.name, &source.role);
        Self { source, ..scene }
    }

    /// A dump at `export/dump`, and a target as in [`Scene::new`]. The source is shared with other tests.
    pub(crate) fn dumped() -> Self {
        Self::on(FRESH, format!("synapse_{}", next())).with_dump()
    }

    /// A dump at `export/dump`, and a target that was wiped for it.
    pub(crate) fn wiped() -> Self {
        Self::on(fenced(), format!("synapse_{}", next())).with_dump()
    }

    /// A dump at `export/dump`, and a target into which it was restored.
    pub(crate) fn restored() -> Self {
        Self::on(restored(), format!("synapse_{}", next())).with_dump()
    }

    /// A target copied from `template`.
    fn on(template: &str, target: String) -> Self {
        copy_database(target_cluster(), template, &target, "synapse_user");
        Self::named(SEEDED, target)
    }

    fn named(source: &str, target: String) -> Self {
        let servers = servers();
        let world = World::new();
        if source != SEEDED {
            copy_database(&servers.source, SEEDED, source, &servers.source_database.role);
        }
        world.mask(servers.source.port.to_string(), "$SOURCE_PORT");
        world.mask(servers.target.port.to_string(), "$TARGET_PORT");
        world.mask(target.clone(), "$TARGET");
        let escaped = servers
            .source_database
            .password
            .replace('\\', r"\\")
            .replace(':', r"\:");
        world.write(
            "pgpass",
            format!("127.0.0.1:{}:*:synapse:{escaped}\n", servers.source.port),
        );
        world.write("target.pw", format!("{ESS_PASSWORD}\n"));
        Self {
            world,
            source: Database {
                name: source.to_owned(),
                ..servers.source_database.clone()
            },
            target,
        }
    }

    fn with_dump(mut self) -> Self {
        self.source.name = String::from("Synapse-Prod");
        let dump = dump();
        self.world.write("export/.keep", "");
        fs::remove_file(self.world.path("export/.keep")).unwrap();
        let copied = self.world.shell(&format!("cp -a {} export/dump", dump.display()));
        copied.success();
        self
    }

    /// A program that finds both passwords, in the file that `PGPASSFILE` names.
    pub(crate) fn tool<'a>(&self, name: &str) -> Call<'a> {
        self.world.tool(name).env("PGPASSFILE", self.world.path("pgpass"))
    }

    pub(crate) fn source_url(&self) -> String {
        source_cluster().url(&self.source.name, &self.source.role)
    }

    pub(crate) fn target_url(&self) -> String {
        target_cluster().url(&self.target, "synapse_user")
    }

    /// `-n --target URL --target-password-file FILE`
    pub(crate) fn target_args(&self) -> [String; 5] {
        [
            "-n".into(),
            "--target".into(),
            self.target_url(),
            "--target-password-file".into(),
            "target.pw".into(),
        ]
    }

    /// The argument that `--confirm` needs.
    pub(crate) fn confirmation(&self) -> String {
        format!("{SERVER_NAME}/{}", self.target)
    }

    /// `pgdump-wrap -n` into `export/dump`.
    pub(crate) fn dumper<'a>(&self) -> Call<'a> {
        let source = self.source_url();
        self.tool("pgdump-wrap").args([
            "-n",
            "--source",
            &source,
            "--export",
            "export",
            "--server-name",
            SERVER_NAME,
        ])
    }

    pub(crate) fn dump(&self) -> Ran {
        self.dumper().run()
    }

    /// `ess-wipe` with only the target; it only plans.
    pub(crate) fn wiper<'a>(&self) -> Call<'a> {
        self.tool("ess-wipe")
            .args(self.target_args())
            .args(["--export", "export", "--server-name", SERVER_NAME])
    }

    /// Runs `ess-wipe --execute`, with a document or without.
    pub(crate) fn wipe<'a>(&self, stdin: impl Into<Stdin<'a>>) -> Ran {
        let target = self.target_args();
        self.tool("ess-wipe")
            .args(&target[1..])
            .args(["--export", "export", "--server-name", SERVER_NAME])
            .args(["--execute", "--confirm", &self.confirmation()])
            .stdin(stdin)
            .run()
    }

    /// `restore -n` from `export/dump`.
    pub(crate) fn restore<'a>(&self) -> Call<'a> {
        self.tool("restore")
            .args(self.target_args())
            .args(["--from", "export/dump"])
    }

    /// `verify -n` against `export/dump`.
    pub(crate) fn verify<'a>(&self) -> Call<'a> {
        self.tool("verify")
            .args(self.target_args())
            .args(["--from", "export/dump"])
    }

    /// Runs the programs of the pipeline one after the other, up to the first that fails; returns the output of the last.
    /// Each leaves its document in a file, such as `dumped.json`. `dump` are more arguments of pgdump-wrap.
    pub(crate) fn line(&self, dump: &[&str]) -> Ran {
        let script = format!(
            "set -o pipefail; pgdump-wrap {} -n --source \"$SOURCE\" --export export --server-name example.org > dumped.json \
             && ess-wipe --target \"$TARGET\" --target-password-file target.pw --execute --confirm {} < dumped.json > wiped.json \
             && restore < wiped.json > restored.json && verify < restored.json",
            dump.join(" "),
            self.confirmation()
        );
        let call = self.world.script(&script).env("PGPASSFILE", self.world.path("pgpass"));
        let call = call.env("SOURCE", self.source_url());
        call.env("TARGET", self.target_url()).run()
    }

    /// The manifest of `export/dump`.
    pub(crate) fn manifest(&self) -> Value {
        serde_json::from_str(&self.world.read("export/dump/manifest.json")).unwrap()
    }

    #[track_caller]
    pub(crate) fn on_source(&self, sql: &str) -> String {
        source_cluster().psql(&self.source.name, sql)
    }

    /// Runs SQL on the source as Synapse's role.
    #[track_caller]
    pub(crate) fn as_synapse(&self, sql: &str) {
        self.on_source(&format!("SET ROLE \"{}\"; {sql}", self.source.role));
    }

    #[track_caller]
    pub(crate) fn on_target(&self, sql: &str) -> String {
        target_cluster().psql(&self.target, sql)
    }

    /// Everything in the target, as SQL text.
    pub(crate) fn target_dump(&self) -> String {
        let mut dump = target_cluster().program("pg_dump");
        dump.args(["-U", "postgres", "-d", &self.target]);
        let text = text_of(dump);
        // The key of `\restrict` differs from dump to dump.
        let lines = text
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether no Synapse can start on the target, because both version tables contain a version that is too new.
    pub(crate) fn is_fenced(&self) -> bool {
        let one = "SELECT count(*) = 1 AND min(%) = 2147483647 FROM ";
        let version = one.replace('%', "version") + "schema_version";
        let compat = one.replace('%', "compat_version") + "schema_compat_version";
        self.on_target(&format!("{version}; {compat}")) == "t\nt"
    }

    /// The database that a Synapse on the target uses.
    pub(crate) fn target_database(&self) -> Database {
        target_cluster().database(&self.target, "synapse_user", ESS_PASSWORD)
    }
}

/// `ess-wipe -n --undo` with only the export.
pub(crate) fn undo_from_export(scene: &Scene, args: &[&str]) -> Ran {
    scene
        .tool("ess-wipe")
        .args(["-n", "--undo", "--export", "export"])
        .args(args)
        .run()
}

/// Starts a restore that has loaded everything and waits in its proof for the table `users`, which a session of `role`
/// named `ess-migrate/psql/hold` has locked in `mode`.
pub(crate) fn restore_that_waits(scene: &Scene, wiped: &str, role: &str, mode: &str) -> Running {
    let cluster = target_cluster();
    let hold = format!(
        "PGAPPNAME=ess-migrate/psql/hold psql -qX -h {} -p {} -U {role} -d {} \
         -c 'BEGIN; LOCK TABLE users IN {mode} MODE' -c '\\echo held' -c 'SELECT pg_sleep(600)'",
        cluster.dir.display(),
        cluster.port,
        scene.target
    );
    let script = format!(
        "{}/pg_restore \"$@\" || exit\n\
         [[ $* != *--dbname* ]] || {{ {hold} >hold 2>&1 & until grep -q held hold; do sleep 0.1; done; }}\n",
        pgbin()
    );
    write_program(&scene.world, "bin/pg_restore", &script);
    link_programs(&scene.world, "bin");
    let restore = scene.tool("restore").args(["--pg-bin", "bin"]).stdin(wiped).start();
    wait_until("all is loaded", || {
        scene.world.path("hold").exists() && scene.world.read("hold").contains("held")
    });
    wait_for_a_waiter(cluster, &scene.target, "ess-migrate/restore");
    restore
}

/// Copies a database that is not in use.
fn copy_database(cluster: &Cluster, from: &str, to: &str, owner: &str) {
    cluster.psql(
        "postgres",
        &format!("CREATE DATABASE \"{to}\" TEMPLATE \"{from}\" OWNER {owner}"),
    );
}

fn next() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
