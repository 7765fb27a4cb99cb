//! What tests share. This module has a world per test: a directory with servers and programs, and the form of a run in
//! snapshots.

mod call;
pub(crate) mod dumps;
mod files;
pub(crate) mod findings;
pub(crate) mod frames;
mod harness;
pub(crate) mod in_cluster;
pub(crate) mod installation;
pub(crate) mod internet;
mod kube;
mod kubectl;
pub(crate) mod kubernetes;
mod majors;
pub(crate) mod measure;
pub(crate) mod media;
pub(crate) mod migration;
pub(crate) mod objects;
pub(crate) mod pages;
pub(crate) mod peer;
mod pgbin;
mod place;
mod pooler;
mod postgres;
mod proxy;
pub(crate) mod readme;
pub(crate) mod real;
mod scene;
pub(crate) mod secrets;
mod seed;
mod sessions;
pub(crate) mod soak;
mod synapse;
mod template;
mod wait;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

pub(crate) use call::{Call, Ran, Running, Stdin, assert_failed, code, text_of};
pub(crate) use files::{Tmpfs, assert_private, names_in};
pub(crate) use kube::{Effect, Kube};
pub(crate) use kubectl::kubectl;
pub(crate) use majors::programs as programs_of;
pub(crate) use pgbin::{link_programs, pgbin, write_program, write_script};
pub(crate) use place::{TOOLS, free_port, place, processes_in};
pub(crate) use pooler::Pooler;
pub(crate) use postgres::{Cluster, ESS_PASSWORD, Local};
pub(crate) use proxy::{Proxy, Traffic};
pub(crate) use scene::{Scene, restore_that_waits, seeded, source_cluster, target_cluster, undo_from_export};
pub(crate) use seed::{SERVER_NAME, Seeded};
pub(crate) use sessions::{Sleeper, Visitor, wait_for_a_waiter, wait_for_session, wait_until_all_ended};
pub(crate) use synapse::{Database, Identity, Synapse, python as synapse_python};
pub(crate) use wait::{until, wait_until};

/// Flags for preflight in tests without names and websites of their own: the network is not queried.
pub(crate) const OFFLINE: &str = "--skip 'dns*' --skip 'well-known*' --skip delegation";

/// The working directory of a test. When it is dropped, all processes in it are ended and all files are deleted.
pub(crate) struct World(Arc<Shared>);

/// The part of a world that its servers and runs share.
pub(crate) struct Shared {
    dir: PathBuf,
    /// Text that differs from run to run, and the name that replaces it in snapshots.
    masks: Mutex<Vec<(String, String)>>,
    runs: AtomicU32,
}

impl World {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = place().dir.join(COUNT.fetch_add(1, Ordering::Relaxed).to_string());
        place().make_dir(&dir);
        let masks = Mutex::new(vec![(dir.display().to_string(), "$WORLD".to_owned())]);
        Self(Arc::new(Shared {
            dir,
            masks,
            runs: AtomicU32::new(0),
        }))
    }

    /// A path in the world.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.0.dir.join(path)
    }

    /// Writes a file (0600) and creates the directories above it.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.0.write(path, content.as_ref())
    }

    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Replaces `text` by `name` in snapshots.
    pub(crate) fn mask(&self, text: impl Into<String>, name: &str) {
        self.0.add_mask(text.into(), name);
    }

    /// A shipped program that is to run.
    pub(crate) fn tool<'a>(&self, name: &str) -> call::Call<'a> {
        assert!(
            TOOLS.iter().any(|(tool, _)| *tool == name),
            "{name} is not a shipped program"
        );
        call::Call::new(Arc::clone(&self.0), place().bin.join(name))
    }

    /// A bash script that is to run, with the shipped programs first in PATH.
    pub(crate) fn script<'a>(&self, script: &str) -> call::Call<'a> {
        call::Call::new(Arc::clone(&self.0), "/bin/bash".into()).args(["-c", script])
    }

    /// Runs a shipped program.
    pub(crate) fn run<'a, A: AsRef<OsStr>>(
        &self,
        tool: &str,
        args: impl IntoIterator<Item = A>,
        stdin: impl Into<Stdin<'a>>,
    ) -> Ran {
        self.tool(tool).args(args).stdin(stdin).run()
    }

    /// Runs a script, with /dev/null as its standard input.
    pub(crate) fn shell(&self, script: &str) -> Ran {
        self.script(script).run()
    }

    /// The command lines of the programs named `name` that are running in the world, to check that none outlives a
    /// kill. The kernel stores 15 bytes of a name.
    pub(crate) fn running(&self, name: &str) -> Vec<String> {
        let line = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok();
        let lines = self.named(name).filter_map(line);
        lines
            .map(|line| line.replace('\0', " ").trim_end().to_owned())
            .collect()
    }

    /// Sends a signal to the programs named `name` that are running in the world, also within a pipeline. Returns
    /// whether there was one.
    pub(crate) fn signal(&self, name: &str, signal: Signal) -> bool {
        let sent = self
            .named(name)
            .map(|pid| kill_process(Pid::from_raw(pid).unwrap(), signal).is_ok());
        sent.fold(false, |any, sent| any | sent)
    }

    /// Sends a signal to one of them: the one at `which`, modulo their number.
    pub(crate) fn signal_one(&self, name: &str, which: usize, signal: Signal) -> bool {
        let all: Vec<i32> = self.named(name).collect();
        let pid = all.get(which % all.len().max(1)).and_then(|pid| Pid::from_raw(*pid));
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    fn named(&self, name: &str) -> impl Iterator<Item = i32> {
        let comm = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let all = place::processes_in(&self.0.dir).into_iter();
        all.filter(move |pid| comm(*pid).trim_end() == name)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for _ in 0..100 {
            let left = place::processes_in(&self.0.dir);
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
            }
            thread::sleep(Duration::from_millis(10));
        }
        // The watchdog removes what is left.
        let _ = fs::remove_dir_all(&self.0.dir);
    }
}

impl Shared {
    fn write(&self, path: &str, content: &[u8]) -> PathBuf {
        let path = self.dir.join(path);
        let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            place().make_dir(dir);
        }
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        place().give(&path);
        path
    }

    fn add_mask(&self, text: String, name: &str) {
        self.masks.lock().unwrap().push((text, name.to_owned()));
    }

    /// Files for the output of a run, outside the world's directory, which a program may list.
    fn output_files(&self) -> (PathBuf, PathBuf) {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let file = |what| self.dir.with_extension(format!("{number}.{what}"));
        (file("out"), file("err"))
    }

    fn mask(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in self.masks.lock().unwrap().iter() {
            text = text.replace(from, to);
        }
        let text = mask_shape(&text, "hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", "$ID");
        mask_shape(&text, "dddd-dd-ddTdd:dd:ddZ", "$TIME")
    }
}

/// Replaces text of this shape: `h` is any hexadecimal digit, `d` any decimal digit.
fn mask_shape(text: &str, shape: &str, name: &str) -> String {
    let fits = |rest: &str| {
        rest.len() >= shape.len()
            && rest.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
                b'h' => byte.is_ascii_hexdigit(),
                b'd' => byte.is_ascii_digit(),
                other => byte == other,
            })
    };
    let mut masked = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = if fits(rest) {
            masked.push_str(name);
            shape.len()
        } else {
            masked.push(next);
            next.len_utf8()
        };
        rest = &rest[taken..];
    }
    masked
}
