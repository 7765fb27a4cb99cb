//! What a child program must find in its environment to reach the same server.

use std::ffi::OsString;
use std::process::Command;
use std::sync::PoisonError;

use ess_run::MemoryFile;
use secrecy::ExposeSecret;

use super::{Conninfo, ConninfoError, KEYWORDS, OTHER_VARIABLES};
use crate::{Access, passfile, pinned};

/// Variables for one child, and the files they name, which live as long as this value.
pub struct ChildEnvironment {
    /// To be set.
    pub vars: Vec<(String, OsString)>,
    /// To be removed if inherited: libpq's other variables, which would change what is reached.
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

/// The service that carries the parameters which have no variable.
const SERVICE: &str = "ess-migrate";

impl Conninfo {
    /// The environment in which libpq's programs reach what this says, resolved before.
    ///
    /// The password goes into a password file of mode 0600, and into `PGPASSWORD` of this child only
    /// if it has a line break, which such a file cannot hold.
    ///
    /// Its sessions are pinned as ours are, and by `more`. Not through a pooler, which refuses or drops start-up
    /// settings: there a session of ours saw that what a child needs is so.
    pub fn child_environment(
        &self,
        application_name: &str,
        access: Access,
        more: &[(&str, &str)],
    ) -> Result<ChildEnvironment, ConninfoError> {
        let met = *self.met().lock().unwrap_or_else(PoisonError::into_inner);
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
                // The first four are ours to say. An encoding would change what pg_dump writes, and
                // a random order of hosts could take a child elsewhere than us.
                "application_name"
                | "options"
                | "fallback_application_name"
                | "passfile"
                | "client_encoding"
                | "load_balance_hosts"
                | "sslkeylogfile" => continue,
                // A session that is read-only by our own choice still may be on a primary.
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
        // Without a password the file is empty, so that the child finds no other than we did.
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

/// Makes a file that only this account can read, and says where.
fn file(files: &mut Vec<MemoryFile>, text: &str) -> Result<OsString, ConninfoError> {
    let file =
        MemoryFile::new(text.as_bytes()).map_err(|source| ConninfoError::io("a file in memory".as_ref(), source))?;
    let path = file.path();
    files.push(file);
    Ok(path)
}
