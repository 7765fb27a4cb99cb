//! Finds the installed PostgreSQL client programs, and chooses those that suit the servers on both sides.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{Error, Program, Report, Silent};

/// Directories in which distributions install client programs of several versions.
const VERSIONED: [&str; 3] = ["/usr/lib/postgresql", "/opt/postgresql", "/usr/local/pgsql"];

/// PostgreSQL's programs of one version, in one directory: those of the client, or those of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Where the programs are.
    pub directory: PathBuf,
    /// The major version, such as 17.
    pub major: u32,
    /// The full version, as `pg_dump --version` or `postgres --version` prints it, such as `17.6`.
    pub version: String,
}

impl Installation {
    /// A program of this installation.
    pub fn program(&self, name: &str) -> Program {
        Program::new(self.directory.join(name))
    }

    /// Whether this build supports a compression method of `pg_dump -Z`; up to version 15 there was only gzip.
    ///
    /// pg_dump is called with arguments that always fail before it connects: it checks the compression method, and then
    /// rejects `--jobs 2` for a format other than directory.
    pub fn compresses(&self, method: &str, report: &dyn Report) -> Result<bool, Error> {
        if self.major < 16 {
            return Ok(false);
        }
        let asked = self
            .program("pg_dump")
            .args(["--format", "custom", "--jobs", "2", "--compress", method])
            .capture(report);
        match asked {
            Err(Error::Failed { stderr, .. }) => Ok(!stderr.contains("does not support compression")),
            other => other.map(|_| true),
        }
    }
}

/// All installations of the client programs on this machine, in ascending order of version.
///
/// If the user has chosen a directory, `only`, no other one is searched.
pub fn installations(only: Option<&Path>) -> Vec<Installation> {
    search(only, "pg_dump", "pg_restore")
}

/// All installations of the server programs `initdb` and `postgres`, likewise.
pub fn servers(only: Option<&Path>) -> Vec<Installation> {
    search(only, "postgres", "initdb")
}

/// All directories with these two programs, in ascending order of their version, which the first one prints.
fn search(only: Option<&Path>, program: &str, other: &str) -> Vec<Installation> {
    let mut found: Vec<Installation> = Vec::new();
    for directory in only.map_or_else(candidates, |one| vec![one.to_owned()]) {
        if let Some(installation) = look(&directory, program, other)
            && !found.iter().any(|f| f.directory == installation.directory)
        {
            found.push(installation);
        }
    }
    // The sort is stable: of equal versions the one earlier in PATH stays first.
    found.sort_by_key(|f| f.major);
    found
}

/// What client programs are needed for. All versions are major versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Dump a source, for a target if that is known.
    Dump {
        /// The version of the source's server.
        source: u32,
        /// The version of the target's server.
        target: Option<u32>,
    },
    /// Back up a target, and load the backup into it again later.
    BackUp {
        /// The version of the target's server.
        target: u32,
    },
    /// Load a dump into a target.
    Load {
        /// The version of the `pg_dump` that wrote the archive; `None` for SQL text.
        written_by: Option<u32>,
        /// The compression of the archive, if not every build can read it: `lz4` or `zstd`.
        compression: Option<&'static str>,
        /// The version of the target's server.
        target: u32,
    },
}

/// Servers up to this version reject `SET transaction_timeout`, which all newer client programs send or write
/// (`_doSetFixedOutputState` in pg_backup_archiver.c).
pub const LAST_WITHOUT_TRANSACTION_TIMEOUT: u32 = 16;

impl Need {
    /// Whether programs of this version suit the servers on both sides.
    pub fn fits(self, major: u32) -> bool {
        let (from, to) = self.range();
        from <= major && to.is_none_or(|to| major <= to)
    }

    /// The oldest suitable version, and the newest one if there is a limit.
    fn range(self) -> (u32, Option<u32>) {
        let (from, target) = match self {
            // pg_dump refuses servers newer than itself.
            Self::Dump { source, target } => (source, target),
            Self::BackUp { target } => (target, Some(target)),
            Self::Load { written_by, target, .. } => (written_by.map_or(0, first_reader), Some(target)),
        };
        let last = LAST_WITHOUT_TRANSACTION_TIMEOUT;
        (from, target.filter(|target| *target <= last).map(|_| last))
    }

    /// The version to prefer: that of the newer server, as PostgreSQL's manual advises.
    fn best(self) -> u32 {
        let best = match self {
            Self::Dump { source, target } => target.map_or(source, |target| target.max(source)),
            Self::BackUp { target } => target,
            Self::Load { written_by, target, .. } => written_by.map_or(target, |written_by| written_by.max(target)),
        };
        self.range().1.map_or(best, |to| best.min(to))
    }

    /// The indexes of the suitable versions in `majors`, which is in ascending order: the best first, then older ones,
    /// then newer ones.
    ///
    /// Newer ones are last, since the output of pg_dump is meant for servers of its own version and newer.
    fn in_order(self, majors: &[u32]) -> Vec<usize> {
        let fits = |at: &usize| self.fits(majors[*at]);
        let (mut older, newer): (Vec<usize>, Vec<usize>) = (0..majors.len())
            .filter(fits)
            .partition(|at| majors[*at] <= self.best());
        // The sort is stable: of equal versions the first in PATH stays first.
        older.sort_by_key(|at| std::cmp::Reverse(majors[*at]));
        older.into_iter().chain(newer).collect()
    }

