//! `ess_synapse` reads configurations as a real Synapse does.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use ess_synapse::config::{Config, Database, Options};
use ess_synapse::secrets::{Macaroon, Secrets};
use secrecy::ExposeSecret as _;
use serde_json::{Value as Json, json};

/// Loads `homeserver.yaml` and `conf.d` of each directory in the arguments, as Synapse does when it starts in that
/// directory, and prints the resulting options, or `"refused"`.
const ORACLE: &str = r#"
import contextlib, hashlib, io, json, os, sys
from signedjson.key import encode_verify_key_base64, get_verify_key
from synapse.config.homeserver import HomeServerConfig
import synapse.config.jwt, synapse.config.oidc, synapse.config.redis
# Python packages that only a running server needs may be missing here.
for module in [synapse.config.jwt, synapse.config.oidc, synapse.config.redis]: module.check_requirements = lambda *_: None
Mapping = type("Provider", (), {"get_remote_user_id": 0, "map_user_attributes": 0})
synapse.config.oidc.load_module = lambda *_: (Mapping, None)
answers = []
for directory in sys.argv[1:]:
    os.chdir(directory)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            c = HomeServerConfig.load_config("", ["-c", "homeserver.yaml", "-c", "conf.d"])
    except Exception as error:
        answers.append("refused")
        continue
    derived = hashlib.sha256(bytes(c.key.signing_key[0])).digest()
    secrets = {
        "macaroon_secret_key": None if c.key.macaroon_secret_key == derived else c.key.macaroon_secret_key.decode(),
        "form_secret": c.key.form_secret,
        "registration_shared_secret": c.registration.registration_shared_secret,
        "turn_shared_secret": c.voip.turn_shared_secret,
        "turn_username": c.voip.turn_username,
        "turn_password": c.voip.turn_password,
        "password_config.pepper": c.auth.password_pepper,
        "recaptcha_private_key": c.captcha.recaptcha_private_key,
        "worker_replication_secret": c.worker.worker_replication_secret,
        "recaptcha_public_key": c.captcha.recaptcha_public_key,
        "email.smtp_user": c.email.email_smtp_user,
        "email.smtp_pass": c.email.email_smtp_pass,
        "jwt_config.secret": c.jwt.jwt_secret if c.jwt.jwt_enabled else None,
        "matrix_authentication_service.secret": c.mas.secret() if c.mas.enabled else None,
        "redis.password": c.redis.redis_password if c.redis.redis_enabled else None,
    }
    for i, provider in enumerate(c.oidc.oidc_providers):
        place = f"oidc_providers.{i}" if provider.idp_id != "oidc" else "oidc_config"
        secrets[f"{place}.client_secret"] = provider.client_secret
    database = c.database.databases[0].config
    answers.append({
        "server_name": c.server.server_name,
        "signing_keys": [[f"{k.alg}:{k.version}", encode_verify_key_base64(get_verify_key(k))] for k in c.key.signing_key],
        "secrets": {k: str(v) for k, v in secrets.items() if v not in (None, "")},
        "media": c.media.media_store_path,
        "database": {k: str(v) for k, v in database.get("args", {}).items()
            if v is not None and not k.startswith("cp_") and k != "check_same_thread"},
    })
print(json.dumps(answers))
"#;

const KEY: &str = "ed25519 a_one nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
const SECOND: &str = "ed25519 two TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=\n";

/// Options, and the files that they name.
type Case = (&'static str, &'static [(&'static str, &'static str)]);

