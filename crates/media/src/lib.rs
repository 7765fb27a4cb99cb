//! media-sync: copy the media store, as often as needed, and check it against the database.

mod frame;
mod link;
mod pace;
mod pod;
mod receive;
mod rows;
mod send;
mod tally;
mod tree;
mod walk;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use ess_cli::{Context, Exit, Stop};
use ess_document::{Amount, Document, Media, Next, now};
use ess_files::make_directory;
use ess_postgres::{Access, Session, has_media_repo, other_sessions};
use ess_run::text::{count, counted, size};
use ess_run::{Program, Report, joined, locked, processors};
use ess_servers::{PgVariables, SourceArgs};
use ess_synapse::media::{MediaKind, is_media_repo};
use ess_synapse::yaml::Value;

use frame::{Frame, IDLE};
use link::Link;
use pace::{Pace, rate};
use pod::Volume;
use rows::Expected;
use send::{Sending, is_early};
use tally::Tally;

/// What the receiver refuses: only the sender would act on it.
const OF_THE_SENDER: [&str; 18] = [
    "config",
    "working_directory",
    "data_directory",
    "keys_directory",
    "path_map",
    "source",
    "source_password_file",
    "source_dir",
    "kube_context",
    "helper_image",
    "without",
    "delete",
    "verify",
    "owner",
    "bwlimit",
    "jobs",
    "far",
    "export",
];

/// Commands that `--help` shows.
const EXAMPLES: &str = "\
# Copy into a directory, while Synapse runs and again when it is stopped
media-sync -n -c homeserver.yaml --out /srv/media
# Copy into the media volume of ESS
media-sync -n -c homeserver.yaml --target kube:ess
# Copy to another host
media-sync -n -c homeserver.yaml -- ssh HOST media-sync -n --receive DIR";

/// Copy the media store and check every upload
///
/// Copies the files that the copy does not have yet, and compares the store with the database: an
/// upload that is missing or differs is reported and does not stop the copy. Run it as often as you
/// like while Synapse is running; the last run, with Synapse stopped, is the migration.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// The media store, if no configuration names it
    #[arg(long, value_name = "DIR", help_heading = "Source")]
    source_dir: Option<PathBuf>,
    /// Copy into the media volume of this ESS: kube:NAMESPACE[/RELEASE] (default: the document's)
    #[arg(long, value_name = "PLACE", conflicts_with_all = ["receive", "far"], help_heading = "Target")]
    target: Option<String>,
    /// Context of the kubeconfig (default: its current context)
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    kube_context: Option<String>,
    /// Image with Python for the pod that mounts the volume while Synapse is stopped (default: Synapse's image)
    #[arg(long, value_name = "IMAGE", help_heading = "Target")]
    helper_image: Option<String>,
    /// Copy into this directory (default: EXPORT/media, unless the document names an ESS in a cluster)
    #[arg(long, value_name = "DIR", conflicts_with_all = ["receive", "far", "target"])]
    out: Option<PathBuf>,
    /// Run as the receiver and write to DIR; the sender is connected to standard input and output
    #[arg(long, value_name = "DIR", requires = "no_input", conflicts_with_all = OF_THE_SENDER)]
    receive: Option<PathBuf>,
    /// Leave out media that Synapse can fetch or generate again; repeatable
    #[arg(long, value_enum, value_name = "KIND")]
    without: Vec<Without>,
    /// Remove files from the copy that are not in the store
    #[arg(long)]
    delete: bool,
    /// After copying, read both sides completely and compare them
    #[arg(long)]
    verify: bool,
    /// Numeric user and group ID to own the copied files; requires root
    #[arg(long, value_name = "UID[:GID]", value_parser = owner)]
    owner: Option<(u32, u32)>,
    /// Limit the transfer to this many bytes per second, for example 10M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    bwlimit: Option<u64>,
    /// Disconnect after this many seconds without traffic from the other side
    #[arg(long, value_name = "SECONDS", default_value_t = IDLE, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Number of files to copy in parallel (default: the number of processors, at most 16)
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: Option<u8>,
    /// Command that runs the receiver, for example: ssh HOST media-sync -n --receive DIR
    #[arg(last = true, value_name = "COMMAND", help_heading = "Arguments")]
    far: Vec<OsString>,
}

