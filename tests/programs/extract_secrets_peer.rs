//! extract-secrets compared with Element's ess-migration-tool on the same configurations: every secret that it finds,
//! and those that it misses.

use std::collections::BTreeMap;
use std::process::Command;

use crate::support::peer::{environment, python, ran};
use crate::support::secrets::KEY;
use crate::support::{Stdin, World};

const PASSKEY: &str = "-----BEGIN RSA PRIVATE KEY-----\nCANARY passkey\n-----END RSA PRIVATE KEY-----\n";

/// The results of both tools.
struct Found {
    world: World,
    /// Secrets of the peer, by path in the chart's values.
    theirs: BTreeMap<String, String>,
    /// What the peer writes in clear text: values and `ConfigMap`s.
    their_clear: String,
    stderr: String,
}

/// Decodes the content of Secrets; prints the rest as text.
const THEIRS: &str = r#"
import base64, json, pathlib, sys, yaml
found, clear = {}, ""
for path in pathlib.Path(sys.argv[1]).glob("*.yaml"):
    text = path.read_text()
    if path.name.endswith("-secret.yaml"):
        for key, value in yaml.safe_load(text)["data"].items():
            found[key] = base64.b64decode(value).decode()
    else:
        clear += text
print(json.dumps({"found": found, "clear": clear}))
"#;

/// Runs both tools. `HERE` in a file is replaced by the world's directory; `parts` are configuration files in order.
fn run_both(parts: &[(&str, &str)], files: &[(&str, &str)], more: &[(&str, &str)]) -> Found {
    let world = World::new();
    let here = world.path("").display().to_string();
    let write = |name: &str, text: &str| world.write(name, text.replace("HERE/", &here));
    let mut ours = vec!["-n".to_owned(), "--out".into(), "export".into()];
    for emit in ["kubernetes", "helm"] {
        ours.extend(["--emit".to_owned(), emit.to_owned()]);
    }
    let whole: String = parts.iter().map(|(_, text)| *text).collect();
    let whole = write("whole.yaml", &whole);
    let mut theirs = Command::new(environment().join("ess-migration-tool"));
    theirs.args(["--quiet", "--database-mode", "existing", "--output-dir"]);
    theirs.arg(world.path("theirs")).arg("--synapse-config").arg(whole);
    for (name, text) in parts {
        ours.extend(["-c".to_owned(), write(name, text).display().to_string()]);
    }
    for (name, text) in files {
        write(name, text);
    }
    for (flag, name) in more {
        ours.extend([(*flag).to_owned(), (*name).to_owned()]);
        theirs.arg(flag).arg(world.path(name));
    }
    ran(theirs.current_dir(world.path("")));
    let found = python(THEIRS, &[world.path("theirs")]);
    let ran = world.run("extract-secrets", ours, Stdin::Null).success();
    assert!(
        !ran.stdout.contains("CANARY") && !ran.stderr.contains("CANARY"),
        "{ran}"
    );
    Found {
        theirs: serde_json::from_value(found["found"].clone()).unwrap(),
        their_clear: found["clear"].as_str().unwrap().to_owned(),
        stderr: ran.stderr.clone(),
        world,
    }
}

impl Found {
    fn ours(&self, option: &str) -> String {
        self.world.read(&format!("export/secrets/{option}"))
    }

    /// Compares secrets; each pair is the peer's name and our name of one secret. Every secret of the peer must be
    /// listed.
    #[track_caller]
    fn has_all(&self, pairs: &[(&str, &str)]) {
        let mut names: Vec<&str> = pairs.iter().map(|(theirs, _)| *theirs).collect();
        names.sort_unstable();
        assert_eq!(self.theirs.keys().map(String::as_str).collect::<Vec<_>>(), names);
        for (theirs, ours) in pairs {
            // The peer keeps the newline at the end of a file, which Synapse strips.
            let stripped = self.theirs[*theirs].trim();
            let exact = [
                "signing_key",
                "app_service_config_files.",
                "mas.secrets.keys",
                "hookshot.",
            ];
            let wanted = if exact.iter().any(|start| ours.starts_with(start)) {
                &self.theirs[*theirs]
            } else {
                stripped
            };
            assert_eq!(self.ours(ours), *wanted, "{theirs}");
        }
    }

    /// Checks that the peer has these secrets in no Secret, and in clear text if `leaked`.
    #[track_caller]
    fn has_more(&self, missed: &[(&str, &str, bool)]) {
        let clear = self.world.read("export/ess/values.yaml") + &self.world.read("export/secrets/index.json");
        assert!(!clear.contains("CANARY"), "{clear}");
        for (option, value, leaked) in missed {
            assert_eq!(self.ours(option), *value, "{option}");
            assert!(self.theirs.values().all(|theirs| theirs.trim() != *value), "{option}");
            assert_eq!(self.their_clear.contains(value), *leaked, "{option}");
        }
    }
}

