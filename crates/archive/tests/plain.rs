//! Real output of `pg_dump` passes the scanner and restores the same database.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ess_archive::{DumpFormat, Nowhere, PlainError, PlainOutcome, Restoring, detect, open_plain, scan};
use ess_postgres::Conninfo;
use tempfile::TempDir;

/// A temporary server on one Unix socket.
struct Server(TempDir);

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The directory of the server's programs, which also contains a `psql` of the same version.
fn bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| {
        let all = ess_run::installations(None).into_iter().rev();
        let mut directories = all.map(|installation| installation.directory);
        let found = directories.find(|directory| directory.join("initdb").is_file());
        found.expect("these tests need a PostgreSQL server: install postgresql")
    })
}

/// Runs a server program, as `nobody` if this process is root, since these programs refuse to run as root.
fn serve(program: &str, args: &[&str], dir: &Path) {
    let program = bin().join(program);
    let mut command = if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(program);
        command
    } else {
        Command::new(program)
    };
    run(command.args(args).current_dir(dir));
}

impl Server {
    fn start() -> Self {
        let server = Self(tempfile::tempdir().unwrap());
        let dir = server.0.path();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        serve(
            "initdb",
            &[
                "-D",
                "data",
                "-U",
                "boss",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
            dir,
        );
        let options = format!("-c listen_addresses= -c fsync=off -k {}", dir.display());
        serve(
            "pg_ctl",
            &["-D", "data", "-l", "log", "-w", "-o", &options, "start"],
            dir,
        );
        server
    }

    fn program(&self, name: &str, database: &str) -> Command {
        let mut command = Command::new(bin().join(name));
        command
            .env("PGHOST", self.0.path())
            .env("PGUSER", "boss")
            .env("PGDATABASE", database);
        command
    }

    fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = self.program("psql", database);
        let output = run(psql.args(["-X", "-At", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql]));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn dump(&self, database: &str, args: &[&str]) -> Vec<u8> {
        run(self.program("pg_dump", database).args(args)).stdout
    }

    /// Loads an SQL dump like `restore`.
    fn load(&self, database: &str, dump: &[u8]) -> anyhow::Result<PlainOutcome> {
        let path = self.0.path().join(format!("{database}.sql"));
        fs::write(&path, dump).unwrap();
        self.load_file(database, &path)
    }

    fn load_file(&self, database: &str, path: &Path) -> anyhow::Result<PlainOutcome> {
        let text = format!("host={} user=boss dbname={database}", self.0.path().display());
        let conninfo = Conninfo::parse(&text).unwrap().resolve(&|_| None, false).unwrap();
        let restoring = Restoring {
            conninfo: &conninfo,
            application_name: "ess-migrate/restore/test",
            programs: &ess_run::installations(None)[0],
            role: None,
            jobs: 1,
            maintenance_mib: 64,
            report: &ess_run::Silent,
        };
        restoring.load_plain(
            path,
            "DROP TABLE IF EXISTS fence;\n",
            "CREATE TABLE public.fence (a int);\n",
        )
    }

    /// A dump of a complete database, without the lines that differ from run to run.
    fn text(&self, database: &str) -> String {
        let dump = String::from_utf8(self.dump(database, &["-O", "-x"])).unwrap();
        let lines = dump
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        serve("pg_ctl", &["-D", "data", "-m", "immediate", "stop"], self.0.path());
    }
}

fn refused(dump: &[u8]) -> PlainError {
    scan(&mut &*dump, &mut Nowhere).unwrap_err()
}

const SOURCE: &str = r#"
    CREATE ROLE syn;
    GRANT ALL ON SCHEMA public TO syn;
    CREATE TABLE schema_version (
        lock char(1) NOT NULL DEFAULT 'X' UNIQUE, version integer NOT NULL, upgraded bool NOT NULL, CHECK (lock = 'X'));
    INSERT INTO schema_version VALUES ('X', 92, true);
    CREATE TABLE schema_compat_version (
        lock char(1) NOT NULL DEFAULT 'X' UNIQUE, compat_version integer NOT NULL, CHECK (lock = 'X'));
    INSERT INTO schema_compat_version VALUES ('X', 85);
    CREATE TABLE messages (
        id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, body text, raw bytea, num double precision, tags text[]);
    INSERT INTO messages (body, raw, num, tags) VALUES
        ('ALTER TABLE x OWNER TO y;', '\x5c2e0a', 1e300, '{a,"b c"}'), (E'\\.\n\\.\n\\! id', '\x', 1e-7, NULL),
        (E'-- PostgreSQL database dump complete\r\n\t''"$$ $a$ \\', NULL, 'NaN', '{}'), ('', NULL, -0.5, NULL),
        ('COPY t FROM stdin;', NULL, NULL, NULL), (repeat('ü✓''\', 20000), NULL, NULL, NULL), (E'\v\f\b\x01', NULL, 1, NULL);
    CREATE TABLE "Odd ""name; --" ("select" serial PRIMARY KEY, "a;b" text DEFAULT E'it''s; \\ -- /*', begin integer);
    INSERT INTO "Odd ""name; --" DEFAULT VALUES;
    COMMENT ON TABLE messages IS 'OWNER TO; \! id';
    COMMENT ON SCHEMA public IS 'ours; \connect x';
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $f$
        BEGIN NEW.body = NEW.body || $$;\! id$$; RETURN NEW; END; $f$;
    CREATE TRIGGER t BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.num > 1.5e7) EXECUTE FUNCTION touch();
    CREATE VIEW v AS SELECT id, body::varchar(5), tags[1:2] AS some, E'\\' || body AS w FROM messages;
    CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM messages;
    CREATE INDEX ON messages (lower(body)) WHERE body <> E'\n;' AND length(body) < 1000;
    CREATE TYPE mood AS ENUM ('a;b', 'it''s');
    CREATE SCHEMA "other;";
    CREATE TABLE "other;".schema_version (version text);
    INSERT INTO "other;".schema_version VALUES ('not ours');
    ALTER TABLE messages OWNER TO syn;
    GRANT SELECT ON messages TO PUBLIC;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO syn;
    CREATE PUBLICATION p FOR TABLE messages;
    ALTER DATABASE "My-D B=1" SET work_mem = '8MB';
    ALTER ROLE syn IN DATABASE "My-D B=1" SET work_mem = '9MB';
"#;

#[test]
fn every_plain_dump_of_one_database_makes_the_same_database() {
    let server = Server::start();
    let source = "My-D B=1";
    server.psql("postgres", "CREATE DATABASE \"My-D B=1\"");
    server.psql(source, SOURCE);
    // Turns a copy of the source into what restore makes of a dump: without the rows of the schema version, with the
    // stand-in for the fence, and without what belongs to the source's server.
    let make_equal = "DELETE FROM schema_version; DELETE FROM schema_compat_version; CREATE TABLE public.fence (a int);
        DROP PUBLICATION IF EXISTS p; COMMENT ON SCHEMA public IS NULL";
    server.psql("postgres", "CREATE DATABASE equal TEMPLATE \"My-D B=1\"");
    server.psql("equal", make_equal);
    let expected = server.text("equal");

    for (number, args) in [
        &[][..],
        &["-C"],
        &["-C", "--clean", "--if-exists"],
        &["--inserts"],
        &["--column-inserts"],
        &["--inserts", "--rows-per-insert=3", "--on-conflict-do-nothing"],
        &["--quote-all-identifiers", "--verbose", "-O", "-x"],
        &["--use-set-session-authorization"],
    ]
    .into_iter()
    .enumerate()
    {
        let target = format!("target{number}");
        server.psql("postgres", &format!("CREATE DATABASE {target} TEMPLATE template0"));
        server.psql(&target, "COMMENT ON SCHEMA public IS NULL");

        let outcome = server
            .load(&target, &server.dump(source, args))
            .unwrap_or_else(|error| panic!("{args:?}: {error:#}"));

        assert_eq!(server.text(&target), expected, "{args:?}");
        assert_eq!(outcome.schema.version, Some(92), "{args:?}");
        assert_eq!(outcome.schema.upgraded, Some(true), "{args:?}");
        assert_eq!(outcome.schema.compat_version, Some(85), "{args:?}");
        assert_eq!(
            outcome.database.as_deref(),
            args.contains(&"-C").then_some(source),
            "{args:?}"
        );
    }
}

#[test]
fn dumps_of_a_server_and_broken_ones_change_nothing() {
    let server = Server::start();
    server.psql("postgres", "CREATE DATABASE target");
    server.psql("target", "CREATE TABLE fence (a int)");
    server.psql(
        "postgres",
        "CREATE TABLE t (a text); INSERT INTO t SELECT repeat(i::text, 100) FROM generate_series(1, 2000) i",
    );

    let cluster = run(&mut server.program("pg_dumpall", "postgres")).stdout;
    assert!(matches!(refused(&cluster), PlainError::Cluster { .. }));

    let whole = server.dump("postgres", &[]);
    for inserts in [&[][..], &["--inserts", "--rows-per-insert=2000"]] {
        let dump = server.dump("postgres", inserts);
        let end = dump
            .windows(22)
            .rposition(|part| part == b"database dump complete")
            .unwrap();
        for cut in [100, dump.len() / 3, dump.len() / 2, end] {
            assert!(matches!(refused(&dump[..cut]), PlainError::Truncated { .. }), "{cut}");
            let error = server.load("target", &dump[..cut]).unwrap_err();
            assert!(format!("{error:#}").contains("truncated: it ends in line"), "{error:#}");
            assert_eq!(
                server.psql(
                    "target",
                    "SELECT string_agg(tablename, ',') FROM pg_tables WHERE schemaname = 'public'"
                ),
                "fence"
            );
        }
    }

    let path = server.0.path().join("dump.sql.gz");
    let mut encoder = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
    encoder.write_all(&whole).unwrap();
    encoder.finish().unwrap();
    assert_eq!(detect(&path).unwrap(), DumpFormat::PlainGzip);
    scan(&mut open_plain(&path).unwrap(), &mut Nowhere).unwrap();

    for (format, expected) in [
        ("c", DumpFormat::Custom),
        ("t", DumpFormat::Tar),
        ("d", DumpFormat::Directory),
        ("p", DumpFormat::Plain),
    ] {
        let path = server.0.path().join(format);
        run(server
            .program("pg_dump", "postgres")
            .args(["-F", format, "-f"])
            .arg(&path));
        assert_eq!(detect(&path).unwrap(), expected);
    }
}

#[test]
fn a_dump_that_cannot_be_opened_any_more_leaves_the_target_as_it_was() {
    let server = Server::start();
    server.psql("postgres", "CREATE TABLE fence (a int)");

    let error = server.load_file("postgres", Path::new("gone.sql")).unwrap_err();

    assert!(
        format!("{error:#}").starts_with("cannot load gone.sql: No such file"),
        "{error:#}"
    );
    assert_eq!(
        server.psql("postgres", "SELECT count(*) FROM pg_tables WHERE tablename = 'fence'"),
        "1"
    );
}