/// What can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Without {
    /// Media of other servers, which Synapse fetches again on demand while those servers have them
    Remote,
    /// Images of URL previews
    Previews,
    /// Thumbnails of uploads, which Synapse generates again only with dynamic_thumbnails: true
    Thumbnails,
}

impl Without {
    fn covers(self, kind: MediaKind) -> bool {
        match self {
            Self::Remote => matches!(kind, MediaKind::Remote | MediaKind::RemoteThumbnail),
            Self::Previews => matches!(kind, MediaKind::UrlPreview | MediaKind::UrlPreviewThumbnail),
            Self::Thumbnails => kind == MediaKind::LocalThumbnail,
        }
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The argument of `--owner`.
fn owner(text: &str) -> Result<(u32, u32), String> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let number = |part: &str| part.parse().map_err(|_| "not a numeric UID or UID:GID".to_owned());
    Ok((number(user)?, number(group)?))
}

/// Where the copy is.
enum Copy {
    /// In a directory on this host.
    Here(PathBuf),
    /// Written by a receiver that this command runs.
    Far(Vec<OsString>),
    /// In a cluster.
    Pod(Box<Volume>),
}

/// Runs media-sync.
pub fn run(args: &Args, context: &mut Context) -> anyhow::Result<Exit> {
    if let Some(store) = &args.receive {
        serve(store, Duration::from_secs(args.timeout.into()))?;
        return Ok(Exit::Done);
    }
    let source = StoreToCopy::find(args, context)?;
    let copy = destination(args, context, &source.store)?;
    let kinds: Vec<MediaKind> = MediaKind::ALL
        .into_iter()
        .filter(|kind| *kind != MediaKind::Other && !args.without.iter().any(|without| without.covers(*kind)))
        .collect();
    if args.without.contains(&Without::Thumbnails) && !source.makes_thumbnails {
        context
            .console
            .note("thumbnails are left out, but Synapse generates them again only with dynamic_thumbnails: true");
    }
    if args.delete && !has_uploads(&source.store) {
        return Err(Stop::no(format!(
            "{} contains no uploads: --delete would remove those of the copy",
            source.store.display()
        ))
        .hint("check that it is the right directory and that its disk is mounted")
        .into());
    }
    let running = match &source.session {
        Some(session) => !other_sessions(session, &[])?.is_empty(),
        None => false,
    };
    let console = context.console.clone();
    let mut tally = Tally::new(&console);
    let pace = Pace::new(args.bwlimit);
    let sending = Sending {
        store: &source.store,
        kinds: &kinds,
        owner: args.owner,
        idle: args.timeout,
        lanes: args
            .jobs
            .unwrap_or_else(|| u8::try_from(processors().min(16)).unwrap_or(1)),
        pace: &pace,
        delete: args.delete,
        verify: args.verify,
        hash: !matches!(copy, Copy::Here(_)),
        session: source.session.as_ref(),
        report: &console,
    };
    let sent = match &copy {
        Copy::Here(directory) => send_here(&sending, directory, &mut tally),
        Copy::Far(command) => send_far(&sending, command, &console, &mut tally),
        Copy::Pod(volume) => volume.send(&sending, context, &mut tally),
    };
    let sent =
        sent.context("not all media were copied; those that were are kept, and the next run resumes from there")?;
    let mut elsewhere = 0;
    if let Some(session) = &source.session {
        console.stage("comparing with the database", None);
        let expected = Expected {
            session,
            store: &source.store,
            with_previews: kinds.contains(&MediaKind::UrlPreview),
            providers: source.providers,
        };
        elsewhere = expected.check(&mut tally)?;
        console.done();
    }
    let media = section(args, context, &source.store, &copy, &tally, sent, elsewhere, running);
    print_summary(&media, context);
    let exit = if media.complete { Exit::Done } else { Exit::No };
    context.document.media = Some(media);
    context.finish()?;
    Ok(exit)
}

/// The store to copy, and what is known about it.
struct StoreToCopy {
    store: PathBuf,
    session: Option<Session>,
    /// Media may be in a storage provider instead of the store.
    providers: bool,
    makes_thumbnails: bool,
}

impl StoreToCopy {
    fn find(args: &Args, context: &mut Context) -> anyhow::Result<Self> {
        let config = ess_servers::config(context, &args.source.configuration)?;
        let store = match (&args.source_dir, &config) {
            (Some(directory), _) => ess_files::absolute(directory)?,
            (None, Some(config)) => config.media_store_path()?,
            (None, None) => {
                return Err(Stop::usage(
                    "no media store is given: neither -c nor --source-dir, nor a document that names one",
                )
                .hint("give -c /etc/matrix-synapse/homeserver.yaml, or --source-dir DIR")
                .into());
            }
        };
        if !store.is_dir() {
            let hint = "give the location of Synapse's files: --working-directory DIR, --path-map /data=/srv/synapse for a container, or --source-dir DIR";
            let stop = Stop::new(Exit::Io, format!("there is no media store at {}", store.display()));
            return Err(stop.hint(hint).into());
        }
        // With --source-dir alone, PGHOST and libpq's other variables do not select a database to compare with.
        let names_a_database = config.is_some()
            || args.source.source.is_some()
            || context
                .document
                .source
                .as_ref()
                .is_some_and(|source| !source.connection.is_empty());
        let session = if names_a_database {
            let conninfo = ess_servers::source(context, &args.source, PgVariables::ForThisServer)?;
            let name = context.application_name();
            conninfo
                .map(|conninfo| Session::connect(&conninfo, &name, Access::ReadOnly))
                .transpose()?
        } else {
            None
        };
        let in_tables = match &session {
            Some(session) => has_media_repo(session)?,
            None => false,
        };
        if in_tables || is_media_repo(&store) {
            return Err(
                Stop::no("the media are in a Matrix Media Repo, which these tools do not migrate")
                    .hint("move the media back into Synapse first, or keep the Matrix Media Repo")
                    .into(),
            );
        }
        let option = |name: &str| config.as_ref().and_then(|config| config.get(name));
        Ok(Self {
            session,
            providers: option("media_storage_providers")
                .and_then(|value| value.as_list())
                .is_some_and(|all| !all.is_empty()),
            // Without a configuration the setting is unknown, and no warning is printed.
            makes_thumbnails: config.is_none() || option("dynamic_thumbnails").is_some_and(Value::is_true),
            store,
        })
    }
}

fn destination(args: &Args, context: &mut Context, store: &Path) -> anyhow::Result<Copy> {
    if !args.far.is_empty() {
        return Ok(Copy::Far(args.far.clone()));
    }
    if args.out.is_none() {
        let (target, kube_context) = (args.target.as_deref(), args.kube_context.as_deref());
        if let Some(volume) = Volume::find(context, target, kube_context, args.helper_image.as_deref())? {
            return Ok(Copy::Pod(Box::new(volume)));
        }
    }
    let directory = match (&args.out, &context.document.export) {
        (Some(out), _) => ess_files::absolute(out)?,
        (None, Some(export)) => export.join("media"),
        (None, None) => {
            return Err(Stop::usage(
                "no destination is given: neither --out, --target nor a command, and no export in the document",
            )
            .hint("give --out DIR, --target kube:NAMESPACE, or, after --, a command that runs media-sync -n --receive DIR on the other host")
            .into());
        }
    };
    // Compare canonical paths: either one may be a symbolic link.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let parent = directory.parent().map(real).unwrap_or_default();
    let copy = real(&parent.join(directory.file_name().unwrap_or_default()));
    let store = real(store);
    if copy.starts_with(&store) || store.starts_with(&copy) {
        return Err(Stop::usage(format!(
            "the copy {} and the store {} overlap: one is inside the other",
            copy.display(),
            store.display()
        ))
        .into());
    }
    if let Some(export) = context.document.export.clone()
        && directory.starts_with(&export)
    {
        make_directory(&export)?;
    }
    Ok(Copy::Here(directory))
}

/// Whether the store contains uploads, which no other server has. Other kinds do not count: their directories may be
/// on other disks.
fn has_uploads(store: &Path) -> bool {
    std::fs::read_dir(store.join(MediaKind::Local.name())).is_ok_and(|mut entries| entries.next().is_some())
}

fn send_here(sending: &Sending<'_>, directory: &Path, tally: &mut Tally<'_>) -> anyhow::Result<Amount> {
    // No time limit: a local disk may be slow.
    let (sender, receiver) = link::pair(Duration::MAX);
    thread::scope(|scope| {
        let writing = scope.spawn(|| receive::receive(directory, receiver));
        let sent = sending.run(sender, tally);
        let written = joined(writing.join());
        ess_run::stop_if_interrupted()?;
        // Report the receiver's own error rather than the closed channel that follows from it.
        match (written, sent) {
            (Err(error), _) => Err(error),
            (Ok(()), sent) => sent,
        }
    })
}

fn send_far(
    sending: &Sending<'_>,
    command: &[OsString],
    report: &dyn Report,
    tally: &mut Tally<'_>,
) -> anyhow::Result<Amount> {
    // What ssh and kubectl need from the environment.
    let environment: Vec<(String, OsString)> = ["SSH_AUTH_SOCK", "KUBECONFIG"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var_os(name)?)))
        .collect();
    let program = Program::new(&command[0]).args(&command[1..]).envs(&environment);
    let idle = Duration::from_secs(sending.idle.into());
    let program = program.patience(idle);
    let (sender, receiver) = link::pair(idle);
    let Link { out, incoming } = receiver;
    thread::scope(|scope| {
        let far = scope.spawn(move || {
            let mut incoming = Some(incoming);
            let mut out = Some(out);
            program.converse(
                report,
                &mut |stdin| incoming.take().map_or(Ok(()), |frames| link::write_all(&frames, stdin)),
                &mut |stdout| {
                    if let Some(frames) = out.take() {
                        link::read_all(stdout, &frames);
                    }
                    Ok(())
                },
            )
        });
        let sent = sending.run(sender, tally);
        let far = joined(far.join());
        ess_run::stop_if_interrupted()?;
        match (sent, far) {
            // Prefer what the receiver itself reported. If it only ended, report how the command failed: perhaps it
            // did not even start.
            (Err(error), Err(far)) if is_early(&error) && !matches!(far, ess_run::Error::Stream { .. }) => {
                Err(far.into())
            }
            (Err(error), _) => Err(error),
            (Ok(_), Err(far)) => Err(far.into()),
            (Ok(sent), Ok(())) => Ok(sent),
        }
    })
}

