//! extract-secrets compared with Element's ess-migration-tool on the same configurations: every secret that it finds,
//! and those that it misses. The files for ESS are read back by a YAML 1.1 and a YAML 1.2 reader.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{Cluster, Database, Identity, Stdin, Synapse, World, synapse_python};

const REQUIREMENTS: &str = include_str!("../data/peer-requirements.txt");

/// A signing key whose seed contains the canary.
const KEY: &str = "ed25519 a_key CANARY/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
const PASSKEY: &str = "-----BEGIN RSA PRIVATE KEY-----\nCANARY passkey\n-----END RSA PRIVATE KEY-----\n";

/// The directory of programs of a Python environment with the tool, created when it is first needed.
fn environment() -> &'static Path {
    static ENVIRONMENT: OnceLock<PathBuf> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        let venv = target.join("peer");
        // Written last: an environment with this file is complete.
        let made_of = venv.join("requirements.txt");
        let lock = File::create(target.join("peer.lock")).unwrap();
        lock.lock().unwrap();
        if fs::read_to_string(&made_of).ok().as_deref() != Some(REQUIREMENTS) {
            let _ = fs::remove_dir_all(&venv);
            ran(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv));
            let wanted = venv.join("wanted.txt");
            fs::write(&wanted, REQUIREMENTS).unwrap();
            let mut pip = Command::new(venv.join("bin/python"));
            pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:"]);
            // It declares Python 3.11.7, but works with Debian 12's.
            ran(pip.args(["--ignore-requires-python", "--requirement"]).arg(&wanted));
            fs::rename(&wanted, &made_of).unwrap();
        }
        venv.join("bin")
    })
}

fn ran(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn python(program: &str, files: &[PathBuf]) -> Value {
    let output = ran(Command::new(environment().join("python"))
        .args(["-c", program])
        .args(files));
    serde_json::from_slice(&output).unwrap()
}

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

/// Reads the values, the configuration inside them and the one in the Secret with each reader, and the original with
/// PyYAML.
const READERS: &str = r#"
import base64, io, json, sys, yaml
from ruamel.yaml import YAML
original, values, secrets = (open(path, encoding="utf-8").read() for path in sys.argv[1:])
def ruamel(text):
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 2)
    return reader.load(text)
def ruamel_all(text):
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 2)
    return list(reader.load_all(text))
def all_of(one, many):
    value = one(values)
    data = [doc for doc in many(secrets) if doc["metadata"]["name"] == "ess-migrated-synapse"][0]["data"]
    clear = value["synapse"]["additional"]["10-migrated.yaml"]["config"]
    secret = base64.b64decode(data["config.yaml"]).decode()
    assert "${" not in clear + secret
    return {"values": value, "clear": one(clear), "secret": one(secret), "data": data}
answer = {"1.1": all_of(yaml.safe_load, lambda text: list(yaml.safe_load_all(text))),
          "1.2": all_of(ruamel, ruamel_all), "original": yaml.safe_load(original)}
print(json.dumps(answer, default=str))
"#;

