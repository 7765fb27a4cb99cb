//! pgdump-wrap: a dump is complete, proven and private, and the source was not in use.

use std::fs::{self, File};

use serde_json::{Value, json};

use crate::support::{
    Identity, SERVER_NAME, Scene, Stdin, Synapse, Tmpfs, Visitor, World, assert_failed, assert_private, names_in,
    pgbin, place, seeded, source_cluster, text_of,
};

fn table<'a>(manifest: &'a Value, name: &str) -> &'a Value {
    let tables = manifest["inventory"]["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap()
}

#[test]
fn a_dump_of_a_hostile_source_is_whole_private_and_counted() {
    let scene = Scene::new();

    let ran = scene.dump().success();

    let manifest = scene.manifest();
    let tables = manifest["inventory"]["tables"].as_array().unwrap().iter();
    let counted = tables.filter(|table| table["carried"] == "rows");
    let (counts, queries): (Vec<String>, Vec<String>) = counted
        .map(|table| {
            let name = table["name"].as_str().unwrap();
            let query = format!("SELECT '{name} ' || count(*) FROM \"{name}\";\n");
            (format!("{name} {}", table["digest"]["rows"]), query)
        })
        .unzip();
    assert_eq!(counts.join("\n"), scene.on_source(&queries.concat()));
    let document = ran.json();
    assert_eq!(document["dump"]["kept"], false);
    assert_eq!(document["dump"]["path"], "dump");
    assert_eq!(document["source"]["server_name"], SERVER_NAME);
    assert_eq!(document["source"]["connection"]["dbname"], scene.source.name);
    assert!(!ran.stdout.contains("s%w") && !ran.stderr.contains("s%w"), "{ran}");
    assert_private(&scene.world, "export");
    assert_eq!(names_in(&scene.world, "export"), [".lock", "documents", "dump"]);
    assert_eq!(names_in(&scene.world, "export/dump"), ["data", "manifest.json"]);
}

#[test]
fn digests_are_those_that_sql_computes() {
    let scene = Scene::dumped();
    let manifest = scene.manifest();

    for name in ["event_json", "users", "account_data", "room_memberships"] {
        let columns = format!(
            "SELECT string_agg(quote_ident(attname) || ' ' || atttypid::regtype, ',' ORDER BY attname COLLATE \"C\") \
             FROM pg_attribute WHERE attrelid = '{name}'::regclass AND attnum > 0 AND NOT attisdropped"
        );
        let columns = source_cluster().psql("seeded", &columns);
        let hash = columns.split(',').fold("0::int8".to_owned(), |before, column| {
            let (column, kind) = column.split_once(' ').unwrap();
            let number = |value| format!("hashint8extended(coalesce({value}, 0), {before} # coalesce({value}, 1))");
            match kind {
                "boolean" => number(format!("{column}::int::bigint")),
                "bigint" | "integer" | "smallint" => number(format!("{column}::bigint")),
                _ => format!(
                    "hashtextextended(coalesce({column}::text, ''), {before} # ({column} IS NULL)::int::bigint)"
                ),
            }
        });
        let sum = format!("SELECT sum({hash}) FROM {name}");
        assert_eq!(
            table(&manifest, name)["digest"]["sum"],
            source_cluster().psql("seeded", &sum),
            "{name}"
        );
    }
}

#[test]
fn what_means_nothing_elsewhere_is_carried_as_structure_or_fence() {
    let scene = Scene::dumped();
    let manifest = scene.manifest();

    let carried = |name: &str| table(&manifest, name)["carried"].clone();

    for name in ["worker_read_write_locks", "worker_read_write_locks_mode"] {
        assert_eq!(carried(name), "structure");
    }
    for name in ["schema_version", "schema_compat_version"] {
        assert_eq!(carried(name), "fence");
    }
    for name in ["e2e_one_time_keys_json", "applied_schema_deltas", "event_json"] {
        assert_eq!(carried(name), "rows");
    }
    let keys = &table(&manifest, "e2e_one_time_keys_json")["digest"]["rows"];
    assert_eq!(*keys, json!(seeded().one_time_keys));
}

