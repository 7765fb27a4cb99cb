//! Settings of a role or database that affect every session, and values that must not enter messages and documents.

use crate::support::findings::fires;
use crate::support::{OFFLINE, SERVER_NAME, Scene, assert_failed, source_cluster, target_cluster};

/// Limits and formats that would end or change a dump or restore that does not override them.
const SET: &str = "statement_timeout = '5s' lock_timeout = '1ms' idle_in_transaction_session_timeout = '5s' \
    idle_session_timeout = '5s' default_transaction_read_only = on default_transaction_isolation = serializable \
    default_transaction_deferrable = on row_security = on array_nulls = off client_encoding = LATIN1 \
    standard_conforming_strings = off bytea_output = escape DateStyle = 'SQL, DMY' extra_float_digits = 0 \
    TimeZone = 'Asia/Kolkata' quote_all_identifiers = on exit_on_error = on search_path = public,nowhere";

fn limit(cluster: &crate::support::Cluster, whose: &str) {
    for (at, _) in SET.match_indices(" = ") {
        let name = SET[..at].rsplit(' ').next().unwrap();
        let value = &SET[at + 3..];
        let end = match value.strip_prefix('\'') {
            Some(quoted) => quoted.find('\'').unwrap() + 2,
            None => value.find(' ').unwrap_or(value.len()),
        };
        cluster.psql("postgres", &format!("ALTER {whose} SET {name} = {}", &value[..end]));
    }
}

#[test]
fn a_whole_line_holds_under_every_limit_of_roles_and_databases() {
    let scene = Scene::new();
    let (source, target) = (&scene.source.name, &scene.target);
    scene.on_source(&format!(
        "CREATE TABLE odd (a text[], t text); ALTER TABLE odd OWNER TO {}; INSERT INTO odd VALUES ('{{NULL,x}}', '\u{2713}')",
        scene.source.role
    ));
    limit(
        source_cluster(),
        &format!("ROLE {} IN DATABASE \"{source}\"", scene.source.role),
    );
    limit(target_cluster(), &format!("ROLE synapse_user IN DATABASE \"{target}\""));
    limit(target_cluster(), &format!("DATABASE \"{target}\""));

    let line = format!(
        "set -o pipefail
         pgdump-wrap -n --source \"$SOURCE\" --export export --server-name {SERVER_NAME} \
         | ess-wipe --target \"$TARGET\" --target-password-file target.pw --execute --confirm \"$CONFIRM\" | restore | verify >migration.json"
    );
    let call = scene.world.script(&line).env("PGPASSFILE", scene.world.path("pgpass"));
    let call = call.env("SOURCE", scene.source_url()).env("TARGET", scene.target_url());
    call.env("CONFIRM", scene.confirmation()).run().success();

    let held = "SELECT a[1] IS NULL, ascii(t) = 10003, (SELECT min(version) FROM public.schema_version) < 2147483647 FROM public.odd";
    assert_eq!(target_cluster().psql(&scene.target, held), "t|t|t");
}

#[test]
fn preflight_names_what_only_a_superuser_can_change() {
    let scene = Scene::new();
    for set in [
        "temp_file_limit = 1024",
        "log_statement = 'mod'",
        "ignore_checksum_failure = on",
    ] {
        target_cluster().psql("postgres", &format!("ALTER DATABASE \"{}\" SET {set}", scene.target));
    }
    scene.on_source(
        "ALTER DATABASE :DBNAME SET zero_damaged_pages = on"
            .replace(":DBNAME", &format!("\"{}\"", scene.source.name))
            .as_str(),
    );
    let script =
        format!("preflight -n {OFFLINE} --source \"$SOURCE\" --target \"$TARGET\" --target-password-file target.pw");
    let call = scene
        .world
        .script(&script)
        .env("PGPASSFILE", scene.world.path("pgpass"));
    let ran = call
        .env("SOURCE", scene.source_url())
        .env("TARGET", scene.target_url())
        .run();
    fires(
        &ran,
        &[
            "warning temp-file-limit",
            "warning log-holds-rows",
            "warning damage-hidden",
        ],
    );
    for said in [
        "warning: temp_file_limit is 1024 kB at the target",
        "warning: log_statement is mod at the target",
        "warning: ignore_checksum_failure is on at the target",
        "warning: zero_damaged_pages is on at the source",
    ] {
        assert!(ran.stderr.contains(said), "{ran}");
    }
}

