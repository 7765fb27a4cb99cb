//! media-sync: the copy equals the store, and contains every upload in the database.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use ess_files::hex;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::frames::{assert_trusts_no_sender, frame, hello, text};
use crate::support::media::{PATHS, assert_equal, assert_serves, files, fill, media, sync};
use crate::support::{
    Call, Cluster, Identity, Ran, Scene, Stdin, Synapse, Tmpfs, World, assert_failed, names_in, place, wait_until,
};

#[test]
fn a_store_is_copied_and_then_only_what_changed() {
    let world = World::new();
    fill(&world);

    let first = sync(&world).run().success();

    assert_equal(&world);
    assert_eq!(media(&first)["sent"]["files"], PATHS.len());
    assert_eq!(
        media(&first)["kinds"]["local_content"],
        json!({"files": 3, "bytes": 200_014})
    );
    assert_eq!(media(&first)["complete"], true);
    assert_eq!(media(&first).get("rows_compared"), None);
    for entry in walkdir::WalkDir::new(world.path("copy"))
        .into_iter()
        .map(Result::unwrap)
    {
        let mode = if entry.file_type().is_dir() { 0o700 } else { 0o600 };
        let metadata = entry.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode, "{}", entry.path().display());
    }
    assert_eq!(names_in(&world, "copy/.media-sync"), ["lock"]);

    let second = sync(&world).run().success();
    assert_eq!(media(&second)["sent"], json!({"files": 0, "bytes": 0}));
    assert_eq!(media(&second)["unchanged"]["files"], PATHS.len());

    // One file grows, one is rewritten with the same size, one is added, one is removed.
    world.write("store/local_content/Zz/Yy/Xx", "longer");
    let again = world.path("store").join(PATHS[3]);
    let bytes = vec![b'!'; fs::read(&again).unwrap().len()];
    fs::write(&again, bytes).unwrap();
    world.write("store/local_content/Ne/ww/One", "new");
    fs::remove_file(world.path("store").join(PATHS[7])).unwrap();
    let third = sync(&world).run().success();
    assert_eq!(media(&third)["sent"]["files"], 3);
    assert_eq!(media(&third)["surplus"], json!({"count": 1, "names": [PATHS[7]]}));
    assert!(
        world.path("copy").join(PATHS[7]).exists(),
        "it goes only when that is asked for"
    );

    let fourth = sync(&world).args(["--delete"]).run().success();
    assert_eq!(media(&fourth)["removed"], 1);
    assert_equal(&world);
    assert!(
        !world.path("copy/url_cache/2024-01-31").exists(),
        "an empty directory stays"
    );
}

#[test]
fn what_synapse_would_never_read_is_named_and_all_else_is_copied() {
    let world = World::new();
    fill(&world);
    world.write("secret", "not media");
    let store = world.path("store");
    symlink(world.path("secret"), store.join("local_content/Ab/Cd/Link")).unwrap();
    symlink(world.path("."), store.join("local_content/Li")).unwrap();
    world.write("store/local_content/Ab/Cd/with space", "x");
    world.write("store/local_content/Ab/Cd/naïve 🦊", "x");
    world.write("store/local_content/Ab/Cd/dir/x", "x");
    world.write("store/local_content/Ab/line\n\u{1b}[31mred", "x");
    world.write("store/remote_content/ümlaut.example/Qq/Rr/Ss", "x");
    world.write("store/notes.txt", "x");
    world
        .shell("mkfifo store/local_content/Ab/Cd/Fifo; mkdir store/lost+found")
        .success();

    let ran = sync(&world).run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    let left = media(&ran)["left"].clone();
    assert_eq!(left["count"], 9, "{left:#}");
    for (what, why) in [
        ("local_content/Ab/Cd/Link", "a link"),
        ("local_content/Li", "a link"),
        ("local_content/Ab/Cd/Fifo", "neither a file nor a directory"),
        ("local_content/Ab/Cd/naïve 🦊", "not a path that Synapse creates"),
        (
            "local_content/Ab/line\\n\\u{1b}[31mred",
            "not a path that Synapse creates",
        ),
        ("remote_content/ümlaut.example", "not a path that Synapse creates"),
        ("notes.txt", "not a path that Synapse creates"),
    ] {
        let line = format!("{what}: {why}");
        assert!(ran.stderr.contains(&format!("left out: {line}\n")), "{line}: {ran}");
        assert!(left["names"].as_array().unwrap().contains(&json!(line)), "{line}");
    }
    let copied: Vec<String> = files(&world.path("copy")).into_keys().collect();
    let mut paths = PATHS;
    paths.sort_unstable();
    assert_eq!(copied, paths);
}