#[test]
fn the_configuration_of_synapse_is_enough() {
    let scene = Scene::new();
    let synapse = Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());

    let ran = scene
        .world
        .tool("pgdump-wrap")
        .args(["-n", "--out", "here/dump"])
        .args(synapse.config_args());
    scene.world.write("here/.keep", "");
    let ran = ran.run().success();

    let document = ran.json();
    assert_eq!(document["source"]["password"], json!({"from": "config"}));
    assert_eq!(document["source"]["server_name"], SERVER_NAME);
    assert!(scene.world.path("here/dump/manifest.json").is_file());
}

#[test]
fn a_source_in_use_is_refused_and_the_user_named() {
    let scene = Scene::new();
    let visitor = Visitor::new(source_cluster(), &scene.source.name, "postgres");

    let ran = scene.dump();

    assert_failed(&ran, 1, "1 other session is using the source: postgres (process ");
    assert!(ran.stderr.contains("visitor"), "{ran}");
    assert!(!scene.world.path("export/dump").exists());
    drop(visitor);
}

#[test]
fn a_monitor_may_stay_connected() {
    let scene = Scene::new();
    let _visitor = Visitor::new(source_cluster(), &scene.source.name, "postgres");

    let ran = scene.dumper().args(["--ignore-role", "postgres"]).run().success();

    assert_eq!(ran.json()["dump"].get("source_was_running"), None);
}

#[test]
fn one_time_keys_stay_behind_when_synapse_runs() {
    let scene = Scene::new();
    let _visitor = Visitor::new(source_cluster(), &scene.source.name, "synapse");

    let ran = scene.dumper().args(["--allow-running"]).run().success();

    assert_eq!(ran.json()["dump"]["source_was_running"], true);
    let manifest = scene.manifest();
    assert_eq!(table(&manifest, "e2e_one_time_keys_json")["carried"], "structure");
    let data = scene.world.path("export/dump/data");
    let mut list = place().command(place().pgbin.join("pg_restore"), &data);
    list.arg("-l").arg(&data);
    assert!(!text_of(list).contains("TABLE DATA public e2e_one_time_keys_json"));
}

#[test]
fn a_dump_can_be_one_file() {
    let scene = Scene::new();

    scene
        .dumper()
        .args(["--format", "custom", "--compress", "none"])
        .run()
        .success();

    assert_eq!(names_in(&scene.world, "export/dump"), ["data.dump", "manifest.json"]);
    assert!(
        fs::read(scene.world.path("export/dump/data.dump"))
            .unwrap()
            .starts_with(b"PGDMP")
    );
    assert_private(&scene.world, "export");
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let scene = Scene::new();
    let dump = |change: &[&str], pgpass: &str| {
        scene.world.write("pgpass2", pgpass);
        let ran = scene
            .world
            .tool("pgdump-wrap")
            .args(["-n", "--out", "out/dump", "--server-name", SERVER_NAME])
            .args(change)
            .env("PGPASSFILE", scene.world.path("pgpass2"))
            .run();
        let left = names_in(&scene.world, "out");
        assert!(left.is_empty() || left == [".dump.lock"], "{left:?} after {ran}");
        ran
    };
    scene.world.shell("mkdir -m 700 out none").success();
    let pgpass = scene.world.read("pgpass");
    let url = scene.source_url();

    assert_failed(
        &dump(&["--source", &url], "*:*:*:*:wrong"),
        77,
        "password authentication failed",
    );
    let nobody = "postgresql://synapse@127.0.0.1:9/db";
    assert_failed(&dump(&["--source", nobody], &pgpass), 69, "cannot connect to ");
    let gone = format!("{url}-gone");
    assert_failed(&dump(&["--source", &gone], &pgpass), 69, "does not exist");
    let missing = dump(&["--source", &url, "--pg-bin", "none"], &pgpass);
    assert_failed(&missing, 69, "no pg_dump and pg_restore were found");
    let hint = format!("hint: use --pg-bin {}", pgbin());
    assert!(missing.stderr.contains(&hint), "{missing}");
    let secret = url.replacen("synapse@", "synapse:hunter2@", 1);
    let secret = dump(&["--source", &secret], &pgpass);
    assert_failed(&secret, 64, "password");
    assert!(!secret.stderr.contains("hunter2"), "{secret}");
}