const CASES: &[Case] = &[
    ("", &[]),
    ("macaroon_secret_key: ' m '\nform_secret: f\n", &[]),
    (
        "macaroon_secret_key_path: m\nform_secret_path: f\n",
        &[("m", " \u{3000}m\r\nn\u{1f}\n"), ("f", "\u{85}f\n")],
    ),
    (
        "macaroon_secret_key_path: m\nregistration_shared_secret_path: r\n",
        &[("m", "\n"), ("r", " r\n")],
    ),
    ("registration_shared_secret: r\nmacaroon_secret_key: ''\n", &[]),
    ("macaroon_secret_key: a\nmacaroon_secret_key_path: m\n", &[("m", "b")]),
    ("macaroon_secret_key: ''\nmacaroon_secret_key_path: m\n", &[("m", "b")]),
    ("form_secret: a\nform_secret_path: m\n", &[("m", "b")]),
    (
        "registration_shared_secret: a\nregistration_shared_secret_path: m\n",
        &[("m", "b")],
    ),
    ("turn_shared_secret: a\nturn_shared_secret_path: m\n", &[("m", "b")]),
    (
        "turn_shared_secret_path: m\nturn_username: 010\nturn_password: yes\n",
        &[("m", "b")],
    ),
    ("macaroon_secret_key: 123\n", &[]),
    ("macaroon_secret_key: yes\n", &[]),
    ("form_secret: 123\n", &[]),
    ("form_secret: 2024-01-01\n", &[]),
    ("form_secret: 1e5\nmacaroon_secret_key: 08\n", &[]),
    ("form_secret: |\n  one\n  two\n", &[]),
    (
        "form_secret: >-\n  one\n  two\nmacaroon_secret_key: \"\\u00fc\\n\"\n",
        &[],
    ),
    ("form_secret_path: none\n", &[]),
    ("form_secret_path: 12\n", &[]),
    ("recaptcha_private_key: 12\n", &[]),
    (
        "recaptcha_private_key_path: k\nworker_replication_secret_path: w\n",
        &[("k", " k "), ("w", "w\n")],
    ),
    ("worker_replication_secret: 12\n", &[]),
    (
        "worker_replication_secret: w\nworker_replication_secret_path: w\n",
        &[("w", "w")],
    ),
    ("redis: {enabled: yes, password: r}\n", &[]),
    ("redis: {enabled: yes, password: 0x1F}\n", &[]),
    ("redis: {enabled: no, password: r}\n", &[]),
    ("redis: {enabled: on, password_path: r}\n", &[("r", " r \n")]),
    ("redis: {enabled: on, password: a, password_path: r}\n", &[("r", "r")]),
    (
        "oidc_providers: [{idp_id: a, idp_name: A, issuer: 'https://x', client_id: i, client_secret: ' s '}]\n",
        &[],
    ),
    (
        "oidc_providers: [{idp_id: a, idp_name: A, issuer: 'https://x', client_id: i, client_secret_path: c}]\n",
        &[("c", " s \r\n\n")],
    ),
    (
        "oidc_providers: [{idp_id: a, idp_name: A, issuer: 'https://x', client_id: i, client_secret: '', client_secret_path: c}]\n",
        &[("c", "s")],
    ),
    (
        "oidc_providers: [{idp_id: a, idp_name: A, issuer: 'https://x', client_id: i, client_secret: 12}]\n",
        &[],
    ),
    (
        "oidc_config: {enabled: yes, issuer: 'https://x', client_id: i, client_secret: s}\n",
        &[],
    ),
    ("password_config: {pepper: \" p \"}\n", &[]),
    (
        "recaptcha_public_key_path: k\nemail: {smtp_user: u, smtp_pass: ' w ', notif_from: x}\n",
        &[("k", " k\n")],
    ),
    ("recaptcha_public_key: a\nrecaptcha_public_key_path: k\n", &[("k", "b")]),
    ("jwt_config: {enabled: yes, secret: ' j ', algorithm: HS256}\n", &[]),
    ("jwt_config: {enabled: no, secret: j, algorithm: HS256}\n", &[]),
    (
        "password_config: {enabled: no}\nmatrix_authentication_service: {enabled: yes, secret: ' s '}\n",
        &[],
    ),
    (
        "password_config: {enabled: no}\nmatrix_authentication_service: {enabled: yes, secret_path: s}\n",
        &[("s", " s\n")],
    ),
    (
        "password_config: {enabled: no}\nmatrix_authentication_service: {enabled: yes, secret: a, secret_path: s}\n",
        &[("s", "b")],
    ),
    ("matrix_authentication_service: {enabled: no, secret: s}\n", &[]),
    (
        "signing_key: |\n  ed25519 x nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n",
        &[],
    ),
    (
        "signing_key: >\n  ed25519\n  x\n  nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=\n",
        &[],
    ),
    ("signing_key:\n", &[]),
    ("signing_key: ed25519 x\n", &[]),
    (
        "signing_key_path: k\n",
        &[(
            "k",
            "\r\n\ned25519 a nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\r\n\ned25519 two TM0Imyj/ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U+4pvs=\n",
        )],
    ),
    (
        "signing_key_path: k\n",
        &[("k", "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n")],
    ),
    ("signing_key_path: k\n", &[("k", "\n")]),
    (
        "signing_key_path: k\n",
        &[("k", "rsa a nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n")],
    ),
    ("signing_key_path: none\n", &[]),
    ("media_store_path: a/../b\n", &[]),
    ("media_store_path:\n", &[]),
    (
        "database: {name: psycopg2, args: {database: D, user: ~, port: 5_433, keepalives: yes, cp_min: 5}}\n",
        &[],
    ),
    ("database:\n", &[]),
    ("database: {name: mysql}\n", &[]),
    ("database: {args: {database: x.db}}\n", &[]),
    ("database:\ndatabase_path: x.db\n", &[]),
    ("database_path: x.db\n", &[]),
    (
        "database: {name: sqlite3, args: {database: a.db}}\ndatabase_path: b.db\n",
        &[],
    ),
    ("databases: {one: {name: psycopg2}}\n", &[]),
    (
        "database:\ndatabases: {one: {name: psycopg2, args: {dbname: x}}}\n",
        &[],
    ),
    ("server_name: 12\n", &[]),
    ("a: &a 1\na: *a\nform_secret: one\nform_secret: two\n", &[]),
    ("x: &x {pepper: merged}\npassword_config: {<<: *x, enabled: yes}\n", &[]),
    ("a: b\n\tc: d\n", &[]),
];

