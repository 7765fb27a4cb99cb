#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufReader, Read as _, Write as _};

use proptest::prelude::*;

use super::*;

const END: &str = "\n--\n-- PostgreSQL database dump complete\n--\n\n";

/// Records everything that the scanner passes on, as SQL text.
#[derive(Default)]
struct Recorder {
    text: Vec<u8>,
    rows: Vec<u8>,
    /// The number of rows that the server reports as stored, if not all.
    taken: Option<u64>,
}

impl Taker for Recorder {
    fn statement(&mut self, sql: &str) -> Result<Option<u64>, Error> {
        self.text.extend([sql.as_bytes(), b"\n"].concat());
        Ok(self.taken)
    }

    fn copy(&mut self, sql: &str) -> Result<(), Error> {
        self.text.extend([sql.as_bytes(), b"\n"].concat());
        Ok(())
    }

    fn rows(&mut self, part: &[u8]) -> Result<(), Error> {
        self.rows.extend_from_slice(part);
        Ok(())
    }

    fn end_of_rows(&mut self) -> Result<Option<u64>, Error> {
        let lines = self
            .rows
            .iter()
            .fold(0, |count, byte| count + u64::from(*byte == b'\n'));
        self.text.append(&mut self.rows);
        self.text.extend_from_slice(b"\\.\n");
        Ok(self.taken.or(Some(lines)))
    }
}

fn scanned(text: &[u8]) -> (Result<Outcome, PlainError>, Vec<u8>) {
    let mut recorder = Recorder::default();
    let outcome = scan(&mut &*text, &mut recorder);
    (outcome, recorder.text)
}

/// What the scanner passes on of a dump, which must be accepted.
fn passed(text: &str) -> (Outcome, String) {
    let (outcome, output) = scanned(format!("{text}{END}").as_bytes());
    let output = String::from_utf8(output).unwrap();
    let outcome = outcome.unwrap_or_else(|error| panic!("{text}: {error}"));
    (outcome, output)
}

fn refused(text: &str) -> String {
    let (outcome, _) = scanned(format!("{text}{END}").as_bytes());
    outcome.unwrap_err().to_string()
}

#[test]
fn statements_pass_without_their_comments() {
    let text = "-- Name: t\n/* /* nested */ ; */ CREATE TABLE public.t (\n  a text DEFAULT ';--' -- it's\n);\n";
    assert_eq!(passed(text).1, "CREATE TABLE public.t (\n  a text DEFAULT ';--' \n);\n");
}

#[test]
fn semicolons_and_backslashes_in_quotes_are_text() {
    for statement in [
        r"COMMENT ON TABLE t IS 'a;b\';",
        r"COMMENT ON TABLE t IS 'it''s;';",
        r"COMMENT ON TABLE t IS E'it\'s;\\';",
        r"COMMENT ON TABLE t IS e'';",
        r"COMMENT ON TABLE t IS typE'\';",
        r"COMMENT ON TABLE t IS U&'\0041;';",
        r#"CREATE TABLE "a;\""b" (x integer);"#,
        r"CREATE FUNCTION f() AS $$ begin; \! $ $a$ end $$;",
        r"CREATE FUNCTION f() AS $a_1$ ; $a$ $$ $a_1$a_1$;",
        r"CREATE FUNCTION f() AS $é$ ; \ $é$;",
        "CREATE VIEW v AS SELECT a::text, b[1:2], c[1:n], 1.5e-7, 1e+20, .5, 5. FROM t;",
        "CREATE VIEW v AS SELECT a$b$c FROM t;",
        "CREATE TABLE t (a text, begin integer);",
        "CREATE VIEW v AS SELECT a[1:N], :'HOST';",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;",
        "CREATE FUNCTION public.begin(atomic integer) RETURNS int AS $$ $$;",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);",
    ] {
        assert_eq!(passed(statement).1, format!("{statement}\n"));
    }
}

#[test]
fn rows_pass_as_they_are() {
    let rows = "1\t\\\\.\n\\N\t-- x; ' $$ \\! \\connect x\n\n \\.\nALTER TABLE t OWNER TO x;\r\n";
    let text = format!("COPY public.t (a, \"B c\") FROM stdin;\n{rows}\\.\n\nCOPY u FROM stdin;\n\\.\n");

    assert_eq!(
        passed(&text).1,
        format!("COPY public.t (a, \"B c\") FROM stdin;\n{rows}\\.\nCOPY u FROM stdin;\n\\.\n")
    );
}

