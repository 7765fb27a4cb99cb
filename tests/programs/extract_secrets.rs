//! extract-secrets: every secret is in a file, with the bytes that Synapse uses, and nowhere else.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::json;

use crate::support::{Identity, Ran, SERVER_NAME, Scene, Stdin, Synapse, World, assert_failed, source_cluster};

/// Part of every secret, so that one search finds all of them.
const CANARY: &str = "CANARY";
/// A signing key whose seed contains the canary.
const KEY: &str = "ed25519 a_key CANARY/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
const BRIDGE: &str = "{id: b, as_token: CANARY0123456789, hs_token: 9876543210CANARY, sender_localpart: b}\r\n";
const PUBLIC_KEY: &str = "xCsUHuvcPjojMeZXHx4qgMKxjajszxI1FtuS9g1JdFY";

/// Creates `/etc/matrix-synapse` in a world, with these options in a file in conf.d.
fn debian(world: &World, options: &str) {
    world.write(
        "etc/homeserver.yaml",
        "# as the package ships it\r\nsigning_key_path: /etc/matrix-synapse/homeserver.signing.key\r\n\
         database:\r\n  name: sqlite3\r\n",
    );
    world.write("etc/homeserver.signing.key", KEY);
    world.write("etc/conf.d/server_name.yaml", "server_name: example.org\n");
    world.write("etc/conf.d/report_stats.yaml", "report_stats: no\n");
    world.write("etc/conf.d/zz-own.yaml", options);
    world.write("etc/conf.d/ignored.yml", "server_name: wrong.example\n");
}

const POSTGRES: &str = "database: {name: psycopg2, args: {user: synapse, database: Synapse-Prod, host: /run/pg, password: \"CANARY p@ss\", cp_min: 5}}\n";

