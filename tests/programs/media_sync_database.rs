//! media-sync and the database: the copy contains every upload that it lists, and Synapse serves all of them.

use std::fs;

use ess_files::hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::media::{assert_equal, assert_serves, files, media};
use crate::support::{Call, Cluster, Identity, Ran, Scene, Stdin, Synapse, World, assert_failed};

#[test]
fn a_real_synapse_serves_every_file_of_the_copy() {
    let world = World::new();
    let cluster = Cluster::new(&world, "source");
    let database = cluster.database("synapse", "synapse", "a password");
    cluster.create_role("synapse", "a password");
    let seeded = cluster.load_synapse("synapse", "synapse");
    let old = Synapse::new(&world, "old", &database, &Identity::old());
    old.load_media();
    old.start();
    let token = &seeded.admin().token;
    let upload = |size: usize| {
        let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at % 253).unwrap()).collect();
        let path = "/_matrix/media/v3/upload?filename=%F0%9F%A6%8A.bin";
        let (status, _) = old.request_bytes("POST", path, Some(token), Some(("application/x-test", bytes)));
        assert_eq!(status, 200);
    };
    [0, 1, 262_143, 262_144, 262_145, 3_000_000]
        .into_iter()
        .for_each(upload);
    let copy = |more: &[&str]| {
        let config = old.config_args();
        let call = world.tool("media-sync").args(["-n"]).args(&config);
        call.args(["--out", "new/media_store"]).args(more).run()
    };

    world.shell("mkdir -m 700 new").success();
    let ran = copy(&[]).success();
    assert_eq!(media(&ran)["source_was_running"], true);
    assert!(
        ran.stderr.contains("re-run the same command after stopping Synapse"),
        "{ran}"
    );
    upload(20);
    old.stop();
    let ran = copy(&["--verify"]).success();

    let section = media(&ran);
    assert_eq!(section["sent"]["files"], 1, "{section:#}");
    assert_eq!(section["source_was_running"], Value::Null);
    let uploads_known = cluster.psql(
        "synapse",
        "SELECT count(*) FROM local_media_repository WHERE media_length IS NOT NULL",
    );
    assert_eq!(section["rows_compared"], json!(uploads_known.parse::<u64>().unwrap()));
    assert_eq!(
        (&section["verified"], &section["complete"]),
        (&json!(true), &json!(true))
    );
    let mut old_files = files(&old.media_store());
    let new_files = files(&world.path("new/media_store"));
    old_files.retain(|path, _| !path.starts_with(".media-sync"));
    assert!(old_files == new_files && new_files.keys().any(|path| path.starts_with("local_thumbnails")));

    // The old files are deleted: what Synapse serves is the copy.
    fs::remove_dir_all(old.media_store()).unwrap();
    let new = Synapse::new(&world, "new", &database, &Identity::old());
    new.start();
    seeded.check_media_files(&new);
    assert_serves(&new, &seeded, &old_files);
}

/// A source database, its uploads in `store`, and the command that copies them.
struct Uploads {
    scene: Scene,
    ids: Vec<String>,
}

impl Uploads {
    fn new() -> Self {
        let scene = Scene::new();
        let rows = scene.on_source("SELECT media_id FROM local_media_repository WHERE url_cache IS NULL ORDER BY 1");
        let ids: Vec<String> = rows.lines().map(str::to_owned).collect();
        assert!(ids.len() >= 2);
        let uploads = Self { scene, ids };
        let url = uploads.scene.source_url();
        for id in &uploads.ids {
            let sql = format!("SELECT media_length FROM local_media_repository WHERE media_id = '{id}'");
            let length: usize = uploads.scene.on_source(&sql).parse().unwrap();
            uploads.scene.world.write(&Self::path(id), vec![b'm'; length]);
            let digest = sha256(&vec![b'm'; length]);
            let sql = format!("UPDATE local_media_repository SET sha256 = '{digest}' WHERE media_id = '{id}'");
            uploads.scene.on_source(&sql);
        }
        assert!(!url.is_empty());
        uploads
    }

    fn path(id: &str) -> String {
        format!("store/local_content/{}/{}/{}", &id[..2], &id[2..4], &id[4..])
    }

