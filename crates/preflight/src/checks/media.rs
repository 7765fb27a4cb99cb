//! The media store: what it contains, uploads in the database without a file, and files without a row.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use ess_document::Finding;
use ess_postgres::{Error, Session, UPLOADS_PAGE, has_media_repo, not_uploads, uploads};
use ess_run::interrupted;
use ess_run::text::{count, counted, size};
use ess_synapse::Config;
use ess_synapse::media::{Media, MediaKind, Usage, id_at, is_media_repo, path_of};
use serde_json::{Map, json};

use super::not_checked;
use crate::finding::{Detail, blocker, info, number, some_of, warning};
use crate::ids::{
    CONFIGURATION, MATRIX_MEDIA_REPO, MEDIA, MEDIA_ELSEWHERE, MEDIA_FILES_MISSING, MEDIA_FILES_UNKNOWN, MEDIA_MISSING,
    MEDIA_PARTLY_CHECKED, MEDIA_UNREADABLE,
};

/// Maximum number of names in `data.sample`.
const SAMPLE: usize = 20;

/// What the check needs.
pub(crate) struct Place<'a> {
    /// Synapse's configuration.
    pub(crate) config: &'a Config,
    /// The source, if it contains a homeserver.
    pub(crate) session: Option<&'a Session>,
    /// Whether there are uploads in the database, if that could be queried.
    pub(crate) uploads: Option<bool>,
    /// Time limit; `None` to examine the complete store.
    pub(crate) budget: Option<Duration>,
}

/// Measures the media store by kind, and compares it with the database.
pub(crate) fn check(place: &Place<'_>) -> Vec<Finding> {
    let config = place.config;
    let store = match config.media_store_path() {
        Ok(store) => store,
        Err(error) => return vec![blocker(&CONFIGURATION, error.to_string())],
    };
    let providers = config
        .get("media_storage_providers")
        .and_then(|value| value.as_list())
        .is_some_and(|all| !all.is_empty());
    if let Some(why) = matrix_media_repo(place, &store) {
        return vec![
            blocker(
                &MATRIX_MEDIA_REPO,
                format!("media are in a Matrix Media Repo, which these tools do not migrate: {why}"),
            )
            .hint("move the media back into Synapse first, or keep that media repo and accept this blocker"),
        ];
    }
    let mut found = Vec::new();
    if providers {
        found.push(
            info(
                &MEDIA_ELSEWHERE,
                "media are in a storage provider too, which preflight does not check",
            )
            .hint("the target's Synapse needs the same media_storage_providers"),
        );
    }
    let started = Instant::now();
    let rows = match (place.session, place.uploads, store.is_dir()) {
        (Some(session), Some(true), true) => {
            match rows_without_file(session, &store, place.budget.map(|all| all / 4)) {
                Ok(rows) => Some(rows),
                Err(error) => {
                    found.push(not_checked("uploads without a file", &error));
                    None
                }
            }
        }
        _ => None,
    };
    let mut unknown = Unknown::new(place.session.filter(|_| place.uploads.is_some()));
    let left = place.budget.map(|budget| budget.saturating_sub(started.elapsed()));
    let media = match Media::measure(&store, left, |kind, path| unknown.visit(kind, path)) {
        Ok(media) => media,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            found.push(absent(&store, place.uploads, providers));
            return found;
        }
        Err(error) => {
            found.push(unreadable(format!(
                "the media store {} cannot be read: {error}",
                store.display()
            )));
            return found;
        }
    };
    unknown.check_batch();
    if media.unreadable > 0 {
        let message = format!(
            "{} of the media store {} cannot be read",
            counted(media.unreadable, "file or directory", "files or directories"),
            store.display()
        );
        found.push(unreadable(message).with("unreadable", media.unreadable));
    }
    found.push(contents(&media, &store));
    found.extend(rows.as_ref().and_then(|rows| missing(rows, &store, providers)));
    found.extend(unknown.finding());
    found.extend(partly(&media, rows.as_ref()));
    found
}