const DATABASE: &str =
    "database: {name: psycopg2, args: {user: synapse, database: synapse, host: db, password: CANARY db}}\n";

#[test]
fn debian() {
    let found = run_both(
        &[
            (
                "etc/homeserver.yaml",
                "signing_key_path: HERE/etc/homeserver.signing.key\nmacaroon_secret_key: CANARY macaroon\n\
                 registration_shared_secret: CANARY registration\nform_secret: \"CANARY form\"\n\
                 password_config: {pepper: CANARY pepper}\nturn_shared_secret: CANARY turn\n\
                 email: {smtp_host: localhost, smtp_user: CANARY user, smtp_pass: CANARY pass, notif_from: x}\n",
            ),
            ("etc/conf.d/database.yaml", DATABASE),
            (
                "etc/conf.d/server_name.yaml",
                "server_name: example.org\nreport_stats: no\npublic_baseurl: https://matrix.example.org/\n",
            ),
        ],
        &[("etc/homeserver.signing.key", KEY)],
        &[],
    );

    found.has_all(&[
        ("synapse.postgres.password", "database.args.password"),
        ("synapse.macaroon", "macaroon_secret_key"),
        ("synapse.registrationSharedSecret", "registration_shared_secret"),
        ("synapse.signingKey", "signing_key"),
    ]);
    found.has_more(&[
        ("password_config.pepper", "CANARY pepper", true),
        ("form_secret", "CANARY form", true),
        ("turn_shared_secret", "CANARY turn", true),
        ("email.smtp_user", "CANARY user", true),
        ("email.smtp_pass", "CANARY pass", true),
    ]);
}

#[test]
fn docker_with_secrets_by_path() {
    let found = run_both(
        &[(
            "data/homeserver.yaml",
            &format!(
                "server_name: example.org\nreport_stats: no\npublic_baseurl: https://matrix.example.org\n{DATABASE}\
                 signing_key_path: HERE/data/example.org.signing.key\n\
                 macaroon_secret_key_path: HERE/data/example.org.macaroon.key\n\
                 registration_shared_secret_path: HERE/data/example.org.registration.key\n\
                 form_secret_path: HERE/data/form\nturn_shared_secret_path: HERE/data/turn\n\
                 oidc_providers:\n- {{idp_id: a, idp_name: a, issuer: 'https://a', client_id: c, client_secret_path: HERE/data/oidc}}\n"
            ),
        )],
        &[
            ("data/example.org.signing.key", KEY),
            ("data/example.org.macaroon.key", "CANARY macaroon\n"),
            ("data/example.org.registration.key", "CANARY registration\n"),
            ("data/form", "CANARY form\n"),
            ("data/turn", "CANARY turn\n"),
            ("data/oidc", "CANARY oidc\n"),
        ],
        &[],
    );

    found.has_all(&[
        ("synapse.postgres.password", "database.args.password"),
        ("synapse.macaroon", "macaroon_secret_key"),
        ("synapse.registrationSharedSecret", "registration_shared_secret"),
        ("synapse.signingKey", "signing_key"),
    ]);
    // And in clear text, in a ConfigMap.
    found.has_more(&[
        ("form_secret", "CANARY form", true),
        ("turn_shared_secret", "CANARY turn", true),
        ("oidc_providers.0.client_secret", "CANARY oidc", true),
    ]);
}