#[test]
fn what_is_the_servers_own_is_left_out_and_listed() {
    for (statement, listed) in [
        (
            "ALTER TABLE public.t OWNER TO syn;",
            "ALTER TABLE public.t OWNER TO syn",
        ),
        (
            "ALTER FUNCTION public.f(a integer, b text) OWNER TO \"my role\";",
            "ALTER FUNCTION public.f(a integer, b text) OWNER TO \"my role\"",
        ),
        ("GRANT ALL ON TABLE t TO x;", "GRANT ALL ON TABLE t TO x"),
        (
            "REVOKE ALL\n ON SCHEMA public FROM PUBLIC;",
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        ),
        (
            "ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT ALL ON TABLES TO y;",
            "ALTER DEFAULT PRIVILEGES FOR ROLE x GRANT ALL ON TABLES TO y",
        ),
        ("SET transaction_timeout = 0;", "SET transaction_timeout = 0"),
        ("SET default_tablespace = fast;", "SET default_tablespace = fast"),
        ("SET SESSION AUTHORIZATION 'syn';", "SET SESSION AUTHORIZATION"),
        (
            "CREATE PUBLICATION p FOR ALL TABLES;",
            "CREATE PUBLICATION p FOR ALL TABLES",
        ),
        (
            "CREATE SUBSCRIPTION s CONNECTION 'password=x' PUBLICATION p;",
            "CREATE SUBSCRIPTION s CONNECTION",
        ),
        ("ALTER EVENT TRIGGER e DISABLE;", "ALTER EVENT TRIGGER e DISABLE"),
        (
            "COMMENT ON EXTENSION plpgsql IS 'x';",
            "COMMENT ON EXTENSION plpgsql IS",
        ),
        ("COMMENT ON SCHEMA public IS 'x';", "COMMENT ON SCHEMA public IS"),
        ("CREATE SCHEMA public;", "CREATE SCHEMA public"),
        (
            "CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;",
            "CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog",
        ),
        (
            "SELECT * FROM pg_catalog.pg_restore_relation_stats('version', '1');",
            "SELECT * FROM pg_catalog.pg_restore_relation_stats(",
        ),
        ("DROP TABLE IF EXISTS public.t;", "DROP TABLE IF EXISTS public.t"),
        (
            "ALTER TABLE ONLY public.t DROP CONSTRAINT c;",
            "ALTER TABLE ONLY public.t DROP CONSTRAINT c",
        ),
        ("\\restrict aB3\n", "\\restrict"),
        ("\\unrestrict aB3\r\n", "\\unrestrict"),
        ("\\encoding SQL_ASCII\n", "\\encoding"),
    ] {
        let (outcome, output) = passed(statement);
        assert_eq!(
            (output.as_str(), outcome.dropped),
            ("", vec![listed.to_owned()]),
            "{statement}"
        );
    }
    for kept in [
        "CREATE SCHEMA other;",
        "CREATE EXTENSION pg_trgm WITH SCHEMA public;",
        "COMMENT ON TABLE t IS 'OWNER TO x';",
        "ALTER TABLE t ADD COLUMN owner text;",
        "SET default_tablespace = '';",
        "SET search_path = public, pg_catalog;",
        "SELECT pg_catalog.setval('public.s', 5, true);",
        "SELECT pg_catalog.set_config('search_path', '', false);",
        "CREATE TABLE t (c text DEFAULT 'x OWNER TO y');",
    ] {
        assert_eq!(passed(kept).1, format!("{kept}\n"));
    }
}

#[test]
fn the_dumps_own_database_may_be_named() {
    let (outcome, output) = passed(
        "DROP DATABASE IF EXISTS \"My-D B=1\";\nCREATE DATABASE \"My-D B=1\" WITH TEMPLATE = template0;\n\
         ALTER DATABASE \"My-D B=1\" OWNER TO x;\n\\connect -reuse-previous=on \"dbname='My-D B=1'\"\n\
         ALTER DATABASE \"My-D B=1\" SET work_mem TO '1';\nALTER ROLE x IN DATABASE \"My-D B=1\" SET a TO 'b';\n\
         COMMENT ON DATABASE \"My-D B=1\" IS 'x';\n",
    );
    assert_eq!(output, "");
    assert_eq!(outcome.dropped.len(), 7);
    assert_eq!(outcome.database.as_deref(), Some("My-D B=1"));
    assert_eq!(passed("\\connect synapse\n").0.database.as_deref(), Some("synapse"));
    assert_eq!(passed("\\connect \"a \"\"b\"\n").0.database.as_deref(), Some("a \"b"));

    let second = refused("CREATE DATABASE a;\n\\connect a\n\\connect b\n");
    assert_eq!(second, "line 3: a second database, \"b\"");
}