/// The reason to conclude that Matrix Media Repo stores the media, if there is one.
fn matrix_media_repo(place: &Place<'_>, store: &Path) -> Option<&'static str> {
    let is = |option: &str| place.config.get(option);
    if place
        .session
        .is_some_and(|session| has_media_repo(session).is_ok_and(|has| has))
    {
        return Some("its tables are in the source");
    }
    if is_media_repo(store) {
        return Some("its media-repo.yaml is at the media store");
    }
    // A Synapse with a media worker has this option too, but then there are uploads.
    let disabled = is("enable_media_repo").is_some_and(|value| !value.is_true());
    (disabled && place.uploads == Some(false) && is("media_instance_running_background_jobs").is_none())
        .then_some("enable_media_repo is off, no worker takes over, and Synapse never stored an upload")
}

fn absent(store: &Path, uploads: Option<bool>, providers: bool) -> Finding {
    let missing = format!("there is no media store at {}", store.display());
    match uploads {
        Some(false) => info(&MEDIA, missing),
        _ if providers => warning(&MEDIA, missing).hint("check that the storage provider has all media"),
        _ => blocker(&MEDIA_MISSING, missing).hint(
            "name the location of Synapse's paths: --working-directory DIR, or --path-map /data=/srv/synapse for a \
             container",
        ),
    }
}

fn unreadable(message: String) -> Finding {
    blocker(&MEDIA_UNREADABLE, message).hint("run preflight as root, or as the user that Synapse runs as")
}

fn contents(media: &Media, store: &Path) -> Finding {
    let shown = |usage: Usage| json!({"files": usage.files, "bytes": usage.bytes});
    let kinds: Map<_, _> = media
        .kinds()
        .map(|(kind, measured)| {
            let mut data = shown(measured.estimate());
            if !measured.is_complete() {
                data["looked_at"] = json!(format!("{} of {}", measured.done, measured.parts));
            }
            (kind.name().to_owned(), data)
        })
        .collect();
    let (total, own) = (media.total(), media.irreplaceable());
    let about = if media.is_complete() { "" } else { "about " };
    let files = count(usize::try_from(total.files).unwrap_or(usize::MAX), "file");
    let message = if total.files == 0 && !media.is_complete() {
        "--budget left no time to examine the media store".to_owned()
    } else {
        format!(
            "the media store contains {about}{files} ({}), of which {} cannot be fetched again",
            size(total.bytes),
            size(own.bytes)
        )
    };
    info(&MEDIA, message)
        .hint(
            "ESS's volume needs room for it (synapse.media.storage.size), and ESS's host twice as much if media are \
         copied by way of its disk",
        )
        .with("path", store.display().to_string())
        .with("kinds", kinds)
        .with("irreplaceable", shown(own))
        .with(
            "again_fetchable",
            json!({"files": total.files - own.files, "bytes": total.bytes - own.bytes}),
        )
        .with("complete", media.is_complete())
}

/// Uploads in the database, and whether they have a file.
#[derive(Default)]
struct Rows {
    examined: usize,
    missing: usize,
    bytes: i64,
    sample: Vec<String>,
    complete: bool,
}

fn rows_without_file(session: &Session, store: &Path, budget: Option<Duration>) -> Result<Rows, Error> {
    let (mut rows, mut last, started) = (Rows::default(), String::new(), Instant::now());
    let content = store.join(MediaKind::Local.name());
    loop {
        let page = uploads(session, &last, false)?;
        let is_last = page.len() < UPLOADS_PAGE;
        for upload in page {
            last = upload.media_id;
            rows.examined += 1;
            // A file that cannot be accessed is not lost; `Media::measure` reports it as unreadable.
            let is_gone =
                |path| fs::symlink_metadata(content.join(path)).is_err_and(|error| error.kind() == ErrorKind::NotFound);
            if path_of(&last).is_none_or(is_gone) {
                rows.missing += 1;
                rows.bytes = rows.bytes.saturating_add(upload.length);
                if rows.sample.len() < SAMPLE {
                    rows.sample.push(last.clone());
                }
            }
        }
        if is_last {
            rows.complete = true;
            return Ok(rows);
        }
        if interrupted().is_some() || budget.is_some_and(|budget| started.elapsed() >= budget) {
            return Ok(rows);
        }
    }
}

fn missing(rows: &Rows, store: &Path, providers: bool) -> Option<Finding> {
    if rows.missing == 0 {
        return None;
    }
    let some = some_of(&rows.sample);
    let of = format!("{} of {}", rows.missing, count(rows.examined, "checked upload"));
    let found = if providers {
        let message = format!("the files of {of} are not in the media store, but may be in the storage provider");
        info(&MEDIA_ELSEWHERE, message)
    } else if rows.missing == rows.examined {
        let message = format!("the files of all checked uploads are missing from {}", store.display());
        blocker(&MEDIA_MISSING, message).hint(
            "name the location of Synapse's paths: --working-directory DIR, or --path-map /data=/srv/synapse for a \
             container",
        )
    } else {
        warning(
            &MEDIA_FILES_MISSING,
            format!("the files of {of} are missing, so users can no longer view them: {some}"),
        )
        .hint("find them in a backup, or do without them")
    };
    Some(
        found
            .with("missing", rows.missing)
            .with("looked_at", rows.examined)
            .with("bytes", number(rows.bytes))
            .with("sample", rows.sample.as_slice())
            .with("complete", rows.complete),
    )
}

/// Files without a row in the database, queried in batches while the store is being walked.
struct Unknown<'a> {
    session: Option<&'a Session>,
    batch: Vec<String>,
    files: usize,
    sample: Vec<String>,
    failed: Option<Error>,
}

