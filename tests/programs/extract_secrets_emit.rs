//! extract-secrets --emit: files for ESS and encrypted bundles are made once, and never over an edit.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::secrets::{BRIDGE, CANARY, POSTGRES, age_key, args, debian, emit, extract};
use crate::support::{Stdin, World};

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