#[test]
fn two_versions_of_yaml_read_the_same_back() {
    let world = World::new();
    let original = world.write(
        "homeserver.yaml",
        "server_name: example.org\npublic_baseurl: https://matrix.example.org/\nreport_stats: no\n\
         database: {name: psycopg2, args: {dbname: x}}\nsigning_key: ed25519 a_key CANARY/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n\
         macaroon_secret_key: CANARY\nform_secret: \"yes\"\npassword_config: {enabled: On, pepper: '0777 ${HOME} $${a${b}} # \"x\"'}\n\
         turn_username: \"1e5\"\nturn_password: \"1:30\"\nturn_user_lifetime: 1h\nturn_allow_guests: off\n\
         rc_message: {per_second: 0.2, burst_count: 0x10}\nuser_directory: {enabled: y, search_all_users: \"no\", prefer: \"2001-01-01\"}\n\
         limits: [1e5, 1.5e+3, 0o17, 017, 1_000, 190:20:30, ~, '', '~', 'null', \"=\", '<<', \"\\u2028\\x85\\x07\", ' x ', \"ü🦀\"]\n\
         auto_join_rooms: ['#a:example.org', '@b', '&c', '- d', 'e: f', '${NAME}']\nserver_notices: {system_mxid_display_name: \"a\\nb\\n\"}\n",
    );

    world
        .run(
            "extract-secrets",
            [
                "-n",
                "-c",
                "homeserver.yaml",
                "--out",
                "export",
                "--emit",
                "helm",
                "--emit",
                "kubernetes",
            ],
            Stdin::Null,
        )
        .success();
    let read = python(
        READERS,
        &[
            original,
            world.path("export/ess/values.yaml"),
            world.path("export/ess/secrets.yaml"),
        ],
    );

    assert_eq!(read["1.1"], read["1.2"]);
    let mut carried = read["1.1"]["clear"].as_object().unwrap().clone();
    for (name, value) in read["1.1"]["secret"].as_object().unwrap() {
        match (carried.get_mut(name).and_then(Value::as_object_mut), value) {
            (Some(clear), Value::Object(secret)) => clear.extend(secret.clone()),
            _ => drop(carried.insert(name.clone(), value.clone())),
        }
    }
    let mut wanted = read["original"].as_object().unwrap().clone();
    for owned in [
        "server_name",
        "public_baseurl",
        "database",
        "signing_key",
        "macaroon_secret_key",
    ] {
        wanted.remove(owned);
    }
    assert_eq!(Value::from(carried), Value::from(wanted));
    assert_eq!(
        read["1.1"]["values"]["matrixAuthenticationService"],
        json!({"enabled": false})
    );
}

/// A short form of ESS's configuration renderer: it merges maps, appends lists, and applies the chart's own settings
/// last. It reads YAML 1.2 and replaces what looks like an environment variable.
const RENDER: &str = r#"
import base64, json, sys
from ruamel.yaml import YAML
values, secrets, overrides, directory = sys.argv[1:]
def documents(text):
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 2)
    return list(reader.load_all(text))
values = documents(open(values, encoding="utf-8").read())[0]
data = {one["metadata"]["name"]: one["data"] for one in documents(open(secrets, encoding="utf-8").read())}
def merge(into, more):
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict): merge(into[key], value)
        elif isinstance(value, list) and isinstance(into.get(key), list): into[key] = into[key] + value
        else: into[key] = value
files = {}
def mounted(one):
    name = one["secret"] + "/" + one["secretKey"]
    files[name] = base64.b64decode(data[one["secret"]][one["secretKey"]]).decode()
    return directory + "/" + name
synapse = values["synapse"]
config = {"report_stats": False, "require_auth_for_profile_requests": True, "federation_client_minimum_tls_version": "1.2"}
for name in sorted(synapse["additional"]):
    part = synapse["additional"][name]
    text = part["config"] if "config" in part else base64.b64decode(data[part["configSecret"]][part["configSecretKey"]]).decode()
    assert "${" not in text
    merge(config, documents(text)[0])
merge(config, {
    "server_name": values["serverName"], "public_baseurl": "https://" + synapse["ingress"]["host"] + "/",
    "signing_key_path": mounted(synapse["signingKey"]), "macaroon_secret_key_path": mounted(synapse["macaroon"]),
    "registration_shared_secret_path": mounted(synapse["registrationSharedSecret"]),
    "app_service_config_files": [mounted(one) for one in synapse["appservices"]],
    "max_upload_size": synapse["media"]["maxUploadSize"],
})
for key, value in json.loads(overrides).items(): config[key] = value
volumes = {one["name"]: one["secret"] for one in synapse.get("extraVolumes", [])}
text = json.dumps(config)
for mount in synapse.get("extraVolumeMounts", []):
    secret = volumes[mount["name"]]
    for item in secret["items"]:
        files[mount["mountPath"].lstrip("/") + "/" + item["path"]] = \
            base64.b64decode(data[secret["secretName"]][item["key"]]).decode()
    text = text.replace('"' + mount["mountPath"] + "/", '"' + directory + mount["mountPath"] + "/")
