//! preflight of servers that do not answer, or that are not the ones they should be.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::findings::{fires, serious};
use crate::support::installation::Stage;
use crate::support::{SERVER_NAME, Sleeper, wait_until};

/// A listener that never answers, and its port.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Accepts the connection that a program opens there.
#[track_caller]
fn accepted(listener: &TcpListener) -> TcpStream {
    let mut stream = None;
    wait_until("it asked", || match listener.accept() {
        Ok((asked, _)) => {
            asked.set_nonblocking(false).unwrap();
            stream = Some(asked);
            true
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    });
    stream.unwrap()
}

/// Answers a request on such a connection.
fn answer(mut asked: TcpStream, says: &Value) {
    let _ = asked.read(&mut [0; 4096]).unwrap();
    let body = says.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    asked.write_all((head + &body).as_bytes()).unwrap();
}

/// Moves the source in the configuration to another port, without a connection timeout.
fn wait_for_source_at(stage: &Stage, port: u16) {
    let world = &stage.scene.world;
    let config = world.read("old/conf.d/database.yaml");
    let is = format!("port: {}", stage.scene.source.port);
    let never = format!("port: {port}\n    connect_timeout: 100000");
    assert!(config.contains(&is));
    world.write("old/conf.d/database.yaml", config.replace(&is, &never));
}

#[test]
fn checks_do_not_wait_for_each_other() {
    let stage = Stage::new();
    let ((source, source_port), (target, target_port), (web, web_port)) = (silent(), silent(), silent());
    wait_for_source_at(&stage, source_port);
    let detour = format!("{SERVER_NAME}:443:127.0.0.1:{web_port}");
    let target_url = format!("postgresql://synapse_user@127.0.0.1:{target_port}/synapse?connect_timeout=100000");
    // None of them ever answers, and connections to source and target have no timeout.
    let call = stage.scene.tool("preflight").args(["-n", "--resolver", "127.0.0.1:1"]);
    let running = call
        .args(stage.synapse.config_args())
        .args([
            "--resolve",
            &detour,
            "--target",
            &target_url,
            "--target-password-file",
            "target.pw",
        ])
        .start();

    let held = [&source, &target, &web].map(accepted);
    drop((held, source, target, web));

    let ran = running.wait();
    assert_eq!(
        serious(&ran),
        [
            "blocker source-unreachable",
            "blocker target-unreachable",
            "warning dns-not-checked",
            "warning well-known-not-checked",
        ],
        "{ran}"
    );
    fires(&ran, &["info media", "info secrets", "info client-programs"]);
}

#[test]
fn a_network_that_is_silent_does_not_keep_it_from_ending() {
    let stage = Stage::new();
    let (source, port) = silent();
    wait_for_source_at(&stage, port);
    let names = UdpSocket::bind("127.0.0.1:0").unwrap();
    names.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let resolver = names.local_addr().unwrap().to_string();
    let call = stage.scene.tool("preflight").args(["-n", "--export", "export"]);
    let running = call
        .args(stage.synapse.config_args())
        .args(["--resolver", &resolver])
        .start();
    let _held = accepted(&source);
    names.recv(&mut [0; 512]).unwrap();

    running.signal(Signal::INT);
    let ran = running.wait();

    assert_eq!((ran.status.signal(), ran.stdout.as_str()), (Some(2), ""), "{ran}");
}

#[test]
fn what_waits_for_the_targets_synapse_keeps_no_check_waiting() {
    let stage = Stage::new();
    let (synapse, port) = silent();
    let _locking = Sleeper::new(&stage.scene, "BEGIN; LOCK TABLE background_updates;");
    let url = format!("http://127.0.0.1:{port}");
    let running = stage.source_only().args(["--target-endpoint", &url]).start();
    let asked = accepted(&synapse);

    // The source is checked while that request is pending.
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() \
                 AND application_name LIKE 'ess-migrate/preflight%' AND wait_event_type = 'Lock'";
    wait_until("a check waits", || stage.scene.on_source(waits) == "t");
    stage
        .scene
        .on_source("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()");
    answer(asked, &json!({"server_name": SERVER_NAME}));
    answer(accepted(&synapse), &json!({"server_version": "1.157.1"}));

    let ran = running.wait().success();
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info target-synapse"]);
}

#[test]
fn a_server_in_the_place_of_synapse_is_not_taken_for_it() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let port = stage.synapse.port();
    let mut other = world
        .script(&format!(
            "mkdir empty; cd empty; exec python3 -u -m http.server --bind 127.0.0.1 {port} 1>&2"
        ))
        .start();
    other.wait_for("Serving");

    let ran = stage.source_only().run().success();

    assert_eq!(serious(&ran), ["warning synapse-unwell"], "{ran}");
    assert!(ran.stderr.contains("it returns HTTP status 404"), "{ran}");
    other.kill();

    world.write("old/conf.d/listeners.yaml", "listeners: [{type: manhole, port: 1}]\n");
    let ran = stage.source_only().run().success();
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info synapse-not-asked"]);
}
