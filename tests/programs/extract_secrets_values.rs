//! The files for ESS mean to Synapse what the old configuration meant, and readers of YAML 1.1 and 1.2 read the same in
//! them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::peer::{python, ran};
use crate::support::secrets::KEY;
use crate::support::{Cluster, Database, Identity, Stdin, Synapse, World, synapse_python};

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
