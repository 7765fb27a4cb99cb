//! Documents that were damaged on their way, or that nobody wrote: refused or read, never a panic.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use ess_document::Document;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

/// A document that went through the whole line.
fn complete() -> Value {
    let times =
        json!({"version": "0.1.0", "started_at": "2026-11-22T20:00:00Z", "finished_at": "2026-11-22T20:01:00Z"});
    let section = |rest: Value| {
        let mut section = times.clone();
        section
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        section
    };
    let identity = |name: &str| json!({"system_identifier": "7415612345678901234", "database": name});
    let keys = json!({"kept": true, "reason": "nobody used it"});
    let next = json!({"go_on": ["ess-wipe --execute"], "go_back": "ess-wipe --undo"});
    json!({
        "format": "ess-migration/1", "id": "0b1f2f9c-6d0e-4a53-9d5b-0f6f6f1f2c11", "export": "/srv/export",
        "source": {
            "config": {"paths": ["/etc/homeserver.yaml"], "path_map": ["/data=/srv"]}, "server_name": "example.org",
            "connection": {"host": "db", "dbname": "Synapse-Prod"}, "password": {"from": "config"},
            "identity": identity("Synapse-Prod"),
        },
        "target": {
            "connection": {"host": "127.0.0.1"}, "password": {"from": "file", "path": "/root/target.pw"},
            "role": "synapse_user", "identity": identity("synapse"),
        },
        "rehearse": section(json!({
            "on": "a throwaway server", "major": 17, "proven": false, "source_bytes": 3,
            "dump_bytes": 2, "target_bytes": 3, "dump_seconds": 1, "load_seconds": 1, "proof_seconds": 1, "tables": 174,
            "rows": 3, "catalogue_sha256": "00", "failure": {"message": "m", "remedy": "r"},
        })),
        "preflight": section(json!({
            "findings": [{"id": "version", "severity": "warning", "message": "old", "data": {"version": [1, 2.5, null]}}],
            "accepted": ["disk"], "next": next,
        })),
        "secrets": section(json!({
            "directory": "secrets", "kept": false, "signing_keys": [{"id": "ed25519:a", "public_key": "AAAA"}],
            "entries": [{"option": "macaroon_secret_key", "origin": "o", "purpose": "p", "destination": "d"}],
        })),
        "dump": section(json!({
            "path": "dump", "manifest_sha256": "00", "bytes": 9_007_199_254_740_993_u64, "tables": 174, "rows": 3,
            "kept": false, "one_time_keys": keys, "next": next,
        })),
        "wipe": section(json!({"executed": true, "objects": {"table": 174}, "fence": "standing", "backup": "b"})),
        "restore": section(json!({
            "from": "dump", "proven_against": "manifest", "tables": 174, "rows": 3, "fence": "lifted",
            "dropped": [{"entry": "EXTENSION - x", "reason": "r"}],
        })),
        "verify": section(json!({
            "equal": false, "against": "source", "tables": 174, "rows": 3, "fence": "absent", "differences": ["one\n\u{0}"],
        })),
        "annotations": {"ticket": [1, {"a": null}]},
    })
}

/// Any JSON, of names and values that mean something here.
fn any_json() -> impl Strategy<Value = Value> {
    let word = || {
        let known = select(vec![
            "format",
            "ess-migration/1",
            "source",
            "target",
            "dump",
            "connection",
            "password",
            "path",
            "version",
            "annotations",
            "identity",
            "fence",
            "lifted",
            "from",
            "file",
            "rows",
        ]);
        prop_oneof![3 => known.prop_map(str::to_owned), 1 => ".{0,12}"]
    };
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        select(vec![0.0, -1.5, 1e300]).prop_map(Value::from),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((word(), inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// What is read says the same when it is written and read again.
fn read_or_refused(bytes: &[u8]) {
    match Document::parse(bytes) {
        Ok(document) => {
            let written = serde_json::to_string(&document).unwrap();
            let again = serde_json::to_string(&Document::parse(written.as_bytes()).unwrap()).unwrap();
            assert_eq!(written, again);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn the_whole_document_is_one() {
    let text = complete().to_string();
    let document = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(document.dump.unwrap().bytes, 9_007_199_254_740_993);
}

#[test]
fn one_that_is_cut_off_anywhere_is_refused() {
    let text = complete().to_string();
    for end in 0..text.len() {
        assert!(Document::parse(&text.as_bytes()[..end]).is_err(), "cut off at {end}");
    }
}

#[test]
fn one_that_is_nested_without_end_is_refused() {
    for open in [
        "[",
        "{\"a\":",
        "{\"annotations\":{\"a\":",
        "{\"format\":\"ess-migration/1\",\"annotations\":{\"a\":[",
    ] {
        assert!(Document::parse(open.repeat(200_000).as_bytes()).is_err(), "{open}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_bytes_make_no_panic(changes in vec((any::<Index>(), any::<u8>()), 1..8), cut in any::<Index>()) {
        let mut bytes = complete().to_string().into_bytes();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read_or_refused(&bytes);
        read_or_refused(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn a_part_that_is_replaced_makes_no_panic(section in any::<Index>(), field in any::<Index>(), other in any_json()) {
        let mut document = complete();
        let sections: Vec<&mut Value> = document.as_object_mut().unwrap().values_mut().collect();
        let count = sections.len();
        let section = sections.into_iter().nth(section.index(count)).unwrap();
        match section.as_object_mut() {
            Some(fields) => {
                let count = fields.len();
                *fields.values_mut().nth(field.index(count)).unwrap() = other;
            }
            None => *section = other,
        }
        read_or_refused(document.to_string().as_bytes());
    }

    #[test]
    fn no_json_makes_it_panic(json in any_json()) {
        read_or_refused(json.to_string().as_bytes());
        let mut document = complete();
        if let Value::Object(fields) = json {
            document.as_object_mut().unwrap().extend(fields);
        }
        read_or_refused(document.to_string().as_bytes());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_or_refused(&bytes);
    }
}