#[test]
fn a_table_that_may_not_be_read_is_named() {
    let scene = Scene::new();
    scene.on_source("CREATE TABLE private (x int); REVOKE ALL ON private FROM synapse");

    let ran = scene.dump();

    assert_failed(&ran, 77, "role synapse cannot read public.private");
    assert_eq!(names_in(&scene.world, "export"), [".lock"]);
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let scene = Scene::new();
    let small = scene.world.path("small");
    let Some(_mounted) = Tmpfs::mount(&scene.world, "small", "1m") else {
        // Only root can mount a small disk; without root, a limit on the size of files makes pg_dump fail as well.
        let script = r#"trap '' XFSZ; ulimit -f 8; exec pgdump-wrap -n --source "$URL" --out small/dump"#;
        scene.world.shell("mkdir -m 700 small").success();
        let ran = scene
            .world
            .script(script)
            .env("URL", scene.source_url())
            .env("PGPASSFILE", scene.world.path("pgpass"));
        let ran = ran.run();
        assert!(!ran.status.success() && !small.join("dump").exists(), "{ran}");
        return;
    };

    let ran = scene
        .tool("pgdump-wrap")
        .args([
            "-n",
            "--source",
            &scene.source_url(),
            "--out",
            "small/dump",
            "--compress",
            "none",
        ])
        .run();

    assert!(matches!(ran.status.code(), Some(69 | 74)), "{ran}");
    assert!(ran.stderr.contains("No space left on device"), "{ran}");
    assert_eq!(names_in(&scene.world, "small"), [".dump.lock"]);
}

#[test]
fn an_invalid_document_is_refused_with_the_place() {
    let scene = Scene::new();
    let document = scene.dump().success().stdout;
    let run = |text: &str| scene.tool("pgdump-wrap").args(["--replace"]).stdin(text).run();
    let names = names_in(&scene.world, "export");

    for (text, said) in [
        ("", "standard input contains no document"),
        (&document[..document.len() / 2], "it is truncated at line 1, column "),
        ("{\"kind\": \"Pod\"}", "it is not a migration document"),
        ("PGDMP\u{1}", "it is not JSON"),
        (
            &document.replace("ess-migration/1", "ess-migration/2"),
            "this version reads \"ess-migration/1\"",
        ),
        (
            &document.replace("\"rows\":", "\"rows\":\"many\",\"row\":"),
            "at `dump.rows`: ",
        ),
        (
            &document.replace("\"kept\":", "\"kep\":"),
            "at `dump.kep`: unknown field",
        ),
    ] {
        assert_failed(&run(text), 65, said);
    }
    assert_eq!(names_in(&scene.world, "export"), names);
}

#[test]
fn an_annotated_document_is_passed_on() {
    let scene = Scene::new();
    let document = scene.dump().success().json();
    let mut document: Value = document;
    document["annotations"] = json!({"ticket": "OPS-1"});
    let indented = serde_json::to_string_pretty(&document).unwrap();

    let ran = scene.tool("pgdump-wrap").stdin(indented.as_str()).run().success();

    assert_eq!(ran.json()["dump"]["kept"], true);
    assert_eq!(ran.json()["annotations"], json!({"ticket": "OPS-1"}));
    assert_eq!(ran.json()["id"], document["id"]);
}

