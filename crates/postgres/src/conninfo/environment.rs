//! The environment, as libpq reads it.

use std::path::PathBuf;

/// Looks up an environment variable; a parameter, so that tests can replace the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The home directory, like `pqGetHomeDirectory` in libpq since PostgreSQL 15: `HOME`, else the account's home.
pub(crate) fn home(env: Env<'_>) -> Option<PathBuf> {
    env("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .or_else(std::env::home_dir)
}
