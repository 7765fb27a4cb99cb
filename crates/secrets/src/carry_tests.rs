#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use ess_synapse::secrets::Secrets;
use ess_synapse::{Config, Options};

use super::Carried;
use crate::yaml::write;

const KEY: &str = "ed25519 a_test nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";

/// In clear, in a Secret, and how it was sorted.
fn carried(yaml: &str) -> (String, String, super::Sorted) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("homeserver.yaml");
    let here = dir.path().display();
    fs::write(dir.path().join("example.org.signing.key"), KEY).unwrap();
    fs::write(dir.path().join("form"), " CANARY form \n").unwrap();
    fs::write(dir.path().join("oidc"), "CANARY oidc\n").unwrap();
    let base = "server_name: example.org\ndatabase: {name: psycopg2}\n";
    fs::write(&path, format!("{base}{}", yaml.replace("HERE", &here.to_string()))).unwrap();
    let config = Config::load(&Options {
        configs: vec![path],
        ..Options::default()
    })
    .unwrap();
    let carried = Carried::new(&config, &Secrets::read(&config).unwrap());
    let text = |node: &Option<_>| {
        node.as_ref()
            .map_or_else(String::new, |node| write(node).unwrap().to_string())
    };
    (text(&carried.clear), text(&carried.secret), carried.sorted)
}

#[test]
fn secrets_and_the_rest_of_a_section_are_parted() {
    let (clear, secret, sorted) = carried(
        "password_config: {enabled: yes, pepper: CANARY, policy: {minimum_length: 015}}\n\
         email: {smtp_host: mail, smtp_user: CANARY, smtp_pass: CANARY}\n\
         form_secret_path: HERE/form\nreport_stats: no\n",
    );

    assert_eq!(
        clear,
        "email:\n  smtp_host: mail\npassword_config:\n  enabled: true\n  policy:\n    minimum_length: 13\nreport_stats: false\n"
    );
    assert_eq!(
        secret,
        "email:\n  smtp_user: CANARY\n  smtp_pass: CANARY\nform_secret: \"CANARY form\"\npassword_config:\n  pepper: CANARY\n"
            .replace("form_secret: \"CANARY form\"\npassword_config:\n  pepper: CANARY\n", "password_config:\n  pepper: CANARY\nform_secret: \"CANARY form\"\n")
    );
    assert_eq!(sorted.owned_by_ess, ["database", "server_name"]);
    assert_eq!(sorted.carried, ["report_stats"]);
    assert_eq!(sorted.carried_in_a_secret, ["email", "password_config", "form_secret"]);
    assert!(sorted.look_like_secrets.is_empty() && sorted.needs_a_file.is_empty());
}

#[test]
fn a_list_with_a_secret_stays_whole_because_ess_appends_lists() {
    let (clear, secret, sorted) = carried(
        "oidc_providers:\n- {idp_id: a, client_id: x, client_secret_path: HERE/oidc}\n- {idp_id: b}\n\
         media_storage_providers: [{module: s3, config: {bucket: b, secret_access_key: CANARY}}]\n",
    );

    assert_eq!(clear, "");
    assert!(
        secret.contains("- idp_id: a\n  client_id: x\n  client_secret: \"CANARY oidc\"\n- idp_id: b\n"),
        "{secret}"
    );
    assert!(
        secret.contains("bucket: b\n    secret_access_key: CANARY\n"),
        "{secret}"
    );
    assert!(sorted.look_like_secrets.is_empty(), "{sorted:?}");
}

#[test]
fn what_looks_like_a_secret_is_never_in_clear_and_is_named() {
    let (clear, secret, sorted) = carried(
        "our_api_key: CANARY\nacme: {endpoint: 'https://u:CANARY@host/', name: x, level: 3}\n\
         jwt_config: {enabled: no, secret: CANARY}\n\
         modules: [{module: m, config: {bind_password: CANARY, uri: 'ldap://x'}}]\n\
         trusted_key_servers: [{server_name: matrix.org, verify_keys: {'ed25519:auto': Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw}}]\n",
    );

    assert!(!clear.contains("CANARY") && clear.contains("Noi6WqcDj0"), "{clear}");
    assert!(clear.contains("acme:\n  name: x\n  level: 3\n"), "{clear}");
    assert_eq!(secret.matches("CANARY").count(), 4, "{secret}");
    assert_eq!(
        sorted.look_like_secrets,
        [
            "acme.endpoint",
            "jwt_config.secret",
            "modules.0.config.bind_password",
            "our_api_key"
        ]
    );
}

#[test]
fn what_ess_owns_and_what_is_left_behind_does_not_go() {
    let (clear, secret, sorted) = carried(
        "listeners: [{port: 8008, type: http}]\npublic_baseurl: https://m/\nredis: {enabled: no, password: CANARY}\n\
         worker_replication_secret: CANARY\npid_file: /x\nexperimental_features: {msc3861: {}, msc1: on}\n\
         templates: {custom_template_directory: /etc/t}\nfederation_custom_ca_list: [/etc/ca.pem]\n\
         user_consent: {version: 1.0, template_dir: x}\nmacaroon_secret_key: CANARY\nstream_writers: {events: [w1]}\n",
    );

    assert_eq!(secret, "");
    assert_eq!(
        clear,
        "experimental_features:\n  msc1: true\nuser_consent:\n  version: \"1.0\"\n"
    );
    assert_eq!(
        sorted.not_needed,
        ["pid_file", "worker_replication_secret", "experimental_features.msc3861"]
    );
    assert_eq!(
        sorted.needs_a_file,
        [
            "federation_custom_ca_list",
            "templates.custom_template_directory",
            "user_consent.template_dir"
        ]
    );
    assert!(sorted.owned_by_ess.contains(&"stream_writers".to_owned()));
}
