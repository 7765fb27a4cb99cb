//! preflight: each finding is provoked on real servers, and each form of output is as documented.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::findings::{data, fires, found, serious};
use crate::support::installation::Stage;
use crate::support::internet::{self, DOCUMENTS, Internet};
use crate::support::{
    Cluster, Identity, SERVER_NAME, Scene, Sleeper, Synapse, Visitor, World, code, names_in, programs_of,
    target_cluster, wait_until,
};

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
fn findings_come_in_the_same_order_each_time() {
    let stage = Stage::new();
    let order = || {
        found(
            &stage.preflight().args(["--export", "export"]).run(),
            &["blocker", "warning", "info"],
        )
    };
    let first = order();
    for _ in 0..3 {
        assert_eq!(order(), first);
    }
}

#[test]
fn every_secret_and_file_that_cannot_be_read_is_named_at_once() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write(
        "old/conf.d/more.yaml",
        "form_secret: null\nform_secret_path: /nowhere/form\nturn_shared_secret_path: /nowhere/turn\nmedia_store_path: [a]\n\
         oidc_providers: [{idp_id: a, client_secret_path: /nowhere/oidc}, {idp_id: b, client_secret: 7}]\n",
    );
    fs::remove_file(world.path("old/homeserver.signing.key")).unwrap();

    let ran = stage.source_only().run();

    assert_eq!(
        serious(&ran),
        [
            "blocker configuration",
            "blocker secrets",
            "blocker secrets",
            "blocker secrets",
            "blocker secrets",
            "blocker signing-key",
            "warning carry-oidc",
        ],
        "{ran}"
    );
    let extracting = world.tool("extract-secrets").args(["-n", "--out", "export"]);
    let extracted = extracting.args(stage.synapse.config_args()).run();
    assert_eq!(code(&extracted), 78, "{extracted}");
    for said in [
        "/nowhere/form",
        "/nowhere/turn",
        "/nowhere/oidc",
        "oidc_providers.1.client_secret",
        "homeserver.signing.key",
    ] {
        assert!(ran.stderr.contains(said), "{said} in {ran}");
        assert!(extracted.stderr.contains(said), "{said} in {extracted}");
    }
    assert!(!world.path("export").exists());

    world.write("old/conf.d/server_name.yaml", "server_name: [\n");
    world.write("old/conf.d/database.yaml", "database: \"\n");
    let ran = stage.source_only().run();
    assert_eq!(code(&ran), 78, "{ran}");
    for said in ["server_name.yaml", "database.yaml"] {
        assert!(ran.stderr.contains(said), "{said} in {ran}");
    }
}

#[test]
fn a_standby_is_neither_a_source_nor_a_target() {
    let stage = Stage::new();
    let primary = Cluster::new(&stage.scene.world, "primary");
    primary.create_role("synapse_user", "its own");
    primary.load_synapse("synapse", "synapse_user");
    let standby = primary.standby("standby");
    stage.scene.world.write("standby.pw", "its own\n");
    let url = standby.url("synapse", "synapse_user");

    let from = stage
        .scene
        .tool("preflight")
        .args(["-n", "--source", &url, "--source-password-file", "standby.pw"]);
    let ran = from.run().success();
    assert_eq!(serious(&ran), ["warning source-standby"], "{ran}");

    let to = stage
        .source_only()
        .args(["--target", &url, "--target-password-file", "standby.pw"])
        .run();
    fires(&to, &["blocker target-standby"]);
    assert_eq!(code(&to), 1);
}

#[test]
fn a_server_newer_than_programs_and_target_is_reported() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let newer = Cluster::of(world, "sixteen", programs_of(16));
    newer.create_role("synapse_user", "its own");
    newer.create_database("synapse", "synapse_user");
    newer.load_fresh();
    world.write("newer.pw", "its own\n");
    let url = newer.url("synapse", "synapse_user");
    let from = || {
        stage
            .scene
            .tool("preflight")
            .args(["-n", "--source", &url, "--source-password-file", "newer.pw"])
    };

    let ran = from().args(&stage.scene.target_args()[1..]).run();

    fires(&ran, &["blocker client-programs", "blocker target-version"]);
    let ran = from()
        .args(["--pg-bin", &programs_of(16).display().to_string()])
        .run()
        .success();
    assert_eq!(serious(&ran), [""; 0], "{ran}");
}

