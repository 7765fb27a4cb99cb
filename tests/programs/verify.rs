//! verify: every difference is listed, and a fence that is still up is lifted only if there is none.

use serde_json::json;

use crate::support::{
    Call, Identity, Ran, Scene, Stdin, Synapse, Visitor, assert_failed, source_cluster, target_cluster,
};

/// The differences that a run lists. Fails unless its status is 1 and the document contains the same differences.
#[track_caller]
fn differences(ran: &Ran) -> Vec<String> {
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let document = ran.json();
    assert_eq!(document["verify"]["equal"], false);
    let listed: Vec<String> = serde_json::from_value(document["verify"]["differences"].clone()).unwrap();
    for difference in &listed {
        assert!(ran.stderr.contains(difference.as_str()), "{ran}");
    }
    listed
}

/// `verify` against a source, without a dump.
fn against_source<'a>(scene: &Scene, source: &str) -> Call<'a> {
    scene
        .tool("verify")
        .args(scene.target_args())
        .args(["--source", source])
}

#[test]
fn what_was_restored_is_equal_at_any_time() {
    let scene = Scene::restored();
    let before = scene.target_dump();

    let ran = scene.verify().run().success();

    let document = ran.json();
    assert_eq!(document["verify"]["equal"], true);
    assert_eq!(document["verify"]["against"], "manifest");
    assert_eq!(document["verify"]["fence"], "absent");
    assert_eq!(scene.target_dump(), before);
}

#[test]
fn each_difference_is_listed() {
    let scene = Scene::restored();
    scene.on_target(
        "UPDATE profiles SET displayname = displayname || '!' WHERE user_id = 'alice';
         DELETE FROM user_ips;
         DROP INDEX events_ts;
         SELECT setval('events_stream_seq', 7);
         ALTER TABLE rooms OWNER TO postgres; GRANT SELECT ON rooms TO synapse_user;
         ALTER TABLE rooms ADD COLUMN extra int;
         CREATE TABLE more (x int);
         DROP TABLE presence_stream;
         DROP TABLE IF EXISTS nothing",
    );

    let listed = differences(&scene.verify().run());

    let rows = source_cluster().psql("seeded", "SELECT count(*) FROM user_ips");
    let events = source_cluster().psql("seeded", "SELECT last_value FROM events_stream_seq");
    for said in [
        "table public.profiles has different contents in its 3 rows",
        &format!("table public.user_ips has 0 rows, not {rows}"),
        "missing: index CREATE INDEX events_ts ON public.events USING btree (origin_server_ts, stream_ordering)",
        &format!("sequence public.events_stream_seq is at 7, not {events}"),
        "table public.rooms (postgres) is not owned by synapse_user",
        "unexpected: column public.rooms.extra integer",
        "unexpected table public.more",
        "table public.presence_stream is missing",
    ] {
        assert!(
            listed.iter().any(|line| line.starts_with(said)),
            "{said:?} is not in {listed:#?}"
        );
    }
}

#[test]
fn one_changed_row_is_one_difference() {
    let scene = Scene::restored();
    scene.on_target("UPDATE event_json SET json = json || ' ' WHERE event_id = (SELECT min(event_id) FROM event_json)");

    let listed = differences(&scene.verify().run());

    let rows = source_cluster().psql("seeded", "SELECT count(*) FROM event_json");
    assert_eq!(
        listed,
        [format!(
            "table public.event_json has different contents in its {rows} rows"
        )]
    );
}

#[test]
fn rows_that_were_exchanged_are_found() {
    let scene = Scene::restored();
    scene.on_target(
        "UPDATE profiles SET displayname = CASE user_id WHEN 'bob' THEN 'carol' ELSE 'bob' END WHERE user_id IN ('bob', 'carol')",
    );

    assert_eq!(
        differences(&scene.verify().run()),
        ["table public.profiles has different contents in its 3 rows"]
    );
}

