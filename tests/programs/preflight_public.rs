//! preflight of the public names: DNS records, delegation, and the documents of the website.

use std::net::UdpSocket;

use crate::support::findings::{data, serious};
use crate::support::installation::{Stage, public};
use crate::support::internet::{self, DOCUMENTS, Internet, ZONE};
use crate::support::{World, code};

#[test]
fn a_long_ttl_is_reported_with_the_time_to_wait() {
    let stage = Stage::new();
    let zone = "@ 86400 A 127.0.0.1\n@ 3600 AAAA ::1\nmatrix 7200 CNAME www\nwww 60 A 127.0.0.1\n\
                _matrix._tcp 43200 SRV 10 0 8448 matrix\n";
    let internet = Internet::new(&stage.scene.world, zone, &DOCUMENTS);

    let ran = public(&stage, &internet, &[]);

    assert_eq!(serious(&ran), ["warning dns-ttl"], "{ran}");
    for record in [
        "example.org A for 86400 s",
        "example.org AAAA for 3600 s",
        "matrix.example.org CNAME for 7200 s",
        "_matrix._tcp.example.org SRV for 43200 s",
    ] {
        assert!(ran.stderr.contains(record), "{record} in {ran}");
    }
    assert!(ran.stderr.contains("then wait 24 hours"), "{ran}");
    assert!(!ran.stderr.contains("www.example.org A for"), "{ran}");
    assert_eq!(serious(&public(&stage, &internet, &["--max-ttl", "86400"])), [""; 0]);

    // The target of an alias in another party's zone does not change.
    let world = World::new();
    let internet = Internet::new(&world, "@ A 127.0.0.1\nmatrix CNAME www.provider.test.\n", &DOCUMENTS);
    let ran = public(&stage, &internet, &[]);
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    assert!(
        ran.stdout.contains(r#""name":"www.provider.test","ttl":86400"#),
        "{ran}"
    );
}

#[test]
fn what_a_resolver_remembers_of_a_record_is_not_taken_for_its_time() {
    let stage = Stage::new();
    let zone = |seconds: u32| format!("@ {seconds} A 127.0.0.1\nmatrix {seconds} A 127.0.0.1\n");
    let internet = Internet::new(&stage.scene.world, &zone(86_400), &DOCUMENTS);
    let (_server, resolver) = internet.memory(&stage.scene.world, &zone(17));

    let call = internet.seen_through(&resolver, stage.scene.tool("preflight"));
    let ran = call.args(["-n"]).args(stage.synapse.config_args()).run().success();

    assert_eq!(serious(&ran), ["warning dns-ttl"], "{ran}");
    assert!(ran.stderr.contains("example.org A for 86400 s"), "{ran}");
}

#[test]
fn a_delegated_name_without_a_port_is_followed_to_its_own_records() {
    let stage = Stage::new();
    let documents = [("server", r#"{"m.server": "matrix.example.org"}"#)];
    let zone = "@ A 127.0.0.1\nmatrix A 127.0.0.1\n_matrix-fed._tcp.matrix 7200 SRV 10 0 443 fed\n";
    let internet = Internet::new(&stage.scene.world, zone, &documents);

    let ran = public(&stage, &internet, &[]).success();

    assert_eq!(serious(&ran), ["warning dns-no-address", "warning dns-ttl"], "{ran}");
    for said in [
        "_matrix-fed._tcp.matrix.example.org SRV for 7200 s",
        "have no address: fed.example.org",
        "at fed.example.org:443 (.well-known and the SRV record of _matrix-fed._tcp.matrix.example.org)",
    ] {
        assert!(ran.stderr.contains(said), "{said} in {ran}");
    }
}

#[test]
fn delegation_is_followed_to_names_without_address() {
    let stage = Stage::new();
    let internet = Internet::new(&stage.scene.world, "@ A 127.0.0.1\n", &DOCUMENTS);
    stage
        .scene
        .world
        .write("old/conf.d/base.yaml", "public_baseurl: https://chat.example.org/\n");

    let ran = public(&stage, &internet, &[]);

    assert_eq!(serious(&ran), ["warning dns-no-address"], "{ran}");
    assert!(ran.stderr.contains("chat.example.org, matrix.example.org"), "{ran}");
    assert!(
        ran.stderr
            .contains("reach the homeserver at matrix.example.org:443 (.well-known)"),
        "{ran}"
    );

    let bare = World::new();
    let internet = Internet::new(&bare, "@ A 127.0.0.1\nchat A 127.0.0.1\n", &[]);
    let ran = public(&stage, &internet, &[]);
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    assert!(
        ran.stderr
            .contains("reach the homeserver at example.org:8448 (the default port)"),
        "{ran}"
    );
    assert!(
        ran.stderr.contains("https://example.org serves no .well-known/matrix"),
        "{ran}"
    );
}

#[test]
fn documents_that_not_every_client_can_read_are_reported() {
    let stage = Stage::new();
    let documents = [
        ("server", "<html>moved</html>"),
        (
            "client",
            "!{\"m.homeserver\": {\"base_url\": \"https://matrix.example.org\"}}",
        ),
        ("support", "!503"),
    ];
    let internet = Internet::new(&stage.scene.world, ZONE, &documents);

    let ran = public(&stage, &internet, &[]);

    assert_eq!(serious(&ran), ["warning well-known-broken"; 3], "{ran}");
    for why in [
        "server is invalid: it is not JSON",
        "client is invalid: browsers cannot read it",
        "support is invalid: the server returns HTTP status 503",
    ] {
        assert!(ran.stderr.contains(why), "{why} in {ran}");
    }

    let world = World::new();
    let documents = [
        ("server", "{\"m.homeserver\": \"matrix.example.org\"}"),
        (
            "client",
            "?{\"m.homeserver\": {\"base_url\": \"https://matrix.example.org\"}}",
        ),
    ];
    let internet = Internet::new(&world, ZONE, &documents);
    let ran = public(&stage, &internet, &[]);
    assert_eq!(serious(&ran), ["warning well-known-broken"; 2], "{ran}");
    for why in [
        "server is invalid: it lacks m.server",
        "client is invalid: its content type is \"text/plain\"",
    ] {
        assert!(ran.stderr.contains(why), "{why} in {ran}");
    }
}

#[test]
fn public_names_that_cannot_be_resolved_do_not_pass() {
    let stage = Stage::new();
    let look = || {
        stage
            .scene
            .tool("preflight")
            .args(["-n"])
            .args(stage.synapse.config_args())
    };
    let neither = ["warning dns-not-checked", "warning well-known-not-checked"];
    let ran = look().args(["--resolver", "127.0.0.1:1"]).run();
    assert_eq!(serious(&ran), neither, "{ran}");
    // A name server that never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let resolver = silent.local_addr().unwrap().to_string();
    let ran = look().args(["--resolver", &resolver]).run();
    assert_eq!(serious(&ran), neither, "{ran}");

    // A certificate of an unknown authority.
    let call = internet::healthy().seen_by(look());
    let ran = call.env("SSL_CERT_FILE", "/dev/null").run();
    assert_eq!(serious(&ran), ["warning well-known-not-checked"], "{ran}");
    for wrong in [
        ["--resolver", "nowhere"],
        ["--resolve", "example.org:443"],
        ["--max-ttl", "long"],
    ] {
        assert_eq!(code(&look().args(wrong).run()), 64);
    }
}

#[test]
fn the_server_of_the_documents_is_reported() {
    let stage = Stage::new();
    let look = || stage.source_only().run().success();
    assert_eq!(data(&look(), "well-known")["documents"]["server"]["served_by"], "nginx");
    stage
        .scene
        .world
        .write("old/conf.d/served.yaml", "serve_server_wellknown: true\n");
    let documents = &data(&look(), "well-known")["documents"];
    assert_eq!(documents["server"]["served_by"], "Synapse itself, behind nginx");
    assert_eq!(documents["client"]["served_by"], "nginx");
}
