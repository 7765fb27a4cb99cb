#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use ess_cli::Exit;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::{OtherComponents, host, kind_of_key};
use crate::yaml::write;

struct Home(TempDir);

impl Home {
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

fn home() -> Home {
    Home(tempfile::tempdir().unwrap())
}

fn value(components: &OtherComponents, option: &str) -> Option<String> {
    let secret = components.find(option)?;
    Some(String::from_utf8(secret.value.expose_secret().to_vec()).unwrap())
}

const RSA: &str = "-----BEGIN RSA PRIVATE KEY-----\nCANARY\n-----END RSA PRIVATE KEY-----\n";
/// Contains the object identifier of prime256v1, `06 08 2a 86 48 ce 3d 03 01 07`.
const P256: &str = "-----BEGIN EC PRIVATE KEY-----\nMAoGCCqGSM49AwEH\n-----END EC PRIVATE KEY-----\n";
const K256: &str = "-----BEGIN EC PARAMETERS-----\nBgUrgQQACg==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\nMHQ=\n-----END EC PRIVATE KEY-----\n";

#[test]
fn secrets_of_mas_are_read_inline_and_by_file() {
    let home = home();
    home.write("enc", "00ff\n");
    home.write("client", "CANARY client\n");
    home.write("keys/a", RSA);
    home.write("keys/b", K256);
    home.write("keys/c", RSA);
    let path = home.write(
        "mas.yaml",
        &format!(
            "http: {{public_base: 'https://auth.example.org:443/x'}}\ndatabase: {{uri: 'postgresql://u:CANARY@h/mas'}}\n\
             matrix: {{homeserver: example.org, secret: CANARY m}}\n\
             secrets: {{encryption_file: enc, keys_dir: /data/keys, keys: [{{kid: x, key: {P256:?}}}]}}\n\
             clients: [{{client_id: c, client_secret_file: client}}]\n\
             upstream_oauth2: {{providers: [{{id: 1, client_secret: CANARY up}}]}}\npasswords: {{enabled: true}}\n"
        ),
    );

    let map = [(PathBuf::from("/data"), home.0.path().to_owned())];
    let components = OtherComponents::read(Some(&path), None, &map).unwrap();

    for (option, text) in [
        ("mas.secrets.encryption", "00ff"),
        ("mas.matrix.secret", "CANARY m"),
        ("mas.database.uri", "postgresql://u:CANARY@h/mas"),
        ("mas.secrets.keys.0.key", P256),
        ("mas.secrets.keys_dir.0", RSA),
        ("mas.clients.0.client_secret", "CANARY client"),
        ("mas.upstream_oauth2.providers.0.client_secret", "CANARY up"),
    ] {
        assert_eq!(value(&components, option).as_deref(), Some(text), "{option}");
    }
    let mas = components.mas.as_ref().unwrap();
    assert_eq!(mas.host.as_deref(), Some("auth.example.org"));
    let fields: Vec<_> = mas.keys.iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, ["ecdsaPrime256v1", "ecdsaSecp256k1", "rsa"]);
    assert!(
        components
            .notes
            .iter()
            .any(|note| note.contains("keys_dir.2` is a second key")),
        "{:?}",
        components.notes
    );
    assert_eq!(
        *write(mas.config.as_ref().unwrap()).unwrap(),
        "clients:\n- client_id: c\n  client_secret: \"CANARY client\"\nupstream_oauth2:\n  providers:\n  - id: 1\n    \
         client_secret: \"CANARY up\"\npasswords:\n  enabled: true\n"
    );
}