#[test]
fn prepared_transactions_and_subscribers_of_the_source_are_reported() {
    let world = World::new();
    let cluster = Cluster::new(&world, "source");
    cluster.psql("postgres", "ALTER SYSTEM SET max_prepared_transactions = 5");
    cluster.stop();
    cluster.start();
    cluster.create_role("synapse", "its own");
    cluster.load_synapse("synapse", "synapse");
    world.write("its.pw", "its own\n");
    let url = cluster.url("synapse", "synapse");
    let look = || {
        let call = world.tool("preflight").args(["-n", "--source", &url]);
        call.args(["--source-password-file", "its.pw"]).run().success()
    };
    let ran = look();
    assert_eq!(serious(&ran), [""; 0], "{ran}");
    assert!(!ran.stderr.contains("(replication-slots)"), "{ran}");

    cluster.psql(
        "synapse",
        "BEGIN; CREATE TABLE late (); PREPARE TRANSACTION 'half-done'",
    );
    cluster.psql("synapse", "SELECT pg_create_physical_replication_slot('replica')");

    let ran = look();
    assert_eq!(serious(&ran), ["warning prepared-transactions"], "{ran}");
    fires(&ran, &["info replication-slots"]);
    assert_eq!(data(&ran, "prepared-transactions")["names"], json!(["half-done"]));
    assert_eq!(data(&ran, "replication-slots")["names"], json!(["replica"]));
}

#[test]
fn a_disk_without_space_or_inodes_is_reported() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.shell("mkdir disk").success();
    let config = stage.synapse.config_args();
    let look = |options: &str, fill: &str| {
        let script = format!(
            "unshare --user --map-root-user --mount bash -c \
             'mount -t tmpfs -o {options} disk disk && {fill} && exec preflight \"$@\"' bash \"$@\""
        );
        let call = internet::healthy().seen_by(world.script(&script).args(["preflight", "-n"]));
        call.args(&config).args(["--export", "disk/export"]).run()
    };
    // The file system is in memory, which is a finding too.
    let full = look("size=16m", "dd if=/dev/zero of=disk/full bs=1M count=16 status=none");
    let wanted = ["blocker export-space", "warning export-in-memory"];
    assert_eq!(serious(&full), wanted, "{full}");
    assert!(
        full.stderr.contains("has 0 bytes of free space, but the dump may need"),
        "{full}"
    );
    let few = look("size=1g,nr_inodes=100", "touch disk/one");
    assert_eq!(serious(&few), wanted, "{few}");
    assert!(
        few.stderr
            .contains("more files can be created on the file system of the export"),
        "{few}"
    );
    let room = look("size=1g,nr_inodes=10000", "true");
    assert_eq!(serious(&room), wanted[1..], "{room}");
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
fn a_wrong_clock_is_reported_for_each_server() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    // For one program this machine's clock is an hour late.
    let late = "#define _GNU_SOURCE\n#include <sys/syscall.h>\n#include <time.h>\n#include <unistd.h>\n\
        int clock_gettime(clockid_t which, struct timespec *now) {\n\
        int outcome = syscall(SYS_clock_gettime, which, now);\n\
        if (which == CLOCK_REALTIME) now->tv_sec -= 3600;\n\
        return outcome;\n}\n";
    world.write("late.c", late);
    world.shell("cc -shared -fPIC -o late.so late.c").success();

    let ran = stage
        .preflight()
        .env("LD_PRELOAD", world.path("late.so"))
        .run()
        .success();

    let clocks: Vec<String> = serious(&ran)
        .into_iter()
        .filter(|finding| finding == "warning clock")
        .collect();
    assert_eq!(clocks.len(), 2, "{ran}");
    fires(&ran, &["warning clock"]);
    for server in ["source", "target"] {
        let said = format!("the clock of the {server} is 3600 seconds ahead of this machine's");
        assert!(ran.stderr.contains(&said), "{said} in {ran}");
    }
}

