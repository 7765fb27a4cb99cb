#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ess_synapse::secrets::Secrets;
use ess_synapse::{Config, Options};
use serde::Deserialize as _;
use serde_yaml::Value;

use super::Ess;
use crate::components::OtherComponents;

const KEY: &str = "ed25519 a_test nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";

fn ess(yaml: &str, mas: Option<&str>) -> Ess {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content.replace("HERE", &dir.path().display().to_string())).unwrap();
        path
    };
    write("example.org.signing.key", KEY);
    write("irc.yaml", "id: irc\nas_token: CANARY\n");
    write("passkey.pem", "CANARY passkey");
    fs::create_dir(dir.path().join("templates")).unwrap();
    write("templates/terms.html", "CANARY terms");
    let hookshot = write("hookshot.yml", "bridge: {}\n");
    let base = "server_name: example.org\ndatabase: {name: psycopg2}\n";
    let config = Config::load(&Options {
        configs: vec![write("homeserver.yaml", &format!("{base}{yaml}"))],
        ..Options::default()
    })
    .unwrap();
    let secrets = Secrets::read(&config).unwrap();
    let mas = mas.map(|mas| write("mas.yml", mas));
    let components = OtherComponents::read(mas.as_deref(), mas.as_ref().map(|_| hookshot.as_path()), &[]).unwrap();
    Ess::new(&config, &secrets, &components, "ess").unwrap()
}

fn values(ess: &Ess) -> Value {
    assert!(!ess.values.contains("CANARY"), "{}", *ess.values);
    serde_yaml::from_str(&ess.values).unwrap()
}

/// A value of a Secret, decoded.
fn stored(ess: &Ess, name: &str, key: &str) -> String {
    let documents = serde_yaml::Deserializer::from_str(&ess.manifests).map(|one| Value::deserialize(one).unwrap());
    let manifest = documents
        .into_iter()
        .find(|manifest| manifest["metadata"]["name"] == name)
        .unwrap();
    assert_eq!(
        (&manifest["kind"], &manifest["metadata"]["namespace"]),
        (&"Secret".into(), &"ess".into())
    );
    String::from_utf8(STANDARD.decode(manifest["data"][key].as_str().unwrap()).unwrap()).unwrap()
}

/// Every leaf with its path, in the notation of `tests/data/ess-values.json`.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, &'static str)>) {
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Mapping(map) => {
            for (name, value) in map {
                // Names that the chart does not define.
                let name = if path.ends_with(".additional") {
                    "*"
                } else {
                    name.as_str().unwrap()
                };
                leaves(value, &join(name), found);
            }
        }
        Value::Sequence(list) => list.iter().for_each(|value| leaves(value, &join("*"), found)),
        Value::String(_) => found.push((path.to_owned(), "string")),
        Value::Bool(_) => found.push((path.to_owned(), "boolean")),
        Value::Number(_) => found.push((path.to_owned(), "integer")),
        other => panic!("{path}: {other:?}"),
    }
}

const EVERYTHING: &str = "public_baseurl: https://matrix.example.org/\nmacaroon_secret_key: CANARY m\n\
    registration_shared_secret: CANARY r\nform_secret: 'CANARY ${f}'\nreport_stats: yes\nmax_upload_size: 50M\n\
    password_config: {pepper: \"CANARY 'p\\\"\\\\ ü🦀\"}\napp_service_config_files: [HERE/irc.yaml]\n\
    old_signing_keys: {'ed25519:old': {key: Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw, expired_ts: 1576767829750}}\n";

const WORKERS: &str = "stream_writers: {account_data: [w2], to_device: [w2], device_lists: [w3], events: [w1, w2], \
    presence: [w3], push_rules: [w3], receipts: [w3], typing: w3}\nfederation_sender_instances: [w4, w5, w6]\n\
    pusher_instances: [w1]\nrun_background_tasks_on: w1\nnotify_appservices_from_worker: w1\n\
    update_user_directory_from_worker: w1\nmedia_instance_running_background_jobs: w1\n\
    instance_map: {main: {host: m, port: 1}, w1: {host: m, port: 2}, reader1: {host: m, port: 3}}\n";

const MAS: &str = "http: {public_base: 'https://account.example.org/'}\nmatrix: {secret: CANARY s}\n\
    secrets: {encryption: CANARYe, keys: [{key: '-----BEGIN RSA PRIVATE KEY-----CANARY'},\
    {key: '-----BEGIN PRIVATE KEY-----BggqhkjOPQMBBw=='}, {key: '-----BEGIN PRIVATE KEY-----BgUrgQQACg=='},\
    {key: '-----BEGIN PRIVATE KEY-----BgUrgQQAIg=='}]}\n\
    email: {transport: smtp, password: CANARY}\n";