#[test]
fn messages_of_a_program_are_shown_without_row_data() {
    for (broken, kept) in [
        (
            "CHECK (is_fine(token))",
            "violates check constraint \"tokens_token_check\"",
        ),
        ("", "could not create unique index \"tokens_once\""),
    ] {
        let scene = Scene::new();
        // Valid until pg_restore loads it.
        scene.on_source(&format!(
            "SET ROLE {};
             CREATE FUNCTION is_fine(t text) RETURNS bool IMMUTABLE LANGUAGE sql AS
                 $$SELECT current_setting('application_name') NOT LIKE 'ess-migrate/pg_restore%'$$;
             CREATE FUNCTION same(t text) RETURNS text IMMUTABLE LANGUAGE sql AS
                 $$SELECT CASE WHEN public.is_fine(t) THEN t ELSE 'canary-of-rows' END$$;
             CREATE FUNCTION whole(t text) RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT public.same(t)$$;
             CREATE TABLE tokens (token text {broken});
             INSERT INTO tokens VALUES ('canary-of-rows'), ('canary-of-rows too');
             CREATE UNIQUE INDEX tokens_once ON tokens (whole(token))",
            scene.source.role
        ));
        let dumped = scene.dump().success();
        let wiped = scene.wipe(dumped.stdout.as_str()).success();

        let ran = scene.tool("restore").args(["-v"]).stdin(wiped.stdout.as_str()).run();

        assert_failed(&ran, 69, kept);
        assert!(ran.stderr.contains("(...)"), "{ran}");
        assert!(!ran.stderr.contains("canary-of-rows"), "{ran}");
        assert!(scene.is_fenced());
    }
}

#[test]
fn a_secret_among_connection_parameters_stays_where_it_is() {
    let scene = Scene::new();
    let config = |more: &str| {
        let text = format!(
            "server_name: {SERVER_NAME}\ndatabase:\n  name: psycopg2\n  args:\n    user: {}\n    database: {}\n    port: {}\n{more}",
            scene.source.role,
            scene.source.name,
            source_cluster().port
        );
        scene.world.write("homeserver.yaml", text);
    };
    let preflight = || {
        let script = format!("preflight -v -n -c homeserver.yaml {OFFLINE} >checked.json");
        let call = scene
            .world
            .script(&script)
            .env("PGPASSFILE", scene.world.path("pgpass"));
        call.run()
    };

    // A password in a place where no password belongs.
    for host in [
        "postgresql://u:canary-of-host@127.0.0.1",
        "127.0.0.1 password=canary-of-host",
    ] {
        config(&format!("    host: '{host}'\n"));
        let ran = preflight();
        assert_failed(
            &ran,
            64,
            "connection parameter host: it must not contain a connection string with a password",
        );
        assert!(!ran.stderr.contains("canary"), "{ran}");
        assert_eq!(scene.world.read("checked.json"), "");
    }

    // An allowed parameter works, and the next program reads it again.
    config("    host: 127.0.0.1\n    options: '-c app.key=canary-of-options'\n");
    let ran = preflight();
    assert!(
        !ran.stderr.contains("cannot connect") && !ran.stderr.contains("canary"),
        "{ran}"
    );
    let document = scene.world.read("checked.json");
    assert!(
        document.contains("\"host\":\"127.0.0.1\"") && !document.contains("canary"),
        "{document}"
    );
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert!(document["source"]["connection"].get("options").is_none(), "{document}");
}