#[test]
fn a_machine_with_little_memory_is_reported() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write("meminfo", "MemTotal: 4000000 kB\nMemAvailable:   204800 kB\n");
    let script = "unshare --user --map-root-user --mount bash -c 'mount --bind meminfo /proc/meminfo && exec preflight \"$@\"' bash \"$@\"";
    let call = world.script(script).args(["preflight", "-n"]);

    let ran = internet::healthy()
        .seen_by(call)
        .args(stage.synapse.config_args())
        .run()
        .success();

    assert_eq!(serious(&ran), ["warning memory"], "{ran}");
    assert!(ran.stderr.contains("only 200.0 MiB of memory is available"), "{ran}");
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

#[test]
fn each_way_to_log_in_has_its_place() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let look = |more: &str| {
        world.write("old/conf.d/more.yaml", more);
        stage.source_only().run().success()
    };
    let ran = look(
        "cas_config: {enabled: true, server_url: 'https://cas.example.org'}\n\
         jwt_config: {enabled: true, secret: hush, algorithm: HS256}\n\
         templates: {custom_template_directory: old}\n\
         enable_registration_captcha: true\n\
         macaroon_secret_key: null\n\
         modules: [{module: a.B}]\n",
    );
    assert_eq!(
        serious(&ran),
        [
            "warning carry-cas",
            "warning carry-jwt",
            "warning carry-modules",
            "warning carry-templates",
        ],
        "{ran}"
    );
    fires(
        &ran,
        &["info carry-captcha", "info macaroon-secret", "info configuration-note"],
    );

    world.write("old/mas", "of both\n");
    let ran =
        look("matrix_authentication_service: {enabled: true, endpoint: 'http://localhost:1', secret_path: old/mas}\n");
    assert_eq!(serious(&ran), ["warning carry-mas"], "{ran}");

    stage.scene.on_source(
        "INSERT INTO user_external_ids (auth_provider, external_id, user_id)
         SELECT provider, 'a', (SELECT min(name) FROM users) FROM unnest(ARRAY['oidc-ours', 'oidc', 'saml']) AS provider",
    );
    let ran = look("oidc_providers: [{idp_id: ours, client_secret: hush}, {idp_id: oidc, client_secret: hush}]\n");
    assert_eq!(data(&ran, "carry-syn2mas"), json!({"providers": ["saml"]}));
    let none = look("saml2_config: null\n");
    assert_eq!(
        data(&none, "carry-syn2mas")["providers"],
        json!(["oidc", "oidc-ours", "saml"])
    );
}

#[test]
fn a_target_with_a_newer_schema_and_with_sessions_is_reported() {
    let stage = Stage::new();
    stage.scene.on_target("UPDATE schema_version SET version = version + 1");
    let _visitor = Visitor::new(target_cluster(), &stage.scene.target, "synapse_user");

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info schema-upgrade", "info target-sessions"]);
    let said = "the schema from 94 (Synapse 1.151 or newer) to 95 (a Synapse newer than these tools)";
    assert!(ran.stderr.contains(said), "{ran}");
}

