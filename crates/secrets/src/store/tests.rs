#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use ess_cli::Exit;
use ess_synapse::secrets::Secrets;
use ess_synapse::{Config, Options};
use tempfile::TempDir;

use super::{ExportPlan, Outcome, copy_name, put};
use crate::carry::Sorted;
use crate::components::OtherComponents;

const KEY: &str = "ed25519 a_test nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";

struct Home {
    dir: TempDir,
    export: PathBuf,
}

impl Home {
    fn new(yaml: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let export = dir.path().join("export");
        ess_files::make_directory(&export).unwrap();
        fs::write(dir.path().join("example.org.signing.key"), KEY).unwrap();
        let home = Self { dir, export };
        home.set(yaml);
        home
    }

    fn set(&self, yaml: &str) {
        let base = "server_name: example.org\ndatabase: {name: psycopg2}\n";
        fs::write(self.dir.path().join("homeserver.yaml"), format!("{base}{yaml}")).unwrap();
    }

    fn put(&self) -> anyhow::Result<Outcome> {
        self.emit(None)
    }

    fn emit(&self, emit: Option<&str>) -> anyhow::Result<Outcome> {
        let configs = vec![self.dir.path().join("homeserver.yaml")];
        let config = Config::load(&Options {
            configs,
            ..Options::default()
        })?;
        let secrets = Secrets::read(&config)?;
        let components = OtherComponents::default();
        let mut plan = ExportPlan::new(&config, &secrets, &components, Sorted::default(), Vec::new())?;
        if let Some(text) = emit {
            plan.emit("values.yaml", text);
        }
        put(&mut plan, &self.export)
    }

    fn secret(&self, name: &str) -> PathBuf {
        self.export.join("secrets").join(name)
    }

