//! Waiting for a state, with a limit.

use std::thread;
use std::time::{Duration, Instant};

/// Waits until a condition is true, for at most a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came that {what}");
    }
}

/// The same for a condition that costs a request.
#[track_caller]
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} never came");
        thread::sleep(Duration::from_millis(20));
    }
}
