//! Runs a child process: with a minimal environment, with all pipes served concurrently, and ended with this process.

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{fmt, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::interrupt::{self, Watched};
use crate::{Interrupted, Report, interrupted, redact};

/// The environment variables that a child inherits. Others, such as libpq's, could redirect it to another server.
const INHERITED: [&str; 7] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
];

/// Writes a child's stdin.
type StdinWriter<'a> = &'a mut (dyn FnMut(&mut dyn Write) -> io::Result<()> + Send);
/// Reads a child's stdout.
type StdoutReader<'a> = &'a mut dyn FnMut(&mut dyn Read) -> io::Result<()>;

/// Programs that print a server's messages, which may contain values of rows.
const POSTGRES: [&str; 3] = ["pg_dump", "pg_restore", "psql"];

/// How many bytes of a child's stderr are kept for the error message.
const MESSAGES: usize = 64 << 10;

/// An error of a child process.
#[derive(Debug)]
pub enum Error {
    /// The program was not found, or those found are not suitable.
    Missing { what: String, hint: String },
    /// It could not be started.
    Start { program: String, source: io::Error },
    /// It failed; `stderr` is the end of what it wrote there, without values of rows.
    Failed {
        program: String,
        status: ExitStatus,
        stderr: String,
    },
    /// Writing its input or reading its output failed.
    Stream { program: String, source: io::Error },
    /// A signal interrupted this process.
    Interrupted(Interrupted),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { what, .. } => f.write_str(what),
            Self::Start { program, .. } => write!(f, "cannot run {program}"),
            Self::Failed {
                program,
                status,
                stderr,
            } => {
                write!(f, "{program} failed ({status})")?;
                stderr.lines().try_for_each(|line| write!(f, "\n  | {line}"))
            }
            Self::Stream { program, .. } => write!(f, "cannot pass data to or from {program}"),
            Self::Interrupted(interrupted) => interrupted.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::Stream { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A program about to be run.
pub struct Program {
    pub(crate) command: Command,
    pub(crate) name: String,
    patience: Option<Duration>,
}

impl Program {
    /// `path` is searched for in `PATH` if it is a bare name.
    pub fn new(path: impl AsRef<OsStr>) -> Self {
        let path = path.as_ref();
        let mut command = Command::new(path);
        command.env_clear().stdin(Stdio::null()).process_group(0);
        for name in INHERITED {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // English messages, to quote and parse. LC_ALL is not set, since it would also affect the encoding of data.
        command.env("LC_MESSAGES", "C");
        // Passed on by pg_dump and pg_restore to their workers; the kernel signals only the direct child.
        end_with_parent(&mut command, Signal::TERM);
        let name = std::path::Path::new(path).file_name().unwrap_or(path);
        Self {
            name: name.to_string_lossy().into_owned(),
            command,
            patience: None,
        }
    }

    /// Ends it if it writes nothing to stdout for this long; reading its output then fails with the kind `TimedOut`.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Adds an argument, which must not be a secret: other users can see it.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments, which must not be secrets: other users can see them.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets environment variables of the child, the only way to pass it a secret.
    #[must_use]
    pub fn envs(mut self, vars: &[(String, OsString)]) -> Self {
        self.command.envs(vars.iter().map(|(name, value)| (name, value)));
        self
    }

    /// Runs it to its end and returns what it wrote to stdout.
    pub fn capture(self, report: &dyn Report) -> Result<Vec<u8>, Error> {
        let mut output = Vec::new();
        let sink: StdoutReader<'_> = &mut |stdout: &mut dyn Read| stdout.read_to_end(&mut output).map(|_| ());
        self.run(report, None, Some(sink))?;
        Ok(output)
    }

    /// Runs it to its end while `sink` reads its stdout.
    pub fn read(self, report: &dyn Report, sink: StdoutReader<'_>) -> Result<(), Error> {
        self.run(report, None, Some(sink))
    }

    /// Runs it to its end; what it writes to stdout is discarded.
    pub fn finish(self, report: &dyn Report) -> Result<(), Error> {
        self.run(report, None, None)
    }

    /// Runs it to its end while `source` writes its stdin and `sink` reads its stdout.
    pub fn converse(self, report: &dyn Report, source: StdinWriter<'_>, sink: StdoutReader<'_>) -> Result<(), Error> {
        self.run(report, Some(source), Some(sink))
    }

    fn run(
        mut self,
        report: &dyn Report,
        source: Option<StdinWriter<'_>>,
        sink: Option<StdoutReader<'_>>,
    ) -> Result<(), Error> {
        report.command(&self.shown());
        if source.is_some() {
            self.command.stdin(Stdio::piped());
        }
        let stdout = if sink.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdout(stdout).stderr(Stdio::piped());
        let program = self.name;
        let mut child = self.command.spawn().map_err(|source| Error::Start {
            program: program.clone(),
            source,
        })?;
        let watched = Watched::new(child.id());
        let redacted = POSTGRES.contains(&program.as_str());
        let (fed, taken, messages, lingering) =
            pump(&mut child, self.patience, source, sink, &|pipe| last_of(pipe, redacted));
        let ended = child.wait();
        drop((lingering, watched));
        if let Some(interrupted) = interrupted() {
            return Err(Error::Interrupted(interrupted));
        }
        match (ended, fed.and(taken)) {
            // The program's own message explains a broken pipe better than the pipe's error does.
            (Ok(status), _) if !status.success() => Err(Error::Failed {
                program,
                status,
                stderr: messages,
            }),
            (Ok(_), Ok(())) => Ok(()),
            (Err(source), _) | (_, Err(source)) => Err(Error::Stream { program, source }),
        }
    }

    /// The command line, quoted for a shell; without the environment.
    pub(crate) fn shown(&self) -> String {
        std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(|word| quoted(&word.to_string_lossy()))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Serves stdin, stdout and stderr concurrently: a child that fills a pipe which is not read would wait forever.
fn pump(
    child: &mut Child,
    patience: Option<Duration>,
    source: Option<StdinWriter<'_>>,
    sink: Option<StdoutReader<'_>>,
    messages: &(dyn Fn(ChildStderr) -> String + Sync),
) -> (io::Result<()>, io::Result<()>, String, Option<Lingering>) {
    let stdin = child.stdin.take();
    let pid = child.id();
    let mut stdout = child.stdout.take().map(|stdout| Patient { stdout, patience, pid });
    let stderr = child.stderr.take();
    thread::scope(|scope| {
        let feeder = scope.spawn(move || match (source, stdin) {
            (Some(source), Some(mut stdin)) => source(&mut stdin).and_then(|()| stdin.flush()),
            _ => Ok(()),
        });
        let reader = scope.spawn(move || stderr.map_or_else(String::new, messages));
        let taken = match (sink, &mut stdout) {
            (Some(sink), Some(stdout)) => sink(stdout),
            _ => Ok(()),
        };
        drop(stdout); // a child that is still writing gets an error and ends
        let lingering = patience.and_then(|patience| Lingering::watch(pid, patience));
        let broken = || Err(io::Error::other("an internal thread panicked"));
        (
            feeder.join().unwrap_or_else(|_| broken()),
            taken,
            reader.join().unwrap_or_default(),
            lingering,
        )
    })
}

/// Kills a child after a while unless this value is dropped first: its input and output are finished, so that it should
/// end by itself.
struct Lingering {
    _over: Sender<()>,
}

impl Lingering {
    /// `None` if no thread can be started: then only a signal ends the child.
    fn watch(pid: u32, patience: Duration) -> Option<Self> {
        let (over, ended) = channel::<()>();
        let end = move || {
            if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                interrupt::kill(pid);
            }
        };
        thread::Builder::new().spawn(end).ok()?;
        Some(Self { _over: over })
    }
}

/// A child's stdout, with a timeout for each read.
struct Patient {
    stdout: ChildStdout,
    patience: Option<Duration>,
    pid: u32,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(patience) = self.patience {
            let limit = Timespec::try_from(patience).map_err(io::Error::other)?;
            if poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&limit))? == 0 {
                // This also unblocks the threads that write its stdin and read its stderr.
                interrupt::kill(self.pid);
                let why = format!("no output for {} s", patience.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
        }
        self.stdout.read(buffer)
    }
}

/// The last [`MESSAGES`] bytes of a stream; if `redacted`, without values of rows.
fn last_of(pipe: impl Read, redacted: bool) -> String {
    let mut kept: Vec<u8> = Vec::new();
    let mut shown = redact::Lines::default();
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    // An endless line is read in pieces.
    while let Ok(1..) = pipe.by_ref().take(MESSAGES as u64).read_until(b'\n', &mut line) {
        if redacted {
            let text = String::from_utf8_lossy(&line);
            kept.extend(shown.next(&text).iter().flat_map(|shown| shown.bytes()));
        } else {
            kept.extend_from_slice(&line);
        }
        line.clear();
        if kept.len() > 2 * MESSAGES {
            kept.drain(..kept.len() - MESSAGES);
        }
    }
    String::from_utf8_lossy(&kept[kept.len().saturating_sub(MESSAGES)..]).into_owned()
}

/// A word for a POSIX shell, in quotes if it needs them.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        in_quotes(word)
    }
}

/// A word for a POSIX shell, always in quotes.
pub fn in_quotes(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Lets the kernel send this signal to the child when this process dies, so that a killed tool leaves no pg_dump behind
/// (`PR_SET_PDEATHSIG`, prctl(2)).
pub(crate) fn end_with_parent(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    let die = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the call above.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::other("the parent process has ended"))
        }
    };
    #[expect(
        unsafe_code,
        reason = "std offers no safe way to run code between fork and exec; two system calls without allocation are allowed there"
    )]
    unsafe {
        command.pre_exec(die);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::Silent;

    #[test]
    fn a_child_that_floods_stderr_does_not_hang_and_is_quoted() {
        let script = "i=0; while [ $i -lt 20000 ]; do echo line $i >&2; i=$((i+1)); done; exit 3";
        let error = Program::new("sh").args(["-c", script]).capture(&Silent).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("sh failed (exit status: 3)\n"), "{}", &text[..60]);
        assert!(text.ends_with("\n  | line 19999"));
    }

    #[test]
    fn the_environment_is_not_inherited() {
        let output = Program::new("env")
            .envs(&[("PGAPPNAME".to_owned(), "x".into())])
            .capture(&Silent)
            .unwrap();
        let names: Vec<_> = std::str::from_utf8(&output)
            .unwrap()
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, _)| name)
            .filter(|name| !INHERITED.contains(name))
            .collect();
        assert_eq!(names, ["LC_MESSAGES", "PGAPPNAME"]);
    }

    #[test]
    fn a_failed_child_explains_a_broken_pipe() {
        let error = Program::new("sh")
            .args(["-c", "echo no room >&2; exit 1"])
            .converse(
                &Silent,
                &mut |stdin| {
                    let block = vec![b'x'; 65536];
                    (0..64).try_for_each(|_| stdin.write_all(&block))
                },
                &mut |_| Ok(()),
            )
            .unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 1)\n  | no room");
    }

    #[test]
    fn a_missing_program_is_an_error_of_its_own() {
        let error = Program::new("no-such-program-here").finish(&Silent).unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error}");
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        let program = Program::new("pg_dump").args(["-d", "dbname='It''s'", "-j", "2"]);
        assert_eq!(program.shown(), r"pg_dump -d 'dbname='\''It'\'''\''s'\''' -j 2");
    }
}
