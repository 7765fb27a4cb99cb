//! Room on the file systems that a rehearsal fills, which other servers of this host may need too, Synapse's among them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use ess_files::free_space;
use ess_run::Background;
use ess_run::text::size;
use ess_stop::{Exit, Stop};

/// What stays free for others, in bytes.
const RESERVE: u64 = 1 << 30;

/// The write-ahead log of a server with default settings (`max_wal_size`), in bytes.
const WAL: u64 = 1 << 30;

/// How often the room is checked. In this time, a fast disk does not fill the reserve.
const EVERY: Duration = Duration::from_millis(200);

const HINT: &str = "name a larger file system with --export or --scratch, or an empty database elsewhere with --on";

/// Refuses file systems that are too small for the dump of a source of this size and, if it is to be here, a server.
/// `dump` and `server` are their directories.
pub(crate) fn require(source: u64, dump: &Path, server: Option<&Path>) -> anyhow::Result<()> {
    // Half of a database is indexes, which a dump does not contain.
    let for_dump = source / 2;
    // While an index is built, its sort files exist too.
    let for_server = source.saturating_mul(2).saturating_add(WAL);
    let Some(server) = server else {
        return require_free(dump, for_dump);
    };
    if device(server)? == device(dump)? {
        return require_free(dump, for_dump.saturating_add(for_server));
    }
    require_free(dump, for_dump)?;
    require_free(server, for_server)
}

fn require_free(place: &Path, bytes: u64) -> anyhow::Result<()> {
    let needed = bytes.saturating_add(RESERVE);
    let free = free_space(place).with_context(|| cannot_examine(place))?;
    if free >= needed {
        return Ok(());
    }
    Err(Stop::no(format!(
        "a rehearsal needs about {} of free space in {}, which has {}",
        size(needed),
        place.display(),
        size(free)
    ))
    .hint(HINT)
    .into())
}

fn device(place: &Path) -> anyhow::Result<u64> {
    let found = fs::metadata(place).with_context(|| cannot_examine(place))?;
    Ok(found.dev())
}

fn cannot_examine(place: &Path) -> String {
    format!("cannot examine {}", place.display())
}

/// Ends a server before it fills the file system, until this value is dropped.
pub(crate) struct Watch {
    place: PathBuf,
    is_short: Arc<AtomicBool>,
    over: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start(place: &Path, server: Arc<Background>) -> io::Result<Self> {
        let (over, ended) = channel::<()>();
        let is_short = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&is_short);
        let place = place.to_owned();
        let watched = place.clone();
        let watch = move || {
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if free_space(&watched).is_ok_and(|free| free < RESERVE) {
                    found.store(true, Ordering::Relaxed);
                    server.end();
                    break;
                }
            }
        };
        Ok(Self {
            place,
            is_short,
            over: Some(over),
            thread: Some(thread::Builder::new().spawn(watch)?),
        })
    }

    /// An error if the server was ended because too little room was left.
    pub(crate) fn require_room(&self) -> Result<(), Stop> {
        if !self.is_short.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Stop::new(
            Exit::Io,
            format!(
                "the throwaway server was ended when less than {} was free in {}",
                size(RESERVE),
                self.place.display()
            ),
        )
        .hint(HINT))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
