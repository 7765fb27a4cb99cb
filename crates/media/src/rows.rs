//! Compares the store with the database: files that are missing, unknown or different.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ess_files::hex;
use ess_postgres::{Error, Session, UPLOADS_PAGE, not_uploads, upload_digests, uploads};
use ess_run::text::count;
use ess_synapse::media::{MediaKind, id_at, path_of, preview_path_of};

use crate::frame::Sha256;
use crate::tally::Tally;

/// Files that are still to be compared with the database, in batches.
pub(crate) struct Rows<'a> {
    session: Option<&'a Session>,
    ids: Vec<String>,
    digests: Vec<(String, Sha256)>,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(session: Option<&'a Session>) -> Self {
        Self {
            session,
            ids: Vec::new(),
            digests: Vec::new(),
        }
    }

    /// Adds a file of the store.
    pub(crate) fn present(&mut self, path: &str, tally: &mut Tally<'_>) -> Result<(), Error> {
        if self.session.is_some()
            && let Some(id) = id_of(path)
        {
            self.ids.push(id);
            if self.ids.len() >= UPLOADS_PAGE {
                self.query(tally)?;
            }
        }
        Ok(())
    }

    /// Adds the digest of a file that was read.
    pub(crate) fn read(&mut self, path: &str, sha256: Sha256, tally: &mut Tally<'_>) -> Result<(), Error> {
        if self.session.is_some()
            && let Some(id) = id_of(path)
        {
            self.digests.push((id, sha256));
            if self.digests.len() >= UPLOADS_PAGE {
                self.compare(tally)?;
            }
        }
        Ok(())
    }

    /// Compares the rest.
    pub(crate) fn finish(&mut self, tally: &mut Tally<'_>) -> Result<(), Error> {
        self.query(tally)?;
        self.compare(tally)
    }

    fn query(&mut self, tally: &mut Tally<'_>) -> Result<(), Error> {
        let ids = std::mem::take(&mut self.ids);
        if let Some(session) = self.session.filter(|_| !ids.is_empty()) {
            for id in not_uploads(session, &ids)? {
                tally.unknown(id);
            }
        }
        Ok(())
    }

    fn compare(&mut self, tally: &mut Tally<'_>) -> Result<(), Error> {
        let digests = std::mem::take(&mut self.digests);
        let Some(session) = self.session.filter(|_| !digests.is_empty()) else {
            return Ok(());
        };
        let ids: Vec<String> = digests.iter().map(|(id, _)| id.clone()).collect();
        let known: std::collections::HashMap<String, String> = upload_digests(session, &ids)?.into_iter().collect();
        for (id, sha256) in digests {
            let is = hex(&sha256);
            if let Some(noted) = known.get(&id).filter(|noted| !noted.eq_ignore_ascii_case(&is)) {
                tally.wrong(&id, &format!("its SHA-256 is {is}, the database has {noted}"));
            }
        }
        Ok(())
    }
}

/// What the database expects, row by row.
pub(crate) struct Expected<'a> {
    pub(crate) session: &'a Session,
    pub(crate) store: &'a Path,
    /// URL previews are copied, and so compared too.
    pub(crate) with_previews: bool,
    /// A storage provider may have files that the store does not have.
    pub(crate) providers: bool,
}

impl Expected<'_> {
    /// Checks that each row has its file. Returns how many files may be in a storage provider instead.
    pub(crate) fn check(&self, tally: &mut Tally<'_>) -> anyhow::Result<u64> {
        let (mut last, mut rows, mut elsewhere) = (String::new(), 0, 0);
        loop {
            let page = uploads(self.session, &last, self.with_previews)?;
            let is_last = page.len() < UPLOADS_PAGE;
            for upload in page {
                ess_run::stop_if_interrupted()?;
                rows += 1;
                let (kind, path) = if upload.is_preview {
                    (MediaKind::UrlPreview, preview_path_of(&upload.media_id))
                } else {
                    (MediaKind::Local, path_of(&upload.media_id))
                };
                let place = path.map(|path| self.store.join(kind.name()).join(path));
                let size = match place.map(fs::symlink_metadata) {
                    Some(Ok(metadata)) => Some(metadata.len()),
                    // A file that cannot be accessed is not missing; the walk has reported it.
                    Some(Err(error)) if error.kind() != ErrorKind::NotFound => {
                        last = upload.media_id;
                        continue;
                    }
                    _ => None,
                };
                match size {
                    // Synapse generates it again.
                    None if upload.is_preview => {}
                    None if self.providers => elsewhere += 1,
                    None => tally.missing(format!("{} ({})", upload.media_id, count(upload.length, "byte"))),
                    Some(size) if u64::try_from(upload.length) != Ok(size) => tally.wrong(
                        &upload.media_id,
                        &format!("it has {}, the database has {}", count(size, "byte"), upload.length),
                    ),
                    Some(_) => {}
                }
                last = upload.media_id;
            }
            if is_last {
                tally.rows = Some(rows);
                return Ok(elsewhere);
            }
        }
    }
}

/// The media id of an upload, from its path relative to the store.
fn id_of(path: &str) -> Option<String> {
    let below = path.strip_prefix(MediaKind::Local.name())?.strip_prefix('/')?;
    id_at(Path::new(below))
}