#[test]
fn a_value_never_counts_as_a_similar_one() {
    let scene = Scene::new();
    scene.on_source(
        "SET ROLE synapse; CREATE TABLE odd (k int, a text, b text, n int8, m int8, t bool, x numeric);
         INSERT INTO odd VALUES (1, 'a', 'b', 1, 0, true, 1.0), (2, '', NULL, NULL, NULL, NULL, NULL), (3, NULL, '', -1, 7, false, 2)",
    );
    scene.dump().success();
    scene.wipe(Stdin::Null).success();
    scene.restore().run().success();

    for (change, row) in [
        ("a = b, b = a", 1),
        ("a = b, b = a", 2),
        ("a = NULL", 2),
        ("b = ''", 2),
        ("n = 0", 2),
        ("n = 1", 2),
        ("m = n, n = m", 1),
        ("m = NULL", 1),
        // A value for which `hashint8extended` alone has the same hash.
        ("n = 4294967296", 1),
        ("n = -4294967296", 3),
        ("t = false", 1),
        ("t = false", 2),
        ("t = NULL", 3),
        ("x = 1.00", 1),
    ] {
        let was = scene.on_target(&format!("SELECT o FROM odd o WHERE k = {row}"));
        scene.on_target(&format!("UPDATE odd SET {change} WHERE k = {row}"));

        let listed = differences(&scene.verify().run());

        assert_eq!(
            listed,
            ["table public.odd has different contents in its 3 rows"],
            "{change} in {was}"
        );
        scene.on_target(&format!(
            "DELETE FROM odd WHERE k = {row}; INSERT INTO odd SELECT ('{was}'::odd).*"
        ));
        scene.verify().run().success();
    }
}

#[test]
fn a_missing_index_is_one_difference() {
    let scene = Scene::restored();
    scene.on_target("DROP INDEX events_ts");

    let listed = differences(&scene.verify().run());

    assert_eq!(
        listed,
        ["missing: index CREATE INDEX events_ts ON public.events USING btree (origin_server_ts, stream_ordering)"]
    );
}

#[test]
fn another_owner_is_one_difference() {
    let scene = Scene::restored();
    scene.on_target("ALTER TABLE stats_incremental_position OWNER TO postgres; GRANT SELECT ON stats_incremental_position TO synapse_user");

    let listed = differences(&scene.verify().run());

    assert_eq!(
        listed,
        ["table public.stats_incremental_position (postgres) is not owned by synapse_user"]
    );
}

#[test]
fn rows_are_the_same_whether_a_column_may_be_null_or_not() {
    let scene = Scene::restored();
    scene.on_target("ALTER TABLE stats_incremental_position ALTER COLUMN stream_id DROP NOT NULL");
    scene.on_target("ALTER TABLE room_stats_state ALTER COLUMN room_id DROP NOT NULL");
    scene.on_target("ALTER TABLE access_tokens ALTER COLUMN token DROP NOT NULL");

    let listed = differences(&scene.verify().run());

    assert!(
        listed.iter().all(|line| line.contains("column public.")) && listed.len() >= 3,
        "{listed:?}"
    );
}

#[test]
fn a_version_that_is_not_the_sources_is_a_difference() {
    let scene = Scene::restored();
    scene.on_target("UPDATE schema_version SET version = version + 1");

    assert_eq!(
        differences(&scene.verify().run()),
        ["the schema version is not the expected one"]
    );
}

#[test]
fn a_document_that_verify_denied_is_not_acted_on_but_verified_again() {
    let scene = Scene::restored();
    scene.on_target("DELETE FROM user_ips");
    let denied = scene.verify().run().stdout;

    let restore = scene.tool("restore").stdin(denied.as_str()).run();
    let verify = scene
        .tool("verify")
        .args(["--from", "export/dump"])
        .stdin(denied.as_str())
        .run();

    assert_failed(
        &restore,
        1,
        "cannot continue with this document: `verify` found 1 difference",
    );
    assert_eq!(differences(&verify).len(), 1);
}