#[test]
fn no_section_of_mas_is_passed_over() {
    let home = home();
    home.write("tls.pem", RSA);
    let path = home.write(
        "mas.yaml",
        "http: {public_base: 'https://a.example/', listeners: [{name: web, tls: {key_file: tls.pem, password: CANARY tls}}, \
         {tls: {key_file: none.pem}}]}\n\
         database: {host: h, ssl_key: CANARY ssl}\nmatrix: {homeserver: a.example}\n\
         telemetry: {metrics: {exporter: otlp}, sentry: {dsn: 'https://CANARY@s/1'}}\n\
         templates: {path: /usr/share/mas/templates}\npolicy: {wasm_module: p.wasm, data: {a: 1}}\n\
         odd: {'../x_secret': CANARY odd, 'a.b_secret': CANARY odd}\n",
    );

    let components = OtherComponents::read(Some(&path), None, &[]).unwrap();

    for (option, text, destination) in [
        ("mas.http.listeners.0.tls.key", RSA, "not needed"),
        ("mas.http.listeners.0.tls.password", "CANARY tls", "not needed"),
        ("mas.database.ssl_key", "CANARY ssl", "not needed"),
        (
            "mas.telemetry.sentry.dsn",
            "https://CANARY@s/1",
            "matrixAuthenticationService.additional",
        ),
    ] {
        assert_eq!(value(&components, option).as_deref(), Some(text), "{option}");
        assert_eq!(
            components.find(option).unwrap().fate.destination,
            destination,
            "{option}"
        );
    }
    let config = components.mas.as_ref().unwrap().config.as_ref().unwrap();
    assert_eq!(
        *write(config).unwrap(),
        "telemetry:\n  sentry:\n    dsn: \"https://CANARY@s/1\"\npolicy:\n  data:\n    a: 1\n\
         odd:\n  \"../x_secret\": \"CANARY odd\"\n  a.b_secret: \"CANARY odd\"\n"
    );
    let notes = components.notes.join("\n");
    for wanted in [
        "`mas.templates.path` is left out of the values, because ESS's pod would not have what it names: /usr/share/mas/templates",
        "`mas.policy.wasm_module` is left out",
        "because its name is too long or has special characters: odd.../x_secret",
        "because its name is too long or has special characters: odd.a.b_secret",
        "`mas.http.listeners.1.tls.key` is not extracted, but ESS does not need it: cannot read",
    ] {
        assert!(notes.contains(wanted), "{notes}");
    }
    assert!(!notes.contains("CANARY"), "{notes}");
}

#[test]
fn hookshot_has_more_than_a_passkey() {
    let home = home();
    home.write("github-key.pem", RSA);
    home.write("passkey.pem", "CANARY passkey");
    let path = home.write(
        "config.yml",
        "bridge: {domain: a.example, url: 'http://localhost:8008'}\n\
         github: {auth: {id: 1, privateKeyFile: github-key.pem}, webhook: {secret: CANARY hook}}\n\
         cache: {redisUri: 'redis://:CANARY@r:6379'}\npermissions: [{actor: a.example}]\n",
    );

    let components = OtherComponents::read(None, Some(&path), &[]).unwrap();

    let options: Vec<&str> = components.secrets.iter().map(|secret| &*secret.option).collect();
    assert_eq!(
        options,
        [
            "hookshot.passFile",
            "hookshot.github.auth.privateKeyFile",
            "hookshot.github.webhook.secret",
            "hookshot.cache.redisUri"
        ]
    );
    assert_eq!(
        value(&components, "hookshot.github.auth.privateKeyFile").as_deref(),
        Some(RSA)
    );
    assert_eq!(
        value(&components, "hookshot.github.webhook.secret").as_deref(),
        Some("CANARY hook")
    );
}

#[test]
fn hookshot_has_a_passkey_next_to_its_configuration() {
    let home = home();
    let path = home.write("hookshot/config.yml", "bridge: {}\n");
    home.write("hookshot/passkey.pem", "CANARY\n");

    let components = OtherComponents::read(None, Some(&path), &[]).unwrap();

    assert_eq!(value(&components, "hookshot.passFile").as_deref(), Some("CANARY\n"));
}

#[test]
fn what_cannot_be_read_is_named_and_never_quoted() {
    let home = home();
    let refused = |content: &str| {
        let path = home.write("mas.yaml", content);
        let error = OtherComponents::read(Some(&path), None, &[]).err().unwrap();
        let message = format!("{error:#}");
        assert!(!message.contains("CANARY"), "{message}");
        (ess_cli::exit_of(&error), message)
    };

    assert_eq!(refused("[CANARY]").0, Exit::Config);
    assert_eq!(refused("a: [CANARY\n").0, Exit::Config);
    let (exit, message) = refused("secrets: {encryption_file: none}\n");
    assert_eq!(exit, Exit::Io);
    assert!(
        message.contains("none, which `secrets.encryption_file` names"),
        "{message}"
    );
}

#[test]
fn kinds_of_keys_are_distinguished() {
    assert_eq!(kind_of_key(RSA.as_bytes()), Some("rsa"));
    assert_eq!(kind_of_key(P256.as_bytes()), Some("ecdsaPrime256v1"));
    assert_eq!(kind_of_key(K256.as_bytes()), Some("ecdsaSecp256k1"));
    assert_eq!(kind_of_key(b"CANARY"), None);
    assert_eq!(host("https://a.b/c"), "a.b");
}
