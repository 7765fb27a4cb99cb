//! well-known: the new documents lead to ESS and lose nothing, and --check names everything that is not up to date.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::internet::{DOCUMENTS, Internet, ZONE};
use crate::support::{Call, Ran, Stdin, World, assert_failed, names_in, synapse_python};

/// Documents of an old homeserver, with keys that were added over the years.
const OLD: [(&str, &str); 3] = [
    ("server", r#"{"m.server": "old.example.org:8448"}"#),
    (
        "client",
        r#"{"m.homeserver": {"base_url": "https://old.example.org/"},
            "m.identity_server": {"base_url": "https://vector.im"},
            "m.tile_server": {"map_style_url": "https://old.example.org/it's 'quoted'.json"},
            "org.matrix.msc3575.proxy": {"url": "https://sliding.example.org"}}"#,
    ),
    (
        "support",
        r#"{"contacts": [{"role": "m.role.admin", "email_address": "a@example.org"}]}"#,
    ),
];

const OLD_ZONE: &str = "@ A 127.0.0.1\nold 3600 A 127.0.0.2\nold AAAA ::1\nmatrix CNAME old\n\
                        _matrix._tcp SRV 10 0 8448 old\n";

/// The zone after the change.
const NEW_ZONE: &str = "@ A 127.0.0.1\nmatrix A 192.0.2.7\nmrtc A 192.0.2.7\n";

fn tool<'a>(world: &World, internet: &Internet) -> Call<'a> {
    internet.seen_by(world.tool("well-known"))
}

/// The command that creates the new documents.
fn make<'a>(world: &World, internet: &Internet) -> Call<'a> {
    tool(world, internet).args([
        "-n",
        "--server-name",
        "example.org",
        "--host",
        "matrix.example.org",
        "--rtc-host",
        "mrtc.example.org",
        "--address",
        "192.0.2.7",
        "--out",
        "new",
    ])
}

fn section(ran: &Ran) -> Value {
    ran.json()["well_known"].clone()
}