#[test]
fn what_cannot_be_read_or_written_is_named_and_all_else_is_copied() {
    let world = World::new();
    fill(&world);
    world
        .shell("chmod 000 store/local_content/Ab/Cd/EfGhIjKl store/local_content/Zz")
        .success();
    world.write("copy/url_cache/2024-01-31/abcDEF/in/the/way", "x");
    world.shell("ln -s /etc copy/url_cache_thumbnails").success();

    let ran = sync(&world).args(["--delete"]).run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    for line in [
        "local_content/Ab/Cd/EfGhIjKl: Permission denied",
        "local_content/Zz: Permission denied",
        "url_cache/2024-01-31/abcDEF: it cannot be written: ",
        "url_cache_thumbnails/2024-01-31/abcDEF/32-32-image-png-scale: it cannot be written: ",
    ] {
        assert!(ran.stderr.contains(line), "{line}: {ran}");
    }
    assert_eq!(media(&ran)["left"]["count"], 4);
    assert_eq!(media(&ran)["sent"]["files"], PATHS.len() - 4);
}

#[test]
fn what_cannot_be_read_is_not_removed_from_the_copy() {
    let world = World::new();
    fill(&world);
    sync(&world).run().success();
    world
        .shell("chmod 000 store/local_content/Zz store/remote_content")
        .success();

    let ran = sync(&world).args(["--delete"]).run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert_eq!(media(&ran).get("removed"), None, "{ran}");
    for path in [PATHS[2], PATHS[4]] {
        assert!(world.path("copy").join(path).exists(), "{path}");
    }
}

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

#[test]
fn damage_to_the_copy_is_found_by_reading_it_and_repaired() {
    let world = World::new();
    fill(&world);
    sync(&world).run().success();
    let damaged = world.path("copy").join(PATHS[4]);
    let time = fs::metadata(&damaged).unwrap().modified().unwrap();
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[200_000] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::File::options()
        .write(true)
        .open(&damaged)
        .unwrap()
        .set_modified(time)
        .unwrap();

    let ran = sync(&world).run().success();
    assert_eq!(media(&ran).get("damaged"), None, "size and time are as they were");
    let ran = sync(&world).args(["--verify"]).run().success();

    assert_eq!(media(&ran)["damaged"], json!({"count": 1, "names": [PATHS[4]]}));
    assert!(
        ran.stderr
            .contains(&format!("damaged in the copy, sent again: {}", PATHS[4])),
        "{ran}"
    );
    assert_equal(&world);
}

#[test]
fn a_killed_run_leaves_no_partial_file_and_the_next_resumes() {
    let world = World::new();
    for number in 0..40 {
        let bytes = vec![number; 100_000];
        world.write(&format!("store/local_content/{}/Cd/File{number}", 10 + number), bytes);
    }
    let copied = || {
        let all = walkdir::WalkDir::new(world.path("copy/local_content"))
            .into_iter()
            .flatten();
        all.filter(|entry| entry.file_type().is_file()).count()
    };
    let running = sync(&world).args(["--bwlimit", "1M"]).start();
    wait_until("some files are there", || copied() > 5);

    let killed = running.kill();

    assert!(killed.stdout.is_empty() && copied() < 40, "{killed}");
    for (path, bytes) in files(&world.path("copy")) {
        assert!(
            bytes.len() == 100_000 && path.starts_with("local_content/"),
            "{path}: {}",
            bytes.len()
        );
    }
    let there = copied();
    let ran = sync(&world).run().success();
    assert_eq!(media(&ran)["unchanged"]["files"], there);
    assert_eq!(media(&ran)["sent"]["files"], 40 - there);
    assert_equal(&world);
    assert_eq!(names_in(&world, "copy/.media-sync"), ["lock"]);
}

