//! Debian's configuration of Synapse with secrets that one search finds, and runs of extract-secrets on it.

use super::{Ran, Stdin, World};

/// Part of every secret, so that one search finds all of them.
pub(crate) const CANARY: &str = "CANARY";
/// A signing key whose seed contains the canary.
pub(crate) const KEY: &str = "ed25519 a_key CANARY/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";
/// A registration of a bridge.
pub(crate) const BRIDGE: &str =
    "{id: b, as_token: CANARY0123456789, hs_token: 9876543210CANARY, sender_localpart: b}\r\n";
/// The public half of that key.
pub(crate) const PUBLIC_KEY: &str = "xCsUHuvcPjojMeZXHx4qgMKxjajszxI1FtuS9g1JdFY";

/// Creates `/etc/matrix-synapse` in a world, with these options in a file in conf.d.
pub(crate) fn debian(world: &World, options: &str) {
    world.write(
        "etc/homeserver.yaml",
        "# as the package ships it\r\nsigning_key_path: /etc/matrix-synapse/homeserver.signing.key\r\n\
         database:\r\n  name: sqlite3\r\n",
    );
    world.write("etc/homeserver.signing.key", KEY);
    world.write("etc/conf.d/server_name.yaml", "server_name: example.org\n");
    world.write("etc/conf.d/report_stats.yaml", "report_stats: no\n");
    world.write("etc/conf.d/zz-own.yaml", options);
    world.write("etc/conf.d/ignored.yml", "server_name: wrong.example\n");
}

/// A database section whose password contains the canary.
pub(crate) const POSTGRES: &str = "database: {name: psycopg2, args: {user: synapse, database: Synapse-Prod, host: /run/pg, password: \"CANARY p@ss\", cp_min: 5}}\n";

/// The arguments for the configuration of [`debian`].
pub(crate) fn args(world: &World) -> Vec<String> {
    let map = |theirs: &str, ours: &str| format!("{theirs}={}", world.path(ours).display());
    [
        "-c",
        "etc/homeserver.yaml",
        "-c",
        "etc/conf.d",
        "--path-map",
        &map("/etc/matrix-synapse", "etc"),
        "--path-map",
        &map("/var/lib/matrix-synapse", "var"),
        "--out",
        "export",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Runs extract-secrets on the configuration of [`debian`].
pub(crate) fn extract(world: &World) -> Ran {
    let ran = world.run("extract-secrets", args(world), Stdin::Null);
    assert!(!ran.stdout.contains(CANARY) && !ran.stderr.contains(CANARY), "{ran}");
    ran
}

/// The index of the extracted secrets.
pub(crate) fn index(world: &World) -> serde_json::Value {
    serde_json::from_str(&world.read("export/secrets/index.json")).unwrap()
}

/// Creates an age key, `NAME.key`, and returns its recipient.
pub(crate) fn age_key(world: &World, name: &str) -> String {
    let made = world.shell(&format!(
        "umask 077; age-keygen -o {name}.key 2>/dev/null && age-keygen -y {name}.key"
    ));
    made.success().stdout.trim().to_owned()
}

/// Runs extract-secrets on the configuration of [`debian`] with more arguments.
pub(crate) fn emit(world: &World, more: &[&str]) -> Ran {
    let args = args(world)
        .into_iter()
        .chain(more.iter().map(|word| (*word).to_owned()));
    world.run("extract-secrets", args, Stdin::Null)
}