print(json.dumps({"files": files, "homeserver.yaml": json.loads(text)}))
"#;

/// Renders, into the directory `rendered`, the configuration with which ESS would start Synapse, from the values and
/// Secrets in an export. `overrides` are settings that the chart derives from the installation.
fn render(world: &World, overrides: &Value) -> PathBuf {
    let directory = world.path("rendered");
    let args = [
        world.path("export/ess/values.yaml"),
        world.path("export/ess/secrets.yaml"),
        overrides.to_string().into(),
        directory.clone(),
    ];
    let rendered = python(RENDER, &args);
    for (name, content) in rendered["files"].as_object().unwrap() {
        world.write(&format!("rendered/{name}"), content.as_str().unwrap());
    }
    // JSON is YAML.
    world.write("rendered/homeserver.yaml", rendered["homeserver.yaml"].to_string())
}

/// Reads a configuration with Synapse's own code.
const READ: &str = r#"
import json, sys
from synapse.config.appservice import load_appservices
from synapse.config.homeserver import HomeServerConfig
def read(path):
    c = HomeServerConfig.load_config("", ["-c", path])
    services = load_appservices(c.server.server_name, c.appservice.app_service_config_files)
    return [c.server.server_name, c.server.public_baseurl, [key.encode().hex() for key in c.key.signing_key],
        sorted(c.key.old_signing_keys), c.key.macaroon_secret_key.decode(), c.registration.registration_shared_secret,
        c.key.form_secret, c.auth.password_pepper, c.auth.password_policy, c.voip.turn_shared_secret, c.voip.turn_uris,
        c.email.email_smtp_user, c.email.email_smtp_pass, c.captcha.recaptcha_private_key, c.consent.user_consent_version,
        c.media.max_upload_size, [[one.id, one.token, one.hs_token] for one in services]]
print(json.dumps([read(path) for path in sys.argv[1:]]))
"#;

#[test]
fn synapse_reads_the_same_from_what_ess_is_given() {
    let world = World::new();
    world.write(
        "key",
        format!("{KEY}ed25519 b_second nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n"),
    );
    world.write("form", "form of the old server\n");
    world.write(
        "bridge.yaml",
        "{id: irc, url: null, as_token: 0123456789abcdef, hs_token: fedcba9876543210, sender_localpart: irc, \
         namespaces: {users: [], rooms: [], aliases: []}}\n",
    );
    let original = world.write(
        "homeserver.yaml",
        format!(
            "server_name: example.org\npublic_baseurl: https://matrix.example.org/\nreport_stats: no\n\
             suppress_key_server_warning: true\ndatabase: {{name: psycopg2, args: {{}}}}\nlisteners: [{{port: 8008, type: http}}]\n\
             signing_key_path: {0}/key\nform_secret_path: {0}/form\napp_service_config_files: [{0}/bridge.yaml]\n\
             macaroon_secret_key: \"mac: #1 ${{X}}\"\nregistration_shared_secret: \"0123\"\n\
             password_config: {{pepper: \"pe'pp\\\"er ${{HOME}} ü\", policy: {{enabled: On, minimum_length: 012}}}}\n\
             turn_shared_secret: '1e5'\nturn_uris: ['turn:t?transport=udp']\nmax_upload_size: 20M\n\
             email: {{smtp_host: m, smtp_user: 'yes', smtp_pass: '1:30', notif_from: 'a <a@b>'}}\n\
             recaptcha_public_key: '017'\nrecaptcha_private_key: '0x1f'\n\
             old_signing_keys: {{'ed25519:old': {{key: Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw, expired_ts: 1576767829750}}}}\n",
            world.path("").display()
        )
        .replace("//", "/")
        .replace("https:/m", "https://m"),
    );
    let args = [
        "-n",
        "-c",
        "homeserver.yaml",
        "--out",
        "export",
        "--emit",
        "helm",
        "--emit",
        "kubernetes",
    ];
    world.run("extract-secrets", args, Stdin::Null).success();
    let overrides = json!({
        "database": {"name": "psycopg2", "args": {}}, "listeners": [{"port": 8008, "type": "http"}],
    });
    let rendered = render(&world, &overrides);

    // Synapse's loader creates a media store in the working directory.
    let mut python = Command::new(synapse_python());
    python.args(["-c", READ]).current_dir(world.path(""));
    let read = ran(python.args([original, rendered]));

    let read: [Value; 2] = serde_json::from_slice(&read).unwrap();
    assert_eq!(read[0], read[1]);
    assert_eq!(read[0][7], "pe'pp\"er ${HOME} ü");
}