#[test]
fn a_signal_ends_it_in_good_order() {
    let world = World::new();
    world.write("store/local_content/Ab/Cd/Big", vec![1; 3_000_000]);
    let running = sync(&world).args(["--bwlimit", "200K"]).start();
    wait_until("it began", || {
        world.path("copy/.media-sync/0").exists() || world.path("copy/.media-sync/1").exists()
    });

    running.signal(Signal::TERM);
    let ran = running.wait();

    assert!(ran.to_string().ends_with("-- signal: 15 --"), "{ran}");
    assert!(ran.stderr.contains("interrupted by SIGTERM"), "{ran}");
    assert_eq!(names_in(&world, "copy/.media-sync"), ["lock"]);
}

#[test]
fn two_runs_on_one_copy_do_not_meet() {
    let world = World::new();
    world.write("store/local_content/Ab/Cd/Big", vec![1; 3_000_000]);
    let first = sync(&world).args(["--bwlimit", "1M"]).start();
    wait_until("it began", || {
        world.path("copy/.media-sync/0").exists() || world.path("copy/.media-sync/1").exists()
    });

    assert_failed(&sync(&world).run(), 75, "holds the lock ");
    let far = world.tool("media-sync").args(["-n", "--source-dir", "store", "--"]);
    assert_failed(
        &far.args(["media-sync", "-n", "--receive", "copy"]).run(),
        75,
        "holds the lock ",
    );

    first.wait().success();
    assert_equal(&world);
}

#[test]
fn a_full_disk_is_named_and_leaves_no_half_file() {
    let world = World::new();
    for number in 0..30 {
        world.write(
            &format!("store/local_content/{}/Cd/File", 10 + number),
            vec![1; 100_000],
        );
    }
    let Some(_mounted) = Tmpfs::mount(&world, "copy", "1m") else {
        // Only root can mount.
        return;
    };

    let ran = sync(&world).run();

    assert_failed(&ran, 74, "No space left on device");
    assert!(ran.stderr.contains("the next run resumes from there"), "{ran}");
    let copied = files(&world.path("copy"));
    assert!(!copied.is_empty() && copied.values().all(|bytes| bytes.len() == 100_000));
    assert_eq!(names_in(&world, "copy/.media-sync"), ["lock"]);
}

#[test]
fn a_command_carries_the_stream_to_the_other_half() {
    let world = World::new();
    fill(&world);
    let far = |script: &str| {
        let call = world
            .tool("media-sync")
            .args(["-n", "--source-dir", "store", "--", "bash", "-c"]);
        call.args([script]).run()
    };

    let ran = far("exec media-sync -n --receive copy # c4n4ry").success();
    assert_equal(&world);
    assert_eq!(media(&ran)["sent"]["files"], PATHS.len());
    assert_eq!(media(&ran)["copy"], "bash");
    assert!(!ran.to_string().contains("c4n4ry"), "{ran}");
    let ran = far("exec media-sync -n --receive copy").success();
    assert_eq!(media(&ran)["unchanged"]["files"], PATHS.len());

    fs::remove_dir_all(world.path("copy")).unwrap();
    // Damaged in transit to the receiver, and in transit from it.
    let damage = "python3 -c 'import os
left = 100000
while data := bytearray(os.read(0, 65536)):
    if 0 <= left < len(data):
        data[left] ^= 1
    left -= len(data)
    while data:
        data = data[os.write(1, data):]'";
    let damaged = far(&format!("{damage} | media-sync -n --receive copy"));
    assert_failed(&damaged, 74, "the stream is broken: a frame is damaged");
    let cut = "the stream is broken: it ends within a frame";
    assert_failed(
        &far("exec media-sync -n --receive copy > >(dd bs=1 count=100 status=none)"),
        74,
        cut,
    );
    assert_failed(
        &far("dd bs=1 count=100000 status=none | media-sync -n --receive copy"),
        74,
        cut,
    );
    assert_failed(
        &far("echo 'Welcome to this host'; cat > /dev/null"),
        74,
        "the stream is broken",
    );
    assert_failed(&far("exec no-such-program"), 69, "no-such-program: not found");
    assert_failed(&far("head -c 10 > /dev/null"), 69, "ended unexpectedly");
    assert_failed(&far("exec media-sync -n --receive /proc/nowhere"), 74, "/proc/nowhere");
    for (path, bytes) in files(&world.path("copy")) {
        assert!(bytes == fs::read(world.path("store").join(&path)).unwrap(), "{path}");
    }
    far("exec media-sync -n --receive copy").success();
    assert_equal(&world);
}