fn python() -> PathBuf {
    let python = env::var_os("ESS_TEST_PYTHON").map_or_else(
        || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("synapse/bin/python"),
        PathBuf::from,
    );
    assert!(
        python.exists(),
        "{} is missing: run the end-to-end tests first, or name a Python with Synapse in ESS_TEST_PYTHON",
        python.display()
    );
    python
}

fn lay(directory: &Path, (options, files): &Case) {
    let base = "report_stats: no\ndatabase: {name: psycopg2}\nserver_name: wrong.example\n";
    fs::create_dir_all(directory.join("conf.d")).unwrap();
    fs::write(directory.join("homeserver.yaml"), base).unwrap();
    fs::write(directory.join("conf.d/10-name.yaml"), "server_name: example.org\n").unwrap();
    fs::write(directory.join("conf.d/20-own.yaml"), options).unwrap();
    fs::write(directory.join("conf.d/30-empty.yaml"), "# nothing\n").unwrap();
    fs::write(
        directory.join("conf.d/example.org.signing.key"),
        format!("{KEY}{SECOND}"),
    )
    .unwrap();
    for (name, content) in *files {
        fs::write(directory.join(name), content).unwrap();
    }
}

fn ours(directory: &Path) -> Json {
    let options = Options {
        configs: vec![directory.join("homeserver.yaml"), directory.join("conf.d")],
        working_directory: Some(directory.into()),
        ..Options::default()
    };
    let read = Config::load(&options).and_then(|config| {
        let secrets = Secrets::read(&config)?;
        let database = match config.database()? {
            Database::Postgres { args, .. } => json!(args),
            Database::Sqlite { path } => json!({"dbname": path}),
            Database::Split { names } => json!(names),
        };
        Ok((config.media_store_path()?, config, secrets, database))
    });
    let Ok((media, config, secrets, database)) = read else {
        return json!("refused");
    };
    let has_macaroon = secrets
        .secrets
        .iter()
        .any(|secret| secret.option == "macaroon_secret_key");
    assert_eq!(has_macaroon, secrets.macaroon != Macaroon::DerivedFromSigningKey);
    let values = secrets
        .secrets
        .iter()
        .filter(|secret| secret.option != "signing_key")
        .map(|secret| {
            let value = String::from_utf8(secret.value.expose_secret().to_vec()).unwrap();
            (secret.option.clone(), Json::from(value))
        })
        .collect::<serde_json::Map<_, _>>();
    json!({
        "server_name": config.server_name(),
        "signing_keys": secrets.signing_keys.iter().map(|key| [&key.id, &key.public_key]).collect::<Vec<_>>(),
        "secrets": values,
        "media": media,
        "database": database,
    })
}

/// Applies to Synapse's output what psycopg2 and sqlite3 would do: renames the alias `database` to `dbname`, and makes
/// the path of a SQLite file absolute.
fn as_libpq(mut answer: Json, directory: &Path) -> Json {
    if let Some(database) = answer.get_mut("database").and_then(Json::as_object_mut)
        && let Some(name) = database.remove("database")
    {
        let name = name.as_str().unwrap();
        let is_file = Path::new(name).extension().is_some_and(|extension| extension == "db");
        let name = if is_file {
            json!(directory.join(name))
        } else {
            json!(name)
        };
        database.insert("dbname".into(), name);
    }
    answer
}

#[test]
fn configurations_read_as_synapse_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let directories: Vec<PathBuf> = (0..CASES.len())
        .map(|index| dir.path().join(index.to_string()))
        .collect();
    for (directory, case) in directories.iter().zip(CASES) {
        lay(directory, case);
    }

    let output = Command::new(python())
        .args(["-c", ORACLE])
        .args(&directories)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Json> = serde_json::from_slice(&output.stdout).unwrap();

    let mut different = Vec::new();
    for ((directory, (options, _)), theirs) in directories.iter().zip(CASES).zip(theirs) {
        let (ours, theirs) = (ours(directory), as_libpq(theirs, directory));
        if ours != theirs {
            different.push(format!("{options}  theirs {theirs}\n  ours   {ours}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