    fn refused(&self) -> (Exit, String) {
        let error = self.put().unwrap_err();
        (ess_cli::exit_of(&error), format!("{error:#}"))
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_secret_has_a_private_file_and_the_index_no_value() {
    let home = Home::new("form_secret: \"canary\\n🦀\"\npassword_config: {pepper: canary}\n");

    assert_eq!(home.put().unwrap(), Outcome::Written);

    let secrets = home.export.join("secrets");
    assert_eq!(
        names(&secrets),
        ["form_secret", "index.json", "password_config.pepper", "signing_key"]
    );
    assert_eq!(fs::read_to_string(home.secret("form_secret")).unwrap(), "canary\n🦀");
    assert_eq!(fs::read_to_string(home.secret("signing_key")).unwrap(), KEY);
    for name in names(&secrets) {
        assert_eq!(
            home.secret(&name).metadata().unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    let index = fs::read_to_string(home.secret("index.json")).unwrap();
    assert!(!index.contains("canary") && !index.contains("nWGx"), "{index}");
    assert!(index.contains("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo"), "{index}");
    assert!(index.contains("unsubscribe links"), "{index}");
    let copy = home.export.join("config/001-homeserver.yaml");
    assert_eq!(
        fs::read(copy).unwrap(),
        fs::read(home.dir.path().join("homeserver.yaml")).unwrap()
    );
}

#[test]
fn the_same_again_changes_nothing() {
    let home = Home::new("form_secret: x\n");
    home.put().unwrap();
    let times = || {
        ["secrets", "config"].map(|directory| {
            fs::read_dir(home.export.join(directory))
                .unwrap()
                .map(|entry| entry.unwrap().metadata().unwrap().modified().unwrap())
                .max()
        })
    };
    let before = times();

    assert_eq!(home.put().unwrap(), Outcome::Kept);

    assert_eq!(times(), before);
}

#[test]
fn other_secrets_are_refused_by_name_and_nothing_changes() {
    let home = Home::new("form_secret: canary1\nturn_shared_secret: same\nturn_username: gone\n");
    home.put().unwrap();
    home.set("form_secret: canary2\nturn_shared_secret: same\nturn_password: new\n");

    let (exit, message) = home.refused();

    assert_eq!(exit, Exit::No);
    assert!(
        message.ends_with(": form_secret, turn_password, turn_username"),
        "{message}"
    );
    assert!(!message.contains("canary"));
    assert_eq!(fs::read_to_string(home.secret("form_secret")).unwrap(), "canary1");
    assert!(!home.secret("turn_password").exists());
}

#[test]
fn a_configuration_that_changed_elsewhere_is_renewed() {
    let home = Home::new("form_secret: x\n");
    home.put().unwrap();
    home.set("form_secret: x\nreport_stats: no\n");

    assert_eq!(home.put().unwrap(), Outcome::ConfigRenewed);

    let copy = fs::read_to_string(home.export.join("config/001-homeserver.yaml")).unwrap();
    assert!(copy.contains("report_stats"));
    assert_eq!(home.put().unwrap(), Outcome::Kept);
}

#[test]
fn a_run_that_was_cut_short_is_finished() {
    let home = Home::new("form_secret: x\nturn_username: y\n");
    home.put().unwrap();
    fs::remove_file(home.secret("index.json")).unwrap();
    fs::remove_file(home.secret("turn_username")).unwrap();
    fs::write(home.secret(".form_secret.partial"), "half").unwrap();

    assert_eq!(home.put().unwrap(), Outcome::Written);

    assert_eq!(
        names(&home.export.join("secrets")),
        ["form_secret", "index.json", "signing_key", "turn_username"]
    );
    assert_eq!(home.put().unwrap(), Outcome::Kept);
}

#[test]
fn a_file_that_is_gone_is_written_again() {
    let home = Home::new("form_secret: x\n");
    home.put().unwrap();
    fs::remove_file(home.secret("form_secret")).unwrap();

    assert_eq!(home.put().unwrap(), Outcome::Written);
    assert_eq!(home.put().unwrap(), Outcome::Kept);
}

#[test]
fn secrets_of_another_server_are_refused() {
    let home = Home::new("");
    home.put().unwrap();
    fs::rename(
        home.dir.path().join("example.org.signing.key"),
        home.dir.path().join("other.org.signing.key"),
    )
    .unwrap();
    fs::write(
        home.dir.path().join("homeserver.yaml"),
        "server_name: other.org\ndatabase: {name: psycopg2}\n",
    )
    .unwrap();

    let (exit, message) = home.refused();

    assert_eq!(exit, Exit::No);
    assert!(message.contains("example.org, not of other.org"), "{message}");
}

#[test]
fn planted_links_and_open_directories_are_refused() {
    let home = Home::new("form_secret: x\n");
    let victim = home.dir.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    ess_files::make_directory(&home.export.join("secrets")).unwrap();
    symlink(&victim, home.secret("form_secret")).unwrap();

    let (exit, message) = home.refused();

    assert_eq!(exit, Exit::Permission);
    assert!(message.contains("not a regular file"), "{message}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");

    fs::remove_file(home.secret("form_secret")).unwrap();
    fs::write(home.secret("form_secret"), "x").unwrap();
    fs::set_permissions(home.secret("form_secret"), Permissions::from_mode(0o644)).unwrap();
    assert!(home.refused().1.contains("others can read it"));

    fs::set_permissions(home.export.join("secrets"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(home.refused().0, Exit::Permission);
}

#[test]
fn a_mangled_index_is_refused() {
    let home = Home::new("");
    home.put().unwrap();
    fs::write(home.secret("index.json"), "{").unwrap();

    assert_eq!(home.refused().0, Exit::Data);
}

#[test]
fn files_for_ess_are_made_again_unless_a_person_has_edited_them() {
    let home = Home::new("");
    home.put().unwrap();
    let values = home.export.join("ess/values.yaml");

    assert_eq!(home.emit(Some("a: 1\n")).unwrap(), Outcome::Emitted);
    assert_eq!(home.emit(Some("a: 1\n")).unwrap(), Outcome::Kept);
    assert_eq!(home.put().unwrap(), Outcome::Kept);
    assert_eq!(home.emit(Some("a: 2\n")).unwrap(), Outcome::Emitted);
    assert_eq!(fs::read_to_string(&values).unwrap(), "a: 2\n");
    assert_eq!(values.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    fs::write(&values, "a: mine\n").unwrap();
    let error = home.emit(Some("a: 3\n")).unwrap_err();
    assert_eq!(ess_cli::exit_of(&error), Exit::No);
    assert!(format!("{error:#}").contains("it was edited"));
    assert_eq!(fs::read_to_string(&values).unwrap(), "a: mine\n");
    assert_eq!(home.put().unwrap(), Outcome::Kept);
}

#[test]
fn copies_keep_the_order_of_the_merge() {
    assert_eq!(copy_name(0, Path::new("/etc/homeserver.yaml")), "001-homeserver.yaml");
    assert_eq!(copy_name(11, Path::new("/etc/conf")), "012-conf.yaml");
}
