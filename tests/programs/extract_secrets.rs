//! extract-secrets: every secret is in a file, with the bytes that Synapse uses, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::secrets::{BRIDGE, CANARY, KEY, POSTGRES, PUBLIC_KEY, args, debian, extract, index};
use crate::support::{Stdin, World, assert_failed};

#[test]
fn a_debian_homeserver_gives_up_its_secrets_to_files_only() {
    let world = World::new();
    debian(
        &world,
        &format!(
            "{POSTGRES}macaroon_secret_key: \"CANARY 'q\\\"\\\\ ü🦀\\nsecond line\"\n\
             registration_shared_secret_path: reg\nform_secret: |\n  CANARY with newline\n\
             password_config:\n  pepper: CANARY # not part of it\n\
             redis:\n  enabled: yes\n  password: 0x10\nturn_shared_secret_path: /var/lib/matrix-synapse/turn\n\
             app_service_config_files: [/etc/matrix-synapse/bridge.yaml]\n"
        ),
    );
    world.write("var/reg", "  CANARY registration\r\n\n");
    world.write("var/turn", "CANARY turn");
    world.write("etc/bridge.yaml", BRIDGE);

    let ran = extract(&world).success();

    for (option, value) in [
        ("macaroon_secret_key", "CANARY 'q\"\\ ü🦀\nsecond line"),
        ("registration_shared_secret", "CANARY registration"),
        ("form_secret", "CANARY with newline\n"),
        ("password_config.pepper", "CANARY"),
        ("redis.password", "16"),
        ("turn_shared_secret", "CANARY turn"),
        ("app_service_config_files.0", BRIDGE),
        ("database.args.password", "CANARY p@ss"),
        ("signing_key", KEY),
    ] {
        assert_eq!(world.read(&format!("export/secrets/{option}")), value, "{option}");
    }
    for entry in walkdir::WalkDir::new(world.path("export")) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let wanted = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, wanted, "{}", entry.path().display());
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            assert!(
                !fs::read_to_string(path).unwrap().contains(CANARY),
                "{}",
                path.display()
            );
        }
    }
    let document = ran.json();
    assert_eq!(document["source"]["server_name"], "example.org");
    assert_eq!(
        document["source"]["connection"],
        json!({"dbname": "Synapse-Prod", "host": "/run/pg", "user": "synapse"})
    );
    assert_eq!(document["source"]["password"], json!({"from": "config"}));
    assert_eq!(document["export"], world.path("export").to_str().unwrap());
    assert_eq!(
        document["secrets"]["signing_keys"],
        json!([{"id": "ed25519:a_key", "public_key": PUBLIC_KEY}])
    );
    assert_eq!(document["secrets"]["entries"].as_array().unwrap().len(), 9);
    assert_eq!(document["secrets"]["kept"], false);
    insta::assert_snapshot!(ran.stderr.replace(world.path("").to_str().unwrap(), "$WORLD/"), @r"
    extract-secrets: wrote 9 secrets of example.org to $WORLD/export/secrets
    extract-secrets: signing key ed25519:a_key, public key xCsUHuvcPjojMeZXHx4qgMKxjajszxI1FtuS9g1JdFY
    extract-secrets: the signing keys were not compared with those that Synapse uses: no plain HTTP listener of the configuration answers, and its database cannot be queried: cannot connect to synapse@/run/pg:5432/Synapse-Prod: No such file or directory (os error 2)
    ");
}

#[test]
fn the_configuration_is_kept_byte_for_byte_in_the_order_of_the_merge() {
    let world = World::new();
    debian(&world, POSTGRES);
    extract(&world).success();

    let copies = [
        ("config/001-homeserver.yaml", "etc/homeserver.yaml"),
        ("config/002-report_stats.yaml", "etc/conf.d/report_stats.yaml"),
        ("config/003-server_name.yaml", "etc/conf.d/server_name.yaml"),
        ("config/004-zz-own.yaml", "etc/conf.d/zz-own.yaml"),
    ];
    for (copy, original) in copies {
        assert_eq!(world.read(&format!("export/{copy}")), world.read(original), "{copy}");
    }
    let recorded = copies.map(|(file, original)| json!({"file": file, "original": world.path(original)}));
    assert_eq!(index(&world)["config"], json!(recorded));
}

#[test]
fn the_macaroon_secret_is_what_synapse_falls_back_to() {
    let world = World::new();
    debian(&world, &format!("{POSTGRES}registration_shared_secret: CANARY reg\n"));
    extract(&world).success();
    assert_eq!(world.read("export/secrets/macaroon_secret_key"), "CANARY reg");

    let world = World::new();
    debian(&world, POSTGRES);
    let ran = extract(&world).success();
    assert!(!world.path("export/secrets/macaroon_secret_key").exists());
    let entries = ran.json()["secrets"]["entries"].as_array().unwrap().clone();
    let entry = entries
        .iter()
        .find(|entry| entry["option"] == "macaroon_secret_key")
        .unwrap();
    assert_eq!(
        (&entry["file"], &entry["origin"]),
        (&json!(null), &json!("derived from signing_key"))
    );
    assert!(
        ran.stderr.contains("guest accounts, single sign-on logins in progress"),
        "{ran}"
    );
}