    fn sync<'a>(&self) -> Call<'a> {
        let url = self.scene.source_url();
        let call = self.scene.tool("media-sync");
        call.args(["-n", "--source-dir", "store", "--source", &url, "--out", "copy"])
    }
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[test]
fn uploads_that_are_missing_or_differ_are_named_and_all_else_is_copied() {
    let it = Uploads::new();
    let ran = it.sync().run().success();
    assert_eq!(media(&ran)["rows_compared"], it.ids.len());

    // An upload that was started and never finished: no file is expected.
    it.scene.on_source(
        "INSERT INTO local_media_repository (media_id, created_ts, user_id) VALUES ('PendingPendingPending', 1, '@a:b')",
    );
    let row = |id: &str, length: usize, digest: &str| {
        it.scene.on_source(&format!(
            "INSERT INTO local_media_repository (media_id, media_length, sha256, created_ts, user_id)
             VALUES ('{id}', {length}, nullif('{digest}', ''), 1, '@a:b')"
        ));
    };
    row("MissingMissingMissing", 7, "");
    row("ShortShortShortShort", 7, "");
    row("RottenRottenRotten", 5, &sha256(b"fresh"));
    row("../../../etc/passwd", 7, "");
    for (id, content) in [
        ("ShortShortShortShort", "short"),
        ("RottenRottenRotten", "rotte"),
        ("UnknownUnknownUnknown", "unknown"),
    ] {
        it.scene.world.write(&Uploads::path(id), content);
    }

    let ran = it.sync().run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let section = media(&ran);
    assert_eq!(
        section["missing"]["names"],
        json!(["../../../etc/passwd (7 bytes)", "MissingMissingMissing (7 bytes)"])
    );
    assert_eq!(section["wrong"]["count"], 2, "{section:#}");
    for line in [
        "missing: MissingMissingMissing (7 bytes)",
        "ShortShortShortShort: it has 5 bytes, the database has 7",
        &format!("RottenRottenRotten: its SHA-256 is {}", sha256(b"rotte")),
    ] {
        assert!(ran.stderr.contains(line), "{line}: {ran}");
    }
    assert_eq!(
        section["unknown"],
        json!({"count": 1, "names": ["UnknownUnknownUnknown"]})
    );
    assert_eq!(section["complete"], false);
    assert_equal(&it.scene.world);
    // A file that is not sent is read again only with --verify.
    let ran = it.sync().run();
    assert_eq!(media(&ran)["wrong"]["count"], 1, "{ran}");
    let ran = it.sync().args(["--verify"]).run();
    assert_eq!(media(&ran)["wrong"]["count"], 2, "{ran}");
}

#[test]
fn an_older_schema_without_digests_is_read_too() {
    let it = Uploads::new();
    it.scene
        .on_source("ALTER TABLE local_media_repository DROP COLUMN sha256");

    let ran = it.sync().run().success();

    assert_eq!(media(&ran)["rows_compared"], it.ids.len());
}

#[test]
fn media_in_a_storage_provider_are_not_lost() {
    let it = Uploads::new();
    let world = &it.scene.world;
    fs::remove_file(world.path(Uploads::path(&it.ids[0]))).unwrap();
    let url = it.scene.source_url();
    let port = url
        .split(['@', '/', ':'])
        .find(|part| part.parse::<u16>().is_ok())
        .unwrap();
    let config = |more: &str| {
        format!(
            "server_name: example.org\nreport_stats: false\nmedia_store_path: {}\n{more}database:\n  name: psycopg2\n  args: {}\n",
            world.path("store").display(),
            json!({"host": "127.0.0.1", "port": port.parse::<u16>().unwrap(), "user": it.scene.source.role,
                   "dbname": it.scene.source.name, "password": it.scene.source.password})
        )
    };
    let run = |more: &str| {
        world.write("homeserver.yaml", config(more));
        world.run(
            "media-sync",
            ["-n", "-c", "homeserver.yaml", "--out", "copy"],
            Stdin::Null,
        )
    };

    assert_failed_with_document(&run(""), "missing");
    let ran = run("media_storage_providers: [{module: s3_storage_provider.S3StorageProviderBackend}]\n").success();
    assert_eq!(media(&ran)["elsewhere"], 1);
    assert!(ran.stderr.contains("perhaps in the storage provider"), "{ran}");

    world.write("store/media-repo.yaml", "");
    assert_failed(&run(""), 1, "Matrix Media Repo");
}

#[track_caller]
fn assert_failed_with_document(ran: &Ran, list: &str) {
    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert_eq!(media(ran)[list]["count"], 1, "{ran}");
}
