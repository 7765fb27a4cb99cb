//! extract-secrets: the signing keys are those that the server has published.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use serde_json::json;

use crate::support::secrets::{POSTGRES, PUBLIC_KEY, debian, extract};
use crate::support::{Identity, SERVER_NAME, Scene, Stdin, Synapse, World, source_cluster};

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