#[test]
fn the_targets_synapse_reports_its_version_and_its_name() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let ess = Synapse::new(world, "ess", &stage.scene.target_database(), &Identity::ess());
    ess.start();
    let look = || stage.source_only().args(["--target-endpoint", &ess.url("/")]).run();

    let ran = look().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info target-synapse"]);
    assert_eq!(data(&ran, "target-synapse")["server_name"], SERVER_NAME);
    // The schema version is derived from Synapse's version, in place of the database.
    assert_eq!(data(&ran, "schema")["target_version"], data(&ran, "schema")["version"]);

    let config = world.read("old/conf.d/server_name.yaml");
    world.write("old/conf.d/server_name.yaml", "server_name: elsewhere.org\n");
    let ran = stage.source_only().args(["--target-endpoint", &ess.url("")]).run();
    fires(&ran, &["blocker target-server-name"]);
    world.write("old/conf.d/server_name.yaml", config);
    ess.stop();
    let ran = look();
    assert_eq!(serious(&ran), ["blocker not-checked"], "{ran}");
    assert_eq!(
        code(&stage.source_only().args(["--target-endpoint", "127.0.0.1"]).run()),
        64
    );
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

#[test]
fn a_target_that_holds_the_source_already_is_known() {
    let scene = Scene::restored();
    let source = scene.source_url();
    let look = || {
        let call = scene.tool("preflight").args(["-n", "--source", &source]);
        call.args(&scene.target_args()[1..]).run()
    };

    let ran = look().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info target-restored"]);

    // As if somebody used the target.
    scene.on_target("SELECT nextval('events_stream_seq')");
    assert_eq!(serious(&look()), ["blocker target-used"]);
}

#[test]
fn media_that_only_a_provider_can_have_are_reported() {
    let stage = Stage::new();
    stage.scene.world.shell("rm -r old/media_store").success();
    stage.scene.world.write(
        "old/conf.d/media.yaml",
        "media_storage_providers: [{module: s3_storage_provider.S3StorageProviderBackend}]\n",
    );

    let ran = stage.source_only().run().success();

    assert_eq!(serious(&ran), ["warning media"], "{ran}");
}

#[test]
fn sqlite_left_in_conf_d_is_reported() {
    let stage = Stage::new();
    stage.scene.world.write(
        "old/conf.d/zz-old.yaml",
        "database: {name: sqlite3, args: {database: /var/lib/matrix-synapse/homeserver.db}}\n",
    );

    let ran = stage.preflight().run();

    assert_eq!(
        (code(&ran), serious(&ran)),
        (1, vec!["blocker sqlite".to_owned()]),
        "{ran}"
    );
    assert!(ran.stderr.contains("/var/lib/matrix-synapse/homeserver.db"), "{ran}");
}

#[test]
fn each_step_is_reckoned_from_samples_of_both_servers() {
    let stage = Stage::new();

    let alone = data(&stage.source_only().run().success(), "downtime");
    let ran = stage.preflight().args(["--report"]).run().success();

    let both = data(&ran, "downtime");
    for (figures, servers) in [(&alone, 1), (&both, 2)] {
        let steps = figures["steps"].as_object().unwrap();
        let names: Vec<&String> = steps.keys().collect();
        assert_eq!(names, ["dump", "proof", "restore", "wipe"]);
        let sum: u64 = steps.values().map(|seconds| seconds.as_u64().unwrap()).sum();
        assert_eq!(figures["seconds"], json!(sum));
        let measured = ["source_bytes_per_second", "target_bytes_per_second"].map(|server| figures[server].as_object());
        assert_eq!(measured.iter().flatten().count(), servers);
        let rates = measured.iter().flatten().flat_map(|rates| rates.values());
        assert!(
            rates.map(|rate| rate.as_u64().unwrap()).all(|rate| rate > 0),
            "{figures}"
        );
    }
    let row = ran.stderr.lines().find(|line| line.contains(" downtime ")).unwrap();
    for step in [
        "estimated from short samples of both servers",
        "dump ",
        "wipe ",
        "restore ",
        "proof ",
    ] {
        assert!(row.contains(step), "{step} in {row}");
    }
}

