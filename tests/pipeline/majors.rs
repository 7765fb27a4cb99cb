//! Sources and targets of other major versions of PostgreSQL: data of an old server is moved to a newer one and proven.

use crate::support::{
    Cluster, Database, ESS_PASSWORD, Identity, Ran, Scene, Seeded, Synapse, Tmpfs, World, link_programs, place,
    programs_of, write_program,
};

/// A source with Synapse's objects and ones that people add, a target, and client programs that fit both servers.
struct Move {
    world: World,
    source: Cluster,
    target: Cluster,
    from: Database,
    seeded: Seeded,
    bin: String,
}

/// Objects that later versions print differently, or keep in other catalogs.
const ADDED: &str = "SET ROLE synapse;
    CREATE TABLE added (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a text NOT NULL, b int CHECK (b > 0 AND b <> 7),
                        c text GENERATED ALWAYS AS (a || '!') STORED, d date NOT NULL DEFAULT '2020-01-01'::date);
    INSERT INTO added (a, b) SELECT n::text, n + 7 FROM generate_series(1, 20) n;
    CREATE DOMAIN word AS text NOT NULL CHECK (VALUE <> ''); CREATE TABLE worded (w word, x interval, y numeric, z float8);
    INSERT INTO worded VALUES ('w', '1 mon 2 days', 1.50, 0.1);
    CREATE VIEW seen AS SELECT added.id, u.name AS who FROM added, users u WHERE added.b > 3 AND u.is_guest = 0;
    CREATE VIEW alone AS SELECT added.id, added.a AS what FROM added WHERE added.a IN ('1', '2');
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n, max(added.d) AS last FROM added;
    CREATE INDEX added_partly ON added (lower(a), (b + 1)) WHERE b IS NOT NULL AND a LIKE 'x%';
    CREATE FUNCTION twice(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2 * n';
    CREATE RULE quiet AS ON DELETE TO worded DO INSTEAD NOTHING;
    CREATE POLICY some_of_it ON worded USING (length(w) > 0);
    CREATE STATISTICS related ON a, b FROM added;
    CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER stamped BEFORE UPDATE ON added FOR EACH ROW WHEN (OLD.b IS DISTINCT FROM NEW.b) EXECUTE FUNCTION stamp();
    SELECT lo_from_bytea(77, 'large');
    CREATE TYPE span AS RANGE (subtype = float8, subtype_diff = float8mi); CREATE TABLE spans (s span); INSERT INTO spans VALUES ('[1,2)');
    CREATE TABLE parts (id int, r text) PARTITION BY LIST (r); CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
    CREATE TABLE parts_d PARTITION OF parts DEFAULT; INSERT INTO parts VALUES (1, 'a'), (2, 'b');
    CREATE TRIGGER stamped AFTER INSERT ON parts FOR EACH ROW EXECUTE FUNCTION stamp();
    CREATE UNIQUE INDEX parts_key ON parts (id, r); CREATE TABLE refers (id int, r text, FOREIGN KEY (id, r) REFERENCES parts (id, r));
    ALTER TABLE added ALTER a SET STORAGE EXTERNAL, ALTER b SET STATISTICS 55; ALTER STATISTICS related SET STATISTICS 44;
    CREATE TEXT SEARCH CONFIGURATION found (COPY = pg_catalog.english); CREATE AGGREGATE total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '7');
    CREATE FUNCTION same(word, word) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT $1::text = $2::text';
    CREATE OPERATOR === (LEFTARG = word, RIGHTARG = word, FUNCTION = same);
    COMMENT ON TABLE added IS 'ours'; COMMENT ON COLUMN added.a IS 'a'; COMMENT ON TYPE span IS 's'; COMMENT ON TEXT SEARCH CONFIGURATION found IS 'f'";