/// Runs the receiver on standard input and output; fails if the sender reads no answer for `idle`.
fn serve(store: &Path, idle: Duration) -> anyhow::Result<()> {
    let (receiver, stdio) = link::pair(idle);
    let Link { out, incoming } = stdio;
    // `None` once standard input has ended.
    let open = Arc::new(Mutex::new(Some(out.clone())));
    let reading = Arc::clone(&open);
    // Not joined: it may block in a read of standard input, and ends with the process.
    thread::spawn(move || {
        link::read_all(&mut io::stdin().lock(), &out);
        *locked(&reading) = None;
    });
    let (end, ended) = channel();
    // Not joined either: it may block in a write that the sender does not read.
    thread::spawn(move || {
        let written = link::write_all(&incoming, &mut io::stdout().lock());
        if let (Err(error), Some(out)) = (&written, &*locked(&open)) {
            // The sender keeps its end open, perhaps waiting for the very answer that could not be written: end the
            // receiver, which would wait for the sender.
            let (exit, why) = (Exit::Io as u8, format!("the sender has ended: {error}"));
            let _ = out.send(Frame::Failed { exit, why });
        }
        let _ = end.send(written);
    });
    finish_answers(receive::receive(store, receiver), &ended, idle)
}

/// Waits until the last answer is written, for at most `idle`.
fn finish_answers(
    received: anyhow::Result<()>,
    ended: &Receiver<io::Result<()>>,
    idle: Duration,
) -> anyhow::Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    let mut waited = Duration::ZERO;
    let written = loop {
        match ended.recv_timeout(STEP) {
            Ok(written) => break written,
            Err(RecvTimeoutError::Disconnected) => break Err(io::ErrorKind::BrokenPipe.into()),
            Err(RecvTimeoutError::Timeout) => waited += STEP,
        }
        ess_run::stop_if_interrupted()?;
        if waited >= idle {
            break Err(io::ErrorKind::TimedOut.into());
        }
    };
    received?;
    written.context("cannot answer the sender")
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the section")]
fn section(
    args: &Args,
    context: &Context,
    store: &Path,
    copy: &Copy,
    tally: &Tally<'_>,
    sent: Amount,
    elsewhere: u64,
    source_was_running: bool,
) -> Media {
    let export = context.document.export.as_deref();
    let refetchable = tally.kinds.iter().filter(|(kind, _)| kind.is_cache());
    Media {
        version: context.version(),
        started_at: context.started_at.clone(),
        finished_at: now(),
        store: store.to_owned(),
        copy: match copy {
            Copy::Here(directory) => Document::relative(export, directory).display().to_string(),
            // Only the program's name: its arguments may contain secrets.
            Copy::Far(command) => Path::new(&command[0])
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
            Copy::Pod(volume) => volume.shown(),
        },
        without: args.without.iter().map(|without| without.name()).collect(),
        refetchable: refetchable.fold(Amount::default(), |sum, (_, amount)| Amount {
            files: sum.files + amount.files,
            bytes: sum.bytes + amount.bytes,
        }),
        kinds: tally
            .kinds
            .iter()
            .map(|(kind, amount)| (kind.name().to_owned(), *amount))
            .collect(),
        sent,
        unchanged: tally.unchanged,
        verified: args.verify,
        rows_compared: tally.rows,
        elsewhere,
        left: tally.left.clone(),
        missing: tally.missing.clone(),
        wrong: tally.wrong.clone(),
        unknown: tally.unknown.clone(),
        damaged: tally.damaged.clone(),
        surplus: tally.surplus.clone(),
        removed: tally.removed,
        source_was_running,
        complete: tally.is_complete(),
        next: Next {
            go_on: vec!["ess-wipe".to_owned(), "restore".to_owned()],
            go_back: None,
        },
    }
}