#[test]
fn ansible_with_bridges_and_object_storage() {
    let found = run_both(
        &[(
            "config/homeserver.yaml",
            &format!(
                "server_name: \"example.org\"\npublic_baseurl: https://matrix.example.org/\nreport_stats: false\n{DATABASE}\
                 macaroon_secret_key: \"CANARY macaroon\"\nregistration_shared_secret: \"CANARY registration\"\n\
                 form_secret: \"CANARY form\"\npassword_config: {{enabled: true, localdb_enabled: true, pepper: \"\"}}\n\
                 signing_key_path: \"HERE/config/example.org.signing.key\"\n\
                 app_service_config_files: [\"HERE/config/telegram.yaml\", \"HERE/config/irc.yaml\"]\n\
                 modules: [{{module: shared_secret_authenticator.SharedSecretAuthProvider, config: {{shared_secret: CANARY module}}}}]\n\
                 media_storage_providers: [{{module: s3_storage_provider.S3StorageProviderBackend, config: {{bucket: b, \
                 access_key_id: CANARY id, secret_access_key: CANARY s3}}}}]\n\
                 recaptcha_private_key: \"CANARY captcha\"\nsentry: {{dsn: \"https://CANARY@sentry/1\"}}\n"
            ),
        )],
        &[
            ("config/example.org.signing.key", KEY),
            (
                "config/telegram.yaml",
                "{id: telegram, as_token: CANARY-0123456789abcdef, hs_token: CANARY-fedcba9876543210, sender_localpart: t}\n",
            ),
            (
                "config/irc.yaml",
                "{id: irc, as_token: CANARY-0123456789abcdef, hs_token: CANARY-1111111111111111, sender_localpart: i}\n",
            ),
        ],
        &[],
    );

    found.has_all(&[
        ("synapse.postgres.password", "database.args.password"),
        ("synapse.macaroon", "macaroon_secret_key"),
        ("synapse.registrationSharedSecret", "registration_shared_secret"),
        ("synapse.signingKey", "signing_key"),
        ("synapse.appservices.0", "app_service_config_files.0"),
        ("synapse.appservices.1", "app_service_config_files.1"),
    ]);
    found.has_more(&[
        ("form_secret", "CANARY form", true),
        ("media_storage_providers.0.config.access_key_id", "CANARY id", true),
        ("media_storage_providers.0.config.secret_access_key", "CANARY s3", true),
        ("recaptcha_private_key", "CANARY captcha", true),
        ("sentry.dsn", "https://CANARY@sentry/1", true),
    ]);
    // The peer puts the tokens of bridges into a ConfigMap in addition to the Secret, and the module's secret into the
    // values.
    assert!(found.their_clear.contains("CANARY-0123456789abcdef") && found.their_clear.contains("CANARY module"));
    assert!(
        found
            .stderr
            .contains("look like secrets but have no file of their own: modules.0.config.shared_secret")
    );
    assert!(
        found
            .stderr
            .contains("`as_token` is the same in `app_service_config_files.1` and"),
        "{}",
        found.stderr
    );
}

#[test]
fn workers() {
    let found = run_both(
        &[(
            "etc/homeserver.yaml",
            &format!(
                "server_name: example.org\nreport_stats: no\npublic_baseurl: https://matrix.example.org/\n{DATABASE}\
                 signing_key: {KEY}macaroon_secret_key: CANARY macaroon\nworker_replication_secret: CANARY workers\n\
                 redis: {{enabled: true, host: r, password: CANARY redis}}\n\
                 instance_map: {{main: {{host: localhost, port: 9093}}, federation_sender1: {{host: localhost, port: 9094}}}}\n\
                 federation_sender_instances: [federation_sender1]\nsend_federation: false\n"
            ),
        )],
        &[],
        &[],
    );

    // A key in the configuration has no newline; Synapse reads one line.
    assert_eq!(found.ours("signing_key").trim(), found.theirs["synapse.signingKey"]);
    assert_eq!(found.ours("macaroon_secret_key"), found.theirs["synapse.macaroon"]);
    assert_eq!(
        found.ours("database.args.password"),
        found.theirs["synapse.postgres.password"]
    );
    assert_eq!(found.theirs.len(), 3);
    found.has_more(&[
        ("worker_replication_secret", "CANARY workers", true),
        ("redis.password", "CANARY redis", true),
    ]);
    // ESS sets these itself; with the old values it would not work.
    let values = found.world.read("export/ess/values.yaml");
    let settings: String = values.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(
        !settings.contains("instance_map") && !settings.contains("redis"),
        "{values}"
    );
}