#[test]
fn commands_to_psql_are_refused_wherever_psql_sees_them() {
    for text in [
        "\\! rm -rf /",
        "\\copy t from x",
        "\\i /etc/passwd",
        "\\o |sh",
        "\\set x 1",
        "\\gexec",
        "CREATE TABLE t (a text) \\gexec",
        "CREATE TABLE t (\n a text \\! sh\n);",
        "CREATE TABLE t (a text) /* \\x */ \\; ;",
        "-- a\r\\! sh",
        "CREATE TABLE t (a text); \\connect x",
        "CREATE FUNCTION f() AS $a$ $b$ $a$ \\! $b$;",
        "\\restrict a`id`",
        "\\encoding `id`",
        "\\restrict a\r\\! sh",
        "\\connect `id`",
        "\\connect x y",
        "\\connect -reuse-previous=on \"nonsense\"",
        "COPY t FROM stdin;\n\\.\n\\! sh",
        "COPY t FROM stdin;\r\n1\r\n\\.\r\n\\! sh",
    ] {
        let error = refused(text);
        assert!(error.contains("psql command \\"), "{text}: {error}");
    }
    assert_eq!(
        refused("\n\n  \\! sh"),
        "line 3: psql command \\! in a dump; it was not run"
    );
}

#[test]
fn what_servers_read_differently_is_refused() {
    for text in [
        "CREATE TABLE t (a text DEFAULT E'a'\n'b\\'');",
        "CREATE TABLE t (a text DEFAULT E'a' -- c\n 'b');",
        "CREATE VIEW v AS SELECT 1E'\\' \\! sh';",
        "CREATE VIEW v AS SELECT $1a$b$ ' $b$ \\! sh';",
        "CREATE VIEW v AS SELECT 1.e5x, 0x1F;",
    ] {
        refused(text);
    }
}

#[test]
fn rows_that_begin_with_an_end_mark_are_refused() {
    for row in ["\\.x", "\\..", "\\.\r1", "\\. ", "\\.\r\r"] {
        let error = refused(&format!("COPY public.t (a) FROM stdin;\n{row}\n1\n\\.\n"));
        assert_eq!(error, "line 2: a row that begins with an end mark, \\.");
    }
}

#[test]
fn rows_that_are_not_taken_are_missed() {
    for (text, wanted) in [
        (
            "COPY public.t (a) FROM stdin;\n1\n2\n\\.\n",
            "rows of table public.t: 2 read, 1 stored by the server",
        ),
        (
            "INSERT INTO t VALUES (1, '(''); (', (2)), (3), (4);",
            "rows of table t: 3 read, 1 stored by the server",
        ),
        (
            "INSERT INTO t (a) VALUES (1), (2);",
            "rows of table t: 2 read, 1 stored by the server",
        ),
    ] {
        let mut recorder = Recorder {
            taken: Some(1),
            ..Recorder::default()
        };
        let error = scan(&mut format!("{text}{END}").as_bytes(), &mut recorder).unwrap_err();
        assert!(error.to_string().ends_with(wanted), "{text}: {error}");
    }
    for text in [
        "INSERT INTO public.t DEFAULT VALUES;",
        "INSERT INTO u OVERRIDING SYSTEM VALUE VALUES (1);",
    ] {
        let mut recorder = Recorder {
            taken: Some(1),
            ..Recorder::default()
        };
        scan(&mut format!("{text}{END}").as_bytes(), &mut recorder).unwrap();
    }
}

#[test]
fn no_statement_is_longer_than_memory() {
    let start = "COMMENT ON TABLE t IS '";
    let mut endless = BufReader::with_capacity(1 << 16, start.as_bytes().chain(std::io::repeat(b'x')));
    let error = scan(&mut endless, &mut Nowhere).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1: a statement of more than 256 MiB; dump again without --inserts"
    );
}

