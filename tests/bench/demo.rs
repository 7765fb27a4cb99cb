//! `just demo`: runs the pipeline of the README on throwaway servers, and explains what it does.
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::time::Instant;

use serde_json::Value;

use crate::support::{Cluster, ESS_PASSWORD, Identity, OFFLINE, SERVER_NAME, Synapse, World};

#[test]
#[ignore = "it tells people what the other tests hold true: `just demo`"]
fn demo() {
    println!("\nA throwaway homeserver and a throwaway ESS database; the first time this takes minutes ...");
    let world = World::new();
    let source = Cluster::new(&world, "source");
    let target = Cluster::ess(&world, "target");
    let from = source.database("synapse", "synapse", "a password: with 'quotes' & spaces");
    source.create_role(&from.role, &from.password);
    let seeded = source.load_synapse(&from.name, &from.role);
    target.load_fresh();
    let old = Synapse::debian(&world, "old", &from, &Identity::old());
    old.load_media();
    world.write("target.pw", format!("{ESS_PASSWORD}\n"));
    println!(
        "source: {SERVER_NAME}, made by a real Synapse, now stopped: {} users, {} rooms, {} messages",
        seeded.users.len(),
        seeded.rooms.len(),
        seeded.messages.len()
    );
    println!("target: a database as ESS makes it, in which another Synapse was started once\n");

    let line = format!(
        "preflight -c old/homeserver.yaml -c old/conf.d {OFFLINE} \\
          --target \"$TARGET\" --target-password-file target.pw \\
    | extract-secrets --out export \\
    | pgdump-wrap \\
    | ess-wipe --execute --confirm {SERVER_NAME}/synapse \\
    | restore > migration.json"
    );
    println!("$ {line}");
    let script = format!("set -o pipefail\n{line}");
    let start = Instant::now();
    let ran = world
        .script(&script)
        .env("TARGET", target.url("synapse", "synapse_user"))
        .run();
    let took = start.elapsed();
    show(&ran.stderr, &world);
    assert!(ran.status.success(), "the pipeline failed: {}", ran.status);

    let line = "verify < migration.json > verified.json";
    println!("\n$ {line}");
    show(&world.shell(line).success().stderr, &world);
    let document: Value = serde_json::from_str(&world.read("verified.json")).unwrap();
    let new = Synapse::new(
        &world,
        "new",
        &target.database("synapse", "synapse_user", ESS_PASSWORD),
        &Identity::extracted(&world.path("export/secrets")),
    );
    new.start();
    let user = &seeded.users[0];
    let me = new.get("/_matrix/client/v3/account/whoami", Some(&user.token));
    assert_eq!(me["user_id"], user.id.as_str());
    new.stop();

    println!("\nWhat happened");
    tell(&document, took.as_secs_f64(), &user.id);
}

/// Prints the output of the programs, except for preflight's findings of severity info.
fn show(stderr: &str, world: &World) {
    let here = format!("{}/", world.path("").display().to_string().trim_end_matches('/'));
    let mut info = false;
    for line in stderr.lines() {
        info = line.starts_with("preflight: info: ") || (info && line.starts_with("hint: "));
        if !info {
            println!("{}", line.replace(&here, ""));
        }
    }
}

fn tell(document: &Value, seconds: f64, user: &str) {
    let of = |section: &str, field: &str| document[section][field].clone();
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let equal = of("verify", "equal") == true;
    assert!(equal, "{document}");
    println!(
        "  moved    {} tables, {} rows",
        of("restore", "tables"),
        of("restore", "rows")
    );
    println!(
        "  dump     {} bytes in EXPORT/{}",
        of("dump", "bytes"),
        text(of("dump", "path"))
    );
    println!("  took     {seconds:.1} seconds");
    println!("  proof    verify compared every table, sequence, index and owner again: all equal");
    println!("  Synapse  a new one, with the extracted secrets, started on the target; {user} is still logged in");
    println!(
        "  undo     what was in the target is in EXPORT/{}, and this is the way back:",
        text(of("wipe", "backup"))
    );
    println!("           jq -r .wipe.next.go_back migration.json");
    println!("\nEverything goes again. The whole runbook: man ./man/ess-migrate.7\n");
}
