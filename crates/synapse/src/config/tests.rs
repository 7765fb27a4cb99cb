#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::{Config, ConfigError, Database, DirectoryChoice, Options};

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn load(dir: &TempDir, configs: &[&str]) -> Result<Config, ConfigError> {
    let configs = configs.iter().map(|name| dir.path().join(name)).collect();
    Config::load(&Options {
        configs,
        ..Options::default()
    })
}

fn one(yaml: &str) -> Config {
    let dir = directory(&[("homeserver.yaml", &format!("server_name: example.org\n{yaml}"))]);
    load(&dir, &["homeserver.yaml"]).unwrap()
}

#[test]
fn files_and_directories_merge_shallowly_in_order() {
    let dir = directory(&[
        ("homeserver.yaml", "a: {x: 1, y: 2}\nb: 1\nreport_stats: no\n"),
        ("conf.d/20-name.yaml", "server_name: example.org\n"),
        ("conf.d/10-a.yaml", "a: {x: 3}\nserver_name: wrong\n"),
        ("conf.d/30-empty.yaml", "# nothing\n"),
        ("conf.d/ignored.yml", "b: 2\n"),
        ("conf.d/deep/ignored.yaml", "b: 3\n"),
    ]);

    let config = load(&dir, &["homeserver.yaml", "conf.d"]).unwrap();

    assert_eq!(config.server_name(), "example.org");
    assert_eq!(config.get("a.x").unwrap().as_int(), Some(3));
    assert!(config.get("a.y").is_none());
    assert_eq!(config.get("b").unwrap().as_int(), Some(1));
    assert_eq!(config.file_of("a.x").unwrap(), dir.path().join("conf.d/10-a.yaml"));
    let names: Vec<_> = config.files().iter().map(|path| path.file_name().unwrap()).collect();
    assert_eq!(names, ["homeserver.yaml", "10-a.yaml", "20-name.yaml", "30-empty.yaml"]);
    assert_eq!(config.skipped(), [dir.path().join("conf.d/30-empty.yaml")]);
    assert_eq!(
        config.signing_key_path().unwrap(),
        dir.path().join("conf.d/example.org.signing.key")
    );
}

#[test]
fn without_a_server_name_the_files_are_listed_and_conf_d_hinted() {
    let dir = directory(&[("homeserver.yaml", "a: 1\n")]);

    let error = load(&dir, &["homeserver.yaml"]).unwrap_err();

    assert!(error.to_string().contains("homeserver.yaml"), "{error}");
    assert!(error.hint().unwrap().contains("conf.d"));
    assert!(matches!(
        load(&directory(&[("conf.d/x", "")]), &["conf.d"]),
        Err(ConfigError::NoFiles)
    ));
}