#[test]
fn the_text_of_a_dump_never_controls_a_terminal() {
    let (outcome, _) = passed("GRANT \"a\u{1b}[2J\" TO x;\n\\connect \"b\u{7}\"\n");
    assert_eq!(outcome.dropped, ["GRANT \"a\u{fffd}[2J\" TO x", "\\connect b\u{fffd}"]);
    for text in [
        "\\\u{1b}]0;x",
        "DELETE FROM \"\u{1b}[2J\";",
        "CREATE TABLE t (a \\\u{1b}[2J);",
    ] {
        assert!(!refused(text).contains('\u{1b}'), "{text}");
    }
}

#[test]
fn what_pg_dump_does_not_write_is_refused() {
    for (text, wanted) in [
        (
            "COMMIT;",
            "line 1: not a statement that pg_dump writes for one database: COMMIT",
        ),
        ("\nBEGIN;", "line 2: not a statement that pg_dump writes"),
        ("DO $$ $$;", "not a statement that pg_dump writes"),
        ("DELETE FROM t;", "not a statement that pg_dump writes"),
        (
            "SELECT set_config('standard_conforming_strings', 'off', false);",
            "not a statement that pg_dump writes",
        ),
        (
            "SELECT pg_catalog.set_config('standard_conforming_strings', 'off', false);",
            "not a statement that pg_dump writes",
        ),
        (
            "SELECT pg_catalog.set_config('search_path', '', false), set_config('role', 'none', false);",
            "not a statement that pg_dump writes",
        ),
        (
            "SELECT pg_catalog.setval(f(), 1, true);",
            "not a statement that pg_dump writes",
        ),
        (
            "CREATE RULE r AS ON INSERT TO public.schema_version DO NOTHING;",
            "rule, trigger or policy",
        ),
        (
            "CREATE OR REPLACE RULE \"to\" AS ON UPDATE TO schema_compat_version DO INSTEAD SELECT 1;",
            "rule, trigger or policy",
        ),
        (
            "CREATE CONSTRAINT TRIGGER t AFTER UPDATE OF a ON public.schema_version FOR EACH ROW EXECUTE FUNCTION f();",
            "rule, trigger or policy",
        ),
        (
            "CREATE POLICY p ON public.schema_version USING (true);",
            "rule, trigger or policy",
        ),
        (
            "SET standard_conforming_strings = off;",
            "standard_conforming_strings is off",
        ),
        ("SET client_encoding = 'SJIS';", "an encoding other than UTF8"),
        ("SET ROLE postgres;", "not a statement that pg_dump writes"),
        ("ALTER SYSTEM SET x = 1;", "not a statement that pg_dump writes"),
        ("COPY t FROM PROGRAM 'sh';", "not a statement that pg_dump writes"),
        ("COPY t TO stdout;", "not a statement that pg_dump writes"),
        ("COPY t FROM stdin WITH CSV;", "not a statement that pg_dump writes"),
        ("COPY t FROM stdin; COPY u FROM stdin;\n\\.\n", "on the same line"),
        ("CREATE ROLE x;", "pg_dumpall"),
        ("CREATE TABLESPACE x LOCATION '/';", "pg_dumpall"),
        ("--\n-- PostgreSQL database cluster dump\n--\n", "pg_dumpall"),
        ("PGDMP", "custom format"),
        ("a\0b", "NUL"),
        (
            "-- PostgreSQL database dump complete\nCREATE TABLE t ();",
            "after the end of a dump",
        ),
    ] {
        let error = refused(text);
        assert!(error.contains(wanted), "{text}: {error}");
    }
}

#[test]
fn a_dump_that_ends_too_early_is_refused() {
    for (text, inside) in [
        ("", "before its closing line"),
        (
            "CREATE TABLE t ();\n-- x PostgreSQL database dump complete\n",
            "before its closing line",
        ),
        (
            "CREATE TABLE t ();\n -- PostgreSQL database dump complete\n",
            "before its closing line",
        ),
        ("/* -- PostgreSQL database dump complete\n", "inside a comment"),
        (
            "CREATE TABLE t (\n-- PostgreSQL database dump complete\n",
            "inside a statement",
        ),
        ("CREATE TABLE t (a text DEFAULT 'x", "inside a quoted"),
        (
            "CREATE FUNCTION f() AS $$\n-- PostgreSQL database dump complete\n",
            "inside a dollar-quoted",
        ),
        ("COPY t FROM stdin;", "before the rows"),
        (
            "COPY t FROM stdin;\n1\n-- PostgreSQL database dump complete\n",
            "inside the rows",
        ),
        ("COPY t FROM stdin;\n1\n\\.", "inside the rows"),
        (
            "COPY public.schema_version (lock, version, upgraded) FROM stdin;\nX\t1\tt\n",
            "inside the rows",
        ),
    ] {
        let error = scanned(text.as_bytes()).0.unwrap_err();
        assert!(
            matches!(error, PlainError::Truncated { .. }) && error.to_string().contains(inside),
            "{text}: {error}"
        );
    }
}