    fn compression(self) -> Option<&'static str> {
        match self {
            Self::Load { compression, .. } => compression,
            _ => None,
        }
    }

    /// Why none of `found` is suitable.
    fn unmet(self, found: &[Installation], only: Option<&Path>) -> String {
        let place = only.map_or_else(|| "here".to_owned(), |only| format!("in {}", only.display()));
        let here = if found.is_empty() {
            format!("no pg_dump and pg_restore were found {place}")
        } else {
            let lacks = |one: &Installation| self.compression().filter(|_| self.fits(one.major));
            let versions = found.iter().map(|one| match lacks(one) {
                Some(method) => format!("{} without {method}", one.version),
                None => one.version.clone(),
            });
            format!("found {place}: version {}", versions.collect::<Vec<_>>().join(", "))
        };
        let (from, to) = self.range();
        let why = match to {
            Some(to) if found.iter().any(|one| one.major > to) => {
                " (newer ones send SET transaction_timeout, which that target refuses)"
            }
            _ => "",
        };
        let with = self
            .compression()
            .map_or_else(String::new, |method| format!(" with {method} support"));
        let range = match to {
            None => format!("{from} or newer"),
            Some(to) if from == 0 => format!("{to} or older"),
            Some(to) if from == to => to.to_string(),
            Some(to) => format!("{from} to {to}"),
        };
        format!("{self} requires client programs of version {range}{with}{why}; {here}")
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dump { source, target: None } => write!(f, "dumping this source (PostgreSQL {source})"),
            Self::Dump {
                source,
                target: Some(target),
            } => write!(
                f,
                "dumping this source (PostgreSQL {source}) for this target (PostgreSQL {target})"
            ),
            Self::BackUp { target } => write!(f, "backing up this target (PostgreSQL {target})"),
            Self::Load {
                written_by: Some(written_by),
                target,
                ..
            } => write!(
                f,
                "loading this dump (of pg_dump {written_by}) into this target (PostgreSQL {target})"
            ),
            Self::Load { target, .. } => write!(f, "loading this dump into this target (PostgreSQL {target})"),
        }
    }
}

/// The oldest `pg_restore` that can read an archive of this `pg_dump`.
///
/// The version of the archive format (`K_VERS_SELF` in pg_backup_archiver.h) is 1.14 from 12 on, 1.15 in 16, and 1.16
/// in 17 and 18.
fn first_reader(pg_dump: u32) -> u32 {
    match pg_dump {
        12..=15 => 12,
        17 | 18 => 17,
        other => other,
    }
}

/// The best installation for a need, of all on this machine or only in the directory `only`.
///
/// # Errors
///
/// [`Error::Missing`] if none is suitable, with a hint that names one elsewhere or the package to install.
pub fn choose(only: Option<&Path>, need: Need) -> Result<Installation, Error> {
    let all = installations(only);
    if let Some(chosen) = best_of(&all, need)? {
        return Ok(chosen);
    }
    let elsewhere = match only {
        Some(_) => best_of(&installations(None), need)?,
        None => None,
    };
    Err(Error::Missing {
        what: need.unmet(&all, only),
        hint: match elsewhere {
            Some(fits) => format!("use --pg-bin {}", fits.directory.display()),
            None => format!(
                "install postgresql-client-{}, from apt.postgresql.org if the distribution lacks it, \
                 or specify its directory with --pg-bin DIR",
                need.best()
            ),
        },
    })
}

fn best_of(all: &[Installation], need: Need) -> Result<Option<Installation>, Error> {
    let majors: Vec<u32> = all.iter().map(|one| one.major).collect();
    for at in need.in_order(&majors) {
        if let Some(method) = need.compression()
            && !all[at].compresses(method, &Silent)?
        {
            continue;
        }
        return Ok(Some(all[at].clone()));
    }
    Ok(None)
}

fn candidates() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for root in VERSIONED {
        let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
        directories.extend(versions.map(|version| version.path().join("bin")));
    }
    directories
}

fn look(directory: &Path, program: &str, other: &str) -> Option<Installation> {
    // Resolve links: Debian's /usr/bin/pg_dump is a link to the wrapper pg_wrapper, which may choose another version.
    let path = directory.join(program).canonicalize().ok()?;
    if path.file_name()? != program {
        return None;
    }
    let directory = path.parent()?.to_owned();
    if !directory.join(other).is_file() {
        return None;
    }
    let output = Program::new(&path).arg("--version").capture(&Silent).ok()?;
    let text = String::from_utf8_lossy(&output);
    let version = text.split_whitespace().nth(2)?.to_owned();
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some(Installation {
        directory,
        major: digits.parse().ok()?,
        version,
    })
}

#[cfg(test)]
mod tests;
