//! libpq's connection service file: `[name]` sections of `keyword=value` lines (`parseServiceInfo` and
//! `parseServiceFile` in `fe-connect.c`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::conninfo::environment::{Env, home};
use crate::conninfo::error::ConninfoError;
use crate::conninfo::keyword::check;

/// The directories of `pg_service.conf` on Debian, on Red Hat and by upstream's default.
const SYSTEM_DIRS: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];

/// The first file that defines the service, and the parameters in it.
pub(crate) fn find(
    service: &str,
    servicefile: Option<&str>,
    env: Env<'_>,
) -> Result<(PathBuf, BTreeMap<String, String>), ConninfoError> {
    let mut files = Vec::new();
    match servicefile {
        // A file that was given must exist; default files need not.
        Some(path) => files.push((PathBuf::from(path), true)),
        None => files.extend(home(env).map(|home| (home.join(".pg_service.conf"), false))),
    }
    match env("PGSYSCONFDIR") {
        Some(dir) => files.push((Path::new(&dir).join("pg_service.conf"), false)),
        None => files.extend(SYSTEM_DIRS.map(|dir| (Path::new(dir).join("pg_service.conf"), false))),
    }
    for (path, must_exist) in files {
        if !must_exist && !path.exists() {
            continue;
        }
        let text =
            ess_files::read_text(&path, ess_files::CONFIGURATION).map_err(|source| ConninfoError::io(&path, source))?;
        if let Some(params) = section(&text, service, &path)? {
            return Ok((path, params));
        }
    }
    Err(ConninfoError::NoSuchService(service.to_owned()))
}

fn section(text: &str, service: &str, path: &Path) -> Result<Option<BTreeMap<String, String>>, ConninfoError> {
    let mut found: Option<BTreeMap<String, String>> = None;
    for (number, line) in text.lines().enumerate() {
        let wrong = |what| ConninfoError::ServiceFile {
            path: path.to_owned(),
            line: number + 1,
            what,
        };
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if name.strip_prefix(service).is_some_and(|rest| rest.starts_with(']')) {
                found = Some(BTreeMap::new());
            }
            continue;
        }
        let Some(params) = &mut found else { continue };
        if line.starts_with("ldap") {
            return Err(wrong("an LDAP lookup is not supported"));
        }
        let (keyword, value) = line.split_once('=').ok_or_else(|| wrong("expected keyword=value"))?;
        if matches!(keyword, "service" | "servicefile") {
            return Err(wrong("a service cannot refer to another service"));
        }
        check(keyword, value)?;
        // libpq uses the first of two values.
        params.entry(keyword.to_owned()).or_insert_with(|| value.to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Option<BTreeMap<String, String>>, String> {
        section(text, "mine", Path::new("f")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_section_ends_where_the_next_begins() {
        let text =
            "# all\n[other]\nhost=no\n\n  [mine]\nhost=h\n port=7 \nhost=later\n# x\ndbname=a b\n[mine]\nuser=no\n";
        let found = read(text).unwrap().unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|(keyword, value)| format!("{keyword}={value}"))
            .collect();
        assert_eq!(found, ["dbname=a b", "host=h", "port=7"]);
        assert_eq!(read("[other]\nhost=h").unwrap(), None);
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(
            read("[mine]\nhost").unwrap_err(),
            "service file f: line 2: expected keyword=value"
        );
        assert!(read("[mine]\nldap://h/").unwrap_err().contains("LDAP"));
        assert!(read("[mine]\nservice=x").unwrap_err().contains("another service"));
        assert!(read("[mine]\nhost =x").unwrap_err().contains("\"host \""));
        assert!(read("[other]\nrubbish\n[mine]\nhost=h").is_ok());
    }

    #[test]
    fn a_named_file_comes_first_and_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("services");
        fs::write(
            dir.path().join("pg_service.conf"),
            "[mine]\nhost=system\n[theirs]\nhost=t\n",
        )
        .unwrap();
        fs::write(&file, "[mine]\nhost=named\n").unwrap();
        let sysconf = dir.path().to_str().unwrap().to_owned();
        let env = |name: &str| match name {
            "PGSYSCONFDIR" | "HOME" => Some(sysconf.clone()),
            _ => None,
        };

        assert_eq!(find("mine", file.to_str(), &env).unwrap().1["host"], "named");
        assert_eq!(find("theirs", file.to_str(), &env).unwrap().1["host"], "t");
        assert_eq!(find("mine", None, &env).unwrap().1["host"], "system");
        assert!(matches!(
            find("nobody's", None, &env),
            Err(ConninfoError::NoSuchService(_))
        ));
        assert!(matches!(
            find("mine", Some("/nowhere"), &env),
            Err(ConninfoError::Io { .. })
        ));
    }
}