#[test]
fn the_rows_of_the_schemas_version_are_taken_out() {
    let expected = SchemaRows {
        version: Some(92),
        upgraded: Some(true),
        compat_version: Some(85),
    };
    for text in [
        "COPY public.schema_version (lock, version, upgraded) FROM stdin;\nX\t92\tt\n\\.\n\
         COPY public.schema_compat_version (lock, compat_version) FROM stdin;\nX\t85\n\\.\n",
        "INSERT INTO public.schema_version VALUES ('X', 92, true);\n\
         INSERT INTO public.schema_compat_version VALUES ('X', 85);\n",
        "INSERT INTO public.schema_version (lock, version, upgraded) VALUES ('X', 92, true);\n\
         INSERT INTO public.schema_compat_version (lock, compat_version) VALUES ('X', 85);\n",
        "INSERT INTO public.schema_version VALUES\n\t('X', 92, true) ON CONFLICT DO NOTHING;\n\
         INSERT INTO \"public\".\"schema_compat_version\" (\"lock\", compat_version) VALUES ('X', 85);\n",
    ] {
        let (outcome, output) = passed(text);
        assert_eq!(output, "");
        assert_eq!(outcome.schema, expected, "{text}");
    }
    // Another program's table with this name.
    for other in [
        "COPY flyway.schema_version (installed_rank, version) FROM stdin;\n1\t2\n\\.\n",
        "COPY other.schema_version (lock, version, upgraded) FROM stdin;\nX\t92\tt\n\\.\n",
        "COPY \"public.schema_version\" (lock, version, upgraded) FROM stdin;\nX\t92\tt\n\\.\n",
        "CREATE RULE r AS ON INSERT TO other.schema_version DO NOTHING;\n",
    ] {
        assert_eq!(passed(other).1, other);
    }

    for text in [
        "COPY public.schema_version (lock, version, upgraded) FROM stdin;\nX\t92\tt\nX\t93\tt\n\\.\n",
        "COPY public.schema_version (lock, version, upgraded) FROM stdin;\nX\tnone\tt\n\\.\n",
        "INSERT INTO public.schema_version VALUES ('X', 92, true), ('X', 93, true);",
        "INSERT INTO public.schema_compat_version (lock, compat_version) VALUES ('X', f());",
    ] {
        assert!(refused(text).contains("the schema version"), "{text}");
    }
}

#[test]
fn formats_are_recognised_by_their_first_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("toc.dat");
    let detected = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        detect(&file).unwrap()
    };
    let mut tar = vec![0; 512];
    tar[..7].copy_from_slice(b"toc.dat");
    tar[257..262].copy_from_slice(b"ustar");
    assert_eq!(detected(b"PGDMP\x01"), DumpFormat::Custom);
    assert_eq!(detected(&tar), DumpFormat::Tar);
    assert_eq!(detected(b"\x1f\x8b\x08"), DumpFormat::PlainGzip);
    assert_eq!(detected(b"--\n"), DumpFormat::Plain);
    assert_eq!(detected(b"a\0b"), DumpFormat::Unknown);
    assert_eq!(detect(dir.path()).unwrap(), DumpFormat::Directory);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(detect(dir.path()).unwrap(), DumpFormat::Unknown);
}

#[test]
fn gzip_is_unpacked_and_its_damage_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let mut packed = Vec::new();
    // Two gzip members, like the output of `cat a.gz b.gz`.
    for part in ["COPY t FROM stdin;\n1\n", &format!("\\.\n{END}")] {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part.as_bytes()).unwrap();
        packed.extend(encoder.finish().unwrap());
    }
    let read = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        scan(&mut open_plain(&file).unwrap(), &mut Nowhere)
    };

    read(&packed).unwrap();
    assert!(matches!(
        read(&packed[..packed.len() - 20]),
        Err(PlainError::Damaged { .. })
    ));
    let checksum = packed.len() - 8;
    packed[checksum] ^= 1;
    assert!(matches!(read(&packed), Err(PlainError::Damaged { .. })));
}