#[test]
fn authentication_service_and_hookshot() {
    let [rsa, p256, k256, p384] = [
        "rsa.generate_private_key(65537, 2048)",
        "ec.generate_private_key(ec.SECP256R1())",
        "ec.generate_private_key(ec.SECP256K1())",
        "ec.generate_private_key(ec.SECP384R1())",
    ]
    .map(|make| {
        let program = format!(
            "from cryptography.hazmat.primitives import serialization as s\n\
             from cryptography.hazmat.primitives.asymmetric import ec, rsa\n\
             key = {make}.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())\n\
             print(key.decode(), end='')"
        );
        let key = ran(Command::new(environment().join("python")).args(["-c", &program]));
        String::from_utf8(key).unwrap()
    });
    let found = run_both(
        &[(
            "etc/homeserver.yaml",
            &format!(
                "server_name: example.org\nreport_stats: no\npublic_baseurl: https://matrix.example.org/\n{DATABASE}\
                 signing_key_path: HERE/etc/key\nmacaroon_secret_key: CANARY macaroon\n\
                 matrix_authentication_service: {{enabled: true, endpoint: 'http://mas', secret: CANARY shared}}\n"
            ),
        )],
        &[
            ("etc/key", KEY),
            ("etc/rsa.pem", &rsa),
            ("etc/p256.pem", &p256),
            ("etc/k256.pem", &k256),
            ("etc/p384.pem", &p384),
            ("etc/encryption", "CANARYencryption"),
            ("etc/shared", "CANARY shared"),
            (
                "etc/mas.yaml",
                "http: {public_base: 'https://account.example.org/'}\nmatrix: {homeserver: example.org, secret_file: HERE/etc/shared}\n\
                 database: {uri: 'postgresql://mas:CANARYdb@db/mas'}\n\
                 secrets: {encryption_file: HERE/etc/encryption, keys: [{kid: a, key_file: HERE/etc/rsa.pem}, \
                 {kid: b, key_file: HERE/etc/p256.pem}, {kid: c, key_file: HERE/etc/k256.pem}, {kid: d, key_file: HERE/etc/p384.pem}]}\n\
                 upstream_oauth2: {providers: [{id: 01H, client_id: x, client_secret: CANARY upstream}]}\n",
            ),
            (
                "etc/hookshot.yaml",
                "bridge: {domain: example.org}\npassFile: HERE/etc/passkey.pem\n",
            ),
            ("etc/passkey.pem", PASSKEY),
        ],
        &[
            ("--mas-config", "etc/mas.yaml"),
            ("--hookshot-config", "etc/hookshot.yaml"),
        ],
    );

    assert!(
        found
            .ours("mas.database.uri")
            .contains(&found.theirs["matrixAuthenticationService.postgres.password"])
    );
    let mut pairs = vec![
        ("synapse.postgres.password", "database.args.password"),
        ("synapse.macaroon", "macaroon_secret_key"),
        ("synapse.signingKey", "signing_key"),
        (
            "matrixAuthenticationService.synapseSharedSecret",
            "matrix_authentication_service.secret",
        ),
        ("matrixAuthenticationService.encryptionSecret", "mas.secrets.encryption"),
        ("matrixAuthenticationService.privateKeys.rsa", "mas.secrets.keys.0.key"),
        (
            "matrixAuthenticationService.privateKeys.ecdsaPrime256v1",
            "mas.secrets.keys.1.key",
        ),
        (
            "matrixAuthenticationService.privateKeys.ecdsaSecp256k1",
            "mas.secrets.keys.2.key",
        ),
        (
            "matrixAuthenticationService.privateKeys.ecdsaSecp384r1",
            "mas.secrets.keys.3.key",
        ),
        ("hookshot.passkey", "hookshot.passFile"),
    ];
    let mut found = found;
    found.theirs.remove("matrixAuthenticationService.postgres.password");
    pairs.sort_unstable();
    found.has_all(&pairs);
    found.has_more(&[("mas.upstream_oauth2.providers.0.client_secret", "CANARY upstream", true)]);
}

/// Validates values against a chart's own schema.
const VALID: &str = "import json, sys, jsonschema, yaml\n\
    jsonschema.Draft202012Validator(json.load(open(sys.argv[1]))).validate(yaml.safe_load(open(sys.argv[2])))\n\
    print('true')";

#[test]
#[ignore = "needs the values.schema.json of a chart, named in CHART_SCHEMA"]
fn the_values_fit_a_chart() {
    let schema = std::env::var_os("CHART_SCHEMA").expect("CHART_SCHEMA names a values.schema.json");
    let found = run_both(
        &[(
            "homeserver.yaml",
            &format!(
                "server_name: example.org\npublic_baseurl: https://matrix.example.org/\n{DATABASE}signing_key: {KEY}\
                 macaroon_secret_key: CANARY\nregistration_shared_secret: CANARY\nreport_stats: no\nmax_upload_size: 1234567\n\
                 form_secret: CANARY\napp_service_config_files: [HERE/irc.yaml]\n\
                 stream_writers: {{events: [w1, w2], typing: w1}}\npusher_instances: [w2]\n\
                 templates: {{custom_template_directory: HERE/templates}}\n"
            ),
        )],
        &[
            ("irc.yaml", "{}"),
            ("templates/terms.html", "terms"),
            (
                "mas.yaml",
                "http: {public_base: 'https://account.example.org/'}\nmatrix: {homeserver: example.org, secret: CANARY}\n\
                 database: {uri: 'postgresql://mas:CANARY@db/mas'}\nsecrets: {encryption: CANARY}\nemail: {transport: blackhole}\n",
            ),
            (
                "hookshot.yaml",
                "bridge: {domain: example.org}\npassFile: HERE/passkey.pem\n",
            ),
            ("passkey.pem", PASSKEY),
        ],
        &[("--mas-config", "mas.yaml"), ("--hookshot-config", "hookshot.yaml")],
    );

    assert_eq!(
        python(VALID, &[schema.into(), found.world.path("export/ess/values.yaml")]),
        true
    );
}