#[test]
fn values_refer_to_secrets_and_hold_none() {
    let ess = ess(EVERYTHING, None);

    insta::assert_snapshot!(*ess.values, @r#"
    # Values for ESS Community, from a migrated Synapse. They contain no secret.
    # ESS sets these itself; left out:
    #   app_service_config_files
    #   database
    #   macaroon_secret_key
    #   max_upload_size
    #   public_baseurl
    #   registration_shared_secret
    #   server_name
    serverName: example.org
    matrixAuthenticationService:
      enabled: false
    synapse:
      additional:
        "10-migrated.yaml":
          config: |
            old_signing_keys:
              "ed25519:old":
                key: Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw
                expired_ts: 1576767829750
            report_stats: true
        "20-migrated-secrets.yaml":
          configSecret: ess-migrated-synapse
          configSecretKey: config.yaml
      appservices:
      - secret: ess-migrated-app-services
        secretKey: app-service-0.yaml
      ingress:
        host: matrix.example.org
      macaroon:
        secret: ess-migrated-synapse
        secretKey: macaroon_secret_key
      media:
        maxUploadSize: "50M"
      registrationSharedSecret:
        secret: ess-migrated-synapse
        secretKey: registration_shared_secret
      signingKey:
        secret: ess-migrated-synapse
        secretKey: signing_key
    "#);
    assert_eq!(stored(&ess, "ess-migrated-synapse", "signing_key"), KEY);
    assert_eq!(stored(&ess, "ess-migrated-synapse", "macaroon_secret_key"), "CANARY m");
    assert_eq!(
        stored(&ess, "ess-migrated-app-services", "app-service-0.yaml"),
        "id: irc\nas_token: CANARY\n"
    );
    let config = stored(&ess, "ess-migrated-synapse", "config.yaml");
    let config: Value = serde_yaml::from_str(&config).unwrap();
    assert_eq!(config["password_config"]["pepper"], "CANARY 'p\"\\ ü🦀");
    assert_eq!(config["form_secret"], "CANARY ${f}");
}

#[test]
fn every_value_is_one_that_the_chart_has() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/ess-values.json");
    let list: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let known = list["values"].as_object().unwrap();
    let mut emitted = Vec::new();
    for ess in [
        ess(EVERYTHING, None),
        ess(EVERYTHING, Some(MAS)),
        ess("matrix_authentication_service: {enabled: yes, secret: CANARY}\n", None),
        ess(WORKERS, None),
        ess("templates: {custom_template_directory: HERE/templates}\n", None),
    ] {
        leaves(&values(&ess), "", &mut emitted);
    }

    for (path, kind) in &emitted {
        let reference = path
            .rsplit_once('.')
            .filter(|(_, name)| ["secret", "secretKey", "configSecret", "configSecretKey"].contains(name));
        let (entry, form) = reference.map_or((path.as_str(), None), |(path, form)| (path, Some(form)));
        let entry = known.get(entry).unwrap_or_else(|| panic!("{path} is not in the list"));
        match form {
            None => assert_eq!(entry["type"], *kind, "{path}"),
            Some(form) => assert!(entry["reference"].as_array().unwrap().contains(&form.into()), "{path}"),
        }
        assert!(
            entry["source"].as_str().unwrap().starts_with("charts/matrix-stack/") && entry["chart_version"].is_string(),
            "{path}"
        );
    }
    // The list contains nothing that is never emitted.
    for path in known.keys() {
        let below = |emitted: &str| {
            emitted == path
                || emitted
                    .strip_prefix(path.as_str())
                    .is_some_and(|rest| rest.starts_with('.'))
        };
        assert!(
            emitted.iter().any(|(emitted, _)| below(emitted)),
            "{path} is never emitted"
        );
    }
}

#[test]
fn workers_keep_their_tasks() {
    let ess = ess(WORKERS, None);
    let values = values(&ess);
    let workers = &values["synapse"]["workers"];

    let of = |name: &str| (workers[name]["enabled"].as_bool(), workers[name]["replicas"].as_u64());
    assert_eq!(of("event-persister"), (Some(true), Some(2)));
    assert_eq!(of("federation-sender"), (Some(true), Some(3)));
    assert_eq!(of("encryption"), (Some(true), None));
    assert_eq!(workers.as_mapping().unwrap().len(), 14);
    let none = self::ess("stream_writers: {typing: [main], events: master}\n", None);
    assert!(self::values(&none)["synapse"]["workers"].is_null());
    let notes = ess.notes_on_values.join("\n");
    assert!(notes.contains("possibly to reader1)"), "{notes}");
}