#[test]
fn what_is_sent_while_both_sides_are_read_is_read_there_too() {
    let world = World::new();
    fill(&world);
    // A receiver whose disk corrupts bytes where `rots` is true; and one file looks changed in the second listing.
    let on_a_disk = |rots: &str| {
        let rot = format!(
            "        self.place(lane)
        if {rots}:
            file = self.lanes[lane]
            os.pwrite(file[0], b'!', 5)
            os.utime(file[0], ns=(0, file[2] * 10**9 + file[3]))\n"
        );
        let list = format!(
            "        if kind == 2:
            self.lists += 1
            if self.lists == 2:
                os.utime(self.path + '/{}', (0, 0))\n",
            PATHS[2]
        );
        let script = include_str!("../../crates/media/src/receive.py")
            .replace("        self.place(lane)\n", &rot)
            .replace("        if kind == 2:\n", &list)
            .replace("class Receiver:\n", "class Receiver:\n    lists = 0\n");
        world.write("receive.py", script);
        world.shell("rm -rf copy");
        let call = world
            .tool("media-sync")
            .args(["-n", "--verify", "--source-dir", "store"]);
        call.args(["--", "python3", "receive.py", "copy"]).run()
    };

    let well = on_a_disk("False").success();
    assert_eq!(media(&well)["sent"]["files"], PATHS.len() + 1);
    let rotten = format!("{} was damaged repeatedly", PATHS[2]);
    let place = "self.lanes[lane][1][-1] == 'Xx'";
    assert_failed(&on_a_disk(&format!("{place} and self.lists == 2")), 69, &rotten);
    let rotten = format!("{} was damaged repeatedly", PATHS[0]);
    assert_failed(&on_a_disk("self.lanes[lane][1][-1] == 'EfGhIjKl'"), 69, &rotten);
    let once = on_a_disk("self.lanes[lane][1][-1] == 'EfGhIjKl' and self.lists == 1").success();
    assert_eq!(media(&once)["damaged"], json!({"count": 1, "names": [PATHS[0]]}));
}