#[test]
fn synapse_starts_on_what_ess_is_given_and_is_the_same_server() {
    let world = World::new();
    let cluster = Cluster::new(&world, "source");
    let database = Database::awkward(&cluster);
    let seeded = cluster.load_synapse(&database.name, &database.role);
    let old = Synapse::debian(&world, "old", &database, &Identity::old());
    let bridge = world.write(
        "old/bridge.yaml",
        "{id: irc, url: null, as_token: 0123456789abcdef, hs_token: fedcba9876543210, sender_localpart: irc, \
         namespaces: {users: [], rooms: [], aliases: []}}\n",
    );
    world.write(
        "old/conf.d/more.yaml",
        format!(
            "public_baseurl: https://matrix.example.org/\nmax_upload_size: 20M\napp_service_config_files: [{}]\n\
             old_signing_keys: {{'ed25519:old': {{key: Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw, expired_ts: 1576767829750}}}}\n\
             federation_custom_ca_list: [{ca}]\ntemplates: {{custom_template_directory: {templates}}}\n\
             oembed: {{additional_providers: [{embeds}]}}\n",
            bridge.display(),
            embeds = world.path("old/embeds.json").display(),
            ca = world.path("old/ca.pem").display(),
            templates = world.path("old/templates").display(),
        ),
    );
    // Synapse reads these files when it starts.
    let request = "openssl req -x509 -newkey ed25519 -nodes -subj /CN=ca -keyout /dev/null -out old/ca.pem";
    world.shell(request).success();
    world.write("old/templates/sso_error.html", "an error of our own");
    world.write("old/embeds.json", "[]");
    let emit = ["-n", "--out", "export", "--emit", "helm", "--emit", "kubernetes"].map(str::to_owned);
    let ran = world.run(
        "extract-secrets",
        emit.into_iter().chain(old.config_args()),
        Stdin::Null,
    );
    ran.success();

    let mut new = Synapse::new(&world, "new", &database, &Identity::old());
    let overrides = json!({
        "database": {"name": "psycopg2", "args": {
            "user": database.role, "password": database.password, "dbname": database.name,
            "host": "127.0.0.1", "port": database.port, "cp_min": 2, "cp_max": 5,
        }},
        "listeners": [{"port": new.port(), "type": "http", "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client", "keys"]}]}],
        "media_store_path": new.media_store(), "log_config": world.path("new/log.yaml"),
    });
    new.config = vec![render(&world, &overrides)];
    new.start();

    for (old, new) in [
        ("ca.pem", "0/ca.pem"),
        ("embeds.json", "1/embeds.json"),
        ("templates/sso_error.html", "2/templates/sso_error.html"),
    ] {
        let mounted = world.read(&format!("rendered/ess-migrated-files/{new}"));
        assert_eq!(mounted, world.read(&format!("old/{old}")));
    }
    // Checks the published keys, all old access tokens, and the peppered passwords.
    seeded.check(&new);
    let old_key = &new.get("/_matrix/key/v2/server", None)["old_verify_keys"]["ed25519:old"]["key"];
    assert_eq!(old_key, "Noi6WqcDj0QmPxCNQqgezwTlBKrfqehY1u2FyWP9uYw");
    new.register("dave", "dave's password", false);
    let bridge = new.get("/_matrix/client/v3/account/whoami", Some("0123456789abcdef"));
    assert_eq!(bridge["user_id"], "@irc:example.org");
    new.stop();
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