impl Move {
    /// `None` is the system's version of PostgreSQL.
    fn new(from: Option<u32>, to: Option<u32>) -> Self {
        let programs = |major: Option<u32>| major.map_or_else(|| place().pgbin.clone(), programs_of);
        let world = World::new();
        let version = |major: Option<u32>| major.map_or("own".to_owned(), |major| major.to_string());
        let source = Cluster::of(&world, &format!("source{}", version(from)), programs(from));
        let target = Cluster::of(&world, &format!("target{}", version(to)), programs(to)).into_ess();
        let bin = programs(to).display().to_string();
        let from = Database::awkward(&source);
        let seeded = source.load_synapse(&from.name, &from.role);
        source.psql(&from.name, ADDED);
        target.load_fresh();
        let password = from.password.replace('\\', r"\\").replace(':', r"\:");
        world.write(
            "pgpass",
            format!("127.0.0.1:{}:*:{}:{password}\n", source.port, from.role),
        );
        world.write("target.pw", ESS_PASSWORD);
        Self {
            world,
            source,
            target,
            from,
            seeded,
            bin,
        }
    }

    fn run(&self, script: &str) -> Ran {
        let call = self
            .world
            .script(script)
            .env("PGPASSFILE", self.world.path("pgpass"))
            .env("BIN", &self.bin);
        let call = call.env("SOURCE", self.source.url(&self.from.name, &self.from.role));
        call.env("TARGET", self.target.url("synapse", "synapse_user")).run()
    }

    /// Runs the pipeline, and checks that everything is there.
    fn arrives(&self) {
        let line = "set -o pipefail
            pgdump-wrap -n --source \"$SOURCE\" --export export --server-name example.org --pg-bin \"$BIN\" \
            | ess-wipe --target \"$TARGET\" --target-password-file target.pw --pg-bin \"$BIN\" --execute --confirm example.org/synapse \
            | restore --pg-bin \"$BIN\" | verify >migration.json";
        self.run(line).success();
        // A comparison with the source instead of the manifest.
        self.run("verify -n --source \"$SOURCE\" --target \"$TARGET\" --target-password-file target.pw")
            .success();
        for sql in [
            "SELECT * FROM added ORDER BY 1; SELECT * FROM worded; SELECT * FROM seen ORDER BY 1, 2; SELECT * FROM counted",
            "SELECT count(*), sum(length(json)) FROM event_json; SELECT convert_from(lo_get(77), 'UTF8')",
        ] {
            assert_eq!(self.source.psql(&self.from.name, sql), self.target.psql("synapse", sql));
        }
        // A difference is detected, however each version prints the object.
        for (change, back) in [
            (
                "UPDATE added SET b = 99 WHERE id = 1",
                "UPDATE added SET b = 8 WHERE id = 1",
            ),
            (
                "CREATE OR REPLACE VIEW seen AS SELECT added.id, u.name AS who FROM added, users u WHERE added.b > 4 AND u.is_guest = 0",
                "CREATE OR REPLACE VIEW seen AS SELECT added.id, u.name AS who FROM added, users u WHERE added.b > 3 AND u.is_guest = 0",
            ),
            (
                "ALTER TABLE added ALTER a DROP NOT NULL",
                "ALTER TABLE added ALTER a SET NOT NULL",
            ),
            ("ALTER DOMAIN word DROP NOT NULL", "ALTER DOMAIN word SET NOT NULL"),
        ] {
            self.target.psql("synapse", &format!("SET ROLE synapse_user; {change}"));
            let verify = "verify -n --from export/dump --target \"$TARGET\" --target-password-file target.pw";
            assert_eq!(self.run(verify).status.code(), Some(1), "{change}");
            self.target.psql("synapse", &format!("SET ROLE synapse_user; {back}"));
            self.run(verify).success();
        }
    }

    /// Starts Synapse, and checks that users can continue.
    fn goes_on(&self) {
        let database = self.target.database("synapse", "synapse_user", ESS_PASSWORD);
        let synapse = Synapse::new(&self.world, "ess", &database, &Identity::old());
        synapse.start();
        self.seeded.check(&synapse);
        self.seeded.goes_on(&synapse);
    }
}