fn print_summary(media: &Media, context: &Context) {
    let console = &context.console;
    let line = |text: &str| console.line(&format!("media-sync: {text}"));
    line(&format!(
        "sent {} ({}); {} already in the copy",
        count(media.sent.files, "file"),
        size(media.sent.bytes),
        count(media.unchanged.files, "file")
    ));
    if media.verified {
        line(&format!(
            "both sides were read and compared; {} differed",
            count(media.damaged.count, "file")
        ));
    }
    match media.rows_compared {
        Some(rows) => line(&format!(
            "{} in the database: {} missing, {} different; {} not in the database",
            count(rows, "upload"),
            media.missing.count,
            media.wrong.count,
            count(media.unknown.count, "file")
        )),
        None => line("not compared with a database: none was given"),
    }
    if media.elsewhere > 0 {
        line(&format!(
            "{} not in the store, perhaps in the storage provider, which is not copied",
            count(media.elsewhere, "upload")
        ));
    }
    if media.left.count > 0 {
        line(&format!(
            "{} left out, see above",
            counted(media.left.count, "entry", "entries")
        ));
    }
    if media.surplus.count > media.removed {
        line(&format!(
            "{} in the copy but not in the store; --delete removes such files",
            count(media.surplus.count - media.removed, "file")
        ));
    }
    let by = |name: &str| media.kinds.get(name).copied().unwrap_or_default();
    let remote = [by(MediaKind::Remote.name()), by(MediaKind::RemoteThumbnail.name())];
    let bytes: u64 = remote.iter().map(|amount| amount.bytes).sum();
    if bytes > 0 {
        console.note(&format!(
            "{} are copies of other servers' media; --without remote leaves them out",
            size(bytes)
        ));
    }
    if media.source_was_running {
        console.note("other sessions were using the source: re-run the same command after stopping Synapse");
    }
}
