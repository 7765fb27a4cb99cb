//! A lane: a thread that reads files, and sends them or lets the receiver read its copies.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use ess_run::locked;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::answers::{Pending, Shared};
use super::{Job, Sending, Task, gone};
use crate::frame::{CHUNK, Frame, Sha256 as Digest, Time};
use crate::link::Out;
use crate::walk::time_of;

/// Reads and sends files, one after another.
pub(super) struct Lane<'a> {
    pub(super) number: u8,
    pub(super) sending: &'a Sending<'a>,
    pub(super) out: Out,
    pub(super) shared: &'a Shared,
}

impl Lane<'_> {
    pub(super) fn work(&self, todo: &Mutex<Receiver<Job>>) -> anyhow::Result<()> {
        loop {
            let job = locked(todo).recv();
            let Ok(job) = job else { return Ok(()) };
            ess_run::stop_if_interrupted()?;
            if let Task::ReadBack(size, sha256) = job.task {
                self.request_hash(job, size, sha256)?;
                continue;
            }
            match open(&self.sending.store.join(&job.path)) {
                Ok(Some((file, time))) if matches!(job.task, Task::Send(_)) => self.send(job, file, time)?,
                Ok(Some((file, _))) => self.read(job, file)?,
                Ok(None) => self.leave_out(format!("{}: neither a file nor a directory", job.path)),
                // Deleted since its name was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.leave_out(format!("{}: {error}", job.path)),
            }
        }
    }

    fn send(&self, job: Job, mut file: File, time: Time) -> anyhow::Result<()> {
        let lane = self.number;
        let path = job.path.clone();
        self.send_frame(Frame::File { lane, path, time })?;
        let (mut size, mut sha256) = (0, Sha256::new());
        loop {
            ess_run::stop_if_interrupted()?;
            let mut bytes = Vec::with_capacity(CHUNK);
            let read = (&mut file).take(CHUNK as u64).read_to_end(&mut bytes);
            let n = match read {
                Ok(0) => break,
                Ok(n) => n as u64,
                Err(error) => {
                    self.leave_out(format!("{}: {error}", job.path));
                    return self.send_frame(Frame::Drop { lane });
                }
            };
            self.sending.pace.wait(n)?;
            if self.sending.hash {
                sha256.update(&bytes);
            }
            size += n;
            self.sending.report.advance(n);
            self.send_frame(Frame::Data { lane, bytes })?;
        }
        self.expect(job, size, self.sending.hash.then(|| sha256.finalize().into()))?;
        self.send_frame(Frame::End { lane })
    }

    fn read(&self, job: Job, mut file: File) -> anyhow::Result<()> {
        let (mut size, mut sha256, mut chunk) = (0, Sha256::new(), vec![0; CHUNK]);
        loop {
            ess_run::stop_if_interrupted()?;
            match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => {
                    sha256.update(&chunk[..n]);
                    size += n as u64;
                    self.sending.report.advance(n as u64);
                }
                Err(error) => {
                    self.leave_out(format!("{}: {error}", job.path));
                    return Ok(());
                }
            }
        }
        self.request_hash(job, size, sha256.finalize().into())
    }

    /// Requests the size and digest of the copy, for comparison with these.
    fn request_hash(&self, job: Job, size: u64, sha256: Digest) -> anyhow::Result<()> {
        let (lane, path) = (self.number, job.path.clone());
        self.expect(job, size, Some(sha256))?;
        self.send_frame(Frame::Hash { lane, path })
    }

    /// Records a request. To be called before the request is sent, so that no answer arrives unexpectedly.
    fn expect(&self, job: Job, size: u64, sha256: Option<Digest>) -> anyhow::Result<()> {
        self.shared.expect(self.number, Pending { job, size, sha256 })
    }

    fn leave_out(&self, what: String) {
        locked(&self.shared.results).left.push(what);
    }

    fn send_frame(&self, frame: Frame) -> anyhow::Result<()> {
        self.out.send(frame).map_err(|_| gone().into())
    }
}

/// Opens a regular file without following links, and returns its modification time; `None` if it is something else.
fn open(path: &Path) -> io::Result<Option<(File, Time)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    let time = time_of(&metadata);
    Ok(metadata.is_file().then_some((file, time)))
}
