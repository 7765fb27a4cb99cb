//! Sources as administrators have them. Each is declared beforehand: it moves, or it is refused before the dump, and
//! the remedy in the hint lets the same commands finish.

use crate::support::Scene;
use crate::support::findings::{finding, fires};

/// What happens to a source.
enum Declared {
    Moves,
    /// Refused by this finding of preflight and by pgdump-wrap or ess-wipe. The hint contains the text, and the
    /// statements carry it out: on the source, or on the target if they begin with `TARGET`.
    Refused(&'static str, &'static str, &'static str),
}

use Declared::{Moves, Refused};

/// The settings of the session, whatever the database's are by now.
const AS_BEFORE: &str = "SET default_transaction_read_only = off; SET search_path = public; SET client_encoding = 'UTF8'; \
                         SET allow_system_table_mods = on";

#[track_caller]
fn try_source(makes: &[&str], declared: &Declared) {
    let scene = Scene::new();
    for make in makes {
        scene.on_source(&format!("{AS_BEFORE}; {}", on(&scene, make)));
    }
    // What Synapse's role creates belongs to it.
    scene.on_source(&format!(
        "{AS_BEFORE}; DO $$ DECLARE t regclass; BEGIN
             FOR t IN SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relowner = 10
                 AND relkind IN ('r', 'p', 'v', 'm') AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
             LOOP EXECUTE format('ALTER %s %s OWNER TO synapse', CASE (SELECT relkind FROM pg_class WHERE oid = t)
                 WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, t); END LOOP;
         END $$"
    ));
    if let Refused(id, text, remedy) = declared {
        refused(&scene, id, text);
        match remedy.strip_prefix("TARGET ") {
            Some(sql) => drop(scene.on_target(sql)),
            None => drop(scene.on_source(&on(&scene, remedy))),
        }
    }

    let mut ran = scene.line(&[]);
    // What ess-wipe refuses was dumped before the source was mended.
    if ran
        .stderr
        .contains("hint: give --replace to move it aside and dump again")
    {
        ran = scene.line(&["--replace"]);
    }
    let ran = ran.success();

    assert_eq!(ran.json()["verify"]["equal"], true, "{ran}");
}

/// The statements with the name of the source in place of `$DATABASE`.
fn on(scene: &Scene, sql: &str) -> String {
    sql.replace("$DATABASE", &format!("\"{}\"", scene.source.name))
}

/// Nothing is erased, and preflight and the program that refuses name the same remedy.
#[track_caller]
fn refused(scene: &Scene, id: &str, text: &str) {
    let source = scene.source_url();
    let call = scene.tool("preflight").args(["-n", "--source", &source]);
    let looked = call.args(&scene.target_args()[1..]).run();
    fires(&looked, &[id]);
    let found = finding(&looked, id.strip_prefix("blocker ").unwrap());
    let hint = found["hint"].as_str().unwrap();
    assert!(hint.contains(text), "{text:?} is not in {hint:?}");
    let before = scene.target_dump();
    let ran = scene.line(&[]);
    assert!(!ran.status.success(), "{ran}");
    assert!(
        ran.stderr.contains("hint: ") && ran.stderr.contains(text),
        "{text:?} is not in {ran}"
    );
    assert_eq!(scene.target_dump(), before, "{ran}");
}

/// One test for each source that moves, and one for all of them in one database, which is the one that `just test` runs.
macro_rules! moving {
    ($($name:ident $make:expr;)*) => {
        $(#[test]
        #[ignore = "all of them together take less time: just test-sources"]
        fn $name() {
            try_source(&[$make], &Moves);
        })*

        #[test]
        fn all_sources_that_move_in_one() {
            try_source(&[$($make),*], &Moves);
        }
    };
}

/// One test for each source that is refused.
macro_rules! refused {
    ($($name:ident $declared:expr, $make:expr;)*) => {
        $(#[test]
        fn $name() {
            try_source(&[$make], &$declared);
        })*
    };
}

moving! {
    an_untouched_homeserver
        "SELECT 1";
    a_table_in_a_tablespace_of_its_own
        "SET allow_in_place_tablespaces = on; CREATE TABLESPACE fast LOCATION '';
         CREATE TABLE hot (a int PRIMARY KEY) TABLESPACE fast; INSERT INTO hot VALUES (1)";
    a_foreign_table_with_a_user_mapping
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
         CREATE USER MAPPING FOR synapse SERVER other OPTIONS (user 'u', password 'CANARY');
         CREATE FOREIGN TABLE elsewhere (a int) SERVER other";
    an_event_trigger_and_a_publication
        "CREATE FUNCTION noticed() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
         CREATE EVENT TRIGGER watching ON ddl_command_end EXECUTE FUNCTION noticed();
         CREATE PUBLICATION everything FOR ALL TABLES";
    the_tables_of_a_bridge_in_public
        r#"CREATE TABLE "user" (mxid text PRIMARY KEY, management_room text); INSERT INTO "user" VALUES ('@a:b', NULL);
           CREATE TABLE portal (id bigint, "Receiver" text, UNIQUE (id, "Receiver"))"#;
    the_tables_of_a_bridge_in_a_schema
        "SET ROLE synapse; CREATE SCHEMA whatsapp; CREATE TABLE whatsapp.portal (jid text PRIMARY KEY);
         INSERT INTO whatsapp.portal VALUES ('x')";
    row_security_for_others
        "CREATE TABLE guarded (a int); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
         CREATE POLICY mine ON guarded USING (a > 1); INSERT INTO guarded VALUES (1), (2)";
    a_subscription_that_is_disabled
        "CREATE SUBSCRIPTION off CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)";
    an_unlogged_table
        "CREATE UNLOGGED TABLE quick (a int); INSERT INTO quick VALUES (1)";
    large_objects
        "SET ROLE synapse; SELECT lo_from_bytea(0, 'large')";
    an_index_whose_build_failed
        "CREATE TABLE t14 (a int); INSERT INTO t14 VALUES (1); CREATE INDEX broken ON t14 (a);
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'broken'::regclass";
    rows_that_violate_a_constraint_that_is_not_valid
        "CREATE TABLE t15 (a int); INSERT INTO t15 VALUES (-1); ALTER TABLE t15 ADD CONSTRAINT c CHECK (a > 0) NOT VALID";
    names_that_need_quotes
        r#"CREATE TABLE "Größe %s; -- ""x"" $1" ("a b" int, "select" text); INSERT INTO "Größe %s; -- ""x"" $1" VALUES (1, E'\\.')"#;
    a_table_without_columns
        "CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES";
    a_table_with_dropped_columns
        "CREATE TABLE t18 (a int, b text, c int); INSERT INTO t18 VALUES (1, 'x', 2); ALTER TABLE t18 DROP b; ALTER TABLE t18 ADD b bytea DEFAULT 'y'";
    inherited_tables
        "CREATE TABLE p (a int); CREATE TABLE c (b int) INHERITS (p); INSERT INTO c VALUES (1, 2)";
    tables_that_refer_to_each_other
        "CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
         INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b";
    an_exclusion_constraint
        "CREATE TABLE booked (during tsrange, EXCLUDE USING gist (during WITH &&)); INSERT INTO booked VALUES ('[2020-01-01,2020-01-02)')";
    views_and_materialised_views_in_layers
        "CREATE VIEW v1 AS SELECT count(*) AS n FROM events; CREATE MATERIALIZED VIEW m1 AS SELECT n FROM v1;
         CREATE MATERIALIZED VIEW m2 AS SELECT n + 1 AS n FROM m1";
    a_function_with_a_body_of_the_standard
        "CREATE TABLE t23 (a int); CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM t23; END";
    rules_and_triggers
        "CREATE TABLE t24 (a int); CREATE TABLE log (a int); CREATE RULE logged AS ON INSERT TO t24 DO ALSO INSERT INTO log VALUES (NEW.a);
         CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.a = NEW.a * 2; RETURN NEW; END';
         CREATE TRIGGER doubled BEFORE INSERT ON t24 FOR EACH ROW EXECUTE FUNCTION twice(); INSERT INTO t24 VALUES (1)";
    default_privileges
        "ALTER DEFAULT PRIVILEGES FOR ROLE synapse GRANT SELECT ON TABLES TO PUBLIC; CREATE TABLE t25 (a int)";
    values_at_the_edge_of_their_types
        "CREATE TABLE edge (a float8, b numeric, c timestamptz, d bytea, e interval, f date);
         INSERT INTO edge VALUES ('NaN', 'Infinity', '-infinity', '', '-178000000 years', '4713-01-01 BC'), ('5e-324', '1e-16000', 'epoch', '\\x5c', '0', 'infinity')";
    a_replica_identity_and_a_clustered_table
        "CREATE TABLE t27 (a int PRIMARY KEY, b int); CREATE INDEX t_b ON t27 (b); CLUSTER t27 USING t_b; ALTER TABLE t27 REPLICA IDENTITY FULL";
    many_tables
        "DO $$ BEGIN FOR n IN 1..400 LOOP EXECUTE 'CREATE TABLE many_' || n || ' (a int)'; END LOOP; END $$";
    columns_with_the_version_that_newer_servers_record
        "CREATE TABLE versions (a int, b int); ALTER TABLE versions ALTER a SET (n_distinct = 5);
         UPDATE pg_attribute SET attoptions = attoptions || '{pg_attver=31243728}'
          WHERE attrelid = 'versions'::regclass AND attname = 'a';
         UPDATE pg_attribute SET attoptions = '{pg_attver=31243728}' WHERE attrelid = 'versions'::regclass AND attname = 'b'";
    a_monitoring_extension
        "CREATE EXTENSION pg_stat_statements";
    the_tables_of_a_sliding_sync_proxy
        "CREATE TABLE syncv3_events (event_nid bigserial PRIMARY KEY, event_id text UNIQUE, event bytea);
         INSERT INTO syncv3_events (event_id, event) VALUES ('$x', '\\x00')";
    a_database_whose_clients_send_latin1 "ALTER DATABASE $DATABASE SET client_encoding = 'LATIN1';
         CREATE TABLE words (a text); INSERT INTO words VALUES (U&'\\20AC \\00FC')";
    a_database_that_is_read_only_by_default
        "CREATE TABLE a_table (a int); ALTER DATABASE $DATABASE SET default_transaction_read_only = on";
    a_database_that_allows_few_connections
        "ALTER DATABASE $DATABASE CONNECTION LIMIT 8";
    a_database_with_a_search_path_of_its_own
        "CREATE SCHEMA extra; ALTER DATABASE $DATABASE SET search_path = extra, public";
    a_role_with_short_time_limits
        "ALTER ROLE synapse IN DATABASE $DATABASE SET statement_timeout = '50ms';
         ALTER ROLE synapse IN DATABASE $DATABASE SET lock_timeout = '50ms'";
}

refused! {
    a_view_of_a_monitoring_extension Refused("blocker target-lacks", "drop what uses it on the source", "DROP VIEW slow"),
        "CREATE EXTENSION pg_stat_statements; CREATE VIEW slow AS SELECT query FROM pg_stat_statements";
    a_column_of_a_type_of_an_extension
        Refused("blocker target-lacks", "CREATE EXTENSION \"citext\" SCHEMA \"public\"", "TARGET CREATE EXTENSION \"citext\" SCHEMA \"public\""),
        "CREATE EXTENSION citext; CREATE TABLE t (a citext); INSERT INTO t VALUES ('X')";
    a_default_of_an_extension
        Refused("blocker target-lacks", "CREATE EXTENSION \"uuid-ossp\" SCHEMA \"public\"", "TARGET CREATE EXTENSION \"uuid-ossp\" SCHEMA \"public\""),
        "CREATE EXTENSION \"uuid-ossp\"; CREATE TABLE t (a uuid DEFAULT uuid_generate_v4()); INSERT INTO t DEFAULT VALUES";
    a_trigger_of_an_extension
        Refused("blocker target-lacks", "CREATE EXTENSION \"tcn\" SCHEMA \"public\"", "TARGET CREATE EXTENSION \"tcn\" SCHEMA \"public\""),
        "CREATE EXTENSION tcn; CREATE TABLE t (a int PRIMARY KEY);
         CREATE TRIGGER notified AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION triggered_change_notification()";
    an_index_of_an_extension
        Refused("blocker target-lacks", "CREATE EXTENSION \"pg_trgm\" SCHEMA \"public\"", "TARGET CREATE EXTENSION \"pg_trgm\" SCHEMA \"public\""),
        "CREATE EXTENSION pg_trgm; CREATE INDEX found ON event_json USING gin (json gin_trgm_ops)";
    a_function_in_c Refused("blocker target-lacks", "drop", "DROP FUNCTION slow_sum"),
        "CREATE FUNCTION slow_sum(int) RETURNS int LANGUAGE internal STRICT AS 'int4um'";
    an_operator_class Refused("blocker target-lacks", "drop", "DROP OPERATOR FAMILY plain_ops USING btree"),
        "CREATE OPERATOR CLASS plain_ops FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int, int)";
    a_subscription_that_is_enabled
        Refused("blocker source-subscriptions", "ALTER SUBSCRIPTION ... DISABLE", "ALTER SUBSCRIPTION s DISABLE"),
        "CREATE SUBSCRIPTION s CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE); UPDATE pg_subscription SET subenabled = true";
    a_database_that_allows_too_few_connections
        Refused("blocker connections", "CONNECTION LIMIT -1", "ALTER DATABASE $DATABASE CONNECTION LIMIT -1"),
        "ALTER DATABASE $DATABASE CONNECTION LIMIT 4";
    duplicates_under_a_unique_index
        Refused("blocker duplicates", "REINDEX INDEX public.twice_key", "DELETE FROM twice WHERE ctid = '(0,2)'; REINDEX INDEX public.twice_key"),
        "CREATE TABLE twice (a text); CREATE UNIQUE INDEX twice_key ON twice (a);
         UPDATE pg_index SET indisunique = false WHERE indexrelid = 'twice_key'::regclass;
         INSERT INTO twice VALUES ('a'), ('a');
         UPDATE pg_index SET indisunique = true WHERE indexrelid = 'twice_key'::regclass";
    a_row_without_the_row_that_it_refers_to Refused("blocker orphans", "delete or correct them", "DELETE FROM child"),
        "CREATE TABLE parent (a int PRIMARY KEY); CREATE TABLE child (a int REFERENCES parent);
         SET session_replication_role = replica; INSERT INTO child VALUES (7)";
    a_row_that_violates_a_constraint
        Refused("blocker unsound-rows", "add it again as NOT VALID",
            "ALTER TABLE bounded DROP CONSTRAINT positive; ALTER TABLE bounded ADD CONSTRAINT positive CHECK (a > 0) NOT VALID"),
        "CREATE TABLE bounded (a int); INSERT INTO bounded VALUES (-1);
         ALTER TABLE bounded ADD CONSTRAINT positive CHECK (a > 0) NOT VALID;
         UPDATE pg_constraint SET convalidated = true WHERE conname = 'positive'";
    a_row_that_violates_its_domain Refused("blocker unsound-rows", "NOT VALID",
            "ALTER DOMAIN small DROP CONSTRAINT below; ALTER DOMAIN small ADD CONSTRAINT below CHECK (VALUE < 5) NOT VALID"),
        "CREATE DOMAIN small AS int; CREATE TABLE t (a small); INSERT INTO t VALUES (9);
         ALTER DOMAIN small ADD CONSTRAINT below CHECK (VALUE < 5) NOT VALID;
         UPDATE pg_constraint SET convalidated = true WHERE conname = 'below'";
    an_index_on_a_function_that_needs_a_search_path
        Refused("blocker unsound-rows", "SET search_path = public", "ALTER FUNCTION norm(text) SET search_path = public"),
        "CREATE FUNCTION helper(t text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT t';
         CREATE FUNCTION norm(t text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(t); END';
         CREATE TABLE t (a text); INSERT INTO t VALUES ('x'); CREATE INDEX ON t (norm(a))";
    a_materialised_view_that_needs_a_search_path
        Refused("blocker unsound-rows", "SET search_path = public", "ALTER FUNCTION counted() SET search_path = public"),
        "CREATE FUNCTION counted() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM events); END';
         CREATE MATERIALIZED VIEW m AS SELECT counted() AS n";
    an_index_key_that_fits_only_compressed
        Refused("blocker unsound-rows", "DROP INDEX", "DROP INDEX long_key"),
        "CREATE TABLE long (a text); CREATE INDEX long_key ON long (a); INSERT INTO long VALUES (repeat('x', 9000));
         ALTER TABLE long ALTER a SET STORAGE EXTERNAL";
    a_sequence_behind_its_stream Refused("blocker sequence-behind-stream", "setval", "SELECT setval('events_stream_seq', (SELECT max(stream_ordering) FROM events))"),
        "SELECT setval('events_stream_seq', 1)";
    a_view_of_a_foreign_table Refused("blocker source-parts", "drop it on the source", "DROP VIEW there"),
        "CREATE EXTENSION postgres_fdw; CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw;
         CREATE FOREIGN TABLE elsewhere (a int) SERVER other; CREATE VIEW there AS SELECT * FROM elsewhere";
    forced_row_security Refused("blocker source-unreadable", "", "ALTER TABLE forced NO FORCE ROW LEVEL SECURITY"),
        "CREATE TABLE forced (a int); ALTER TABLE forced ENABLE ROW LEVEL SECURITY; ALTER TABLE forced FORCE ROW LEVEL SECURITY";
}