#[test]
fn a_receiver_that_falls_silent_is_given_up_and_a_busy_one_is_not() {
    let world = World::new();
    fill(&world);
    let far = |limit: &str, more: &[&str], script: &str| {
        let call = world
            .tool("media-sync")
            .args(["-n", "--source-dir", "store", "--timeout", limit]);
        call.args(more).args(["--", "bash", "-c", script]).run()
    };
    let python = include_str!("../../crates/media/src/receive.py");
    let with = |from: &str, to: &str| {
        assert!(python.contains(from));
        world.write("receive.py", python.replace(from, to));
        world.shell("rm -rf copy");
    };

    let ran = far("2", &[], "exec sleep 1000");
    assert_failed(&ran, 69, "the receiver is unresponsive: no output for 2 s");
    assert!(ran.stderr.contains("hint: check the receiver and its host"), "{ran}");
    // In the middle of a file, while more is sent than fits into a pipe, and below a shell.
    with(
        "        self.place(lane)\n",
        "        os.kill(os.getpid(), signal.SIGSTOP)\n",
    );
    let ran = far("2", &[], "python3 receive.py copy; echo");
    assert_failed(&ran, 69, "the receiver is unresponsive");
    for program in ["python3", "sleep", "bash"] {
        assert_eq!(world.running(program), [""; 0], "it outlives us");
    }

    // A receiver that reads for a long time, and one that is sent nothing for a long time.
    let fadvise = "            os.posix_fadvise(";
    let sleep = "            parts[-1] == 'Xx' and __import__('time').sleep(10)\n";
    with(fadvise, &[sleep, fadvise].concat());
    far("4", &["--verify"], "python3 receive.py copy").success();
    assert_equal(&world);
    for receiver in ["python3 receive.py copy", "media-sync -n --receive copy"] {
        world.shell("rm -rf copy");
        let slow = ["--bwlimit", "50K", "--without", "remote", "--without", "previews"];
        far("4", &slow, receiver).success();
    }
}

#[test]
fn a_receiver_trusts_no_sender() {
    assert_trusts_no_sender(&World::new(), "media-sync -n --receive copy");
}

const RECEIVERS: [&str; 2] = ["exec media-sync -n --receive copy", "exec python3 receive.py copy"];

#[test]
fn a_receiver_stays_small_whatever_a_sender_requests() {
    let world = World::new();
    world.write("receive.py", include_str!("../../crates/media/src/receive.py"));
    // Directories to be listed, for which the sender grants no credit.
    world
        .shell("mkdir -m 700 copy; for a in {A..Z}{a..z}; do mkdir -p copy/local_content/$a/Cd; done")
        .success();
    let start = || hello("ess-media/1");
    let list = || frame(&[&[2], &[1, 0, 0, 0], &text("local_content")]);
    let many = |one: Vec<u8>, count: usize| one.repeat(count);
    let file = |lane: u8| frame(&[&[4, lane], &text("local_content/Ab/Cd/EfGh"), &[0; 12]]);
    let data = |lane: u8| frame(&[&[5, lane], &vec![0; 256 << 10]]);
    let filled: Vec<u8> = (0..64)
        .flat_map(|lane| [file(lane), data(lane).repeat(4)].concat())
        .collect();
    for receiver in RECEIVERS {
        // Enough address space for the runtime of Rust or Python, and not for much more.
        let receive = |frames: &[Vec<u8>]| {
            world.write("stream", frames.concat());
            world.shell(&format!("ulimit -v 3000000; cat stream - <&0 | ({receiver} > answer)"))
        };
        for (frames, status, said) in [
            (
                many(list(), 20_000),
                65,
                "requested a list before the last one was complete",
            ),
            (file(64), 65, "the sender uses lane 64"),
            (frame(&[&[5, 255, 1]]), 65, "the sender uses lane 255"),
            (frame(&[&[5, 0], &vec![0; (256 << 10) + 1]]), 74, "a frame is too long"),
            (
                [[0xff; 4], [0; 4]].concat(),
                74,
                "it contains something other than frames",
            ),
            (frame(&[&[22]]), 65, "unexpected frame from the sender"),
            (start(), 65, "unexpected frame from the sender"),
            (frame(&[&[4, 0], &[200, 0, 0, 0], b"short"]), 74, "too short"),
            (frame(&[&[9], &[2, 0, 0, 0], &[0xff, 0xfe]]), 74, "not UTF-8"),
            (
                frame(&[&[9], &text("local_content/Ab/Cd/a\0b")]),
                65,
                "that Synapse never creates",
            ),
        ] {
            let ran = receive(&[start(), frames]);
            assert_failed(&ran, status, said);
        }
        // All lanes at once, each with as much as it can buffer.
        receive(&[start(), filled.clone(), frame(&[&[11]])]).success();
    }
}