#[test]
fn files_that_options_name_are_mounted_from_a_secret() {
    let ess = ess("templates: {custom_template_directory: HERE/templates}\n", None);
    let values = values(&ess);

    let synapse = &values["synapse"];
    let [volume, mount] = ["extraVolumes", "extraVolumeMounts"].map(|name| &synapse[name][0]);
    assert_eq!(volume["name"], mount["name"]);
    assert_eq!(
        (&volume["mountContext"], &mount["mountContext"]),
        (&"both".into(), &"both".into())
    );
    assert_eq!(volume["secret"]["items"][0]["path"], "0/templates/terms.html");
    let key = volume["secret"]["items"][0]["key"].as_str().unwrap();
    assert_eq!(
        stored(&ess, volume["secret"]["secretName"].as_str().unwrap(), key),
        "CANARY terms"
    );
    let config = synapse["additional"]["10-migrated.yaml"]["config"].as_str().unwrap();
    let mounted = format!(
        "custom_template_directory: \"{}/0/templates\"\n",
        mount["mountPath"].as_str().unwrap()
    );
    assert!(config.contains(&mounted), "{config}");
}

#[test]
fn a_derived_macaroon_and_one_with_spaces_are_left_to_ess() {
    let ess_of = |yaml| {
        let ess = ess(yaml, None);
        let values = values(&ess);
        (values["synapse"]["macaroon"].is_null(), ess.notes_on_values.join("\n"))
    };

    let (absent, notes) = ess_of("");
    assert!(absent && notes.contains("derives it from the signing key"), "{notes}");
    let (absent, notes) = ess_of("macaroon_secret_key: ' CANARY'\n");
    assert!(
        absent && notes.contains("begins or ends with a space") && !notes.contains("CANARY"),
        "{notes}"
    );
}

#[test]
fn the_host_and_the_upload_size_are_as_the_chart_wants_them() {
    for (yaml, host, size, note) in [
        ("public_baseurl: https://m.example/\n", Some("m.example"), None, None),
        (
            "public_baseurl: https://m.example:8448/x\nmax_upload_size: 10485760\n",
            Some("m.example"),
            Some("10M"),
            Some("has a port or a path"),
        ),
        (
            "public_baseurl: https://example.org/\nmax_upload_size: 1G\n",
            Some("example.org"),
            Some("1024M"),
            Some("wellKnownDelegation"),
        ),
        (
            "max_upload_size: 1025\n",
            None,
            Some("2K"),
            Some("add `synapse.ingress.host`"),
        ),
        ("max_upload_size: 5K\n", None, Some("5K"), None),
    ] {
        let ess = ess(yaml, None);
        let values = values(&ess);
        assert_eq!(values["synapse"]["ingress"]["host"].as_str(), host, "{yaml}");
        assert_eq!(values["synapse"]["media"]["maxUploadSize"].as_str(), size, "{yaml}");
        let notes = ess.notes_on_values.join("\n");
        assert!(note.is_none_or(|note| notes.contains(note)), "{yaml}{notes}");
    }
}

#[test]
fn mas_goes_with_its_own_secrets() {
    let ess = ess(EVERYTHING, Some(MAS));
    let values = values(&ess);

    let mas = &values["matrixAuthenticationService"];
    assert_eq!(mas["enabled"], true);
    assert_eq!(mas["ingress"]["host"], "account.example.org");
    assert_eq!(mas["privateKeys"]["rsa"]["secret"], "ess-migrated-mas");
    assert_eq!(stored(&ess, "ess-migrated-mas", "encryption"), "CANARYe");
    assert_eq!(stored(&ess, "ess-migrated-mas", "synapse-shared-secret"), "CANARY s");
    assert_eq!(
        stored(&ess, "ess-migrated-mas", "config.yaml"),
        "email:\n  transport: smtp\n  password: CANARY\n"
    );
    assert_eq!(stored(&ess, "ess-migrated-hookshot", "passkey.pem"), "CANARY passkey");
}

#[test]
fn a_name_in_the_heading_cannot_leave_its_comment() {
    let ess = ess("\"worker_x\\nsynapse: {}\": 1\n", None);
    assert!(values(&ess)["serverName"] == "example.org");
    assert!(ess.values.contains("#   worker_x\\nsynapse: {}\n"), "{}", *ess.values);
}
