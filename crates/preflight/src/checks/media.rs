//! The media store: what lies there, what the database misses, what it does not know.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use ess_document::Finding;
use ess_postgres::{Error, Session, UPLOADS_PAGE, has_media_repo, not_uploads, uploads};
use ess_run::interrupted;
use ess_run::text::{count, size};
use ess_synapse::Config;
use ess_synapse::media::{Kind, Media, Usage, id_at, is_media_repo, path_of};
use serde_json::{Map, json};

use super::not_checked;
use crate::finding::{Blocker, Detail, blocker, info, number, some_of, warning};

/// Names that are shown of a long list.
const SAMPLE: usize = 20;

/// What the check goes by.
pub(crate) struct Place<'a> {
    /// Synapse's configuration.
    pub(crate) config: &'a Config,
    /// The source, when a homeserver is in it.
    pub(crate) session: Option<&'a Session>,
    /// Whether the database says that there are uploads, when it could be asked.
    pub(crate) uploads: Option<bool>,
    /// How long to look; none for the whole store.
    pub(crate) budget: Option<Duration>,
}

/// The media store, by kind, beside the database.
pub(crate) fn check(place: &Place<'_>) -> Vec<Finding> {
    let config = place.config;
    let store = match config.media_store_path() {
        Ok(store) => store,
        Err(error) => return vec![blocker(Blocker::Configuration, error.to_string())],
    };
    let providers = config
        .get("media_storage_providers")
        .and_then(|value| value.as_list())
        .is_some_and(|all| !all.is_empty());
    if let Some(why) = matrix_media_repo(place, &store) {
        return vec![
            blocker(
                Blocker::MatrixMediaRepo,
                format!("media are in a Matrix Media Repo, which these tools do not move: {why}"),
            )
            .hint("bring media back into Synapse first, or keep that media repo and accept this"),
        ];
    }
    let mut found = Vec::new();
    if providers {
        found.push(
            info(
                "media-elsewhere",
                "media are in a storage provider too, which preflight does not look into",
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
            found.push(not_ours(format!(
                "the media store {} cannot be read: {error}",
                store.display()
            )));
            return found;
        }
    };
    unknown.ask();
    if media.unreadable > 0 {
        let message = format!(
            "{} files or directories of the media store {} cannot be read",
            media.unreadable,
            store.display()
        );
        found.push(not_ours(message).with("unreadable", media.unreadable));
    }
    found.push(holds(&media, &store));
    found.extend(rows.as_ref().and_then(|rows| missing(rows, &store, providers)));
    found.extend(unknown.finding());
    found.extend(partly(&media, rows.as_ref()));
    found
}

/// Why the store is another program's.
fn matrix_media_repo(place: &Place<'_>, store: &Path) -> Option<&'static str> {
    let is = |option: &str| place.config.get(option);
    if place
        .session
        .is_some_and(|session| has_media_repo(session).is_ok_and(|has| has))
    {
        return Some("its tables are in the source");
    }
    if is_media_repo(store) {
        return Some("its media-repo.yaml lies at the media store");
    }
    // Synapse's own media worker needs this option too, but then there are uploads.
    let disabled = is("enable_media_repo").is_some_and(|value| !value.is_true());
    (disabled && place.uploads == Some(false) && is("media_instance_running_background_jobs").is_none())
        .then_some("enable_media_repo is off, no worker takes its place, and Synapse never stored an upload")
}

fn absent(store: &Path, uploads: Option<bool>, providers: bool) -> Finding {
    let missing = format!("there is no media store at {}", store.display());
    match uploads {
        Some(false) => info("media", missing),
        _ if providers => warning("media", missing).hint("see whether the storage provider has all media"),
        _ => blocker(Blocker::MediaMissing, missing).hint(
            "say where Synapse's paths are: --working-directory DIR, or --path-map /data=/srv/synapse of a container",
        ),
    }
}

fn not_ours(message: String) -> Finding {
    blocker(Blocker::MediaUnreadable, message).hint("run preflight as root, or as the user that Synapse runs as")
}

fn holds(media: &Media, store: &Path) -> Finding {
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
        "there was no time to look at the media store".to_owned()
    } else {
        format!(
            "the media store holds {about}{files}, {}, of which {} can be fetched from nowhere else",
            size(total.bytes),
            size(own.bytes)
        )
    };
    info("media", message)
    .hint("ESS's volume needs room for it (synapse.media.storage.size), its host twice that when copied by way of its disk")
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
    looked_at: usize,
    missing: usize,
    bytes: i64,
    sample: Vec<String>,
    complete: bool,
}

fn rows_without_file(session: &Session, store: &Path, budget: Option<Duration>) -> Result<Rows, Error> {
    let (mut rows, mut last, started) = (Rows::default(), String::new(), Instant::now());
    let content = store.join(Kind::Local.name());
    loop {
        let page = uploads(session, &last, false)?;
        let is_last = page.len() < UPLOADS_PAGE;
        for upload in page {
            last = upload.media_id;
            rows.looked_at += 1;
            // What we may not see is no loss: the walk tells of it.
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
    let of = format!("{} of {} uploads looked at", rows.missing, rows.looked_at);
    let found = if providers {
        let message = format!("{of} are not in the media store, but may be in the storage provider");
        info("media-elsewhere", message)
    } else if rows.missing == rows.looked_at {
        let message = format!("none of the uploads has its file below {}", store.display());
        blocker(Blocker::MediaMissing, message).hint(
            "say where Synapse's paths are: --working-directory DIR, or --path-map /data=/srv/synapse of a container",
        )
    } else {
        warning(
            "media-files-missing",
            format!("{of} have no file, so that nobody can see them any more: {some}"),
        )
        .hint("find them in a backup, or let them go")
    };
    Some(
        found
            .with("missing", rows.missing)
            .with("looked_at", rows.looked_at)
            .with("bytes", number(rows.bytes))
            .with("sample", rows.sample.as_slice())
            .with("complete", rows.complete),
    )
}

/// Files that no row knows, asked for batch by batch while the walk goes on.
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

    fn visit(&mut self, kind: Kind, path: &Path) -> ControlFlow<()> {
        if interrupted().is_some() {
            return ControlFlow::Break(());
        }
        if kind == Kind::Local && self.session.is_some() && self.failed.is_none() {
            match id_at(path) {
                Some(id) => self.batch.push(id),
                None => self.note(path.display().to_string()),
            }
            if self.batch.len() >= UPLOADS_PAGE {
                self.ask();
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

    fn ask(&mut self) {
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
            return Some(not_checked("files that no row knows", &error));
        }
        (self.files > 0).then(|| {
            let files = count(self.files, "file");
            info(
                "media-files-unknown",
                format!(
                    "the database does not know {files} of local_content: {}",
                    some_of(&self.sample)
                ),
            )
            .with("files", self.files)
            .with("sample", self.sample)
        })
    }
}

/// What was not reached is no pass.
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
                .map(|rows| format!("{} uploads of the database", rows.looked_at)),
        )
        .collect();
    Some(
        warning(
            "media-partly-checked",
            format!(
                "the media store is estimated, not counted: the time was enough for {}",
                of.join(", ")
            ),
        )
        .hint("run once with --budget none"),
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
            "the media store holds 1 file, 5 bytes, of which 5 bytes can be fetched from nowhere else"
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
        let rows = |missing, looked_at| Rows {
            looked_at,
            missing,
            ..Rows::default()
        };
        let id = |missing_: usize, looked_at, providers| {
            missing(&rows(missing_, looked_at), Path::new("/x"), providers).map(|found| found.id)
        };
        assert_eq!(id(0, 5, false), None);
        assert_eq!(id(1, 5, false).as_deref(), Some("media-files-missing"));
        assert_eq!(id(5, 5, false).as_deref(), Some("media-missing"));
        assert_eq!(id(5, 5, true).as_deref(), Some("media-elsewhere"));
    }
}