#[test]
fn two_signals_end_a_receiver_that_lists_for_a_silent_sender() {
    let world = World::new();
    world.write(
        "stream",
        [
            hello("ess-media/1"),
            frame(&[&[2], &[1, 0, 0, 0], &text("local_content")]),
        ]
        .concat(),
    );
    world
        .shell("mkdir -m 700 copy; mkdir -p copy/local_content/Ab")
        .success();
    let script =
        "mkfifo pipe; exec 3<>pipe; cat stream >&3; echo sent >&2; exec media-sync -n --receive copy <&3 >answer";
    let mut ran = world.script(script).start();
    ran.wait_for("sent");
    world.shell("until [ -s answer ]; do sleep 0.02; done").success();
    ran.signal(rustix::process::Signal::TERM);
    let ran = ran.wait();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ran.status),
        Some(15),
        "{ran}"
    );
}

/// Sizes in bytes of the sender's greeting, the receiver's greeting, and the first request for a list.
const HELLO: usize = 37;
const READY: usize = 24;
const LIST: usize = 138;

#[test]
fn a_sender_trusts_no_receiver() {
    let world = World::new();
    fill(&world);
    let run = |answer: &[Vec<u8>], script: &str| {
        world.write("answer", answer.concat());
        let args = [
            "-n",
            "--source-dir",
            "store",
            "--timeout",
            "5",
            "--",
            "bash",
            "-c",
            script,
        ];
        world.tool("media-sync").args(args).run()
    };
    // Answers the greeting, and sends the rest when a list is requested.
    let far = |answer: &[Vec<u8>], then: &str| {
        let script = format!(
            "head -c {HELLO} >/dev/null; head -c {READY} answer; head -c {LIST} >/dev/null
             tail -c +$(({READY} + 1)) answer; {then}"
        );
        run(answer, &script)
    };
    let ready = || frame(&[&[20], &text("ess-media/1")]);
    let failed = |exit: u8| frame(&[&[26, exit], &text("went wrong")]);
    let unit = |path: &str, last: u8| frame(&[&[21], &text(path), &[last], &[0; 4]]);
    let stored = || frame(&[&[23, 0], &[0; 40]]);
    let unasked = "the receiver answered something that was not requested";
    // The receiver's exit status becomes the sender's only for data, files, locks and permissions.
    for (theirs, ours) in [
        (65, 65),
        (74, 74),
        (75, 75),
        (77, 77),
        (0, 69),
        (1, 69),
        (64, 69),
        (69, 69),
        (70, 69),
        (78, 69),
        (255, 69),
    ] {
        assert_failed(&far(&[ready(), failed(theirs)], "cat >/dev/null"), ours, "went wrong");
    }
    for (answer, said) in [
        (
            vec![frame(&[&[20], &text("ess-media/9")])],
            "the receiver uses protocol ess-media/9",
        ),
        (vec![ready(), ready()], unasked),
        (vec![ready(), frame(&[&[22]]), frame(&[&[22]])], unasked),
        (vec![ready(), frame(&[&[25]])], unasked),
        (vec![ready(), stored(), stored(), stored()], unasked),
        (vec![ready(), frame(&[&[23, 200], &[0; 40]])], unasked),
        (vec![ready(), frame(&[&[10]])], "sent an unexpected frame: Sync"),
        (
            vec![ready(), unit("local_content/Zz", 1), unit("local_content/Aa", 1)],
            "out of order",
        ),
    ] {
        assert_failed(&far(&answer, "cat >/dev/null"), 69, said);
    }
    let mut cut = ready();
    cut.pop();
    assert_failed(&run(&[cut], "exec cat answer"), 74, "it ends within a frame");
    assert_failed(
        &run(&[[[0xff; 4], [0; 4]].concat()], "cat answer; cat >/dev/null"),
        74,
        "it contains something other than frames",
    );
    // A receiver that does not end when its input is closed.
    assert_failed(
        &far(&[ready(), frame(&[&[10]])], "exec sleep 1000"),
        69,
        "sent an unexpected frame",
    );
    assert_eq!(world.running("sleep"), [""; 0]);
}