#[test]
fn a_fence_left_standing_is_lifted_when_all_is_equal() {
    let scene = Scene::wiped();
    // As a person would load it with PostgreSQL's own programs: the tables of the fence are replaced by those of the
    // dump, but keep their rows and the comment of the fence; then everything else.
    let load = r#"set -eo pipefail
        dump=export/dump/data
        mine=' (TABLE|CONSTRAINT) public schema_(compat_)?version '
        pg_restore -l $dump | grep -E "$mine" >mine
        pg_restore -l $dump | grep -vE "$mine| TABLE DATA public schema_(compat_)?version " >rest
        { echo 'BEGIN; ALTER TABLE schema_version RENAME TO a; ALTER TABLE schema_compat_version RENAME TO b;
            ALTER TABLE a DROP CONSTRAINT schema_version_lock_key;
            ALTER TABLE b DROP CONSTRAINT schema_compat_version_lock_key;'
          pg_restore --no-owner -L mine -f - $dump
          echo "INSERT INTO public.schema_version SELECT * FROM public.a;
            INSERT INTO public.schema_compat_version SELECT * FROM public.b; DO 'BEGIN EXECUTE format(
              ''COMMENT ON TABLE public.schema_version IS %L'', obj_description(''public.a''::regclass)); END';
            DROP TABLE public.a, public.b; COMMIT;"; } | psql -q -v ON_ERROR_STOP=1 >psql.out
        pg_restore -e --no-owner -L rest -d "$PGDATABASE" $dump"#;
    let load = scene
        .world
        .script(load)
        .env("PGHOST", &target_cluster().dir)
        .env("PGUSER", "synapse_user");
    load.env("PGPORT", target_cluster().port.to_string())
        .env("PGDATABASE", &scene.target)
        .run()
        .success();
    assert!(scene.is_fenced());

    let ran = scene.verify().run().success();

    assert_eq!(ran.json()["verify"]["fence"], "lifted");
    assert!(
        ran.stderr.contains(
            "all equal; no source was named, so it was not checked for changes since the dump; the fence is lifted, so \
             Synapse can start"
        ),
        "{ran}"
    );
    assert!(!scene.is_fenced());
    let version = "SELECT version, upgraded, compat_version FROM schema_version, schema_compat_version";
    assert_eq!(scene.on_target(version), source_cluster().psql("seeded", version));
}

#[test]
fn a_fence_stays_when_anything_differs() {
    let scene = Scene::wiped();

    let ran = scene.verify().run();

    assert!(
        differences(&ran)
            .iter()
            .any(|line| line == "table public.access_tokens is missing")
    );
    assert_eq!(ran.json()["verify"]["fence"], "standing");
    assert!(
        ran.stderr.contains("the fence is in place, so Synapse cannot start"),
        "{ran}"
    );
    assert!(scene.is_fenced());
}

#[test]
fn a_stopped_source_itself_can_be_the_measure() {
    let scene = Scene::restored();
    let synapse = Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());

    let ran = scene
        .world
        .tool("verify")
        .args(scene.target_args())
        .args(synapse.config_args())
        .run()
        .success();

    assert_eq!(ran.json()["verify"]["against"], "source");
    assert_eq!(ran.json()["verify"]["equal"], true);
}

#[test]
fn a_source_in_use_is_not_compared_with() {
    let scene = Scene::restored();
    let other = Scene::new();
    let _visitor = Visitor::new(source_cluster(), &other.source.name, "synapse");

    let ran = against_source(&scene, &other.source_url()).run();

    assert_failed(&ran, 1, "1 other session is using the source: synapse (process ");
}

#[test]
fn a_source_that_changed_is_reported() {
    let scene = Scene::new();
    let dumped = scene.dump().success().stdout;
    let wiped = scene.wipe(dumped.as_str()).success().stdout;
    let restored = scene.tool("restore").stdin(wiped.as_str()).run().success().stdout;
    scene.on_source("SELECT nextval('events_stream_seq')");

    let ran = scene.tool("verify").stdin(restored.as_str()).run();

    assert_failed(
        &ran,
        1,
        "the old Synapse ran after the dump: sequence events_stream_seq went from",
    );
}

#[test]
fn without_anything_to_compare_with_there_is_no_result() {
    let scene = Scene::restored();

    let ran = scene.tool("verify").args(scene.target_args()).run();

    assert_failed(&ran, 64, "there is nothing to compare with");
    assert_failed(
        &scene.world.run("verify", ["-n"], Stdin::Null),
        64,
        "there is no target",
    );
}

#[test]
fn what_people_read_of_a_no() {
    let scene = Scene::restored();
    scene.on_target("DELETE FROM profiles WHERE user_id = 'bob'; SELECT setval('device_inbox_sequence', 1, false)");

    let ran = scene.verify().run();

    let rows = ran.json()["verify"]["rows"].to_string();
    scene.world.mask(format!("{rows} rows, "), "$COUNT, ");
    let said = ran.to_string();
    let (_, said) = said.split_once("-- stderr --\n").unwrap();
    insta::assert_snapshot!(said, @r"
      table public.profiles has 2 rows, not 3
      sequence public.device_inbox_sequence is at 1 (unused), not 2
      sequence device_inbox_sequence is at 0, behind position 2 of stream to_device: Synapse would not start
    verify: 172 tables, $COUNT, 3 differences
    -- exit status: 1 --
    ");
    assert_eq!(ran.json()["verify"]["next"], json!({}));
}