/// Parses a YAML file as Helm does.
fn yaml(world: &World, path: &str) -> Value {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = Command::new(synapse_python())
        .args(["-c", script])
        .arg(world.path(path))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_documents_lead_to_ess_and_lose_nothing() {
    let world = World::new();
    let internet = Internet::new(&world, OLD_ZONE, &OLD);

    let ran = make(&world, &internet).run().success();

    let document = |name: &str| -> Value { serde_json::from_str(&world.read(&format!("new/{name}"))).unwrap() };
    let client = document("client");
    let old: Value = serde_json::from_str(OLD[1].1).unwrap();
    assert_eq!(
        client["m.homeserver"],
        json!({"base_url": "https://matrix.example.org"})
    );
    assert_eq!(
        client["org.matrix.msc4143.rtc_foci"],
        json!([{"type": "livekit", "livekit_service_url": "https://mrtc.example.org"}])
    );
    for key in ["m.identity_server", "m.tile_server", "org.matrix.msc3575.proxy"] {
        assert_eq!(client[key], old[key], "{key}");
    }
    assert_eq!(document("server"), json!({"m.server": "matrix.example.org:443"}));
    assert_eq!(document("support"), serde_json::from_str::<Value>(OLD[2].1).unwrap());
    assert!(
        ran.stderr.contains("client: m.tile_server still names an old host"),
        "{ran}"
    );
    assert!(!ran.stderr.contains("m.identity_server still"), "{ran}");
    assert_eq!(section(&ran)["documents"]["client"], client);
    assert_eq!(
        names_in(&world, "new"),
        [
            "Caddyfile",
            "client",
            "dns.txt",
            "nginx.conf",
            "server",
            "support",
            "values.yaml"
        ]
    );

    // Keys that the chart sets itself are left out, and the chart needs the documents as text.
    let values = yaml(&world, "new/values.yaml");
    assert_eq!(values["serverName"], "example.org");
    assert_eq!(values["synapse"]["ingress"]["host"], "matrix.example.org");
    assert_eq!(values["matrixRTC"]["ingress"]["host"], "mrtc.example.org");
    let additional = &values["wellKnownDelegation"]["additional"];
    let text = |name: &str| -> Value { serde_json::from_str(additional[name].as_str().unwrap()).unwrap() };
    assert_eq!(text("client")["m.tile_server"], old["m.tile_server"]);
    assert_eq!(text("client").get("m.homeserver"), None);
    assert_eq!(text("support"), document("support"));
}

#[test]
fn records_are_listed_as_they_are_and_as_they_have_to_be() {
    let world = World::new();
    let internet = Internet::new(&world, OLD_ZONE, &OLD);

    let ran = make(&world, &internet).run().success();

    let records = section(&ran)["records"].clone();
    let told: Vec<String> = records
        .as_array()
        .unwrap()
        .iter()
        .map(|record| {
            format!(
                "{} {} {} {}",
                record["name"], record["kind"], record["old"], record["new"]
            )
            .replace('"', "")
        })
        .collect();
    assert_eq!(
        told,
        [
            "matrix.example.org CNAME [old.example.org] [192.0.2.7]",
            "mrtc.example.org A [] [192.0.2.7]",
            "old.example.org A [127.0.0.2] [192.0.2.7]",
            "old.example.org AAAA [::1] []",
            "example.org A [127.0.0.1] [192.0.2.7]",
            "_matrix._tcp.example.org SRV [old.example.org:8448] [matrix.example.org:443]",
        ]
    );
    assert_eq!(records[2]["ttl"], 3600);
    let lines = world.read("new/dns.txt");
    assert_eq!(lines.lines().count(), told.len(), "{lines}");
    assert!(
        lines.contains("old.example.org A: 127.0.0.2 (TTL 3600 s) -> 192.0.2.7: "),
        "{lines}"
    );

    // If everything is up to date, the only record left is the one of the server name, which need not change.
    let world = World::new();
    let internet = Internet::new(&world, NEW_ZONE, &DOCUMENTS);
    let ran = make(&world, &internet).run().success();
    let records = section(&ran)["records"].clone();
    assert_eq!(records.as_array().unwrap().len(), 1, "{records:#}");
    assert_eq!(records[0]["name"], "example.org");
}

#[test]
fn what_lags_is_named_until_nothing_does() {
    let world = World::new();
    let internet = Internet::new(&world, OLD_ZONE, &OLD);
    // A resolver with outdated records.
    let far = World::new();
    let slow = Internet::new(&far, OLD_ZONE, &OLD);
    let document = json!({"format": "ess-migration/1", "export": world.path("export"),
                          "source": {"server_name": "example.org"}})
    .to_string();
    let made = tool(&world, &internet)
        .args(["--host", "matrix.example.org", "--rtc-host", "mrtc.example.org"])
        .args(["--address", "192.0.2.7"])
        .stdin(document.as_str())
        .run()
        .success();
    assert_eq!(section(&made)["directory"], "well-known");
    assert_eq!(names_in(&world, "export/documents"), ["01-well-known.json"]);
    let check = |more: &[&str]| {
        let call = tool(&world, &internet).args(["--check", "--public", &internet.resolver()]);
        call.args(["--public", &slow.resolver()]).args(more)
    };

    let ran = check(&[]).stdin(made.stdout.as_str()).run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    for lag in [
        "the zone's name server ns.example.org resolves matrix.example.org to ".to_owned(),
        format!("the resolver {} resolves matrix.example.org to ", internet.resolver()),
        "the zone's name server ns.example.org resolves mrtc.example.org to no address".to_owned(),
        r#"https://example.org/.well-known/matrix/server differs from the new document: m.server is "old.example.org:8448""#
            .to_owned(),
        "https://example.org/.well-known/matrix/client differs from the new document: ".to_owned(),
        "https://matrix.example.org/_matrix/client/versions returns HTTP status 404".to_owned(),
    ] {
        assert!(ran.stderr.contains(&lag), "{lag} in {ran}");
    }
    assert!(!ran.stderr.contains("matrix/support "), "{ran}");
    let lagging = section(&ran)["lagging"].as_array().unwrap().len();
    assert!(
        ran.stderr.contains(&format!("{lagging} items are not up to date")),
        "{ran}"
    );

    for (flag, given) in [
        ("--host", "other.example.org"),
        ("--rtc-host", "other.example.org"),
        ("--server-name", "example.com"),
    ] {
        let ran = check(&[flag, given]).stdin(made.stdout.as_str()).run();
        assert_failed(&ran, 64, &format!("{flag} is {given}, but the document's `"));
    }

    let mut running = check(&["--wait", "60", "--every", "1"])
        .stdin(made.stdout.as_str())
        .start();
    running.wait_for("checking again every 1 s");
    world.write("internet/_matrix/client/versions", "{}");
    for name in ["client", "server", "support"] {
        let text = fs::read(world.path(format!("export/well-known/{name}"))).unwrap();
        world.write(&format!("internet/.well-known/matrix/{name}"), text);
    }
    internet.set_zone(&world, NEW_ZONE);
    running.wait_for("\nwell-known: 2 items are not up to date; checking again every 1 s");
    slow.set_zone(&far, NEW_ZONE);
    let ran = running.wait().success();

    assert_eq!(section(&ran)["lagging"], json!([]));
    assert!(
        ran.stderr
            .contains("all checks pass: example.org leads to matrix.example.org"),
        "{ran}"
    );
}

#[test]
fn another_homeserver_is_reported() {
    let world = World::new();
    let internet = Internet::new(&world, ZONE, &DOCUMENTS);
    world.write("internet/_matrix/client/versions", "{}");
    let publish = |key: &str| {
        let text = json!({"verify_keys": {"ed25519:a_1": {"key": key}}}).to_string();
        world.write("internet/_matrix/key/v2/server", text);
    };
    let document = json!({"format": "ess-migration/1", "secrets": {
        "version": "0.1.0", "started_at": "", "finished_at": "", "next": {"go_on": []}, "directory": "secrets",
        "entries": [], "signing_keys": [{"id": "ed25519:a_1", "public_key": "mine"}], "kept": false,
    }})
    .to_string();
    let check = |addresses: &[&str]| {
        let call = tool(&world, &internet).args(["--check", "--server-name", "example.org"]);
        call.args(["--host", "matrix.example.org", "--public", &internet.resolver()])
            .args(addresses)
            .stdin(document.as_str())
            .run()
    };

    publish("another");
    let here = ["--address", "127.0.0.1"];
    let ran = check(&here);
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(ran.stderr.contains("it is not the migrated homeserver"), "{ran}");
    publish("mine");
    check(&here).success();
    // Without an address, name servers cannot be checked, and the old server would answer just as well.
    assert_failed(&check(&[]), 64, "the address of ESS is unknown");
}

#[test]
fn a_server_of_the_zone_that_is_behind_is_named() {
    let world = World::new();
    let two = "@ A 127.0.0.1\n@ NS ns2\nns2 A 127.0.0.2\n";
    let internet = Internet::new(&world, &format!("{two}matrix A 127.0.0.1\n"), &DOCUMENTS);
    world.write("internet/_matrix/client/versions", "{}");
    let check = || {
        let call = tool(&world, &internet).args(["-n", "--check", "--server-name", "example.org"]);
        call.args(["--host", "matrix.example.org", "--public", &internet.resolver()])
            .args(["--address", "127.0.0.1"])
            .run()
    };
    let says = |ran: &Ran, server: &str| {
        let line = format!("the zone's name server {server}.example.org resolves matrix.example.org to ");
        ran.stderr
            .split(&line)
            .nth(1)
            .map(|rest| rest.lines().next().unwrap().to_owned())
    };

    let (behind, _) = internet.memory(&world, &format!("{two}matrix A 127.0.0.9\n"));
    let ran = check();
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert_eq!(
        (says(&ran, "ns2"), says(&ran, "ns")),
        (Some("127.0.0.9".into()), None),
        "{ran}"
    );
    behind.kill();
    let (without, _) = internet.memory(&world, two);
    let ran = check();
    assert_eq!(
        (says(&ran, "ns2"), says(&ran, "ns")),
        (Some("no address".into()), None),
        "{ran}"
    );
    without.kill();
    let _level = internet.memory(&world, &format!("{two}matrix A 127.0.0.1\n"));
    check().success();
}

#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let world = World::new();
    let internet = Internet::new(&world, ZONE, &OLD);
    let made = make(&world, &internet).run().success();
    let before = world.read("new/client");
    world.write(
        "internet/.well-known/matrix/client",
        "<html>Down for maintenance</html>",
    );

    let ran = make(&world, &internet).run();

    assert_failed(&ran, 69, "/.well-known/matrix/client is invalid: it is not JSON");
    assert_eq!(world.read("new/client"), before);

    // Documents of another server name are refused.
    let other = tool(&world, &internet).args(["--server-name", "example.com", "--out", "new"]);
    assert_failed(
        &other.stdin(made.stdout.as_str()).run(),
        64,
        "--server-name is example.com, but the document's `well_known.server_name` is example.org",
    );

    // ESS serves less than the old server did; what an earlier run carried is kept.
    world.write(
        "internet/.well-known/matrix/client",
        r#"{"m.homeserver": {"base_url": "https://matrix.example.org"}}"#,
    );
    fs::remove_file(world.path("internet/.well-known/matrix/support")).unwrap();
    let args = ["--host", "matrix.example.org", "--address", "192.0.2.7", "--out", "new"];
    let again = tool(&world, &internet)
        .args(args)
        .stdin(made.stdout.as_str())
        .run()
        .success();
    assert!(again.stderr.contains("/support is not served"), "{again}");
    assert_eq!(world.read("new/client"), before);
    assert!(world.path("new/support").exists());
}

