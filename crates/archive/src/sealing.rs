//! Hashes (SHA-256) and syncs the files of a dump while `pg_dump` still writes them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::Context;
use ess_files::{hex, sync_directory};
use sha2::{Digest, Sha256};

use crate::manifest::{FileRecord, files_below, stamp};

/// The files of a dump, each hashed up to some offset.
pub(crate) struct Sealing<'a> {
    dump: &'a Path,
    data: &'a Path,
    files: BTreeMap<String, Sealed>,
}

#[derive(Default)]
struct Sealed {
    hasher: Sha256,
    bytes: u64,
}

impl<'a> Sealing<'a> {
    /// Starts with nothing hashed; `dump/data` need not exist yet.
    pub(crate) fn new(dump: &'a Path, data: &'a Path) -> Self {
        Self {
            dump,
            data,
            files: BTreeMap::new(),
        }
    }

    /// Hashes and syncs what was appended to the files since the last call.
    ///
    /// Only for a writer that never seeks back in a file.
    pub(crate) fn follow(&mut self) -> anyhow::Result<()> {
        if !self.dump.join(self.data).exists() {
            return Ok(());
        }
        for name in files_below(self.dump, self.data)? {
            let path = self.dump.join(&name);
            let failed = || format!("cannot read {}", path.display());
            let sealed = self.files.entry(name).or_default();
            if path.metadata().with_context(failed)?.len() == sealed.bytes {
                continue;
            }
            let mut file = File::open(&path).with_context(failed)?;
            file.seek(SeekFrom::Start(sealed.bytes)).with_context(failed)?;
            sealed.read(&mut file).with_context(failed)?;
            file.sync_data()
                .with_context(|| format!("cannot sync {}", path.display()))?;
        }
        Ok(())
    }

    /// Hashes and syncs the rest of every file, and the directory. To be called once no process writes to them.
    pub(crate) fn finish(mut self) -> anyhow::Result<BTreeMap<String, FileRecord>> {
        self.follow()?;
        let data = self.dump.join(self.data);
        if data.is_dir() {
            sync_directory(&data)?;
        }
        let mut records = BTreeMap::new();
        for (name, Sealed { hasher, bytes }) in self.files {
            let path = self.dump.join(&name);
            let metadata = path
                .metadata()
                .with_context(|| format!("cannot read {}", path.display()))?;
            let sha256 = hex(&hasher.finalize());
            let stamp = Some(stamp(&metadata));
            records.insert(name, FileRecord { bytes, sha256, stamp });
        }
        Ok(records)
    }
}

impl Sealed {
    fn read(&mut self, file: &mut File) -> std::io::Result<()> {
        let mut chunk = vec![0; 256 << 10];
        loop {
            ess_run::stop_if_interrupted().map_err(std::io::Error::other)?;
            let n = file.read(&mut chunk)?;
            if n == 0 {
                return Ok(());
            }
            self.hasher.update(&chunk[..n]);
            self.bytes += n as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_that_grew_between_two_looks_is_hashed_whole() {
        let dump = tempfile::tempdir().unwrap();
        let mut sealing = Sealing::new(dump.path(), Path::new("data"));
        sealing.follow().unwrap(); // no file exists yet
        fs::create_dir(dump.path().join("data")).unwrap();
        fs::write(dump.path().join("data/empty"), "").unwrap();
        let mut file = File::create(dump.path().join("data/1.dat")).unwrap();
        for part in ["one", "two", "three"] {
            file.write_all(part.as_bytes()).unwrap();
            sealing.follow().unwrap();
        }
        file.write_all(b"four").unwrap();
        let files = sealing.finish().unwrap();
        let of = |name: &str| (files[name].bytes, files[name].sha256.clone());
        assert_eq!(of("data/1.dat"), (15, hex(&Sha256::digest("onetwothreefour"))));
        assert_eq!(of("data/empty"), (0, hex(&Sha256::digest(""))));
        assert_eq!(files.len(), 2);
    }
}
