//! Which PostgreSQL client programs are here, and which fit a server.

use std::path::{Path, PathBuf};

use crate::{Error, Program, Silent};

/// Directories where distributions keep client programs of several versions.
const VERSIONED: [&str; 3] = ["/usr/lib/postgresql", "/opt/postgresql", "/usr/local/pgsql"];

/// `pg_dump`, `pg_restore` and `psql` of one version, in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// Where the programs are.
    pub directory: PathBuf,
    /// The major version, such as 17.
    pub major: u32,
    /// As `pg_dump --version` says it, such as `17.6`.
    pub version: String,
}

impl Installation {
    /// A program of this installation.
    pub fn program(&self, name: &str) -> Program {
        Program::new(self.directory.join(name))
    }
}

/// Every installation on this machine, in ascending order of version.
///
/// `only` is the user's choice of a directory and ends the search.
pub fn installations(only: Option<&Path>) -> Vec<Installation> {
    let mut found: Vec<Installation> = Vec::new();
    for directory in only.map_or_else(candidates, |one| vec![one.to_owned()]) {
        if let Some(installation) = look(&directory)
            && !found.iter().any(|f| f.directory == installation.directory)
        {
            found.push(installation);
        }
    }
    // Stable: of equal majors the one earlier in PATH stays first.
    found.sort_by_key(|f| f.major);
    found
}

/// The oldest installation that is at least `major`: newer programs write what older servers refuse.
pub fn choose(only: Option<&Path>, major: u32, why: &str) -> Result<Installation, Error> {
    let all = installations(only);
    let newest = all.last().map(|i| i.version.clone());
    all.into_iter()
        .find(|i| i.major >= major)
        .ok_or_else(|| Error::Missing {
            what: match newest {
                Some(newest) => {
                    format!("the newest PostgreSQL client programs here are {newest}, and {why} needs {major}")
                }
                None => format!("no pg_dump, pg_restore and psql were found, and {why} needs them"),
            },
            hint: format!("install postgresql-client-{major} (or name its directory with --pg-bin DIR)"),
        })
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

fn look(directory: &Path) -> Option<Installation> {
    // Through links to the real place: Debian's /usr/bin holds a wrapper that may pick another version.
    let pg_dump = directory.join("pg_dump").canonicalize().ok()?;
    if pg_dump.file_name()? != "pg_dump" {
        return None;
    }
    let directory = pg_dump.parent()?.to_owned();
    if !["pg_restore", "psql"].iter().all(|name| directory.join(name).is_file()) {
        return None;
    }
    let output = Program::new(&pg_dump).arg("--version").capture(&Silent).ok()?;
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
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_this_machine_are_found_and_fit_their_own_server() {
        let all = installations(None);
        let newest = all.last().expect("PostgreSQL's client programs are installed");
        let chosen = choose(None, newest.major, "a test").expect("the newest is new enough");
        assert_eq!(chosen.major, newest.major);
        let error = choose(None, newest.major + 1, "a server of the future").expect_err("too old");
        assert!(error.to_string().contains("a server of the future needs"), "{error}");
    }
}