#[test]
fn a_document_that_browsers_may_not_read_lags() {
    let world = World::new();
    let mute = format!("!{}", DOCUMENTS[1].1);
    let internet = Internet::new(&world, ZONE, &[DOCUMENTS[0], ("client", &mute)]);
    world.write("internet/_matrix/client/versions", "{}");
    let check = tool(&world, &internet).args(["-n", "--check", "--server-name", "example.org"]);

    let ran = check
        .args(["--host", "matrix.example.org", "--address", "127.0.0.1"])
        .args(["--public", &internet.resolver()])
        .run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert_eq!(section(&ran)["lagging"].as_array().unwrap().len(), 1, "{ran}");
    assert!(
        ran.stderr.contains("client is not readable: browsers cannot read it"),
        "{ran}"
    );
}

#[test]
fn old_documents_may_be_files() {
    let world = World::new();
    let internet = Internet::new(&world, ZONE, &[]);
    for (name, text) in OLD {
        world.write(&format!("saved/{name}"), text);
    }

    make(&world, &internet).args(["--old", "saved"]).run().success();

    assert!(world.read("new/client").contains("vector.im"));
    world.write("saved/client", "[1]");
    assert_failed(
        &make(&world, &internet).args(["--old", "saved"]).run(),
        65,
        "client is not a JSON object",
    );
    world.shell("mkdir empty").success();
    assert_failed(
        &make(&world, &internet).args(["--old", "empty"]).run(),
        65,
        "contains none of the files client, server and support",
    );
    // If nothing is served, there is nothing to keep.
    make(&world, &internet).run().success();
    assert_eq!(
        serde_json::from_str::<Value>(&world.read("new/server")).unwrap(),
        json!({"m.server": "matrix.example.org:443"})
    );
}