#[test]
fn an_estimate_that_cannot_be_made_is_unknown_and_blocks_nothing() {
    let stage = Stage::new();
    // The largest table cannot be sampled: its rows have no text.
    stage.scene.on_source(
        "CREATE TABLE large AS SELECT n, (SELECT string_agg(md5(n::text || m), '') FROM generate_series(1, 50) m) AS t
             FROM generate_series(1, 4000) n;
         CREATE FUNCTION textless(large) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'too large'; END $$;
         CREATE CAST (large AS text) WITH FUNCTION textless(large);
         ALTER TABLE large OWNER TO synapse; ALTER FUNCTION textless OWNER TO synapse",
    );

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), [""; 0], "{ran}");
    fires(&ran, &["info unknown"]);
    assert!(
        ran.stderr.contains("not checked: the estimate of the downtime"),
        "{ran}"
    );
}

#[test]
fn a_check_is_silent_until_something_blocks() {
    let stage = Stage::new();
    let internet = Internet::new(
        &stage.scene.world,
        "@ 86400 A 127.0.0.1\nmatrix A 127.0.0.1\n",
        &DOCUMENTS,
    );
    let check = |args: &[&str]| {
        let call = internet.seen_by(stage.scene.tool("preflight")).args(["-n", "--check"]);
        call.args(stage.synapse.config_args()).args(args).run()
    };
    for args in [
        &[][..],
        &["--accept", "target-used"],
        &["--only", "dns*"],
        &["--skip", "media*"],
    ] {
        let ran = check(args).success();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{args:?}");
    }
    // --report prints the table.
    let table = check(&["--only", "dns*", "--report"]).success();
    assert!(table.stderr.starts_with("warning   dns-ttl  "), "{table}");

    stage
        .scene
        .on_source("INSERT INTO users (name) VALUES ('@mallory:elsewhere.org')");
    let ran = check(&[]);
    assert_eq!((code(&ran), ran.stdout.as_str()), (1, ""));
    assert!(
        ran.stderr.starts_with("preflight: blocker: 1 user does not belong to"),
        "{ran}"
    );
    assert!(
        ran.stderr.contains("warning: ") && ran.stderr.contains("(dns-ttl)"),
        "{ran}"
    );
    assert!(check(&["--accept", "foreign-users"]).success().stderr.is_empty());
}

#[test]
fn a_table_has_colours_and_fits_the_terminal() {
    let stage = Stage::new();
    let on_a_terminal = |more: &str| {
        let config = stage.synapse.config_args().join(" ");
        let line = format!("stty columns 90; {more} preflight -n --check --report --only 'carry-*' {config}");
        let script = format!("script -qec \"{line}\" /dev/null < /dev/null");
        stage.scene.world.shell(&script).success().stdout.replace('\r', "")
    };

    let table = on_a_terminal("");

    assert!(table.contains("\u{1b}[32minfo    \u{1b}[0m  carry-pepper"), "{table}");
    let widest = |table: &str| table.lines().map(|line| line.chars().count()).max().unwrap();
    let plain = on_a_terminal("NO_COLOR=1");
    assert!(
        !plain.contains('\u{1b}') && plain.contains("info      carry-pepper"),
        "{plain}"
    );
    assert!(widest(&plain) <= 90, "{plain}");
    let unread = stage
        .source_only()
        .args(["--check", "--report", "--only", "carry-*"])
        .run()
        .success();
    assert!(
        !unread.stderr.contains('\u{1b}') && widest(&unread.stderr) > 90,
        "{unread}"
    );
}

#[test]
fn figures_for_prometheus_are_replaced_as_a_whole() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write("metrics/preflight.prom", "old\n");
    fs::hard_link(world.path("metrics/preflight.prom"), world.path("same")).unwrap();

    stage
        .source_only()
        .args(["--check", "--metrics", "metrics/preflight.prom"])
        .run()
        .success();

    // A reader that opened the file before it was replaced still reads the old content.
    assert_eq!(world.read("same"), "old\n");
    assert!(
        world
            .read("metrics/preflight.prom")
            .contains("ess_migrate_preflight_open_blockers 0\n")
    );
    assert_eq!(names_in(world, "metrics"), ["preflight.prom"]);
}
