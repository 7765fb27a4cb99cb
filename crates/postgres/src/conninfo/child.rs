//! The environment in which a child program reaches the same server.

use std::ffi::OsString;
use std::process::Command;

use ess_run::{MemoryFile, locked};
use secrecy::ExposeSecret;

use super::{Conninfo, ConninfoError, KEYWORDS, OTHER_VARIABLES};
use crate::{Access, passfile, pinned};

/// Environment variables for one child program, and the files that they name, which exist as long as this value.
pub struct ChildEnvironment {
    /// Variables to set.
    pub vars: Vec<(String, OsString)>,
    /// Variables to remove if inherited: libpq's other variables, which could change which server is reached and how.
    pub unset: Vec<&'static str>,
    _files: Vec<MemoryFile>,
}

impl ChildEnvironment {
    /// Sets and removes the variables of a command.
    pub fn apply(&self, command: &mut Command) {
        for name in &self.unset {
            command.env_remove(name);
        }
        command.envs(self.vars.iter().map(|(name, value)| (name, value)));
    }
}

/// The name of the service that passes the parameters for which libpq has no environment variable.
const SERVICE: &str = "ess-migrate";

impl Conninfo {
    /// The environment in which libpq's programs connect to this server. Call it after [`Conninfo::resolve`].
    ///
    /// The password is passed in a password file with mode 0600. Only if it contains a line break, which such a file
    /// cannot represent, is it passed in `PGPASSWORD`.
    ///
    /// The child's sessions get the same pinned settings as ours, and those of `more`. Through a pooler they get none,
    /// because poolers refuse or drop settings at connection start: there, a session of ours has verified that the
    /// settings that a child needs have the right values.
    pub fn child_environment(
        &self,
        application_name: &str,
        access: Access,
        more: &[(&str, &str)],
    ) -> Result<ChildEnvironment, ConninfoError> {
        let met = *locked(self.met());
        let pinned = match met {
            Some(met) if met.pooled => None,
            met => Some(pinned::options(met.map_or(0, |met| met.version), access, more)),
        };
        let options = [self.get("options"), pinned.as_deref()];
        let options: Vec<&str> = options.into_iter().flatten().collect();
        let mut vars = vec![("PGAPPNAME".to_owned(), application_name.into())];
        let mut service = String::new();
        for keyword in KEYWORDS {
            let Some(value) = self.get_patiently(keyword.name) else {
                continue;
            };
            let value = match keyword.name {
                // The first four are set separately or not needed. A client encoding would change what pg_dump writes,
                // and a random order of hosts could take the child to another server than ours.
                "application_name"
                | "options"
                | "fallback_application_name"
                | "passfile"
                | "client_encoding"
                | "load_balance_hosts"
                | "sslkeylogfile" => continue,
                // libpq would count a session that our own settings make read-only as one on a read-only server.
                "target_session_attrs" if value == "read-write" => "primary",
                "target_session_attrs" if value == "read-only" => "standby",
                _ => value,
            };
            match keyword.variable {
                Some(name) => vars.push((name.to_owned(), value.into())),
                None => service.extend([keyword.name, "=", value, "\n"]),
            }
        }

        if !options.is_empty() {
            vars.push(("PGOPTIONS".to_owned(), options.join(" ").into()));
        }

        let mut files = Vec::new();
        let line = match self.password().map(ExposeSecret::expose_secret) {
            Some(password) => passfile::line(password).or_else(|| {
                vars.push(("PGPASSWORD".to_owned(), password.into()));
                None
            }),
            None => None,
        };
        // Without a password the file is empty, so that the child does not find a password that we did not find.
        vars.push((
            "PGPASSFILE".to_owned(),
            file(&mut files, line.as_deref().map_or("", String::as_str))?,
        ));
        if !service.is_empty() {
            vars.push((
                "PGSERVICEFILE".to_owned(),
                file(&mut files, &format!("[{SERVICE}]\n{service}"))?,
            ));
            vars.push(("PGSERVICE".to_owned(), SERVICE.into()));
        }

        let names = KEYWORDS
            .iter()
            .filter_map(|keyword| keyword.variable)
            .chain(OTHER_VARIABLES.iter().copied());
        let unset = names.filter(|name| vars.iter().all(|(set, _)| set != name)).collect();
        Ok(ChildEnvironment {
            vars,
            unset,
            _files: files,
        })
    }
}

/// Creates a file in memory that only this account can read, and returns its path.
fn file(files: &mut Vec<MemoryFile>, text: &str) -> Result<OsString, ConninfoError> {
    let file =
        MemoryFile::new(text.as_bytes()).map_err(|source| ConninfoError::io("a file in memory".as_ref(), source))?;
    let path = file.path();
    files.push(file);
    Ok(path)
}
