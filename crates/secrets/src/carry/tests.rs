#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use ess_synapse::secrets::Secrets;
use ess_synapse::{Config, Options};

use super::Carried;
use crate::yaml::write;

const KEY: &str = "ed25519 a_test nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";

/// The part in clear, the part in a Secret, and how the options were sorted.
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
    (
        write_node(carried.clear.as_ref()),
        write_node(carried.secret.as_ref()),
        carried.sorted,
    )
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
fn files_are_carried_and_named_where_they_will_be() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    write("a/ca.pem", "A");
    write("b/ca.pem", "B");
    write("acme.pem", "-----BEGIN EC PRIVATE KEY-----");
    write("keys/a.pem", "-----BEGIN PRIVATE KEY-----");
    write("terms/en/1.0.html", "terms");
    write("terms/success.html", "thanks");
    write("odd/{{ x }}.html", "a template of Helm");
    write("big/media", &"x".repeat(1_100_000));
    fs::create_dir(dir.path().join("empty")).unwrap();
    write("odd.pem", "-----BEGIN PRIVATE KEY-----");
    fs::write(dir.path().join("homeserver.yaml"), "server_name: example.org\ndatabase: {name: psycopg2}\n\
        federation_custom_ca_list: [a/ca.pem, b/ca.pem]\nuser_consent: {version: '1.0', template_dir: terms}\n\
        templates: {custom_template_directory: odd}\nsso: {template_dir: empty}\nemail: {template_dir: none, notif_from: x}\n\
        backup_media_store_path: a\ncustom: {big_dir: big}\nzacme: {account_key_file: acme.pem}\nzother: {key_dir: keys}\n\
        media_storage_providers: [{module: file_system, config: {directory: /mnt}}]\n").unwrap();
    fs::write(dir.path().join("example.org.signing.key"), KEY).unwrap();
    let config = Config::load(&Options {
        configs: vec![dir.path().join("homeserver.yaml")],
        working_directory: Some(dir.path().to_owned()),
        ..Options::default()
    })
    .unwrap();

    let carried = Carried::new(&config, &Secrets::read(&config).unwrap());

    let files = carried.files.iter();
    let files: Vec<_> = files
        .map(|file| (&*file.key, &*file.path, std::str::from_utf8(&file.content).unwrap()))
        .collect();
    assert_eq!(
        files,
        [
            ("file-0", "0/ca.pem", "A"),
            ("file-1", "1/ca.pem", "B"),
            ("file-2", "2/terms/en/1.0.html", "terms"),
            ("file-3", "2/terms/success.html", "thanks"),
            ("file-4", "3/acme.pem", "-----BEGIN EC PRIVATE KEY-----"),
            ("file-5", "4/keys/a.pem", "-----BEGIN PRIVATE KEY-----"),
        ]
    );
    assert_eq!(
        write_node(carried.clear.as_ref()),
        "email:\n  notif_from: x\nfederation_custom_ca_list:\n- \"/ess-migrated-files/0/ca.pem\"\n\
         - \"/ess-migrated-files/1/ca.pem\"\nuser_consent:\n  version: \"1.0\"\n  \
         template_dir: \"/ess-migrated-files/2/terms\"\nzacme:\n  account_key_file: \"/ess-migrated-files/3/acme.pem\"\n\
         zother:\n  key_dir: \"/ess-migrated-files/4/keys\"\n"
    );
    assert_eq!(
        carried.sorted.carried_as_files,
        [
            "federation_custom_ca_list",
            "user_consent.template_dir",
            "zacme.account_key_file",
            "zother.key_dir"
        ]
    );
    let notes = carried.notes.join("\n").replace(dir.path().to_str().unwrap(), "HERE");
    for wanted in [
        "`templates.custom_template_directory` is left out of the values, because ESS's pod would not have what it names: \
         HERE/odd: the path has characters that cannot be carried: 2/odd/{{ x }}.html",
        "HERE/empty: it contains no file",
        "HERE/none: No such file",
        "`backup_media_store_path` is left out of the values, because ESS's pod would not have what it names: it holds media",
        "HERE/big: it does not fit into a Secret",
        "`media_storage_providers.0` is left out of the values, because ESS's pod would not have what it names: it is a directory of media",
    ] {
        assert!(notes.contains(wanted), "{wanted}\n{notes}");
    }
    assert_eq!(carried.notes.len(), carried.sorted.needs_a_file.len());
    // `zacme.account_key_file` is not listed, because a private key that an option names has a file of its own.
    assert_eq!(carried.sorted.look_like_secrets, ["zother.key_dir"]);
}

#[test]
fn a_module_gets_the_files_that_are_there_and_keeps_its_other_paths() {
    let (_, secret, sorted) = carried(
        "modules: [{module: m, config: {dkim_key_path: HERE/form, state_dir: HERE, page_path: /_synapse/client/x, name: form}}]\n\
         password_providers: [{module: p, config: {ca: HERE/oidc}}]\n",
    );

    assert!(
        secret.contains("dkim_key_path: \"/ess-migrated-files/0/form\"\n"),
        "{secret}"
    );
    assert!(secret.contains("ca: \"/ess-migrated-files/1/oidc\"\n"), "{secret}");
    assert!(
        secret.contains("page_path: \"/_synapse/client/x\"\n") && secret.contains("name: form\n"),
        "{secret}"
    );
    assert!(secret.contains("state_dir: "), "{secret}");
    assert_eq!(
        sorted.carried_as_files,
        ["modules.0.config.dkim_key_path", "password_providers.0.config.ca"]
    );
    assert!(sorted.needs_a_file.is_empty());
}

#[test]
fn providers_of_embeds_are_files_and_names_of_templates_are_not() {
    let (clear, _, sorted) = carried(
        "oembed: {additional_providers: [HERE/form]}\n\
         account_validity: {account_renewed_html_path: renewed.html, invalid_token_html_path: invalid.html}\n",
    );

    assert_eq!(
        clear,
        "account_validity:\n  account_renewed_html_path: renewed.html\n  invalid_token_html_path: invalid.html\n\
         oembed:\n  additional_providers:\n  - \"/ess-migrated-files/0/form\"\n"
    );
    assert_eq!(sorted.carried_as_files, ["oembed.additional_providers"]);
}

#[test]
fn secrets_in_what_is_left_out_are_named() {
    let (clear, _, sorted) = carried(
        "redis: {enabled: no, password: CANARY, host: r}\nworker_replication_secret: CANARY\n\
         experimental_features: {msc3861: {enabled: no, client_secret: CANARY, jwk: {kty: RSA, secret: CANARY}}}\n\
         notify: {webhook: 'https://hooks.example.org/T0/CANARYXm0bD2aNrX5tXc1kZ7cHq'}\n",
    );

    assert!(!clear.contains("CANARY"), "{clear}");
    assert_eq!(
        sorted.look_like_secrets,
        [
            "redis.password",
            "experimental_features.msc3861.jwk.secret",
            "notify.webhook"
        ]
    );
}

fn write_node(node: Option<&crate::yaml::Node>) -> String {
    node.map_or_else(String::new, |node| write(node).unwrap().to_string())
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