#[test]
fn a_source_of_13_arrives_on_this_systems_version() {
    Move::new(Some(13), None).arrives();
}

#[test]
fn a_source_of_this_systems_version_arrives_on_16() {
    Move::new(None, Some(16)).arrives();
}

#[test]
fn a_source_of_14_arrives_on_17() {
    Move::new(Some(14), Some(17)).arrives();
}

#[test]
fn a_source_of_13_arrives_on_18_and_synapse_continues() {
    let all_the_way = Move::new(Some(13), Some(18));
    all_the_way.arrives();
    all_the_way.goes_on();
}

/// The arguments of `pg_dump`, as printed by `pgdump-wrap -v`, when no compression is requested.
fn dump_without_a_wish(scene: &Scene, pg_bin: &str, out: &str) -> String {
    let dumper = scene
        .tool("pgdump-wrap")
        .args(["-n", "-v", "--source", &scene.source_url()]);
    dumper.args(["--pg-bin", pg_bin, "--out", out]).run().success().stderr
}

#[test]
fn programs_that_lack_a_method_compress_by_another_or_not_at_all() {
    let scene = Scene::new();
    // A version that supports zstd and lz4, in a build without them.
    let programs = programs_of(16).display().to_string();

    let said = dump_without_a_wish(&scene, &programs, "dump");

    for method in ["zstd:1", "lz4"] {
        assert!(said.contains(&format!(" --compress {method}\n")), "{method}: {said}");
    }
    assert!(said.contains(" --compress 0 --no-sync "), "{said}");

    // Only root can mount, and there is no other way to simulate a disk that is nearly full.
    if let Some(_mounted) = Tmpfs::mount(&scene.world, "small", "8m") {
        let said = dump_without_a_wish(&scene, &programs, "small/dump");
        assert!(said.contains(" --compress 1 --no-sync "), "{said}");
    }
}

#[test]
fn programs_that_have_a_method_compress_by_it() {
    let scene = Scene::new();
    // A stub, because not every system has a build with lz4. It answers as such a build does.
    let script = format!(
        "case \" $* \" in
         *' custom --jobs 2 --compress lz4 '*)
             echo 'pg_dump: error: parallel backup only supported by the directory format' >&2; exit 1;;
         esac
         exec {}/pg_dump \"${{@/#lz4/gzip}}\"\n",
        programs_of(16).display()
    );
    write_program(&scene.world, "bin/pg_dump", &script);
    let restores = format!("exec {}/pg_restore \"$@\"\n", programs_of(16).display());
    write_program(&scene.world, "bin/pg_restore", &restores);
    link_programs(&scene.world, "bin");

    let said = dump_without_a_wish(&scene, "bin", "dump");

    assert!(said.contains(" --compress lz4 --no-sync "), "{said}");
}

#[test]
fn programs_that_are_older_than_the_source_are_refused_before_anything_is_written() {
    let world = World::new();
    let source = Cluster::of(&world, "newer", programs_of(18));
    source.create_role("app", "pw");
    source.create_database("plain", "app");
    world.write("pgpass", "*:*:*:app:pw\n");
    let own = place().pgbin.display().to_string();
    let call = world.tool("pgdump-wrap").env("PGPASSFILE", world.path("pgpass"));

    let ran = call
        .args([
            "-n",
            "--source",
            &source.url("plain", "app"),
            "--out",
            "dump",
            "--pg-bin",
            &own,
        ])
        .run();

    assert_eq!(ran.status.code(), Some(69), "{ran}");
    let said = "dumping this source (PostgreSQL 18) requires client programs of version 18 or newer; found in ";
    assert!(ran.stderr.contains(said), "{ran}");
    assert!(ran.stderr.contains("hint: install postgresql-client-18"), "{ran}");
    assert!(!world.path("dump").exists());
}