#[test]
fn a_receiver_that_never_stops_does_not_fill_the_memory_of_the_sender() {
    let world = World::new();
    fill(&world);
    let unasked = "the receiver answered something that was not requested";
    for (body, said) in [
        (
            "b'\\x15' + t('local_content/Ab') + b'\\0' + struct.pack('<I', 5000) + b''.join(t('Cd/%020d' % n) + bytes(20) for n in range(5000))",
            "listed more than 128 MiB of names at a time",
        ),
        (
            "b'\\x15' + t('local_content/Ab') + b'\\1' + bytes(4)",
            "the receiver answered",
        ),
        ("b'\\x19'", unasked),
    ] {
        let script = format!(
            "import struct, sys, zlib
t = lambda s: struct.pack('<I', len(s)) + s.encode()
f = lambda b: struct.pack('<II', len(b), zlib.crc32(b)) + b
out = sys.stdout.buffer
sys.stdin.buffer.read({HELLO})
out.write(f(b'\\x14' + t('ess-media/1')))
out.flush()
sys.stdin.buffer.read({LIST})
endless = f({body})
try:
    while True:
        out.write(endless)
except BrokenPipeError:
    import os; os._exit(0)
"
        );
        world.write("endless.py", script);
        let line = "ulimit -v 2000000; exec media-sync -n --source-dir store --timeout 5 -- python3 endless.py";
        let ran = world.shell(line);
        assert_failed(&ran, 69, said);
    }
}

#[test]
fn a_receiver_ends_when_its_answers_are_not_read() {
    let world = World::new();
    world.write("hello", hello("ess-media/1"));
    world.write(
        "file",
        [
            frame(&[&[4, 0], &text("local_content/Ab/Cd/EfGh"), &[0; 12]]),
            frame(&[&[5, 0, 1, 2, 3]]),
            frame(&[&[6, 0]]),
        ]
        .concat(),
    );
    // The receiver's standard input stays open.
    let script = "mkfifo pipe; exec 3<>pipe
        exec 4> >(dd bs=1 count=24 of=answer status=none); reader=$!
        media-sync -n --receive copy <&3 >&4 & receiver=$!
        exec 4>&-; cat hello >&3; wait $reader; cat file >&3; wait $receiver";

    let ran = world.shell(script);

    assert_failed(&ran, 74, "the sender has ended");
    assert_eq!(names_in(&world, "copy/.media-sync"), ["lock"]);
}

#[test]
fn kinds_can_be_left_out_and_the_saving_is_reported() {
    let world = World::new();
    fill(&world);

    let all = sync(&world).run().success();
    let remote: u64 = PATHS[4..7]
        .iter()
        .map(|path| fs::metadata(world.path("store").join(path)).unwrap().len())
        .sum();
    assert!(
        all.stderr.contains(&format!(
            "{} are copies of other servers' media; --without remote leaves them out",
            ess_run::text::size(remote)
        )),
        "{all}"
    );
    assert_eq!(media(&all)["refetchable"]["files"], 5);
    fs::remove_dir_all(world.path("copy")).unwrap();
    let some = sync(&world)
        .args(["--without", "remote", "--without", "previews"])
        .run()
        .success();
    assert_eq!(media(&some)["without"], json!(["remote", "previews"]));
    assert_eq!(
        names_in(&world, "copy"),
        [".media-sync", "local_content", "local_thumbnails"]
    );
    let less = sync(&world)
        .args(["--without", "thumbnails", "--delete"])
        .run()
        .success();
    assert_eq!(media(&less).get("removed"), None, "what is left out is not looked at");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let world = World::new();
    fill(&world);
    let run = |args: &[&str]| world.run("media-sync", args, Stdin::Null);
    assert_failed(&run(&["-n"]), 64, "no media store is given");
    assert_failed(&run(&["-n", "--source-dir", "store"]), 64, "no destination is given");
    assert_failed(
        &run(&["-n", "--source-dir", "none", "--out", "copy"]),
        74,
        "there is no media store at ",
    );
    for (store, copy) in [
        ("store", "store"),
        ("store", "store/copy"),
        ("store/local_content", "store"),
    ] {
        assert_failed(
            &run(&["-n", "--source-dir", store, "--out", copy]),
            64,
            "is inside the other",
        );
    }
    world.shell("ln -s store alias").success();
    assert_failed(
        &run(&["-n", "--source-dir", "store", "--out", "alias/copy"]),
        64,
        "is inside the other",
    );
    assert_failed(&run(&["--receive", "copy"]), 64, "--no-input");
    assert_failed(
        &run(&["-n", "--source-dir", "store", "--out", "copy", "--bwlimit", "fast"]),
        64,
        "bwlimit",
    );
    assert_failed(
        &run(&["-n", "--source-dir", "store", "--out", "copy", "--owner", "root"]),
        64,
        "owner",
    );
    world.shell("mkdir -m 700 empty; mkdir -m 755 open").success();
    let delete = ["-n", "--source-dir", "empty", "--out", "copy", "--delete"];
    assert_failed(&run(&delete), 1, "contains no uploads");
    let open = run(&["-n", "--source-dir", "store", "--out", "open"]);
    assert_failed(&open, 77, "other users can access it");
    assert!(!world.path("copy").exists());
}

