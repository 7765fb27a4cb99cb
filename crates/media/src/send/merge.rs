//! Compares the lists of the store and of the copy, unit by unit.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::mpsc::SyncSender;

use anyhow::Context as _;
use ess_run::locked;
use ess_synapse::media::MediaKind;

use super::answers::Event;
use super::{Job, Pass, Talk, Task, gone, out_of_order};
use crate::frame::{Frame, Time};
use crate::tally::add;
use crate::walk::{Odd, Unit, Walk, Why, order};

/// A merge of two walks in the same order: that of the store, and that of the copy, which the receiver sends.
pub(super) struct Merge<'m, 'a, 'f> {
    pub(super) talk: &'m mut Talk<'a, 'f>,
    pub(super) pass: Pass,
    pub(super) jobs: &'m SyncSender<Job>,
    /// The next unit of the copy, if it was read ahead.
    pub(super) remote: Option<Unit>,
    pub(super) is_over: bool,
    /// The path of the copy's last unit, to check their order.
    pub(super) before: String,
    /// Paths of the store that could not be read: below them no file of the copy is surplus.
    pub(super) unreadable: Vec<String>,
}

impl Merge<'_, '_, '_> {
    pub(super) fn run(&mut self) -> anyhow::Result<()> {
        let sending = self.talk.sending;
        let walk = Walk {
            store: sending.store,
            kinds: sending.kinds,
            keep: None,
        };
        // Collected, and reported at the end of each unit: both closures would need `self`.
        let odd = RefCell::new(Vec::new());
        let mut note = |found: Odd| odd.borrow_mut().push(found);
        if self.pass == Pass::Copy {
            walk.other_entries(&mut note)
                .with_context(|| format!("cannot read the media store {}", sending.store.display()))?;
        }
        self.note_odd(odd.take());
        walk.run(&mut note, &mut |kind, unit| {
            self.note_odd(odd.take());
            self.unit(kind, unit)
        })?;
        self.note_odd(odd.take());
        while let Some(unit) = self.next_remote()? {
            self.surplus(&unit)?;
        }
        Ok(())
    }

    fn note_odd(&mut self, odd: Vec<Odd>) {
        for odd in odd {
            if matches!(odd.why, Why::Unreadable(_)) {
                self.unreadable.push(odd.path.clone());
            }
            if self.pass == Pass::Copy {
                self.talk.tally.left(odd.to_string());
            }
        }
    }

    fn unit(&mut self, kind: MediaKind, local: Unit) -> anyhow::Result<()> {
        ess_run::stop_if_interrupted()?;
        let mut copied = HashMap::new();
        while let Some(remote) = self.next_remote()? {
            match order(&remote.path, &local.path) {
                Ordering::Less => self.surplus(&remote)?,
                Ordering::Equal => {
                    copied = remote
                        .files
                        .into_iter()
                        .map(|file| (file.path, (file.size, file.time)))
                        .collect();
                    break;
                }
                Ordering::Greater => {
                    self.remote = Some(remote);
                    break;
                }
            }
        }
        for file in local.files {
            let path = format!("{}/{}", local.path, file.path);
            let is_same = copied
                .remove(&file.path)
                .is_some_and(|(size, time)| size == file.size && is_same_time(file.time, time));
            if self.pass == Pass::Copy {
                let Talk { tally, rows, .. } = &mut *self.talk;
                tally.present(kind, file.size);
                rows.present(&path, tally)?;
                if is_same {
                    add(&mut tally.unchanged, file.size);
                }
            }
            let task = match self.pass {
                pass if !is_same => Task::Send(pass),
                Pass::Verify => Task::Read,
                Pass::Copy => continue,
            };
            self.jobs.send(Job { path, task }).map_err(|_| gone())?;
        }
        if locked(&self.talk.shared.results).digests.len() >= 1_000 {
            self.talk.take_results()?;
        }
        if !local.partly {
            let mut names: Vec<&String> = copied.keys().collect();
            names.sort_unstable();
            for name in names {
                self.surplus_file(&format!("{}/{name}", local.path))?;
            }
        }
        Ok(())
    }

    fn surplus(&mut self, remote: &Unit) -> anyhow::Result<()> {
        let is_hidden = |place: &String| remote.path == *place || remote.path.starts_with(&format!("{place}/"));
        if self.unreadable.iter().any(is_hidden) {
            return Ok(());
        }
        for file in &remote.files {
            self.surplus_file(&format!("{}/{}", remote.path, file.path))?;
        }
        Ok(())
    }

    fn surplus_file(&mut self, path: &str) -> anyhow::Result<()> {
        if self.pass == Pass::Verify {
            return Ok(());
        }
        self.talk.tally.surplus(path.to_owned());
        if self.talk.sending.delete {
            self.talk.tally.removed += 1;
            let path = path.to_owned();
            self.talk.send_frame(Frame::Remove { path })?;
        }
        Ok(())
    }

    fn next_remote(&mut self) -> anyhow::Result<Option<Unit>> {
        if let Some(unit) = self.remote.take() {
            return Ok(Some(unit));
        }
        let mut unit = Unit::default();
        let mut size = 0;
        while !self.is_over {
            match self.talk.next()? {
                Event::Unit {
                    path,
                    files,
                    last,
                    bytes,
                } => {
                    if unit.files.is_empty() {
                        unit.path = path;
                    } else if unit.path != path {
                        return Err(out_of_order().into());
                    }
                    unit.files.extend(files);
                    size += bytes;
                    if last {
                        if order(&self.before, &unit.path).is_ge() {
                            return Err(out_of_order().into());
                        }
                        self.before.clone_from(&unit.path);
                        self.talk.shared.compared(size);
                        self.talk.send_frame(Frame::More { units: 1 })?;
                        return Ok(Some(unit));
                    }
                }
                Event::Listed => self.is_over = true,
                Event::Ready | Event::Synced => return Err(out_of_order().into()),
            }
        }
        Ok(None)
    }
}

/// Whether two times are equal, although some file systems store them only to 100 ns, a microsecond or a second.
fn is_same_time(local: Time, remote: Time) -> bool {
    let kept = |step: u32| local.nanoseconds - local.nanoseconds % step;
    local.seconds == remote.seconds
        && [1, 100, 1_000, 1_000_000_000]
            .into_iter()
            .any(|step| kept(step) == remote.nanoseconds)
}
