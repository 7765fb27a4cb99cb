//! Secrets are nowhere but where they belong: every byte that a program writes, prints or exposes is searched for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{
    Cluster, Database, Identity, Kube, OFFLINE, Ran, SERVER_NAME, Synapse, TOOLS, World, processes_in,
};

/// Part of every secret. The escapes of JSON, YAML, URLs, shells and libpq leave it unchanged.
const MARK: &str = "c4n4ry";
/// The same in base64, for each offset within a group of three bytes, and in hexadecimal.
const ENCODED: [&str; 4] = ["YzRuNHJ5", "M0bjRye", "jNG40cn", "63346e347279"];

/// A unique secret with characters that need escaping everywhere.
fn secret(name: &str) -> String {
    format!(r#"{MARK}-{name}-/+=&#?'"ü\$"#)
}

/// The secret in double quotes, which are the same in YAML and JSON.
fn quoted(name: &str) -> String {
    serde_json::Value::from(secret(name)).to_string()
}

fn is_in(bytes: &[u8]) -> bool {
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    holds(MARK) || ENCODED.iter().any(|text| holds(text))
}

/// A homeserver with every kind of secret that extract-secrets supports, and an unknown one.
fn configure(world: &World, from: &Database) -> Synapse {
    let seed = format!("{MARK}{}", "A".repeat(37));
    let identity = Identity {
        signing_key: format!("ed25519 a_OLDx {seed}\n"),
        macaroon: secret("macaroon"),
        registration: secret("registration"),
        form: secret("form"),
        pepper: secret("pepper"),
    };
    let old = Synapse::debian(world, "old", from, &identity);
    let file = |name: &str, content: String| world.write(&format!("old/{name}"), content).display().to_string();
    let more = format!(
        "public_baseurl: https://matrix.example.org/
turn_uris: ['turn:turn.example.org']
turn_shared_secret_path: {turn}
turn_username: {turn_user}
turn_password: {turn_password}
recaptcha_public_key: {captcha_public}
recaptcha_private_key_path: {captcha}
worker_replication_secret_path: {workers}
email: {{smtp_host: localhost, smtp_user: {mail_user}, smtp_pass: {mail}, notif_from: x}}
redis: {{enabled: false, host: localhost, password: {redis}}}
jwt_config: {{enabled: false, secret: {jwt}}}
oidc_providers:
- {{idp_id: a, idp_name: a, issuer: 'https://a', client_id: c, client_secret_path: {oidc}}}
- {{idp_id: b, idp_name: b, issuer: 'https://b', client_id: c, client_secret_jwt_key: {{key: {jwt_key}}}}}
media_storage_providers:
- module: s3_storage_provider.S3StorageProviderBackend
  store_local: true
  config: {{bucket: b, access_key_id: {s3_id}, secret_access_key: {s3}, session_token: {s3_token}}}
modules: [{{module: m.M, config: {{anything: {module}, dkim_key_path: {dkim}}}}}]
notify: {{webhook: 'https://hooks.example.org/T024BE7LD/{MARK}Xm0bD2aNrX5tXc1kZ7'}}
sentry: {{dsn: 'https://{MARK}-sentry@sentry.example.org/1'}}
saml2_config: {{sp_config: {{key_file: {saml}, key_file_passphrase: {passphrase}}}}}
manhole_settings: {{password: {manhole}}}
app_service_config_files: [{bridge}]
key_server_signing_keys_path: {notary}
acme: {{some_token: {acme}, url: 'https://user:{MARK}-url@acme.example.org/'}}
",
        turn = file("turn", secret("turn")),
        turn_user = quoted("turn-user"),
        turn_password = quoted("turn-password"),
        captcha_public = quoted("captcha-public"),
        captcha = file("captcha", secret("captcha")),
        workers = file("workers", secret("workers")),
        mail_user = quoted("mail-user"),
        mail = quoted("mail"),
        redis = quoted("redis"),
        jwt = quoted("jwt"),
        oidc = file("oidc", secret("oidc")),
        jwt_key = quoted("jwt-key"),
        s3_id = quoted("s3-id"),
        s3 = quoted("s3"),
        s3_token = quoted("s3-token"),
        module = quoted("module"),
        dkim = file("dkim.pem", format!("-----BEGIN PRIVATE KEY-----\n{MARK}\n")),
        saml = file("saml.pem", secret("saml")),
        passphrase = quoted("passphrase"),
        manhole = quoted("manhole"),
        bridge = file(
            "bridge.yaml",
            format!(
                "{{id: b, url: null, as_token: {}, hs_token: {}, sender_localpart: b, namespaces: {{}}}}\n",
                quoted("as"),
                quoted("hs")
            )
        ),
        notary = file("notary.key", format!("ed25519 n {seed}\n")),
        acme = quoted("acme"),
    );
    world.write("old/conf.d/zz-own.yaml", more);
    world.write(
        "old/mas.yaml",
        format!(
            "http: {{public_base: 'https://account.example.org/'}}\nmatrix: {{homeserver: {SERVER_NAME}, secret: {}}}\n\
             database: {{uri: 'postgresql://mas:{MARK}-mas-db@db/mas'}}\n\
             secrets: {{encryption: {}, keys: [{{kid: a, key: {}}}]}}\n\
             upstream_oauth2: {{providers: [{{id: 01H, client_id: x, client_secret: {}}}]}}\n\
             telemetry: {{sentry: {{dsn: 'https://{MARK}-mas@sentry.example.org/1'}}}}\n",
            quoted("mas"),
            quoted("mas-encryption"),
            quoted("mas-key"),
            quoted("mas-upstream")
        ),
    );
    world.write(
        "old/hookshot.yaml",
        format!(
            "bridge: {{domain: example.org}}\npassFile: passkey.pem\ngithub: {{webhook: {{secret: {}}}}}\n",
            quoted("webhook")
        ),
    );
    world.write("old/passkey.pem", secret("hookshot"));
    old
}

/// What other processes of the same user can read of the programs in a world: their command lines and environments.
#[derive(Default)]
struct Shown {
    programs: BTreeSet<String>,
    leaks: BTreeSet<String>,
}

impl Shown {
    fn look(&mut self, world: &Path) {
        for pid in processes_in(world) {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let name = String::from_utf8_lossy(&read("comm")).trim_end().to_owned();
            for file in ["cmdline", "environ"] {
                if is_in(&read(file)) {
                    self.leaks.insert(format!("{file} of {name}"));
                }
            }
            self.programs.insert(name);
        }
    }
}

/// The names of files that contain a secret and must not.
fn leaks_in(world: &World) -> Vec<String> {
    let mut leaks = Vec::new();
    for entry in walkdir::WalkDir::new(world.path("")) {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(world.path("")).unwrap();
        let servers = ["source/data", "target/data"].iter().any(|data| path.starts_with(data));
        if !entry.file_type().is_file()
            || servers
            || path.starts_with("old")
            || path.ends_with("target.pw")
            || path.starts_with("kube")
        {
            continue;
        }
        let content = fs::read(entry.path()).unwrap();
        let within = |place: &str| path.starts_with(place) && !path.ends_with("index.json");
        let rightly = [
            "export/secrets",
            "export/config",
            "export/ess/secrets.yaml",
            "moved/secrets",
            "moved/config",
        ]
        .iter()
        .any(|place| within(place));
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        if rightly {
            let (own, above) = (mode(entry.path()), mode(entry.path().parent().unwrap()));
            assert_eq!((own, above), (0o600, 0o700), "{}", path.display());
        } else if is_in(&content) || is_in(path.as_os_str().as_encoded_bytes()) {
            leaks.push(path.display().to_string());
        }
    }
    leaks
}

#[test]
fn no_secret_is_anywhere_but_in_its_file() {
    let world = World::new();
    let source = Cluster::new(&world, "source");
    let target = Cluster::ess(&world, "target");
    let from = source.database("Synapse-Prod", "synapse", &secret("source"));
    source.create_role(&from.role, &from.password);
    source.load_synapse(&from.name, &from.role);
    target.load_fresh();
    let password = secret("target").replace('\'', "''");
    target.psql("postgres", &format!("ALTER ROLE synapse_user PASSWORD '{password}'"));
    let kube = Kube::community(&world, &target);
    kube.set_secret("ess", "ess-generated", "POSTGRES_SYNAPSE_PASSWORD", &secret("target"));
    world.write("target.pw", format!("{}\n", secret("target")));
    world.write("wrong.pw", "wrong\n");
    world.shell("mkdir -m 700 tmp").success();
    let old = configure(&world, &from);
    old.load_media();

    let said = Mutex::new(BTreeMap::new());
    let url = target.url("synapse", "synapse_user");
    let config = old.config_args().join(" ");
    let run = |script: &str| -> Ran {
        let script = format!(
            "set -o pipefail; umask 022; config='{config}'; target='--target-password-file target.pw'; {script}"
        );
        let call = world
            .script(&script)
            .env("TARGET", &url)
            .env("TMPDIR", world.path("tmp"));
        let ran = kube.seen_by(call).run();
        let all = [ran.stdout.as_bytes(), ran.stderr.as_bytes()].concat();
        said.lock().unwrap().insert(script, all);
        ran
    };
    let done = AtomicBool::new(false);
    let shown = thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut shown = Shown::default();
            while !done.load(Ordering::Relaxed) {
                shown.look(&world.path(""));
                thread::sleep(Duration::from_millis(2));
            }
            shown
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| every_program(&run)));
        done.store(true, Ordering::Relaxed);
        let shown = looking.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        shown
    });

    for (script, bytes) in said.into_inner().unwrap() {
        let text = String::from_utf8_lossy(&bytes);
        assert!(!is_in(&bytes), "{script}\n{text}");
    }
    assert_eq!(leaks_in(&world), [""; 0]);
    assert_eq!(shown.leaks, BTreeSet::new());
    let tools = TOOLS.iter().map(|(tool, _)| *tool);
    for program in tools.chain(["pg_dump", "pg_restore"]) {
        assert!(
            shown.programs.contains(program),
            "{program} was never seen: {:?}",
            shown.programs
        );
    }
    let kinds = fs::read_dir(world.path("export/secrets")).unwrap().count();
    assert!(kinds > 30, "{kinds}");
    // The search itself works.
    for place in [
        "secrets/form_secret",
        "secrets/mas.secrets.encryption",
        "secrets/mas.telemetry.sentry.dsn",
        "secrets/modules.0.config.dkim_key_path",
        "secrets/hookshot.github.webhook.secret",
        "config/mas.yml",
        "ess/secrets.yaml",
    ] {
        let content = fs::read(world.path("export").join(place)).unwrap();
        assert!(is_in(&content), "{place}");
    }
}