/// Random bytes in which sequences that are critical for the scanner are frequent.
fn awkward() -> impl Strategy<Value = Vec<u8>> {
    let pieces = proptest::sample::select(vec![
        "'",
        "\"",
        "$$",
        "$a$",
        "\\",
        "\\.",
        "\\.\n",
        "\n",
        "\r\n",
        "--",
        "/*",
        "*/",
        ";",
        "(",
        ")",
        "E'",
        "\t",
        "COPY t FROM stdin;\n",
        "CREATE ",
        "FUNCTION ",
        "BEGIN",
        "INSERT INTO schema_version VALUES ",
        "1",
        ".",
        ":",
        "\\connect a\n",
        "-- PostgreSQL database dump complete\n",
        "é",
        " ",
        "x",
    ]);
    proptest::collection::vec(
        prop_oneof![4 => pieces.prop_map(|piece| piece.as_bytes().to_vec()), 1 => any::<u8>().prop_map(|byte| vec![byte])],
        0..40,
    )
    .prop_map(|pieces| pieces.concat())
}

#[test]
fn what_newer_servers_record_of_columns_is_left_out() {
    let alter = "ALTER TABLE ONLY public.t ALTER COLUMN a SET";
    assert_eq!(passed(&format!("{alter} (pg_attver=31243728);\n")).1, "");
    let kept = format!("{alter} (n_distinct=5, n_distinct_inherited=6);\n");
    assert_eq!(passed(&kept).1, kept);
    for options in [
        "n_distinct=5, pg_attver=1, n_distinct_inherited=6",
        "pg_attver=1, n_distinct=5, n_distinct_inherited=6",
        "n_distinct=5, n_distinct_inherited=6, pg_attver=1",
    ] {
        assert_eq!(passed(&format!("{alter} ({options});\n")).1, kept);
    }
    let comment = "COMMENT ON TABLE t IS 'ALTER TABLE t ALTER COLUMN a SET (pg_attver=1);';\n";
    assert_eq!(passed(comment).1, comment);
}

proptest! {
    #[test]
    fn no_input_makes_it_panic_and_chunks_do_not_matter(text in awkward(), chunk in 1..9_usize) {
        let (whole, output) = scanned(&text);
        let mut recorder = Recorder::default();
        let chunked = scan(&mut BufReader::with_capacity(chunk, &text[..]), &mut recorder);
        match (whole, chunked) {
            (Ok(whole), Ok(chunked)) => prop_assert_eq!(whole, chunked),
            (whole, chunked) => prop_assert_eq!(whole.is_err(), chunked.is_err()),
        }
        if !text.contains(&0) {
            prop_assert_eq!(output, recorder.text);
        }
    }

    #[test]
    fn rows_pass_byte_for_byte(bytes in awkward(), chunk in 1..9_usize) {
        let mut rows: Vec<u8> = Vec::new();
        for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.starts_with(b"\\.")) {
            rows.extend(line.iter().filter(|&&byte| byte != 0));
            rows.push(b'\n');
        }
        let text = [b"COPY public.t (a) FROM stdin;\n", &rows[..], b"\\.\n", END.as_bytes()].concat();
        let mut recorder = Recorder::default();
        scan(&mut BufReader::with_capacity(chunk, &text[..]), &mut recorder).unwrap();
        let expected = [b"COPY public.t (a) FROM stdin;\n", &rows[..], b"\\.\n"].concat();
        prop_assert_eq!(recorder.text, expected);
    }

    #[test]
    fn whatever_is_quoted_passes(text in "[^\0]{0,60}") {
        let text = text.replace("$q$", "");
        let strings = [
            format!("'{}'", text.replace('\'', "''")),
            format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")),
            format!("$q${text}$q$"),
            format!("\"{}\"", text.replace('"', "\"\"")),
        ];
        for string in strings.iter().filter(|string| !string.ends_with("$$q$")) {
            let statement = format!("COMMENT ON TABLE t IS {string};\n");
            prop_assert_eq!(&passed(&statement).1, &statement);
        }
    }
}
