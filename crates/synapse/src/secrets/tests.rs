#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::{Macaroon, Origin, Secret, SecretId, Secrets, TABLE};
use crate::config::{Config, ConfigError, Options};

const KEY: &str = "ed25519 a_test nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
const BASE: &str = "server_name: example.org\ndatabase: {name: psycopg2}\n";

/// A directory with a configuration, a signing key next to it and other files.
fn read(yaml: &str, files: &[(&str, &str)]) -> (TempDir, Result<Secrets, ConfigError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("homeserver.yaml");
    fs::write(&path, format!("{BASE}{yaml}")).unwrap();
    fs::write(dir.path().join("example.org.signing.key"), KEY).unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let options = Options {
        configs: vec![path],
        working_directory: Some(dir.path().into()),
        ..Options::default()
    };
    let secrets = Config::load(&options).and_then(|config| Secrets::read(&config));
    (dir, secrets)
}

fn find<'a>(secrets: &'a Secrets, option: &str) -> Option<&'a Secret> {
    secrets.secrets.iter().find(|secret| secret.option == option)
}

fn value(secrets: &Secrets, option: &str) -> Option<String> {
    find(secrets, option).map(|secret| String::from_utf8(secret.value.expose_secret().to_vec()).unwrap())
}

fn error(yaml: &str, files: &[(&str, &str)]) -> String {
    read(yaml, files).1.unwrap_err().to_string()
}

#[test]
fn the_signing_key_is_the_file_next_to_the_configuration() {
    let (dir, secrets) = read("", &[]);
    let secrets = secrets.unwrap();

    assert_eq!(value(&secrets, "signing_key").unwrap(), KEY);
    assert_eq!(secrets.signing_keys[0].id, "ed25519:a_test");
    let origin = &find(&secrets, "signing_key").unwrap().origin;
    let file = Some(dir.path().join("example.org.signing.key"));
    assert_eq!(
        *origin,
        Origin {
            option: "signing_key_path".into(),
            config: None,
            file
        }
    );
}

#[test]
fn an_inline_signing_key_wins_over_its_path() {
    let (_dir, secrets) = read(
        &format!(
            "signing_key_path: nowhere\nsigning_key: |\n  {}",
            KEY.replace("a_test", "inline")
        ),
        &[],
    );
    let secrets = secrets.unwrap();

    assert_eq!(value(&secrets, "signing_key").unwrap(), KEY.replace("a_test", "inline"));
    assert_eq!(secrets.signing_keys[0].id, "ed25519:inline");
}

