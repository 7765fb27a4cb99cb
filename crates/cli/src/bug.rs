//! A panic is a bug in these tools: it becomes one sentence and exit status 70, never a backtrace that may quote data.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;

use ess_run::locked;

use crate::{Exit, Stop};

/// Where the last panic was. Its message is not kept, since it may quote the data that was being read.
static PLACE: Mutex<Option<String>> = Mutex::new(None);

/// Replaces the printing panic hook by one that stores the place, so that a panic that is caught prints nothing.
pub(crate) fn remember_panics() {
    panic::set_hook(Box::new(|panic| {
        *locked(&PLACE) = panic.location().map(ToString::to_string);
    }));
}

/// Runs the tool's work; a panic becomes an error.
pub(crate) fn catch<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let place = locked(&PLACE).take();
        let place = place.unwrap_or_else(|| "an unknown place".to_owned());
        Err(
            Stop::new(Exit::Software, format!("this is a bug in these tools, at {place}"))
                .hint("report it with that place and the command line; check the state of the target with `verify`")
                .into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_exit_70_without_its_words() {
        let error = catch::<()>(|| {
            let secret: Result<(), String> = std::hint::black_box(Err("hunter2".to_owned()));
            secret.expect("a panic that quotes data");
            Ok(())
        })
        .expect_err("it panicked");

        assert_eq!(crate::exit_of(&error), Exit::Software);
        assert!(!format!("{error:#}").contains("hunter2"), "{error:#}");
    }
}