#[test]
fn a_file_that_is_not_there_is_named_with_where_to_look() {
    let error = load(&directory(&[]), &["homeserver.yaml"]).unwrap_err();

    assert!(
        error
            .to_string()
            .ends_with("homeserver.yaml: No such file or directory (os error 2)"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("check -c"));
}

#[test]
fn errors_name_file_line_and_column_and_no_value() {
    let dir = directory(&[("homeserver.yaml", "server_name: example.org\nform_secret: canary\tx\n")]);

    let error = load(&dir, &["homeserver.yaml"]).unwrap_err().to_string();

    assert!(
        error.ends_with("homeserver.yaml: line 2, column 20: a tab, where YAML allows only spaces"),
        "{error}"
    );
    let error = load(&dir, &["none.yaml"]).unwrap_err();
    assert!(error.to_string().contains("none.yaml"), "{error}");
}

#[test]
fn debug_shows_no_value() {
    assert!(!format!("{:?}", one("form_secret: canary\nlist: [canary, {a: canary}]\n")).contains("canary"));
}

#[test]
fn relative_paths_are_of_synapses_working_directory_and_then_mapped() {
    let dir = directory(&[("homeserver.yaml", "server_name: example.org\nmedia_store_path: media\n")]);
    let mut options = Options {
        configs: vec![dir.path().join("homeserver.yaml")],
        path_map: vec![
            ("/data".into(), dir.path().into()),
            ("/data/media".into(), "/mnt/media".into()),
        ],
        ..Options::default()
    };

    let config = Config::load(&options).unwrap();
    assert_eq!(
        (config.layout(), config.working_directory()),
        (DirectoryChoice::Docker, Path::new("/"))
    );
    assert_eq!(config.media_store_path().unwrap(), Path::new("/media"));
    assert_eq!(config.resolve_path("/data/x/../key"), dir.path().join("key"));
    assert_eq!(config.resolve_path("/data"), dir.path());
    assert_eq!(config.resolve_path("data/media/a"), Path::new("/mnt/media/a"));
    assert_eq!(config.resolve_path("/database"), Path::new("/database"));

    options.working_directory = Some("/data".into());
    options.keys_directory = Some("keys".into());
    let config = Config::load(&options).unwrap();
    assert_eq!(config.layout(), DirectoryChoice::Given);
    assert_eq!(config.media_store_path().unwrap(), Path::new("/mnt/media"));
    assert_eq!(
        config.signing_key_path().unwrap(),
        dir.path().join("keys/example.org.signing.key")
    );
}

#[test]
fn debians_layout_has_its_own_working_directory() {
    let dir = directory(&[("homeserver.yaml", "server_name: example.org\n")]);
    let options = Options {
        configs: vec![dir.path().join("homeserver.yaml")],
        path_map: vec![("/etc/matrix-synapse".into(), dir.path().into())],
        ..Options::default()
    };

    let config = Config::load(&options).unwrap();

    assert_eq!(config.layout(), DirectoryChoice::Debian);
    assert_eq!(
        config.media_store_path().unwrap(),
        Path::new("/var/lib/matrix-synapse/media_store")
    );
    assert_eq!(one("").layout(), DirectoryChoice::Here);
}

fn postgres(yaml: &str) -> (Vec<(String, String)>, Option<String>, bool) {
    match one(yaml).database().unwrap() {
        Database::Postgres {
            args,
            password,
            allow_unsafe_locale,
        } => (
            args.into_iter().collect(),
            password.map(|password| password.expose_secret().to_owned()),
            allow_unsafe_locale,
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn connection_arguments_have_libpq_names() {
    let (args, password, unsafe_locale) = postgres(
        "database:\n  name: psycopg2\n  allow_unsafe_locale: yes\n  args:\n    database: Syn-Apse\n    \
         user: ~\n    host: /run/postgresql\n    port: 5_433\n    password: 0123\n    cp_min: 5\n    \
         keepalives: on\n    sslmode: require\n",
    );

    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        args,
        [
            pair("dbname", "Syn-Apse"),
            pair("host", "/run/postgresql"),
            pair("keepalives", "True"),
            pair("port", "5433"),
            pair("sslmode", "require"),
        ]
    );
    // PyYAML reads `0123` as an octal number.
    assert_eq!(password.as_deref(), Some("83"));
    assert!(unsafe_locale);
    assert_eq!(postgres("database: {name: psycopg2}\n").0, []);
    assert_eq!(
        postgres("databases: {main: {name: psycopg2, args: {dbname: x}}}\n").0,
        [pair("dbname", "x")]
    );
}

#[test]
fn other_databases_are_distinguished() {
    let dir = std::env::current_dir().unwrap();
    let sqlite = |yaml: &str| match one(yaml).database().unwrap() {
        Database::Sqlite { path } => path,
        other => panic!("{other:?}"),
    };
    assert_eq!(sqlite("database: {args: {database: a.db}}\n"), dir.join("a.db"));
    assert_eq!(sqlite("database_path: b.db\n"), dir.join("b.db"));
    assert_eq!(
        sqlite("database: {name: sqlite3, args: {database: /d.db}}\ndatabase_path: /c.db\n"),
        PathBuf::from("/d.db")
    );
    assert!(matches!(
        one("database: {name: psycopg2}\ndatabase_path: /c.db\n").database(),
        Ok(Database::Postgres { .. })
    ));
    match one("databases: {main: {name: psycopg2}, state: {name: psycopg2}}\n").database() {
        Ok(Database::Split { names }) => assert_eq!(names, ["main", "state"]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_database_that_synapse_refuses_is_refused() {
    for (yaml, part) in [
        ("", "`database`: it is missing"),
        ("database: {name: mysql}\n", "neither `psycopg2` nor `sqlite3`"),
        ("database: text\n", "not a mapping"),
        ("database: {name: psycopg2, args: [1]}\n", "not a mapping"),
        (
            "database: {name: psycopg2, args: {host: [a]}}\n",
            "it is a list to Synapse",
        ),
        ("database: {name: psycopg2, args: {database: a, dbname: b}}\n", "both"),
        ("database: {name: psycopg2, args: {dsn: x}}\n", "`host`"),
        (
            "database: {name: psycopg2}\ndatabases: {a: {name: psycopg2}}\n",
            "set too",
        ),
        ("databases: {a: {name: psycopg2}}\ndatabase_path: x\n", "set too"),
        ("database: {name: sqlite3}\n", "it is missing"),
    ] {
        let error = one(yaml).database().unwrap_err().to_string();
        assert!(error.contains(part), "{yaml}: {error}");
    }
}

#[test]
fn plain_http_listeners_are_found() {
    let config = one(
        "listeners:\n- {port: 8008, type: http, bind_addresses: ['127.0.0.1'], bind_address: '::1'}\n\
         - {port: 8448, type: http, tls: true}\n- {port: 9000, type: metrics}\n- {path: /sock, type: http}\n\
         - {port: 8009, type: http, tls: no}\n",
    );

    let found = config.listeners();

    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].port, &found[0].addresses),
        (8008, &addresses(&["127.0.0.1", "::1"]))
    );
    assert_eq!(
        (found[1].port, &found[1].addresses),
        (8009, &addresses(&["::", "0.0.0.0"]))
    );
    assert!(config.has_tls_listener());
}
