//! Damaged and forged manifests and tables of contents are refused or read, but never cause a panic, and nothing
//! outside the dump is touched.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use ess_archive::{MANIFEST, Manifest, Toc};
use ess_files::hex;
use ess_run::Silent;
use ess_stop::{Exit, Stop};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The exit status of a program that ends with this error.
fn exit_of(error: &anyhow::Error) -> Exit {
    let stop = error.chain().find_map(|cause| cause.downcast_ref::<Stop>());
    stop.map_or(Exit::Software, Stop::exit)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The manifest of a dump with two files, without its seal.
fn manifest() -> Value {
    let table = |name: &str, carried: &str| json!({"schema": "public", "name": name, "carried": carried});
    let mut users = table("users", "rows");
    users["digest"] = json!({"rows": 3, "sum": "-99999999999999999999"});
    json!({
        "format": "ess-dump/1", "kind": "migration", "id": "i", "version": "0.1.0", "taken_at": "2026-11-22T20:00:00Z",
        "source": {"system_identifier": "7415612345678901234", "database": "Synapse-Prod"},
        "server_name": "example.org", "server_version": "15.18 (Debian)", "pg_dump_version": "15.18", "data": "data",
        "source_was_running": false,
        "files": {
            "data/1.dat": {"bytes": 3, "sha256": sha256(b"one")},
            "data/toc.dat": {"bytes": 5, "sha256": sha256(b"PGDMP")},
        },
        "inventory": {
            "algorithm": "chain64", "tables": [users, table("schema_version", "fence")],
            "mark": {
                "snapshot": "1:1:", "timeline": "00000001", "stream_positions": [{"stream": "s", "instance": "m", "position": "1"}],
                "sequences": [{"schema": "public", "name": "s", "last_value": "5", "is_called": true}],
            },
            "schema": {"version": 94, "upgraded": true, "compat_version": 92}, "catalogue": ["relation public.users"],
        },
    })
}

/// Creates the dump that [`manifest`] describes, with this text as its manifest.
fn dump(manifest: &[u8]) -> TempDir {
    let dump = tempfile::tempdir().unwrap();
    fs::create_dir(dump.path().join("data")).unwrap();
    fs::write(dump.path().join("data/1.dat"), "one").unwrap();
    fs::write(dump.path().join("data/toc.dat"), "PGDMP").unwrap();
    fs::write(dump.path().join(MANIFEST), manifest).unwrap();
    dump
}

/// A manifest as the tools write it.
fn sealed() -> Vec<u8> {
    let dump = dump(manifest().to_string().as_bytes());
    let (read, _) = Manifest::read(dump.path()).unwrap();
    let written = read.write(dump.path()).unwrap();
    let text = fs::read(dump.path().join(MANIFEST)).unwrap();
    assert_eq!(written, sha256(&text));
    text
}

/// Reads the manifest and checks the files; asserts that a refusal counts as bad data.
fn read(dump: &Path) -> Option<Manifest> {
    match Manifest::read(dump) {
        Ok((manifest, _)) => {
            let _ = manifest.check_files(dump, &Silent);
            Some(manifest)
        }
        Err(error) => {
            assert_eq!(exit_of(&error), Exit::Data, "{error:#}");
            None
        }
    }
}

#[test]
fn a_manifest_is_read_with_and_without_its_seal() {
    for text in [manifest().to_string().into_bytes(), sealed()] {
        let dump = dump(&text);
        read(dump.path()).unwrap().check_files(dump.path(), &Silent).unwrap();
    }
}

#[test]
fn a_flipped_bit_in_a_manifest_is_found() {
    let text = sealed();
    let dump = dump(&text);
    for bit in 0..text.len() * 8 {
        let mut text = text.clone();
        text[bit / 8] ^= 1 << (bit % 8);
        fs::write(dump.path().join(MANIFEST), &text).unwrap();
        assert!(
            Manifest::read(dump.path()).is_err(),
            "bit {bit} of {}",
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn a_manifest_that_is_cut_off_anywhere_is_refused() {
    let text = sealed();
    let dump = dump(&text);
    for end in 0..text.len() {
        fs::write(dump.path().join(MANIFEST), &text[..end]).unwrap();
        assert!(Manifest::read(dump.path()).is_err(), "cut off at {end}");
    }
}

#[test]
fn a_manifest_that_leads_out_of_its_dump_is_refused() {
    for outside in ["", ".", "..", "../data", "/etc", "data/../../x", "/"] {
        let mut data = manifest();
        data["data"] = outside.into();
        let mut file = manifest();
        file["files"]
            .as_object_mut()
            .unwrap()
            .insert(outside.to_owned(), json!({"bytes": 0, "sha256": ""}));
        for manifest in [data, file] {
            let dump = dump(manifest.to_string().as_bytes());
            let error = Manifest::read(dump.path()).unwrap_err();
            assert_eq!(exit_of(&error), Exit::Data);
            let wanted = format!("names {outside}, which is outside the dump");
            assert!(error.to_string().contains(&wanted), "{error}");
        }
    }
}

#[test]
fn a_manifest_that_declares_rows_away_is_refused() {
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest();
        change(&mut manifest);
        let dump = dump(manifest.to_string().as_bytes());
        Manifest::read(dump.path())
    };
    let table = |name: &str, carried: &str| json!({"schema": "public", "name": name, "carried": carried});
    let with = |added: Value| {
        changed(&|manifest| {
            let tables = manifest["inventory"]["tables"].as_array_mut().unwrap();
            tables.push(added.clone());
        })
    };
    let running = |added: Value| {
        changed(&|manifest| {
            manifest["source_was_running"] = true.into();
            let tables = manifest["inventory"]["tables"].as_array_mut().unwrap();
            tables.push(added.clone());
        })
    };
    let digested = |name: &str, carried: &str| {
        let mut table = table(name, carried);
        table["digest"] = json!({"rows": 0, "sum": "0"});
        table
    };
    with(table("worker_read_write_locks", "structure")).unwrap();
    with(table("schema_compat_version", "fence")).unwrap();
    running(table("e2e_one_time_keys_json", "structure")).unwrap();
    let set = |place: &'static str, value: Value| {
        changed(&move |manifest| *manifest.pointer_mut(place).unwrap() = value.clone())
    };
    for (read, wanted) in [
        (
            with(table("events", "structure")),
            "it marks the rows of table \"public.events\" differently from pgdump-wrap",
        ),
        (
            with(table("events", "fence")),
            "it marks the rows of table \"public.events\" differently from pgdump-wrap",
        ),
        (
            with(table("e2e_one_time_keys_json", "structure")),
            "the rows of table \"public.e2e_one_time_keys_json\"",
        ),
        (
            with(json!({"schema": "x\u{1b}", "name": "worker_read_write_locks", "carried": "structure"})),
            "the rows of table \"x\\u{1b}.worker_read_write_locks\"",
        ),
        (
            with(digested("schema_compat_version", "rows")),
            "the rows of table \"public.schema_compat_version\"",
        ),
        (
            with(table("events", "rows")),
            "table \"public.events\" lacks a digest, or has one although its rows are not carried",
        ),
        (
            with(digested("schema_compat_version", "fence")),
            "lacks a digest, or has one although its rows are not carried",
        ),
        (with(digested("users", "rows")), "it lists table \"public.users\" twice"),
        (set("/inventory/tables", json!([])), "it lists no table with rows"),
        (set("/inventory/schema", json!({})), "schema_version contains no row"),
        (
            set("/inventory/schema/version", i32::MAX.into()),
            "schema_version contains version 2147483647",
        ),
        (
            set("/inventory/schema/compat_version", 0.into()),
            "schema_compat_version contains version 0",
        ),
    ] {
        let error = read.unwrap_err();
        assert_eq!(exit_of(&error), Exit::Data);
        assert!(error.to_string().contains(wanted), "{error}");
    }
}

#[test]
fn a_manifest_that_is_no_file_is_not_read() {
    let dump = dump(b"");
    fs::remove_file(dump.path().join(MANIFEST)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dump.path().join(MANIFEST)).unwrap();
    let error = Manifest::read(dump.path()).unwrap_err();
    assert!(
        error.to_string().ends_with("manifest.json is a device, not a file"),
        "{error}"
    );
}

/// Text like the output of `pg_restore -l`, with lines that it would never print.
fn listing() -> impl Strategy<Value = String> {
    let kind = select(vec![
        "TABLE",
        "TABLE DATA",
        "TABLE ATTACH",
        "FK CONSTRAINT",
        "COMMENT",
        "EXTENSION",
        "EVENT TRIGGER",
        "SCHEMA",
        "BLOB",
        "ACL",
        "DEFAULT ACL",
        "NOVELTY",
        "",
        "table",
        "TABLE  DATA",
    ]);
    let name = prop_oneof![
        4 => select(vec!["- public", "public users", "public schema_version", "- EXTENSION x", "- SCHEMA public", "-"])
            .prop_map(str::to_owned),
        1 => ".{0,20}",
    ];
    let entry = (any::<u32>(), kind, name, "[a-z ]{0,9}")
        .prop_map(|(number, kind, name, owner)| format!("{number}; 1259 {number} {kind} {name} {owner}"));
    let line = prop_oneof![6 => entry, 1 => ".{0,30}", 1 => "[0-9; ]{0,12}"];
    vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_changed_manifest_makes_it_panic(
        changes in vec((any::<Index>(), any::<u8>()), 1..6), cut in any::<Index>(), seal in any::<bool>(),
    ) {
        let mut text = if seal { sealed() } else { manifest().to_string().into_bytes() };
        for (place, byte) in changes {
            let place = place.index(text.len());
            text[place] = byte;
        }
        let dump = dump(&text);
        read(dump.path());
        fs::write(dump.path().join(MANIFEST), &text[..cut.index(text.len())]).unwrap();
        read(dump.path());
    }

    #[test]
    fn no_contents_make_it_panic_and_none_is_lost(listing in listing()) {
        let toc = Toc::parse(&listing);
        let (loaded, dropped) = toc.divide();
        prop_assert!(loaded.len() + dropped.len() <= toc.entries.len());
        for entry in &toc.entries {
            // Each line goes back to pg_restore exactly as it was printed.
            prop_assert!(listing.lines().any(|line| line == entry.line));
            let _ = (entry.number(), entry.is_data_of("public", "users"));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
        read(dump(&bytes).path());
        let _ = Toc::parse(&String::from_utf8_lossy(&bytes)).divide();
    }
}
