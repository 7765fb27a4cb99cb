//! preflight of the host: configuration, secrets and media of the homeserver, the disk and the memory.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use crate::support::findings::{fires, found, serious};
use crate::support::installation::Stage;
use crate::support::{Identity, code, internet};

#[test]
fn keys_secrets_and_media_that_are_not_there_are_missed() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    world.write("old/homeserver.signing.key", "a_key in the wrong format\n");
    world.shell("mv old/media_store old/gone").success();
    let ran = stage.preflight().run();
    assert_eq!(serious(&ran), ["blocker media-missing", "blocker signing-key"], "{ran}");

    world.write("old/homeserver.signing.key", Identity::old().signing_key);
    world.write("old/conf.d/more.yaml", "turn_shared_secret_path: /nowhere/at/all\n");
    world.shell("mv old/gone old/media_store").success();
    let content = world.path("old/media_store/local_content");
    fs::set_permissions(&content, Permissions::from_mode(0o000)).unwrap();
    let ran = stage.preflight().run();
    fs::set_permissions(&content, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(serious(&ran), ["blocker media-unreadable", "blocker secrets"], "{ran}");
}

#[test]
fn the_place_of_the_export_is_looked_at() {
    let stage = Stage::new();
    stage.scene.world.shell("mkdir -m 755 open; touch file").success();
    let serious = |export: &str| serious(&stage.source_only().args(["--export", export, "--pg-bin", "old"]).run());

    assert_eq!(
        serious("missing/export"),
        [
            "blocker client-programs",
            "blocker export-directory",
            "warning rehearsal"
        ]
    );
    assert_eq!(
        serious("/proc/export"),
        [
            "blocker client-programs",
            "blocker export-directory",
            "warning rehearsal"
        ]
    );
    assert_eq!(
        serious("file/export"),
        [
            "blocker client-programs",
            "blocker export-directory",
            "warning rehearsal"
        ]
    );
    assert_eq!(
        serious("/dev/shm/export"),
        [
            "blocker client-programs",
            "warning export-in-memory",
            "warning rehearsal"
        ]
    );
}

#[test]
fn media_are_compared_with_the_database() {
    let stage = Stage::new();
    let world = &stage.scene.world;
    let uploads = stage
        .scene
        .on_source("SELECT media_id FROM local_media_repository WHERE url_cache IS NULL AND media_length IS NOT NULL");
    let id = uploads.lines().next().unwrap();
    let file = format!("old/media_store/local_content/{}/{}/{}", &id[..2], &id[2..4], &id[4..]);
    world
        .shell(&format!("mkdir old/aside && mv {file} old/aside/"))
        .success();
    world.write("old/media_store/local_content/No/Bo/dyKnowsThisOne", "x");

    let ran = stage.preflight().run().success();

    assert_eq!(serious(&ran), ["warning media-files-missing"], "{ran}");
    let data = |id: &str| {
        let findings = ran.json()["preflight"]["findings"].clone();
        findings
            .as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["id"] == id)
            .unwrap()["data"]
            .clone()
    };
    assert_eq!(data("media-files-missing")["sample"], serde_json::json!([id]));
    assert_eq!(
        data("media-files-unknown")["sample"],
        serde_json::json!(["NoBodyKnowsThisOne"])
    );
    assert_eq!(data("media")["complete"], true);
    fires(&ran, &["info media", "info media-files-unknown"]);

    let ran = stage.preflight().args(["--budget", "0"]).run();
    assert_eq!(
        serious(&ran),
        ["warning media-files-missing", "warning media-partly-checked"],
        "{ran}"
    );
    assert_eq!(code(&stage.preflight().args(["--budget", "much"]).run()), 64);

    world.write(
        "old/conf.d/media.yaml",
        "media_storage_providers: [{module: s3_storage_provider.S3StorageProviderBackend}]\n",
    );
    let ran = stage.preflight().args(["--budget", "none"]).run().success();
    fires(&ran, &["info media-elsewhere"]);
    assert!(
        !found(&ran, &["warning"]).contains(&"warning media-files-missing".to_owned()),
        "{ran}"
    );

    world
        .shell("rm -r old/media_store/local_content; rm old/conf.d/media.yaml")
        .success();
    assert_eq!(serious(&stage.preflight().run()), ["blocker media-missing"]);
    stage
        .scene
        .on_source("SET ROLE synapse; CREATE TABLE datastores (); CREATE TABLE media_attributes ()");
    assert_eq!(serious(&stage.preflight().run()), ["blocker matrix-media-repo"]);
}

#[test]
fn configuration_that_does_not_carry_over_is_named_with_its_place() {
    let stage = Stage::new();
    stage.scene.world.write(
        "old/conf.d/more.yaml",
        "password_config: {enabled: true}
oidc_providers: [{idp_id: corporate, client_secret: hush}]
saml2_config: {sp_config: {entityid: a}}
modules: [{module: ldap_auth_provider.LdapAuthProviderModule}, {module: antispam.Module}]
app_service_config_files: [bridge.yaml]
email: {smtp_host: localhost}
turn_uris: ['turn:turn.example.org']
experimental_features: {msc3861: {enabled: true}}
listeners: [{port: 8448, type: http, tls: true}]
retention: {enabled: true}
allow_guest_access: true
instance_map: {main: {host: localhost, port: 9093}}
",
    );
    stage.scene.world.write(
        "bridge.yaml",
        "{id: bridge, as_token: a, hs_token: b, sender_localpart: bridge, namespaces: {}, url: 'http://localhost:1'}",
    );

    let ran = stage.preflight().run();

    assert_eq!(
        serious(&ran),
        [
            "blocker msc3861",
            "warning carry-appservices",
            "warning carry-email",
            "warning carry-ldap",
            "warning carry-modules",
            "warning carry-oidc",
            "warning carry-saml",
        ],
        "{ran}"
    );
    fires(
        &ran,
        &[
            "info carry-listeners",
            "info carry-retention",
            "info carry-syn2mas",
            "info carry-turn",
            "info carry-workers",
        ],
    );
    let infos = found(&ran, &["info"]);
    assert!(!infos.contains(&"info carry-pepper".to_owned()), "{ran}");
    assert!(!ran.stdout.contains("hush") && !ran.stderr.contains("hush"), "{ran}");
}

#[test]
fn the_host_is_looked_at() {
    let stage = Stage::new();
    let ssh = || stage.preflight().env("SSH_CONNECTION", "192.0.2.1 50000 192.0.2.2 22");
    assert_eq!(serious(&ssh().run().success()), ["warning no-tmux"]);
    assert_eq!(
        serious(&ssh().env("TMUX", "/tmp/tmux-0/default,1,0").run().success()),
        [""; 0]
    );

    let world = &stage.scene.world;
    let few = world
        .script("ulimit -n 300; exec preflight \"$@\"")
        .args(["preflight", "-n"]);
    let few = internet::healthy().seen_by(few);
    let ran = few.args(stage.synapse.config_args()).run().success();
    assert_eq!(serious(&ran), ["warning open-files"], "{ran}");

    world.shell("mkdir -m 700 export && touch export/.lock").success();
    let mut holder = world
        .script("exec 9>export/.lock; flock 9; echo held >&2; exec sleep 600")
        .start();
    holder.wait_for("held");
    let ran = stage.preflight().args(["--export", "export"]).run().success();
    assert_eq!(serious(&ran), ["warning export-locked", "warning rehearsal"], "{ran}");
    assert!(ran.stderr.contains("the document was not saved in the export"), "{ran}");
    holder.kill();
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
    let wanted = ["blocker export-space", "warning export-in-memory", "warning rehearsal"];
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
