//! media-sync: the copy equals the store, and what cannot be copied is named.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

use rustix::process::Signal;
use serde_json::json;

use crate::support::media::{PATHS, assert_equal, files, fill, media, sync};
use crate::support::{Stdin, Tmpfs, World, assert_failed, names_in, place, wait_until};

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