fn args(world: &World) -> Vec<String> {
    let map = |theirs: &str, ours: &str| format!("{theirs}={}", world.path(ours).display());
    [
        "-c",
        "etc/homeserver.yaml",
        "-c",
        "etc/conf.d",
        "--path-map",
        &map("/etc/matrix-synapse", "etc"),
        "--path-map",
        &map("/var/lib/matrix-synapse", "var"),
        "--out",
        "export",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Runs extract-secrets on the configuration of [`debian`].
fn extract(world: &World) -> Ran {
    let ran = world.run("extract-secrets", args(world), Stdin::Null);
    assert!(!ran.stdout.contains(CANARY) && !ran.stderr.contains(CANARY), "{ran}");
    ran
}

fn index(world: &World) -> serde_json::Value {
    serde_json::from_str(&world.read("export/secrets/index.json")).unwrap()
}

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
fn a_directory_of_others_or_open_to_others_is_refused() {
    let world = World::new();
    debian(&world, POSTGRES);
    let out = |out: &str| {
        let mut args = args(&world);
        *args.last_mut().unwrap() = out.into();
        world.run("extract-secrets", args, Stdin::Null)
    };
    world.write("open/file", "");
    fs::set_permissions(world.path("open"), Permissions::from_mode(0o755)).unwrap();
    world.write("own/file", "");
    symlink(world.path("own"), world.path("link")).unwrap();

    insta::assert_snapshot!(out("open"), @r"
    -- stderr --
    extract-secrets: will not write to $WORLD/open: other users can access it
    hint: choose a directory of its own, or: chmod 700 $WORLD/open
    -- exit status: 77 --
    ");
    fs::set_permissions(world.path("open"), Permissions::from_mode(0o1777)).unwrap();
    let shared = out("open");
    assert_failed(
        &shared,
        77,
        "other users can access it\nhint: choose a directory of its own, such as ",
    );
    insta::assert_snapshot!(out("own"), @r"
    -- stderr --
    extract-secrets: will not write to $WORLD/own: it is not an export, and it contains file
    hint: choose a directory of its own, such as $WORLD/own/export
    -- exit status: 1 --
    ");
    insta::assert_snapshot!(out("/usr"), @r"
    -- stderr --
    extract-secrets: will not write to /usr: it belongs to another user
    -- exit status: 77 --
    ");
    insta::assert_snapshot!(out("link"), @r"
    -- stderr --
    extract-secrets: will not write to $WORLD/link: it is not a directory
    -- exit status: 77 --
    ");
    insta::assert_snapshot!(out("none/export"), @r"
    -- stderr --
    extract-secrets: cannot make directory $WORLD/none/export: No such file or directory (os error 2)
    -- exit status: 74 --
    ");
}

#[test]
fn a_planted_link_is_not_followed() {
    let world = World::new();
    debian(&world, &format!("{POSTGRES}form_secret: CANARY\n"));
    let victim = world.write("victim", "untouched");
    world.write("export/secrets/x", "");
    symlink(&victim, world.path("export/secrets/form_secret")).unwrap();

    let ran = extract(&world);

    assert_eq!(ran.status.code(), Some(77), "{ran}");
    assert_eq!(world.read("victim"), "untouched");
    assert!(!world.path("export/secrets/signing_key").exists());
}

#[test]
fn no_name_in_an_export_is_followed_elsewhere() {
    // Directories, then files; each is a link that leads out of the export.
    for name in [
        "secrets",
        "config",
        "ess",
        "documents",
        ".lock",
        "secrets/index.json",
        "secrets/signing_key",
        "config/001-homeserver.yaml",
        "ess/secrets.yaml",
        "ess/values.yaml",
        "secrets.tar.age",
        "secrets.tar.age.json",
    ] {
        let world = World::new();
        debian(&world, &format!("{POSTGRES}form_secret: CANARY\n"));
        let key = age_key(&world, "alice");
        let all = ["dir", "kubernetes", "helm", "age"]
            .map(|form| ["--emit", form])
            .concat();
        let all = [&all[..], &["-r", &key]].concat();
        emit(&world, &all).success();
        let planted = world.path("export").join(name);
        if planted.is_dir() {
            fs::remove_dir_all(&planted).unwrap();
        } else {
            fs::remove_file(&planted).unwrap();
        }
        world.write("elsewhere/victim", "untouched");
        fs::set_permissions(world.path("elsewhere"), Permissions::from_mode(0o700)).unwrap();
        let is_directory = !name.contains(['.', '/']);
        symlink(
            world.path(if is_directory { "elsewhere" } else { "elsewhere/victim" }),
            &planted,
        )
        .unwrap();

        let ran = emit(&world, &all);

        assert!(!ran.status.success() && ran.stdout.is_empty(), "{name}\n{ran}");
        assert_eq!(world.read("elsewhere/victim"), "untouched", "{name}");
        assert_eq!(fs::read_dir(world.path("elsewhere")).unwrap().count(), 1, "{name}");
    }
}

#[test]
fn a_partial_file_that_was_planted_is_not_followed() {
    let world = World::new();
    debian(&world, &format!("{POSTGRES}form_secret: CANARY\n"));
    let victim = world.write("victim", "untouched");
    world.shell("mkdir -m 700 export export/secrets").success();
    symlink(&victim, world.path("export/secrets/.form_secret.partial")).unwrap();

    extract(&world).success();

    assert_eq!(world.read("victim"), "untouched");
    assert_eq!(world.read("export/secrets/form_secret"), "CANARY");
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
fn two_runs_at_once_are_one_too_many() {
    let world = World::new();
    debian(&world, POSTGRES);
    extract(&world).success();

    let ran = world
        .script(r#"flock export/.lock extract-secrets "$@""#)
        .args(["bash".to_owned()].into_iter().chain(args(&world)))
        .run();

    assert_eq!(ran.status.code(), Some(75), "{ran}");
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

/// Publishes a signing key once, as Synapse does, and returns options that name its port as Synapse's listener.
fn publishing(server_name: &str, public_key: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let body = json!({"server_name": server_name, "verify_keys": {"ed25519:a_key": {"key": public_key}}}).to_string();
    thread::spawn(move || {
        let (mut peer, _) = listener.accept().unwrap();
        let _ = peer.read(&mut [0; 4096]).unwrap();
        let length = body.len();
        write!(
            peer,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
        .unwrap();
    });
    format!("{POSTGRES}listeners: [{{port: {port}, type: http, bind_addresses: [127.0.0.1]}}]\n")
}

#[test]
fn the_keys_are_compared_with_those_of_the_running_server() {
    for (server_name, public_key, said) in [
        ("example.org", PUBLIC_KEY, None),
        (
            "example.org",
            "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            Some("does not publish the signing key ed25519:a_key of the configuration"),
        ),
        ("other.example", PUBLIC_KEY, Some("is another server: other.example")),
    ] {
        let world = World::new();
        debian(&world, &publishing(server_name, public_key));

        let ran = extract(&world).success();

        assert!(!ran.stderr.contains("were not compared"), "{ran}");
        match said {
            Some(said) => assert!(ran.stderr.contains(said), "{ran}"),
            None => assert!(!ran.stderr.contains("Synapse at"), "{ran}"),
        }
    }
}

#[test]
fn a_real_synapse_publishes_the_keys_that_are_extracted() {
    let scene = Scene::new();
    let old = Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());
    old.start();
    let extract = |out: &str| {
        let args = ["-n", "--out", out].map(str::to_owned).into_iter();
        let args = args.chain(old.config_args());
        scene.world.run("extract-secrets", args, Stdin::Null).success()
    };

    let ran = extract("export");
    let published = old.get("/_matrix/key/v2/server", None);
    let ours = &ran.json()["secrets"]["signing_keys"];
    assert_eq!(ours.as_array().unwrap().len(), 1);
    let id = ours[0]["id"].as_str().unwrap();
    assert_eq!(published["verify_keys"][id]["key"], ours[0]["public_key"]);
    assert!(
        !ran.stderr.contains("Synapse at") && !ran.stderr.contains("does not answer"),
        "{ran}"
    );

    let other = "ed25519 a_else nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
    scene.world.write("old/homeserver.signing.key", other);
    let ran = extract("other");
    assert!(
        ran.stderr.contains("does not publish the signing key ed25519:a_else"),
        "{ran}"
    );
    old.stop();
}

#[test]
fn the_keys_are_looked_for_in_the_database_when_synapse_is_stopped() {
    let scene = Scene::new();
    let old = Synapse::debian(&scene.world, "old", &scene.source, &Identity::old());
    let said = || {
        let args = ["-n", "--out", "export"].map(str::to_owned).into_iter();
        let ran = scene
            .world
            .run("extract-secrets", args.chain(old.config_args()), Stdin::Null);
        let ran = ran.success();
        let note = ran.stderr.lines().find(|line| line.contains("does not answer"));
        note.unwrap_or_else(|| panic!("{ran}")).to_owned()
    };
    let insert = |id: &str, key: &str| {
        let sql = format!(
            "INSERT INTO server_signature_keys (server_name, key_id, from_server, ts_added_ms, verify_key) \
             VALUES ('{SERVER_NAME}', '{id}', '{SERVER_NAME}', 1, decode('{key}=', 'base64'))"
        );
        source_cluster().psql(&scene.source.name, &sql);
    };
    let ours = "NzHHiwxwMxtV/3hNlZgA71X0dTxc8JD20XojJVTD5hU";

    // The state that a real Synapse leaves.
    assert!(said().ends_with("the newest event is signed with ed25519:a_OLDx, which the configuration contains"));
    insert("ed25519:a_OLDx", ours);
    assert!(said().ends_with("with its database: they match"));
    insert("ed25519:before", PUBLIC_KEY);
    assert!(said().contains("it also contains ed25519:before"));
    source_cluster().psql(&scene.source.name, "DELETE FROM server_signature_keys");
    insert("ed25519:a_OLDx", PUBLIC_KEY);
    assert!(said().contains("it contains a different ed25519:a_OLDx"));
    source_cluster().psql(&scene.source.name, "DELETE FROM server_signature_keys");
    let other = "ed25519 a_else nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
    scene.world.write("old/homeserver.signing.key", other);
    fs::remove_dir_all(scene.world.path("export")).unwrap();
    assert!(said().contains("signed with ed25519:a_OLDx, which is neither in the key file nor"));
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
fn files_for_ess_are_private_made_once_and_never_over_an_edit() {
    let world = World::new();
    debian(
        &world,
        &format!("{POSTGRES}public_baseurl: https://m.example.org/\nform_secret: CANARY\n"),
    );
    let emit = |more: &[&str]| emit(&world, more);
    let both = ["--emit", "helm", "--emit", "kubernetes", "--namespace", "matrix"];

    let ran = emit(&both).success();
    assert_eq!(
        ran.json()["secrets"]["emitted"],
        json!(["ess/secrets.yaml", "ess/values.yaml"])
    );
    assert!(ran.stderr.contains("kubectl apply --server-side -n matrix -f"), "{ran}");
    assert!(world.read("export/ess/secrets.yaml").contains("namespace: matrix\n"));
    for file in ["secrets.yaml", "values.yaml"] {
        let path = world.path("export/ess").join(file);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!fs::read_to_string(path).unwrap().contains(CANARY), "{file}");
    }
    assert_eq!(emit(&both).success().json()["secrets"]["kept"], true);

    world.write("export/ess/values.yaml", "serverName: mine\n");
    let ran = emit(&both);
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains("values.yaml: it was edited"), "{ran}");
    assert_eq!(world.read("export/ess/values.yaml"), "serverName: mine\n");
    assert_eq!(emit(&["--namespace", "-x"]).status.code(), Some(64));
}

#[test]
fn no_tool_leaves_a_core() {
    let world = World::new();
    let ran = world
        .shell("mkfifo in; extract-secrets < in & exec 3> in; sleep 1; grep core /proc/$!/limits; exec 3>&-; wait");
    let limits: Vec<&str> = ran.stdout.split_whitespace().collect();
    assert_eq!(limits, ["Max", "core", "file", "size", "1", "1", "bytes"], "{ran}");
}

/// Everything below `parts` of a directory: paths, modes, and the content of files.
fn tree(root: &Path, parts: &[&str]) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let entries = parts.iter().flat_map(|part| walkdir::WalkDir::new(root.join(part)));
    let read = |entry: walkdir::Result<walkdir::DirEntry>| {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let content = if entry.file_type().is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            Vec::new()
        };
        (entry.path().strip_prefix(root).unwrap().to_owned(), (mode, content))
    };
    entries.map(read).collect()
}

/// Creates an age key, `NAME.key`, and returns its recipient.
fn age_key(world: &World, name: &str) -> String {
    let made = world.shell(&format!(
        "umask 077; age-keygen -o {name}.key 2>/dev/null && age-keygen -y {name}.key"
    ));
    made.success().stdout.trim().to_owned()
}

fn emit(world: &World, more: &[&str]) -> Ran {
    let args = args(world)
        .into_iter()
        .chain(more.iter().map(|word| (*word).to_owned()));
    world.run("extract-secrets", args, Stdin::Null)
}

const RICH: &str = "public_baseurl: https://m.example.org/\nform_secret: \"CANARY\\n\"\nturn_username: CANARY\n\
    password_config: {pepper: \"CANARY ü🦀\"}\napp_service_config_files: [/etc/matrix-synapse/bridge.yaml]\n";

#[test]
fn a_bundle_holds_what_the_files_would_and_opens_to_its_recipients_only() {
    let world = World::new();
    debian(&world, &format!("{POSTGRES}{RICH}"));
    world.write("etc/bridge.yaml", BRIDGE);
    let [alice, bob, _] = ["alice", "bob", "eve"].map(|name| age_key(&world, name));
    world.write("team", format!("# those on call\n\n  {bob}\r\n"));
    let forms = ["--emit", "age", "--emit", "kubernetes", "--emit", "helm"];

    let ran = emit(&world, &[&forms[..], &["-r", &alice, "-R", "team"]].concat()).success();

    let secrets = &ran.json()["secrets"];
    assert_eq!(secrets["bundle"], "secrets.tar.age");
    assert_eq!((&secrets["directory"], &secrets["kept"]), (&json!(null), &json!(false)));
    assert!(!ran.stdout.contains(CANARY) && !ran.stderr.contains(CANARY), "{ran}");
    let written = tree(&world.path("export"), &[""]);
    let names: Vec<&str> = written.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "",
            ".lock",
            "documents",
            "documents/01-extract-secrets.json",
            "secrets.tar.age",
            "secrets.tar.age.json"
        ]
    );
    for (path, (mode, content)) in &written {
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        let text = String::from_utf8_lossy(content);
        assert!(!text.contains(CANARY) && !text.contains("Q0FOQV"), "{}", path.display());
    }

    let in_clear = [
        "--emit",
        "dir",
        "--emit",
        "kubernetes",
        "--emit",
        "helm",
        "--out",
        "clear",
    ];
    world
        .run(
            "extract-secrets",
            args(&world)[..8].iter().map(String::as_str).chain(in_clear),
            Stdin::Null,
        )
        .success();
    for name in ["alice", "bob"] {
        let opened = format!("umask 0; mkdir {name}; age -d -i {name}.key export/secrets.tar.age | tar -x -C {name}");
        let said = world.shell(&format!("set -o pipefail; {opened}")).success();
        assert_eq!(said.stderr, "");
        let parts = ["secrets", "config", "ess"];
        assert!(
            tree(&world.path(name), &parts) == tree(&world.path("clear"), &parts),
            "{name}"
        );
    }
    assert!(!world.shell("age -d -i eve.key export/secrets.tar.age").status.success());
}

#[test]
fn a_bundle_is_made_once_and_again_only_for_others_or_of_the_same_secrets() {
    let world = World::new();
    debian(
        &world,
        &format!("{POSTGRES}form_secret: CANARY 1\nturn_username: CANARY\n"),
    );
    let [alice, bob] = ["alice", "bob"].map(|name| age_key(&world, name));
    let seal = |recipient: &str| emit(&world, &["--emit", "age", "-r", recipient]);
    let bundle = || fs::read(world.path("export/secrets.tar.age")).unwrap();
    seal(&alice).success();
    let first = bundle();

    let again = seal(&alice).success();
    assert_eq!(again.json()["secrets"]["kept"], true);
    assert!(
        again
            .stderr
            .contains("secrets.tar.age already contains the 4 secrets of example.org; nothing was written"),
        "{again}"
    );
    assert_eq!(bundle(), first);

    let renewed = seal(&bob).success();
    assert_eq!(renewed.json()["secrets"]["kept"], false);
    assert!(
        renewed.stderr.contains("the recipients or the configuration changed"),
        "{renewed}"
    );
    assert!(
        !world
            .shell("age -d -i alice.key export/secrets.tar.age")
            .status
            .success()
    );
    world
        .shell("age -d -i bob.key export/secrets.tar.age >/dev/null")
        .success();
    let second = bundle();

    debian(
        &world,
        &format!("{POSTGRES}form_secret: CANARY 2\nturn_password: CANARY\n"),
    );
    let ran = seal(&bob);
    insta::assert_snapshot!(ran, @r"
    -- stderr --
    extract-secrets: will not replace $WORLD/export/secrets.tar.age: it contains secrets that differ from the configuration: form_secret, turn_username, turn_password
    hint: to write it again, first move it away: mv $WORLD/export/secrets.tar.age $WORLD/export/secrets.tar.age.old
    -- exit status: 1 --
    ");
    assert_eq!(bundle(), second);
    let record = world.read("export/secrets.tar.age.json");
    for guess in ["CANARY 1", "CANARY"] {
        let plain = world
            .shell(&format!("printf %s '{guess}' | sha256sum"))
            .success()
            .stdout;
        assert!(!record.contains(&plain[..64]), "{record}");
    }

    world.write("export/secrets.tar.age", &first);
    let ran = seal(&bob);
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(
        ran.stderr
            .contains("its record secrets.tar.age.json is missing or does not match it"),
        "{ran}"
    );
    fs::remove_file(world.path("export/secrets.tar.age")).unwrap();
    seal(&bob).success();
    world
        .shell("age -d -i bob.key export/secrets.tar.age >/dev/null")
        .success();
    assert!(!seal(&bob).stderr.contains("in clear"));
    extract(&world).success();
    assert!(seal(&bob).stderr.contains("an earlier run wrote secrets in clear to"));
}

#[test]
fn a_bundle_wants_recipients_that_are_none_but_public_keys() {
    let world = World::new();
    debian(&world, POSTGRES);
    age_key(&world, "alice");
    let secret = world.read("alice.key").lines().last().unwrap().to_owned();
    world.write(
        "team",
        "\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPdtbKEsdZdYZ1ZbYGPHsSvPt6eLFX5k someone\n",
    );

    insta::assert_snapshot!(emit(&world, &["--emit", "age"]), @r"
    -- stderr --
    extract-secrets: --emit age needs at least one recipient
    hint: give --recipient age1..., the public key that age-keygen prints
    -- exit status: 64 --
    ");
    insta::assert_snapshot!(emit(&world, &["-R", "team"]), @r"
    -- stderr --
    extract-secrets: line 2 of team is not an age recipient
    hint: give the public key age1... that age-keygen prints; SSH keys and plugins are not supported
    -- exit status: 64 --
    ");
    insta::assert_snapshot!(emit(&world, &["-r", &age_key(&world, "bob")]), @r"
    -- stderr --
    extract-secrets: recipients are given, but nothing is encrypted to them
    hint: add --emit age
    -- exit status: 64 --
    ");
    let ran = emit(&world, &["--emit", "age", "-r", &secret]);
    assert!(!ran.stderr.contains(&secret), "{ran}");
    insta::assert_snapshot!(ran, @r"
    -- stderr --
    extract-secrets: --recipient is a secret key
    hint: give its public key, which age-keygen -y prints; anyone who has seen the secret key can decrypt what is encrypted to it
    -- exit status: 64 --
    ");
    assert!(!world.path("export").exists());
}
