//! Damage outside the data path: flipped bits, files that are cut, a full disk. Faults in the middle of it are in
//! `soak.rs` and `kills.rs`.

use std::fs;

use crate::support::dumps::{pg_dump, restore_from};
use crate::support::{Scene, Tmpfs, assert_failed};

/// Damages bytes in the middle, where the rows are.
fn damage(bytes: &mut Vec<u8>, cut: bool) {
    let middle = bytes.len() / 2;
    if cut {
        bytes.truncate(middle);
    } else {
        bytes[middle] ^= 1;
    }
}

#[test]
fn a_flipped_bit_and_a_cut_are_found_in_every_format() {
    let largest = "$(ls -S their.dir/*.dat* | head -1)";
    for (from, args, damaged) in [
        ("their.dump", &["-Fc"][..], "their.dump"),
        ("their.raw", &["-Fc", "-Z0"], "their.raw"),
        ("their.dir", &["-Fd", "-Z0"], largest),
        ("their.tar", &["-Ft"], "their.tar"),
        ("their.sql", &[], "their.sql"),
        ("their.sql.gz", &["-Z1"], "their.sql.gz"),
    ] {
        let scene = Scene::wiped();
        pg_dump(&scene, from, args);
        let file = scene.world.shell(&format!("realpath {damaged}")).success().stdout;
        let whole = fs::read(file.trim()).unwrap();
        for cut in [true, false] {
            let mut bytes = whole.clone();
            damage(&mut bytes, cut);
            fs::write(file.trim(), bytes).unwrap();

            let ran = restore_from(&scene, from).args(["--source", &scene.source_url()]).run();

            if ran.status.success() {
                // The bit does not affect the data: the target was compared with the source.
                assert!(!cut, "{from}: {ran}");
                assert_eq!(ran.json()["restore"]["proven_against"], "source");
                continue;
            }
            assert!(
                matches!(ran.status.code(), Some(1 | 65 | 69)),
                "{from}, cut: {cut}: {ran}"
            );
            assert_eq!(ran.stdout, "");
            assert!(scene.is_fenced(), "{from}, cut: {cut}");
        }
        fs::write(file.trim(), whole).unwrap();
        if scene.is_fenced() {
            let ran = restore_from(&scene, from).args(["--source", &scene.source_url()]).run();
            ran.success();
        }
    }
}

#[test]
fn a_flipped_bit_and_a_cut_are_found_in_a_dump_of_one_file() {
    let scene = Scene::new();
    scene.dumper().args(["--format", "custom"]).run().success();
    scene.wipe(crate::support::Stdin::Null).success();
    let file = scene.world.path("export/dump/data.dump");
    let whole = fs::read(&file).unwrap();
    for (cut, said) in [
        (false, "data.dump does not match its SHA-256"),
        (true, "the manifest records"),
    ] {
        let mut bytes = whole.clone();
        damage(&mut bytes, cut);
        fs::write(&file, bytes).unwrap();
        assert_failed(&scene.restore().run(), 65, said);
        assert!(scene.is_fenced());
        // The damaged dump is not reused either.
        assert_failed(&scene.dump(), 1, "give --replace to move it aside and dump again");
    }
    fs::write(&file, whole).unwrap();
    scene.restore().run().success();
}

#[test]
fn a_flipped_bit_in_the_document_is_refused_or_does_no_harm() {
    let scene = Scene::new();
    let dumped = scene.dump().success();
    let wiped = scene.wipe(dumped.stdout.as_str()).success().stdout;
    let mut proven = false;
    for number in 0..16 {
        let mut bytes = wiped.clone().into_bytes();
        let place = bytes.len() * (2 * number + 1) / 32;
        bytes[place] ^= 1 << (number % 7);
        let Ok(text) = String::from_utf8(bytes) else { continue };

        let ran = scene.tool("restore").stdin(text.as_str()).run();

        if ran.status.success() {
            scene.verify().run().success();
            proven = true;
        } else {
            assert!(
                matches!(ran.status.code(), Some(1 | 64 | 65 | 69 | 74 | 77)),
                "bit {number}: {ran}"
            );
            assert_eq!(ran.stdout, "");
            assert!(proven || scene.is_fenced(), "bit {number}: {ran}");
        }
    }
    assert_eq!(scene.is_fenced(), !proven);
    for end in [0, wiped.len() / 2, wiped.len() - 2] {
        assert_failed(&scene.tool("restore").stdin(&wiped[..end]).run(), 65, "restore: ");
    }
    let again = scene.tool("restore").stdin(wiped.as_str()).run().success();
    assert_eq!(again.json()["restore"]["fence"], "lifted");
}

#[test]
fn a_disk_that_has_no_room_for_the_backup_stops_the_wipe() {
    let scene = Scene::dumped();
    let before = scene.target_dump();
    let wiper = || scene.wiper().args(["--execute", "--confirm", &scene.confirmation()]);
    let disk = Tmpfs::mount(&scene.world, "small", "200k");
    let ran = if disk.is_some() {
        wiper().args(["--backup", "small/backup"]).run()
    } else {
        // Only root can mount a small disk; without root, a limit on the size of files has a similar effect.
        let script = r#"trap '' XFSZ; ulimit -f 8; exec ess-wipe "$@""#;
        let args = [
            "--export",
            "export",
            "--server-name",
            "example.org",
            "--execute",
            "--confirm",
        ];
        let call = scene
            .world
            .script(script)
            .args(["bash"])
            .args(scene.target_args())
            .args(args);
        call.args([scene.confirmation()]).run()
    };

    assert!(matches!(ran.status.code(), Some(69 | 74)), "{ran}");
    let said = if disk.is_some() {
        "No space left on device"
    } else {
        "File too large"
    };
    assert!(
        ran.stderr.contains(said) && ran.stderr.contains("nothing was erased"),
        "{ran}"
    );
    assert!(!scene.world.path("small/backup").exists() && !scene.world.path("export/ess-before-wipe").exists());
    assert_eq!(scene.target_dump(), before);
    wiper().run().success();
    assert!(scene.is_fenced());
}