impl<'a> Unknown<'a> {
    fn new(session: Option<&'a Session>) -> Self {
        Self {
            session,
            batch: Vec::new(),
            files: 0,
            sample: Vec::new(),
            failed: None,
        }
    }

    fn visit(&mut self, kind: MediaKind, path: &Path) -> ControlFlow<()> {
        if interrupted().is_some() {
            return ControlFlow::Break(());
        }
        if kind == MediaKind::Local && self.session.is_some() && self.failed.is_none() {
            match id_at(path) {
                Some(id) => self.batch.push(id),
                None => self.note(path.display().to_string()),
            }
            if self.batch.len() >= UPLOADS_PAGE {
                self.check_batch();
            }
        }
        ControlFlow::Continue(())
    }

    fn note(&mut self, name: String) {
        self.files += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(name);
        }
    }

    fn check_batch(&mut self) {
        let ids = std::mem::take(&mut self.batch);
        let Some(session) = self.session.filter(|_| !ids.is_empty()) else {
            return;
        };
        match not_uploads(session, &ids) {
            Ok(unknown) => unknown.into_iter().for_each(|id| self.note(id)),
            Err(error) => self.failed = Some(error),
        }
    }

    fn finding(self) -> Option<Finding> {
        if let Some(error) = self.failed {
            return Some(not_checked("media files without a row", &error));
        }
        (self.files > 0).then(|| {
            let files = counted(self.files, "file in local_content has", "files in local_content have");
            info(
                &MEDIA_FILES_UNKNOWN,
                format!("{files} no row in the database: {}", some_of(&self.sample)),
            )
            .with("files", self.files)
            .with("sample", self.sample)
        })
    }
}

/// A warning if the time limit was reached, since what was not checked may be missing.
fn partly(media: &Media, rows: Option<&Rows>) -> Option<Finding> {
    let rows_left = rows.is_some_and(|rows| !rows.complete);
    if media.is_complete() && !rows_left {
        return None;
    }
    let of: Vec<String> = media
        .kinds()
        .filter(|(_, measured)| !measured.is_complete())
        .map(|(kind, measured)| format!("{} of {} directories of {}", measured.done, measured.parts, kind.name()))
        .chain(
            rows.filter(|_| rows_left)
                .map(|rows| format!("{} in the database", count(rows.examined, "upload"))),
        )
        .collect();
    Some(
        warning(
            &MEDIA_PARTLY_CHECKED,
            format!(
                "the figures of the media store are estimates: within --budget, preflight checked only {}",
                of.join(", ")
            ),
        )
        .hint("run preflight once with --budget none"),
    )
}