#[test]
fn a_document_with_a_refusal_is_not_acted_on() {
    let scene = Scene::new();
    let blocked = json!({
        "format": "ess-migration/1",
        "export": scene.world.path("export"),
        "preflight": {
            "version": "0.1.0", "started_at": "", "finished_at": "",
            "findings": [{"id": "sqlite", "severity": "blocker", "message": "m"}],
        },
    });

    let ran = scene
        .tool("pgdump-wrap")
        .args(["--source", &scene.source_url()])
        .stdin(blocked.to_string().as_str())
        .run();

    assert_failed(
        &ran,
        1,
        "cannot continue with this document: `preflight` found a blocker: sqlite",
    );
    assert!(!scene.world.path("export").exists());
}

#[test]
fn a_wrong_command_line_has_a_status_of_its_own() {
    let world = World::new();
    for args in [
        &["-n", "--sauce", "x"][..],
        &["-n"],
        &["-n", "--source", "postgresql://a@b/c"],
        &["-n", "--source", "postgresql://a@b/c", "-c", "x", "--out", "d"],
        &["-n", "--source", "postgresql://a@b/c", "--out", "d", "-j", "0"],
    ] {
        assert_failed(&world.run("pgdump-wrap", args, Stdin::Null), 64, "");
    }
    insta::assert_snapshot!(world.run("pgdump-wrap", ["-n"], Stdin::Null), @r"
    -- stderr --
    pgdump-wrap: no source: neither -c, nor --source, nor a document that names one
    hint: give -c /etc/matrix-synapse/homeserver.yaml, or --source postgresql://USER@HOST/DBNAME
    -- exit status: 64 --
    ");
}

#[test]
fn a_document_that_cannot_be_delivered_is_kept_in_the_export() {
    let scene = Scene::new();
    let script = r#"pgdump-wrap -n --source "$URL" --export export --server-name example.org >/dev/full"#;

    let ran = scene
        .world
        .script(script)
        .env("URL", scene.source_url())
        .env("PGPASSFILE", scene.world.path("pgpass"))
        .run();

    assert_failed(
        &ran,
        74,
        "cannot write the document to standard output: No space left on device",
    );
    let kept = scene.world.path("export/documents/01-pgdump-wrap.json");
    assert!(ran.stderr.contains(&format!("< {}", kept.display())), "{ran}");
    let document: Value = serde_json::from_reader(File::open(kept).unwrap()).unwrap();
    assert_eq!(document["dump"]["kept"], false);
}

#[test]
fn what_people_read_of_a_dump() {
    let scene = Scene::new();
    let ran = scene.dump().success();
    let bytes = ran.json()["dump"]["bytes"].as_u64().unwrap();
    let rows = ran.json()["dump"]["rows"].to_string();
    scene.world.mask(ess_run::text::size(bytes), "$SIZE");
    scene.world.mask(format!("{rows} rows"), "$COUNT");

    let said = ran.to_string();
    let said = &said[said.find("-- stderr --").unwrap()..];

    insta::assert_snapshot!(said, @r"
    -- stderr --
    pgdump-wrap: 172 tables, $COUNT, $SIZE in $WORLD/export/dump
    pgdump-wrap: one-time keys kept: no other session used the source during the dump, so no key was handed out meanwhile
    pgdump-wrap: from now on, keep the old Synapse stopped: systemctl disable --now matrix-synapse && systemctl mask matrix-synapse
    -- exit status: 0 --
    ");
}

#[test]
fn a_dump_of_a_stopped_source_is_not_one_of_a_source_in_use() {
    let scene = Scene::new();
    scene.dump().success();

    let ran = scene.dumper().args(["--allow-running"]).run();

    assert_failed(
        &ran,
        1,
        "it was taken while the source was stopped, and --allow-running means that the source is in use",
    );
}
