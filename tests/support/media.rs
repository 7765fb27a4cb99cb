//! A media store with files of every kind, its copy, and what a run of media-sync reports of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Call, Ran, SERVER_NAME, Seeded, Synapse, World};

/// Paths as Synapse creates them, at least one of each kind.
pub(crate) const PATHS: [&str; 9] = [
    "local_content/Ab/Cd/EfGhIjKl",
    "local_content/Ab/Cd/Empty",
    "local_content/Zz/Yy/Xx",
    "local_thumbnails/Ab/Cd/EfGhIjKl/96-96-image-png-crop",
    "remote_content/matrix.example:8448/Qq/Rr/Ss",
    "remote_content/[2001:db8::1]/Qq/Rr/Ss",
    "remote_thumbnail/matrix.example:8448/Qq/Rr/Ss/32-32-image-jpeg-scale",
    "url_cache/2024-01-31/abcDEF",
    "url_cache_thumbnails/2024-01-31/abcDEF/32-32-image-png-scale",
];

/// Creates a file of a different size in `store` at each of `PATHS`.
pub(crate) fn fill(world: &World) {
    for (number, path) in PATHS.iter().enumerate() {
        let size = if path.ends_with("Empty") {
            0
        } else {
            100_000 * number + 7
        };
        let content: Vec<u8> = (0..size)
            .map(|at| u8::try_from((at * 31 + number) % 251).unwrap())
            .collect();
        world.write(&format!("store/{path}"), content);
    }
}

/// The command of most tests.
pub(crate) fn sync<'a>(world: &World) -> Call<'a> {
    world
        .tool("media-sync")
        .args(["-n", "--source-dir", "store", "--out", "copy"])
}

/// Every file of a directory by path, except the ones that media-sync keeps for itself.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let all = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    all.filter(|entry| entry.file_type().is_file())
        .map(|entry| {
            let path = entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            (path, fs::read(entry.path()).unwrap())
        })
        .filter(|(path, _)| !path.starts_with(".media-sync/"))
        .collect()
}

#[track_caller]
pub(crate) fn assert_equal(world: &World) {
    let (store, copy) = (files(&world.path("store")), files(&world.path("copy")));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&store), names(&copy));
    assert!(store == copy, "a file differs");
}

/// The section `media` of the document.
#[track_caller]
pub(crate) fn media(ran: &Ran) -> Value {
    ran.json()["media"].clone()
}

/// Fails unless Synapse serves each of these files of a media store, uploads and thumbnails, with these bytes.
#[track_caller]
pub(crate) fn assert_serves(synapse: &Synapse, seeded: &Seeded, files: &BTreeMap<String, Vec<u8>>) {
    for kind in ["local_content/", "local_thumbnails/"] {
        assert!(files.keys().any(|path| path.starts_with(kind)), "nothing of {kind}");
    }
    for (path, bytes) in files {
        let parts: Vec<&str> = path.split('/').collect();
        let (what, how) = match parts[4..] {
            [] => ("download", String::new()),
            [name] => {
                let name: Vec<&str> = name.split('-').collect();
                let (width, height, method) = (name[0], name[1], name[name.len() - 1]);
                ("thumbnail", format!("?width={width}&height={height}&method={method}"))
            }
            _ => panic!("{path}"),
        };
        let address = format!(
            "/_matrix/client/v1/media/{what}/{SERVER_NAME}/{}{how}",
            parts[1..4].concat()
        );
        let (status, served) = synapse.request_bytes("GET", &address, Some(&seeded.admin().token), None);
        assert!(
            status == 200 && served == *bytes,
            "{path}: {status}, {} bytes",
            served.len()
        );
    }
}