#[test]
fn the_same_command_again_writes_nothing_and_reports_it() {
    let world = World::new();
    debian(&world, POSTGRES);
    extract(&world).success();
    let before = fs::metadata(world.path("export/secrets/index.json"))
        .unwrap()
        .modified()
        .unwrap();

    let again = extract(&world).success();

    assert_eq!(again.json()["secrets"]["kept"], true);
    assert!(
        again.stderr.contains("already contains the") && again.stderr.contains("nothing was written"),
        "{again}"
    );
    let after = fs::metadata(world.path("export/secrets/index.json"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(before, after);
    assert!(world.path("export/documents/02-extract-secrets.json").exists());
}

#[test]
fn other_secrets_than_before_are_refused_by_name() {
    let world = World::new();
    debian(
        &world,
        &format!("{POSTGRES}form_secret: CANARY 1\nturn_username: CANARY\n"),
    );
    extract(&world).success();
    debian(
        &world,
        &format!("{POSTGRES}form_secret: CANARY 2\nturn_username: CANARY\nturn_password: CANARY\n"),
    );

    let ran = extract(&world);

    insta::assert_snapshot!(ran, @r"
    -- stderr --
    extract-secrets: $WORLD/export/secrets contains secrets that differ from the configuration: form_secret, turn_password
    hint: to extract again, first move it away: mv $WORLD/export/secrets $WORLD/export/secrets.old
    -- exit status: 1 --
    ");
    assert_eq!(world.read("export/secrets/form_secret"), "CANARY 1");
    assert!(!world.path("export/secrets/turn_password").exists());
}

#[test]
fn what_synapse_would_not_accept_is_refused_with_the_place() {
    for (options, message) in [
        (
            "macaroon_secret_key: yes\n",
            "`macaroon_secret_key` in $WORLD/etc/conf.d/zz-own.yaml: it is a boolean to Synapse",
        ),
        (
            "form_secret: 1234\n",
            "it is an integer to Synapse, not a string; put it in quotes",
        ),
        (
            "form_secret: CANARY\nform_secret_path: x\n",
            "`form_secret_path` is set too",
        ),
        (
            "form_secret_path: none\n",
            "cannot read $WORLD/var/none, which `form_secret_path` names",
        ),
        (
            "form_secret: CANARY\n\tx: 1\n",
            "zz-own.yaml: line 3, column 1: found a tab",
        ),
        (
            "form_secret: CANARY\n---\n",
            "zz-own.yaml: line 3, column 1: a second document",
        ),
        ("signing_key: CANARY\n", "a key in the old format"),
        (
            "server_name: [CANARY]\n",
            "`server_name` in $WORLD/etc/conf.d/zz-own.yaml: it is a list",
        ),
    ] {
        let world = World::new();
        debian(&world, &format!("{POSTGRES}{options}"));

        let ran = extract(&world);

        let shown = ran.to_string();
        assert!(
            shown.contains(message) && shown.ends_with("-- exit status: 78 --"),
            "{options}{shown}"
        );
        assert!(
            ran.stdout.is_empty() && !world.path("export/secrets").exists(),
            "{shown}"
        );
    }
}

#[test]
fn without_conf_d_the_way_out_is_named() {
    let world = World::new();
    debian(&world, POSTGRES);

    let ran = world.run(
        "extract-secrets",
        ["-c", "etc/homeserver.yaml", "--out", "export"],
        Stdin::Null,
    );

    insta::assert_snapshot!(ran, @r"
    -- stderr --
    extract-secrets: `server_name` is not set in $WORLD/etc/homeserver.yaml
    hint: on Debian it is in another file: add -c /etc/matrix-synapse/conf.d
    -- exit status: 78 --
    ");
}

#[test]
fn an_sqlite_homeserver_has_secrets_too() {
    let world = World::new();
    debian(
        &world,
        "database: {name: sqlite3, args: {database: x.db}}\nform_secret: CANARY\n",
    );

    let ran = extract(&world).success();

    assert_eq!(world.read("export/secrets/form_secret"), CANARY);
    assert_eq!(ran.json()["source"]["connection"], json!(null));
}

#[test]
fn all_secrets_that_cannot_be_read_are_named_in_one_run() {
    let world = World::new();
    debian(
        &world,
        &format!(
            "{POSTGRES}form_secret_path: none\nturn_shared_secret_path: neither\nmacaroon_secret_key: 1234\n\
             app_service_config_files: [nor.yaml]\n"
        ),
    );

    let ran = extract(&world);

    assert_eq!(ran.status.code(), Some(78), "{ran}");
    for said in [
        "none, which `form_secret_path` names",
        "neither, which `turn_shared_secret_path` names",
        "`macaroon_secret_key` in",
        "nor.yaml, which `app_service_config_files.0` names",
    ] {
        assert!(ran.stderr.contains(said), "{said}\n{ran}");
    }
    assert!(!world.path("export").exists());
}

#[test]
fn the_document_carries_the_configuration_and_the_export() {
    let world = World::new();
    debian(&world, POSTGRES);
    let document = extract(&world).success().stdout;

    let again = world.run("extract-secrets", [""; 0], document.as_str()).success();
    assert_eq!(again.json()["secrets"]["kept"], true);
    assert_eq!(
        again.json()["id"],
        serde_json::from_str::<serde_json::Value>(&document).unwrap()["id"]
    );

    let elsewhere = world.run("extract-secrets", ["--out", "elsewhere"], document.as_str());
    assert_eq!(elsewhere.status.code(), Some(64), "{elsewhere}");
    assert!(
        elsewhere.stderr.contains("elsewhere, but the document's `export` is"),
        "{elsewhere}"
    );
    fs::rename(world.path("export"), world.path("carried")).unwrap();
    let carried = world
        .run("extract-secrets", ["--export", "carried"], document.as_str())
        .success();
    assert_eq!(carried.json()["secrets"]["kept"], true);
}

#[test]
fn what_is_missing_is_named_with_its_flag() {
    let world = World::new();
    debian(&world, POSTGRES);

    let run = |args: &[&str], stdin: &str| world.run("extract-secrets", args, stdin);
    insta::assert_snapshot!(run(&["-n", "--out", "export"], ""), @r"
    -- stderr --
    extract-secrets: there is no configuration: neither -c nor the document's `source.config` names one
    hint: give -c /etc/matrix-synapse/homeserver.yaml
    -- exit status: 64 --
    ");
    insta::assert_snapshot!(run(&["-n", "-c", "etc"], ""), @r"
    -- stderr --
    extract-secrets: there is no export: neither --out nor the document's `export` names one
    hint: give --out DIR
    -- exit status: 64 --
    ");
    let source = run(&["-n", "--source", "postgresql:///x", "--out", "export"], "");
    assert_failed(&source, 64, "unexpected argument '--source'");
    insta::assert_snapshot!(run(&["-c", "etc", "--out", "export"], ""), @r"
    -- stderr --
    extract-secrets: standard input contains no document: the previous program failed, or -n is missing
    -- exit status: 65 --
    ");
    assert!(!world.path("export").exists());
}

#[test]
fn a_document_with_a_refusal_is_not_acted_on() {
    let world = World::new();
    debian(&world, POSTGRES);
    let no = json!({
        "format": "ess-migration/1",
        "preflight": {
            "version": "0", "started_at": "", "finished_at": "",
            "findings": [{"id": "sqlite", "severity": "blocker", "message": "x"}],
        },
    });

    let ran = world.run("extract-secrets", args(&world), no.to_string().as_str());

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(!world.path("export").exists());
}

#[test]
fn what_becomes_of_each_is_in_the_index() {
    let world = World::new();
    debian(
        &world,
        &format!("{POSTGRES}macaroon_secret_key: CANARY\nacme_token: CANARY\n"),
    );

    let ran = extract(&world).success();

    let index = index(&world);
    let entry = |option: &str| {
        let all = index["secrets"].as_array().unwrap();
        all.iter().find(|entry| entry["option"] == option).unwrap().clone()
    };
    let macaroon = entry("macaroon_secret_key");
    assert_eq!(macaroon["becomes"], "needed by ESS as synapse.macaroon");
    assert_eq!(macaroon["installer_field"], r"Secrets \ Synapse \ Macaroon");
    for (option, field) in [
        (
            "signing_key",
            "signingKey of the Secret synapse, in secrets.yml (inferred)",
        ),
        ("database.args.password", "none needed"),
    ] {
        assert_eq!(entry(option)["installer_field"], field, "{option}");
    }
    assert!(macaroon["if_lost"].as_str().unwrap().contains("all other logins stay"));
    assert_eq!(entry("database.args.password")["becomes"], "replaced by ESS");
    assert_eq!(index["options"]["look_like_secrets"], json!(["acme_token"]));
    assert!(
        ran.stderr
            .contains("look like secrets but have no file of their own: acme_token"),
        "{ran}"
    );
    let entries = ran.json()["secrets"]["entries"].clone();
    assert_eq!(entries[1]["becomes"], macaroon["becomes"]);
}

#[test]
fn no_tool_leaves_a_core() {
    let world = World::new();
    let ran = world
        .shell("mkfifo in; extract-secrets < in & exec 3> in; sleep 1; grep core /proc/$!/limits; exec 3>&-; wait");
    let limits: Vec<&str> = ran.stdout.split_whitespace().collect();
    assert_eq!(limits, ["Max", "core", "file", "size", "1", "1", "bytes"], "{ran}");
}
