//! Mutexes and threads when another thread may have panicked.

use std::panic::resume_unwind;
use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Locks a mutex.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// The guard or value, whether or not a thread panicked while it held the lock: that panic resumes where the thread is
/// joined.
pub fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// The result of a thread that was joined; a panic in it resumes.
pub fn joined<T>(result: thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