#[cfg(test)]
mod tests {
    use ess_synapse::Options;

    use super::*;

    fn of(dir: &Path, more: &str, uploads: Option<bool>, budget: Option<Duration>) -> Vec<Finding> {
        let file = dir.join("homeserver.yaml");
        fs::write(&file, format!("server_name: example.org\n{more}")).expect("it is writable");
        let options = Options {
            configs: vec![file],
            working_directory: Some(dir.to_owned()),
            ..Options::default()
        };
        let config = Config::load(&options).expect("it is a configuration");
        let place = Place {
            config: &config,
            session: None,
            uploads,
            budget,
        };
        check(&place)
    }

    fn shown(found: &[Finding]) -> Vec<String> {
        found.iter().map(|f| format!("{:?} {}", f.severity, f.id)).collect()
    }

    #[test]
    fn a_media_store_is_missed_when_there_were_uploads() {
        let dir = tempfile::tempdir().expect("there is room");
        let ids = |more: &str, uploads| shown(&of(dir.path(), more, uploads, None));
        assert_eq!(ids("", Some(true)), ["Blocker media-missing"]);
        assert_eq!(ids("", None), ["Blocker media-missing"]);
        assert_eq!(ids("", Some(false)), ["Info media"]);
        assert_eq!(
            ids("media_storage_providers: [{module: s3}]\n", Some(true)),
            ["Info media-elsewhere", "Warning media"]
        );
        fs::create_dir_all(dir.path().join("media_store/local_content/aa")).expect("it is writable");
        fs::write(dir.path().join("media_store/local_content/aa/x"), "12345").expect("it is writable");
        let found = of(dir.path(), "", Some(true), None);
        assert_eq!(
            found[0].message,
            "the media store contains 1 file (5 bytes), of which 5 bytes cannot be fetched again"
        );
        assert_eq!(found[0].data["kinds"]["local_content"], json!({"files": 1, "bytes": 5}));
        assert_eq!(
            shown(&of(dir.path(), "", Some(true), Some(Duration::ZERO))),
            ["Info media", "Warning media-partly-checked"]
        );
    }

    #[test]
    fn another_programs_store_is_refused() {
        let dir = tempfile::tempdir().expect("there is room");
        let ids = |more: &str, uploads| shown(&of(dir.path(), more, uploads, None));
        assert_eq!(
            ids("enable_media_repo: false\n", Some(false)),
            ["Blocker matrix-media-repo"]
        );
        assert_eq!(ids("enable_media_repo: false\n", Some(true)), ["Blocker media-missing"]);
        let worker = "enable_media_repo: false\nmedia_instance_running_background_jobs: media1\n";
        assert_eq!(ids(worker, Some(false)), ["Info media"]);
        fs::create_dir(dir.path().join("media_store")).expect("it is writable");
        fs::write(dir.path().join("media_store/media-repo.yaml"), "").expect("it is writable");
        assert_eq!(ids("", Some(true)), ["Blocker matrix-media-repo"]);
    }

    #[test]
    fn uploads_without_a_file_are_a_loss_only_without_a_provider() {
        let rows = |missing, examined| Rows {
            examined,
            missing,
            ..Rows::default()
        };
        let id = |missing_: usize, examined, providers| {
            missing(&rows(missing_, examined), Path::new("/x"), providers).map(|found| found.id)
        };
        assert_eq!(id(0, 5, false), None);
        assert_eq!(id(1, 5, false).as_deref(), Some("media-files-missing"));
        assert_eq!(id(5, 5, false).as_deref(), Some("media-missing"));
        assert_eq!(id(5, 5, true).as_deref(), Some("media-elsewhere"));
    }
}