#[test]
fn a_missing_signing_key_is_named() {
    let error = read("signing_key_path: keys/none.key\n", &[]).1.unwrap_err();

    assert!(
        error
            .to_string()
            .contains("keys/none.key, which `signing_key_path` names"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("--path-map"));
}

#[test]
fn a_key_without_an_id_is_refused_with_the_way_out() {
    let error = read(
        "signing_key_path: old\n",
        &[("old", "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n")],
    )
    .1
    .unwrap_err();

    assert!(error.to_string().contains("old format"), "{error}");
    assert!(!error.to_string().contains("nWGx"));
    assert!(error.hint().unwrap().contains("/_matrix/key/v2/server"));
}

#[test]
fn files_are_stripped_as_python_strips_and_inline_values_are_not() {
    let (dir, secrets) = read(
        "macaroon_secret_key_path: m\nform_secret: ' kept '\nturn_shared_secret_path: t\n",
        &[("m", "\u{3000} \u{1f}zoë 🦀\r\nsecond\n\n"), ("t", "x")],
    );
    let secrets = secrets.unwrap();

    assert_eq!(value(&secrets, "macaroon_secret_key").unwrap(), "zoë 🦀\nsecond");
    assert_eq!(value(&secrets, "form_secret").unwrap(), " kept ");
    let origin = &find(&secrets, "turn_shared_secret").unwrap().origin;
    assert_eq!(origin.option, "turn_shared_secret_path");
    assert_eq!(origin.config, Some(dir.path().join("homeserver.yaml")));
    assert_eq!(origin.file, Some(dir.path().join("t")));
}

#[test]
fn the_macaroon_secret_falls_back_as_in_synapse() {
    let macaroon = |yaml, files| {
        let secrets = read(yaml, files).1.unwrap();
        (secrets.macaroon, value(&secrets, "macaroon_secret_key"))
    };

    let own = Some("own".to_owned());
    let registration = Some("reg".to_owned());
    assert_eq!(
        macaroon("macaroon_secret_key: own\nregistration_shared_secret: reg\n", &[]),
        (Macaroon::Own, own)
    );
    assert_eq!(
        macaroon("registration_shared_secret: reg\n", &[]),
        (Macaroon::RegistrationSharedSecret, registration.clone())
    );
    assert_eq!(
        macaroon(
            "macaroon_secret_key_path: empty\nregistration_shared_secret_path: r\n",
            &[("empty", " \n"), ("r", "reg\n")]
        ),
        (Macaroon::RegistrationSharedSecret, registration)
    );
    assert_eq!(
        macaroon("macaroon_secret_key: ''\n", &[]),
        (Macaroon::DerivedFromSigningKey, None)
    );
}

#[test]
fn a_registration_file_that_synapse_would_make_is_noted() {
    let secrets = read("registration_shared_secret_path: none\n", &[]).1.unwrap();

    assert_eq!(secrets.macaroon, Macaroon::DerivedFromSigningKey);
    assert!(
        secrets.notes[0].contains("none, which `registration_shared_secret_path` names"),
        "{:?}",
        secrets.notes
    );
}

#[test]
fn both_forms_at_once_are_refused_as_in_synapse() {
    for option in [
        "macaroon_secret_key",
        "form_secret",
        "registration_shared_secret",
        "turn_shared_secret",
    ] {
        let error = error(&format!("{option}: canary\n{option}_path: p\n"), &[("p", "canary")]);

        assert!(error.contains(option) && error.contains("only one"), "{error}");
        assert!(!error.contains("canary"));
    }
    // An empty string counts as not set, except for OIDC, where Synapse tests for null.
    assert!(read("form_secret: ''\nform_secret_path: p\n", &[("p", "x")]).1.is_ok());
    assert!(
        error(
            "oidc_providers: [{client_secret: '', client_secret_path: p}]\n",
            &[("p", "x")]
        )
        .contains("only one")
    );
}

#[test]
fn a_secret_of_digits_needs_quotes() {
    let error = error("macaroon_secret_key: 123456789\n", &[]);

    assert!(
        error.ends_with("it is an integer to Synapse, not a string; put it in quotes"),
        "{error}"
    );
    assert!(!error.contains("123456789"));
}

#[test]
fn a_missing_file_is_an_error() {
    let error = error("form_secret_path: none\n", &[]);

    assert!(error.contains("none, which `form_secret_path` names"), "{error}");
}

#[test]
fn oidc_secrets_lose_only_newlines_at_the_end() {
    let secrets = read(
        "oidc_providers:\n- client_secret_path: c\n- client_secret: two\n  client_secret_jwt_key: {key_file: k}\n\
         oidc_config: {enabled: true, client_secret: three}\n",
        &[("c", " one \n\n"), ("k", "-----KEY-----\n")],
    )
    .1
    .unwrap();

    assert_eq!(value(&secrets, "oidc_providers.0.client_secret").unwrap(), " one ");
    assert_eq!(value(&secrets, "oidc_providers.1.client_secret").unwrap(), "two");
    assert_eq!(
        value(&secrets, "oidc_providers.1.client_secret_jwt_key.key").unwrap(),
        "-----KEY-----\n"
    );
    assert_eq!(value(&secrets, "oidc_config.client_secret").unwrap(), "three");
}

#[test]
fn sections_that_are_off_are_left_alone() {
    let secrets = read(
        "redis: {enabled: no, password: a}\njwt_config: {secret: b}\nmatrix_authentication_service: {secret: c}\n",
        &[],
    )
    .1
    .unwrap();

    let options: Vec<_> = secrets.secrets.iter().map(|secret| &*secret.option).collect();
    assert_eq!(options, ["signing_key"]);
}

#[test]
fn the_other_options_are_found() {
    let secrets = read(
        "redis: {enabled: yes, password: 0x10}\n\
         password_config: {pepper: \"p\\nq\"}\n\
         email: {smtp_user: u, smtp_pass: w}\n\
         app_service_config_files: [a.yaml]\n\
         media_storage_providers: [{module: s3, config: {secret_access_key: s}}]\n\
         database: {name: psycopg2, args: {password: d}}\n\
         modules: [{module: x}]\n",
        &[("a.yaml", "id: x\r\n")],
    )
    .1
    .unwrap();

    for (option, wanted) in [
        ("redis.password", "16"),
        ("password_config.pepper", "p\nq"),
        ("email.smtp_user", "u"),
        ("email.smtp_pass", "w"),
        ("app_service_config_files.0", "id: x\r\n"),
        ("media_storage_providers.0.config.secret_access_key", "s"),
        ("database.args.password", "d"),
    ] {
        assert_eq!(value(&secrets, option).as_deref(), Some(wanted), "{option}");
    }
    assert!(secrets.notes[0].contains("`modules`"));
}

#[test]
fn private_keys_of_options_that_we_do_not_know_are_found() {
    const PEM: &str = "-----BEGIN PRIVATE KEY-----\ncanary\n";
    let (dir, secrets) = read(
        "database: {name: psycopg2, args: {sslkey: db.pem, sslpassword: canary, sslrootcert: ca.pem}}\n\
         modules: [{module: m, config: {dkim: {key: dkim.pem}}}]\nacme: {'a/../b': acme.pem, none: none.pem}\n\
         tls_private_key_path: tls.pem\nsaml2_config: {sp_config: {key_file: saml.pem}}\n\
         app_service_config_files: [a.yaml]\n",
        &[
            ("db.pem", PEM),
            ("ca.pem", "-----BEGIN CERTIFICATE-----\n"),
            ("dkim.pem", PEM),
            ("acme.pem", PEM),
            ("tls.pem", PEM),
            ("saml.pem", PEM),
            ("a.yaml", "id: x\n"),
        ],
    );
    let secrets = secrets.unwrap();

    for option in [
        "database.args.sslkey",
        "modules.0.config.dkim.key",
        "tls_private_key_path",
        "saml2_config.sp_config.key_file",
    ] {
        assert_eq!(value(&secrets, option).as_deref(), Some(PEM), "{option}");
    }
    assert_eq!(value(&secrets, "database.args.sslpassword").unwrap(), "canary");
    // These five, the signing key and the registration; nothing is found twice.
    assert_eq!(secrets.secrets.len(), 7);
    let dkim = find(&secrets, "modules.0.config.dkim.key").unwrap();
    assert_eq!(dkim.id, SecretId::PrivateKey);
    assert_eq!(dkim.origin.file, Some(dir.path().join("dkim.pem")));
    assert_eq!(find(&secrets, "database.args.sslkey").unwrap().id, SecretId::PrivateKey);
    let notes = secrets.notes.join("\n");
    assert!(
        notes.contains("`modules.0.config.dkim.key` names a private key, which is extracted"),
        "{notes}"
    );
    assert!(
        notes.contains("the option's name is too long or has special characters: acme.a/../b")
            && !notes.contains("canary"),
        "{notes}"
    );
}

#[test]
fn every_row_of_the_table_is_read() {
    let yaml = "\
        macaroon_secret_key: x\n\
        registration_shared_secret: x\n\
        form_secret: x\n\
        worker_replication_secret: x\n\
        turn_shared_secret: x\n\
        turn_username: x\n\
        turn_password: x\n\
        recaptcha_public_key: x\n\
        recaptcha_private_key: x\n\
        password_config: {pepper: x}\n\
        email: {smtp_user: x, smtp_pass: x}\n\
        redis: {enabled: true, use_tls: true, password: x, private_key_file: file}\n\
        matrix_authentication_service: {enabled: true, secret: x}\n\
        experimental_features: {msc3861: {client_secret: x, admin_token: x}}\n\
        jwt_config: {enabled: true, secret: x}\n\
        saml2_config: {sp_config: {key_file: file, key_file_passphrase: x, encryption_keypairs: [{key_file: file}]}}\n\
        database: {name: psycopg2, args: {password: x, sslpassword: x}}\n\
        manhole_settings: {password: x, ssh_priv_key_path: file}\n\
        sentry: {dsn: x}\n\
        key_server_signing_keys_path: file\n\
        tls_private_key_path: file\n\
        listeners: [{port: 8448, type: http, tls: true}]\n\
        oidc_providers: [{client_secret: x, client_secret_jwt_key: {key: x}}]\n\
        app_service_config_files: [file]\n\
        media_storage_providers: [{module: s3, config: {secret_access_key: x}}]\n";
    let secrets = read(yaml, &[("file", "x")]).1.unwrap();

    for row in TABLE {
        let found = secrets.secrets.iter().find(|secret| secret.id == row.id);
        let found = found.unwrap_or_else(|| panic!("{}: it is in the table, but nothing reads it", row.option));
        let names = found.option.split('.').filter(|name| name.parse::<usize>().is_err());
        let option = names.collect::<Vec<_>>().join(".");
        assert!(option.starts_with(row.option), "{option} is read as {}", row.option);
    }
}

#[test]
fn debug_shows_no_value() {
    let secrets = read("form_secret: canary\n", &[]).1.unwrap();

    assert!(!format!("{secrets:?}").contains("canary"));
}