/// The complete migration with `-v` in each step, including refusals.
fn every_program(run: &dyn Fn(&str) -> Ran) {
    run("rehearse -n -v $config --export rehearsed > rehearsed.json").success();
    run("age-keygen -o age.key 2>/dev/null; age-keygen -y age.key > recipients").success();
    run(&format!(
        "preflight -n -v $config {OFFLINE} --target \"$TARGET\" $target --report --metrics metrics.prom > report.txt"
    ));
    let beside = "--mas-config old/mas.yaml --hookshot-config old/hookshot.yaml";
    let emit = "--emit dir --emit kubernetes --emit helm --emit age -R recipients";
    run(&format!(
        "preflight -v $config {OFFLINE} --target \"$TARGET\" $target > preflight.json && \
         extract-secrets -v --out export {beside} {emit} < preflight.json > secrets.json"
    ))
    .success();
    run(&format!(
        "extract-secrets -v {beside} {emit} < secrets.json > again.json"
    ))
    .success();
    run(&format!(
        "extract-secrets -n -v $config --out sealed {beside} --emit age --emit kubernetes -R recipients > sealed.json"
    ))
    .success();
    run("pgdump-wrap -v < secrets.json > dumped.json").success();
    run("pgdump-wrap -v < dumped.json > kept.json").success();
    run("media-sync -v < dumped.json > media.json").success();
    // Nothing answers there, so it checks again until the second has passed.
    run("well-known -v --check --wait 1 --every 1 --host localhost < secrets.json > lagging.json");
    run("(sleep 0.2; cat secrets.json) | ess-job -v --image x --claim y true > job.json").success();
    run("ess-wipe -v < dumped.json > plan.txt");
    run(&format!(
        "ess-wipe -v --execute --confirm {SERVER_NAME}/synapse < dumped.json > wiped.json"
    ))
    .success();
    run("restore -v < wiped.json > restored.json").success();
    run("verify -v < restored.json > verified.json").success();
    run(&format!(
        "preflight -v $config {OFFLINE} --target kube:ess | extract-secrets -v --out moved | pgdump-wrap -v | \
         ess-scale -v down | ess-wipe -v --execute --confirm {SERVER_NAME}/synapse | restore -v | verify -v | \
         ess-scale -v up > moved.json"
    ))
    .success();
    run("ess-scale -v -n status --target kube:ess").success();

    let refused = |script: &str| assert!(!run(script).status.success(), "{script}");
    refused("verify -v -n --from export/dump --target \"$TARGET\" --target-password-file wrong.pw");
    refused("sed -i 's/^form_secret:.*/form_secret: other/' old/homeserver.yaml; extract-secrets -v < secrets.json");
    refused(&format!("extract-secrets -v {beside} {emit} < secrets.json"));
    refused(
        "sed -i 's/^form_secret:.*/form_secret: 1234/; s/^macaroon_secret_key: \\(.*\\)/&\\n  \\1/' old/homeserver.yaml; extract-secrets -v < secrets.json",
    );
}
