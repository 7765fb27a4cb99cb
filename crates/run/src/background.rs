//! A PostgreSQL server that runs in the background, and the unprivileged user that it runs as.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Child;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::end_with_parent;
use crate::{Error, Program, Report, locked};

/// PostgreSQL's immediate shutdown. It waits neither for sessions, as SIGTERM would, nor for a checkpoint, which a full
/// disk would prevent; in contrast to SIGKILL, it frees the shared memory.
const END: Signal = Signal::QUIT;

/// How long a server may take to end before it is killed. PostgreSQL itself kills its processes after 5 seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// Its user id.
    pub uid: u32,
    /// The id of its group.
    pub gid: u32,
}

impl User {
    /// The user of this name in /etc/passwd.
    pub fn named(name: &str) -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").ok()?;
        let fields = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&name))?;
        Some(Self {
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
        })
    }
}

/// A server that ends when this value is dropped, and when this process ends.
#[derive(Debug)]
pub struct Background {
    child: Mutex<Option<Child>>,
}

impl Program {
    /// Runs it as this user, without supplementary groups; only root can do that.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        // std clears the supplementary groups when root changes the user.
        self.command.uid(user.uid).gid(user.gid);
        self
    }

    /// Runs it in this directory. Up to version 15, PostgreSQL's programs fail in one that their user cannot enter
    /// (`resolve_symlinks` in exec.c).
    #[must_use]
    pub fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Starts it in the background, with its output in this file.
    ///
    /// Call this in the main thread: the kernel ends the server when the thread that started it ends.
    pub fn background(mut self, log: File, report: &dyn Report) -> Result<Background, Error> {
        report.command(&self.shown());
        // Replaces the signal that `Program::new` has chosen. The kernel forgets it when the user changes, and std
        // changes the user before it calls this.
        end_with_parent(&mut self.command, END);
        let started = log
            .try_clone()
            .and_then(|copy| self.command.stdout(copy).stderr(log).spawn());
        match started {
            Ok(child) => Ok(Background {
                child: Mutex::new(Some(child)),
            }),
            Err(source) => Err(Error::Start {
                program: self.name,
                source,
            }),
        }
    }
}

impl Background {
    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        locked(&self.child).as_mut().is_none_or(has_ended)
    }

    /// Ends it, and waits until it has ended.
    pub fn end(&self) {
        // Held to the end, so that a second caller waits too.
        let mut held = locked(&self.child);
        let Some(mut child) = held.take() else { return };
        // The id of a child that has ended may already be another process's.
        if has_ended(&mut child) {
            return;
        }
        let _ = kill_process(Pid::from_child(&child), END);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if has_ended(&mut child) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.end();
    }
}

fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::Silent;

    #[test]
    fn a_server_ends_once() {
        let log = File::create("/dev/null").unwrap();
        let server = Program::new("sleep").arg("1000").background(log, &Silent).unwrap();
        assert!(!server.has_ended());

        server.end();

        assert!(server.has_ended());
        server.end();
    }

    #[test]
    fn a_user_is_found_by_its_complete_name() {
        assert_eq!(User::named("root"), Some(User { uid: 0, gid: 0 }));
        assert_eq!(User::named("roo"), None);
    }
}