#[test]
fn what_cannot_be_known_is_refused() {
    let world = World::new();
    let internet = Internet::new(&world, ZONE, &DOCUMENTS);
    let run = |args: &[&str]| world.run("well-known", args, Stdin::Null);
    assert_failed(&run(&["-n", "--host", "matrix.example.org"]), 64, "no server name");
    let named = ["-n", "--server-name", "example.org"];
    assert_failed(&run(&named), 64, "the host of Synapse in ESS is unknown");
    let with_host = [&named[..], &["--host", "matrix.example.org"]].concat();
    assert_failed(&run(&with_host), 64, "no directory for the files");
    for wrong in ["https://matrix.example.org", "matrix.example.org:443", "a..b", "x y"] {
        assert_failed(
            &run(&["-n", "--server-name", "example.org", "--host", wrong]),
            64,
            "--host",
        );
    }
    assert_failed(&run(&[&with_host[..], &["--wait", "5"]].concat()), 64, "--check");
    let unreachable = [
        &with_host[..],
        &["--out", "new", "--resolve", "example.org:443:127.0.0.1:1"],
    ]
    .concat();
    assert_failed(&run(&unreachable), 69, "/.well-known/matrix/client cannot be fetched");
    let call = make(&world, &internet).args(["--old", "internet/.well-known/matrix"]);
    call.run().success();
    let mute = world
        .tool("well-known")
        .args(with_host)
        .args(["--out", "new", "--resolver", "127.0.0.1:1"]);
    let mute = mute.args(["--old", "internet/.well-known/matrix"]).run();
    assert_failed(&mute, 69, "the DNS lookup failed");
}

#[test]
fn what_a_website_serves_never_becomes_a_template_or_a_directive() {
    let world = World::new();
    let internet = Internet::new(&world, NEW_ZONE, &[]);
    world.write(
        "saved/client",
        r#"{"note": "{{ .Values.secret }}", "deep": [{"\u007b\u007b x": 1}]}"#,
    );

    let ran = make(&world, &internet).args(["--old", "saved"]).run();

    assert_failed(
        &ran,
        1,
        "which Helm would run as a template: client: deep, client: note",
    );
    assert!(!world.path("new").exists(), "{ran}");
    world.write(
        "saved/client",
        r#"{"note": "\"; } location / { root /; }\n{ { }} \\u007b\\u007b"}"#,
    );
    make(&world, &internet).args(["--old", "saved"]).run().success();
    assert!(!world.read("new/nginx.conf").contains("root /"));
    assert!(!world.read("new/values.yaml").contains("{{"));
    // A name that would end the comment in a snippet.
    let named = |document: &Value| {
        let args = ["--host", "m.example.org", "--out", "other", "--old", "saved"];
        tool(&world, &internet)
            .args(args)
            .stdin(document.to_string().as_str())
            .run()
    };
    let evil = "example.org\nroot /;";
    let of_source = json!({"format": "ess-migration/1", "source": {"server_name": evil}});
    assert_failed(&named(&of_source), 65, r#""example.org\nroot /;" is not a server name"#);
    let args = ["-n", "--server-name", evil, "--host", "m.example.org", "--out", "other"];
    assert_failed(&tool(&world, &internet).args(args).run(), 64, "not a server name");
    assert!(!world.path("other").exists());
}