#[test]
fn the_copy_goes_into_the_export_and_the_document_travels_on() {
    let world = World::new();
    fill(&world);
    let document = json!({"format": "ess-migration/1", "export": world.path("export")}).to_string();

    let ran = world
        .run("media-sync", ["--source-dir", "store"], document.as_str())
        .success();

    assert_eq!(media(&ran)["copy"], "media");
    assert_eq!(names_in(&world, "export/documents"), ["01-media-sync.json"]);
    assert!(files(&world.path("export/media")) == files(&world.path("store")));
    let again = world
        .run("media-sync", ["--source-dir", "store"], ran.stdout.as_str())
        .success();
    assert_eq!(media(&again)["sent"]["files"], 0);
}

#[test]
fn a_disk_that_is_not_there_is_not_an_empty_store() {
    let world = World::new();
    fill(&world);
    sync(&world).run().success();
    let before = files(&world.path("copy"));
    world
        .shell("mv store/local_content disk; ln -s gone store/local_content")
        .success();

    let ran = sync(&world).run();

    assert_eq!(ran.status.code(), Some(1), "{ran}");
    assert!(
        ran.stderr
            .contains("left out: local_content: No such file or directory"),
        "{ran}"
    );
    assert_failed(&sync(&world).args(["--delete"]).run(), 1, "contains no uploads");
    world
        .shell("rm store/local_content; mkdir store/local_content")
        .success();
    assert_failed(&sync(&world).args(["--delete"]).run(), 1, "contains no uploads");
    assert_eq!(files(&world.path("copy")), before);
}

#[test]
fn root_gives_the_copy_to_its_owner() {
    let world = World::new();
    fill(&world);
    if !rustix::process::geteuid().is_root() {
        assert_failed(&sync(&world).args(["--owner", "0"]).run(), 77, "cannot use ");
        return;
    }
    // As root: the programs of tests otherwise run as another user.
    let copy = |owner: &[&str]| {
        let ran = std::process::Command::new(place().bin.join("media-sync"))
            .args(["-q", "-n", "--source-dir"])
            .arg(world.path("store"))
            .arg("--out")
            .arg(world.path("copy"))
            .args(owner)
            .output()
            .unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    };
    // Also files and directories that an earlier run, or mkdir as root, has left to root.
    copy(&[]);
    copy(&["--owner", "10091:10092"]);
    for path in [
        "copy",
        "copy/local_content",
        "copy/local_content/Ab",
        "copy/local_content/Ab/Cd/EfGhIjKl",
    ] {
        let metadata = fs::metadata(world.path(path)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (10_091, 10_092), "{path}");
    }
}
