//! One run of a program, and its result in a form for assertions and snapshots.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::Shared;
use super::place::place;

/// Time limit of a program in a test; one that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// The standard input of a program.
#[derive(Clone, Copy)]
pub(crate) enum Stdin<'a> {
    /// A pipe with this text, which can be empty.
    Pipe(&'a str),
    /// /dev/null.
    Null,
    /// A closed file descriptor.
    Closed,
    /// A socket, as under some runners and sshd.
    Socket,
}

impl<'a> From<&'a str> for Stdin<'a> {
    fn from(text: &'a str) -> Self {
        Self::Pipe(text)
    }
}

/// A program that is to run in a world.
pub(crate) struct Call<'a> {
    pub(super) world: Arc<Shared>,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Stdin<'a>,
}

impl<'a> Call<'a> {
    pub(super) fn new(world: Arc<Shared>, program: PathBuf) -> Self {
        Self {
            world,
            program,
            args: Vec::new(),
            env: Vec::new(),
            stdin: Stdin::Null,
        }
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn stdin(mut self, stdin: impl Into<Stdin<'a>>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Runs it as a shell without job control runs `nohup COMMAND &`: three signals are ignored from the start.
    pub(crate) fn in_background(mut self) -> Self {
        let script = r#"trap '' HUP INT QUIT; exec "$@""#;
        let program = std::mem::replace(&mut self.program, "/bin/bash".into());
        let shell = ["-c".into(), script.into(), "bash".into(), program.into_os_string()];
        self.args.splice(0..0, shell);
        self
    }

    /// Runs to the end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }

    /// Starts, in a process group of its own, and does not wait.
    pub(crate) fn start(self) -> Running {
        let dir = &self.world.dir;
        let (out, err) = self.world.output_files();
        let mut command = if matches!(self.stdin, Stdin::Closed) {
            let mut shell = place().command("/bin/bash", dir);
            shell.args(["-c", r#"exec "$@" <&-"#, "bash"]).arg(&self.program);
            shell
        } else {
            place().command(&self.program, dir)
        };
        let mut socket = None;
        let stdin = match self.stdin {
            Stdin::Pipe(_) => Stdio::piped(),
            Stdin::Null | Stdin::Closed => Stdio::null(),
            Stdin::Socket => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                socket = Some(ours);
                Stdio::from(OwnedFd::from(theirs))
            }
        };
        let mut child = command
            .args(&self.args)
            .envs(self.env)
            .stdin(stdin)
            // Files, so that a child which outlives its parent cannot keep the test waiting.
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{} starts: {error}", self.program.display()));
        if let (Stdin::Pipe(text), Some(mut pipe)) = (self.stdin, child.stdin.take()) {
            let text = text.to_owned();
            // A program can end without reading its input.
            thread::spawn(move || pipe.write_all(text.as_bytes()));
        }
        Running {
            child,
            out,
            err,
            _socket: socket,
            world: self.world,
        }
    }
}

/// A running program.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
    /// Keeps our end of its standard input open.
    _socket: Option<UnixStream>,
    world: Arc<Shared>,
}

impl Running {
    /// Waits until standard error contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let start = Instant::now();
        while !read(&self.err).contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "{text:?} never came ({ended:?}):\n{}",
                read(&self.err)
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal to the program alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Kills the program alone, as the kernel does when memory is short, and waits until it has ended.
    pub(crate) fn kill(self) -> Ran {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Waits until the program has ended.
    pub(crate) fn wait(mut self) -> Ran {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it never ended; it said:\n{}",
                read(&self.err)
            );
            thread::sleep(Duration::from_millis(3));
        };
        Ran {
            stdout: read(&self.out),
            stderr: read(&self.err),
            status,
            world: Arc::clone(&self.world),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The result of a run. Its `Display` is the form for snapshots: text that differs from run to run is replaced by a
/// name.
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) status: ExitStatus,
    world: Arc<Shared>,
}

impl Ran {
    /// Fails the test and prints the complete run unless the exit status is 0.
    #[track_caller]
    pub(crate) fn success(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    /// The document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self}"))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |f: &mut fmt::Formatter<'_>, text: &str| {
            let end = if text.is_empty() || text.ends_with('\n') {
                ""
            } else {
                "\n(no newline)\n"
            };
            write!(f, "{}{end}", self.world.mask(text))
        };
        part(f, &self.stdout)?;
        if !self.stderr.is_empty() {
            writeln!(f, "-- stderr --")?;
            part(f, &self.stderr)?;
        }
        match self.status.signal() {
            Some(signal) => write!(f, "-- signal: {signal} --"),
            None => write!(f, "-- exit status: {} --", self.status.code().unwrap()),
        }
    }
}

fn read(path: &std::path::Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}

/// Fails unless a run ended with this status, printed this message, and wrote no document.
#[track_caller]
pub(crate) fn assert_failed(ran: &Ran, status: i32, said: &str) {
    assert_eq!(ran.status.code(), Some(status), "{ran}");
    assert!(ran.stderr.contains(said), "{said:?} is not in {ran}");
    assert_eq!(ran.stdout, "", "{ran}");
}

/// The exit status of a run that no signal ended.
pub(crate) fn code(ran: &Ran) -> i32 {
    ran.status.code().unwrap()
}

/// Runs a program that must succeed, and returns its output.
#[track_caller]
pub(crate) fn text_of(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
