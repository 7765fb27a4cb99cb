//! Faults at random moments of the pipeline: afterwards no file with its final name is incomplete, the target is
//! unchanged, fenced or proven, and re-running the same command completes the migration.
//!
//! A seed determines a round. `just test` runs one round of each fault, `just soak` as many as requested.
#![expect(clippy::print_stdout, reason = "what came of the rounds is there to be read")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs, thread};

use clap::ValueEnum as _;
use ess_files::hex;
use rustix::process::Signal;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::soak::Fault::{
    self, BitFlipped, DiskFull, FileTruncated, FilesLimited, Kill, KillAll, KillChild, SessionsEnded, SnapshotLost,
    SourceCut, SourceKilled, SourceReset, SourceStops, Stall, StallAndTerminate, TargetCut, TargetKilled, TargetReset,
    TargetStops, Terminate, Twice,
};
use crate::support::soak::{Dice, ROWS, Target, contents, end_sessions, reduced};
use crate::support::{
    Call, Cluster, Database, ESS_PASSWORD, Proxy, Ran, SERVER_NAME, Tmpfs, Traffic, World, names_in, wait_until,
};

/// The pipeline of the README, which prints the status of each program.
const LINE: &str = r#"mkdir -p "$OUT"
ulimit -f "$BLOCKS"
[[ $BLOCKS == unlimited ]] || trap '' XFSZ
pgdump-wrap -v -n --source "$SOURCE" --export export --server-name example.org $REPLACE 2>"$OUT/pgdump-wrap" \
    | ess-wipe -v --target "$TARGET" --target-password-file target.pw --execute --confirm example.org/synapse \
        2>"$OUT/ess-wipe" \
    | restore -v 2>"$OUT/restore" | verify -v 2>"$OUT/verify" >"$OUT/migration.json"
echo "${PIPESTATUS[@]}""#;

const LINE_TOOLS: [&str; 4] = ["pgdump-wrap", "ess-wipe", "restore", "verify"];
const CHILDREN: [&str; 3] = ["pg_dump", "pg_restore", "psql"];

/// Two servers with a proxy in front of each, and the contents to compare with.
struct Soak {
    world: World,
    source: Cluster,
    target: Cluster,
    from: Database,
    to_source: Proxy,
    to_target: Proxy,
    /// The contents of an unchanged target, and of a target after the migration.
    fresh: String,
    arrived: String,
    /// The duration of the pipeline without a fault, and the size of its export.
    whole: Duration,
    kilobytes: u64,
}

impl Soak {
    fn new() -> Self {
        let world = World::new();
        let source = Cluster::new(&world, "source");
        let target = Cluster::ess(&world, "target");
        let from = Database::awkward(&source);
        source.load_synapse(&from.name, &from.role);
        source.psql(&from.name, &reduced());
        source.psql(&from.name, ROWS);
        target.load_fresh();
        target.psql("synapse", &reduced());
        target.psql("postgres", "ALTER DATABASE synapse RENAME TO fresh");
        let password = from.password.replace('\\', r"\\").replace(':', r"\:");
        world.write("pgpass", format!("127.0.0.1:*:*:{}:{password}\n", from.role));
        world.write("target.pw", ESS_PASSWORD);
        let mut soak = Self {
            to_source: Proxy::new(source.port),
            to_target: Proxy::new(target.port),
            fresh: contents(&target, "fresh"),
            arrived: contents(&source, &from.name),
            whole: Duration::ZERO,
            kilobytes: 0,
            world,
            source,
            target,
            from,
        };
        // Without a checkpoint, a crash would advance the sequences that were used since the last one.
        soak.source.psql("postgres", "CHECKPOINT");
        soak.reset();
        soak.line("first", "", None).run().success();
        let start = Instant::now();
        soak.reset();
        soak.line("first", "", None).run().success();
        soak.whole = start.elapsed();
        assert_eq!(soak.target_is(), Target::Proven);
        let size = soak.world.shell("du -sk export | cut -f1").success().stdout;
        soak.kilobytes = size.trim().parse().unwrap();
        soak
    }

    /// Resets the target to the state in which Element Server Suite leaves it, and removes the export and all faults.
    fn reset(&self) {
        for cluster in [&self.source, &self.target] {
            if !cluster.runs() {
                cluster.start();
            }
        }
        self.to_source.set(Traffic::Flows);
        self.to_target.set(Traffic::Flows);
        let target = |sql| self.target.psql("postgres", sql);
        target("DROP DATABASE IF EXISTS synapse WITH (FORCE)");
        target("CREATE DATABASE synapse TEMPLATE fresh OWNER synapse_user");
        self.world.shell("rm -rf export first second").success();
    }

    /// The pipeline; the output of its programs and the document go into the directory `out`.
    fn line(&self, out: &str, replace: &str, blocks: Option<u64>) -> Call<'_> {
        let through = |cluster: &Cluster, proxy: &Proxy, database: &str, role: &str| {
            cluster
                .url(database, role)
                .replace(&cluster.port.to_string(), &proxy.port.to_string())
        };
        let (from, world) = (&self.from, &self.world);
        let call = world.script(LINE).env("PGPASSFILE", world.path("pgpass"));
        let call = call.env("SOURCE", through(&self.source, &self.to_source, &from.name, &from.role));
        let call = call.env(
            "TARGET",
            through(&self.target, &self.to_target, "synapse", "synapse_user"),
        );
        let blocks = blocks.map_or("unlimited".to_owned(), |blocks| blocks.to_string());
        call.env("OUT", out).env("REPLACE", replace).env("BLOCKS", blocks)
    }

    /// Runs the round that a seed determines: its fault and moment.
    fn round(&self, seed: u64) -> (Fault, Target) {
        let all = Fault::value_variants();
        let fault = all[usize::try_from(seed % all.len() as u64).unwrap()];
        let mut dice = Dice(seed);
        let moment = dice.part_of(self.whole);
        self.with(fault, &mut dice, || thread::sleep(moment))
    }

    /// Runs the pipeline, causes the fault after `wait`, checks the result, and re-runs the pipeline.
    fn with(&self, fault: Fault, dice: &mut Dice, wait: impl FnOnce()) -> (Fault, Target) {
        self.reset();
        let disk = (fault == DiskFull).then(|| {
            // Enough space for a part of the export, never for all of it.
            let kilobytes = 16 + dice.below(usize::try_from(self.kilobytes * 8 / 10).unwrap());
            Tmpfs::mount(&self.world, "export", &format!("{kilobytes}k"))
        });
        // Only root can mount a small disk; without root, a limit on the size of files has a similar effect.
        let no_disk = matches!(disk, Some(None));
        let blocks = (fault == FilesLimited || no_disk).then(|| 8 + dice.below(300) as u64);
        let running = self.line("first", "", blocks).start();

        wait();
        let second = if fault == Twice {
            Some(self.line("second", "", None).run())
        } else {
            self.happen(fault, dice);
            None
        };
        let ran = running.wait();
        self.over();
        let target = self.after(fault, &ran, second.as_ref());
        if let Some(Some(disk)) = &disk {
            disk.grow();
        }
        self.again(fault);
        (fault, target)
    }

    /// Causes a fault now.
    fn happen(&self, fault: Fault, dice: &mut Dice) {
        let pause = dice.part_of(Duration::from_millis(800));
        let stop = |cluster: &Cluster, how: fn(&Cluster)| {
            how(cluster);
            thread::sleep(pause);
            cluster.start();
        };
        let traffic = |proxy: &Proxy, traffic| {
            proxy.set(traffic);
            thread::sleep(pause);
            proxy.set(Traffic::Flows);
        };
        match fault {
            Kill => self.signal_one(Signal::KILL, dice),
            KillAll => self.signal_all(Signal::KILL),
            Terminate => self.signal_one(Signal::TERM, dice),
            KillChild => self.kill_child(dice),
            SourceStops => stop(&self.source, Cluster::stop),
            TargetStops => stop(&self.target, Cluster::stop),
            SourceKilled => stop(&self.source, Cluster::kill),
            TargetKilled => stop(&self.target, Cluster::kill),
            SnapshotLost => end_sessions(&self.source),
            SessionsEnded => end_sessions(&self.target),
            SourceReset => traffic(&self.to_source, Traffic::IsReset),
            TargetReset => traffic(&self.to_target, Traffic::IsReset),
            SourceCut => traffic(&self.to_source, Traffic::IsCut),
            TargetCut => traffic(&self.to_target, Traffic::IsCut),
            Stall => {
                self.to_source.set(Traffic::Stalls);
                traffic(&self.to_target, Traffic::Stalls);
                self.to_source.set(Traffic::Flows);
            }
            StallAndTerminate => {
                self.to_source.set(Traffic::Stalls);
                self.to_target.set(Traffic::Stalls);
                thread::sleep(pause);
                self.signal_all(Signal::TERM);
                self.wait_for_tools();
            }
            BitFlipped | FileTruncated => self.damage(fault, dice),
            DiskFull | FilesLimited | Twice => {}
        }
    }

    /// Sends a signal to the program that is working, or sometimes to one that waits for its document.
    fn signal_one(&self, signal: Signal, dice: &mut Dice) {
        let mut there = LINE_TOOLS
            .into_iter()
            .filter(|tool| !self.world.running(tool).is_empty());
        let skip = if dice.below(4) == 0 { dice.below(3) } else { 0 };
        if let Some(tool) = there.nth(skip) {
            self.world.signal(tool, signal);
        }
    }

    fn signal_all(&self, signal: Signal) {
        for tool in LINE_TOOLS {
            self.world.signal(tool, signal);
        }
    }

    fn wait_for_tools(&self) {
        for tool in LINE_TOOLS {
            wait_until("the tools ended", || self.world.running(tool).is_empty());
        }
    }

    /// Kills a child process of the programs, if there is one within a short time.
    fn kill_child(&self, dice: &mut Dice) {
        let start = Instant::now();
        let tools_work = || LINE_TOOLS.iter().any(|tool| !self.world.running(tool).is_empty());
        while start.elapsed() < self.whole && tools_work() {
            // pg_dump and pg_restore run as several processes.
            let which = dice.below(3);
            if CHILDREN
                .iter()
                .any(|child| self.world.signal_one(child, which, Signal::KILL))
            {
                return;
            }
        }
    }

    /// Damages a file of the dump, at a moment before, during or after its verification.
    fn damage(&self, fault: Fault, dice: &mut Dice) {
        let start = Instant::now();
        while !self.world.path("export/dump/manifest.json").exists() && start.elapsed() < 3 * self.whole {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(dice.part_of(self.whole / 2));
        let mut files = names_in(&self.world, "export/dump/data");
        files.retain(|name| {
            fs::metadata(self.world.path("export/dump/data").join(name))
                .unwrap()
                .len()
                > 0
        });
        let name = format!("data/{}", files[dice.below(files.len())]);
        let name = if dice.below(8) == 0 {
            "manifest.json".into()
        } else {
            name
        };
        let path = self.world.path("export/dump").join(name);
        let mut bytes = fs::read(&path).unwrap();
        let place = dice.below(bytes.len());
        if fault == BitFlipped {
            bytes[place] ^= 1 << dice.below(8);
        } else {
            bytes.truncate(place);
        }
        fs::write(&path, bytes).unwrap();
    }

    /// Ends the fault: servers run, the network passes data, and no process of the run is left.
    fn over(&self) {
        for (cluster, proxy) in [(&self.source, &self.to_source), (&self.target, &self.to_target)] {
            if !cluster.runs() {
                cluster.start();
            }
            proxy.set(Traffic::Flows);
        }
        for child in CHILDREN {
            wait_until("all children ended", || self.world.running(child).is_empty());
        }
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ess-migrate/%'";
        for cluster in [&self.source, &self.target] {
            wait_until("all sessions ended", || cluster.psql("postgres", left) == "0");
        }
    }

    /// Whether a program of the run ended because the source could not be checked again.
    fn is_unchecked(&self, out: &str) -> bool {
        LINE_TOOLS.iter().any(|tool| {
            let printed = self.world.read(&format!("{out}/{tool}"));
            printed.contains("the source cannot be checked for changes since the dump")
        })
    }

    /// Checks what must be true after any fault, before anything is repaired.
    fn after(&self, fault: Fault, ran: &Ran, second: Option<&Ran>) -> Target {
        let damaged = matches!(fault, BitFlipped | FileTruncated);
        for (out, run) in [("first", Some(ran)), ("second", second)] {
            let Some(run) = run else { continue };
            for status in run.stdout.split_whitespace() {
                let known = ["0", "65", "69", "74", "75", "137", "143"].contains(&status);
                // Only the proof detects damage after the file was verified; and a source that is unreachable when it
                // is to be checked keeps the fence up.
                assert!(
                    known || (damaged || self.is_unchecked(out)) && status == "1",
                    "exit status {status}"
                );
            }
            for tool in LINE_TOOLS {
                let said = self.world.read(&format!("{out}/{tool}"));
                assert!(!said.contains("panicked") && !said.contains("a bug"), "{tool}");
            }
            let text = self.world.read(&format!("{out}/migration.json"));
            assert!(
                text.is_empty() || serde_json::from_str::<Value>(&text).is_ok(),
                "half a document"
            );
        }
        for dump in ["dump", "ess-before-wipe"] {
            if self.world.path("export").join(dump).exists() && !(damaged && dump == "dump") {
                self.is_whole(dump);
            }
        }
        for document in names_in(&self.world, "export/documents") {
            if !document.starts_with('.') {
                let text = self.world.read(&format!("export/documents/{document}"));
                serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{document}: {error}"));
            }
        }
        let target = self.target_is();
        let all_well = ran.stdout.trim() == "0 0 0 0";
        assert!(
            !all_well || target == Target::Proven,
            "all went well, and the target is {target}"
        );
        if fault == Stall {
            assert!(all_well, "what was only slow was given up");
        }
        target
    }

    /// Fails unless a dump with its final name matches its manifest, byte for byte.
    fn is_whole(&self, dump: &str) {
        let manifest: Value = serde_json::from_str(&self.world.read(&format!("export/{dump}/manifest.json"))).unwrap();
        for (name, record) in manifest["files"].as_object().unwrap() {
            let bytes = fs::read(self.world.path("export").join(dump).join(name)).unwrap();
            assert_eq!(record["bytes"], bytes.len(), "{dump}/{name}");
            assert_eq!(record["sha256"], hex(&Sha256::digest(&bytes)), "{dump}/{name}");
        }
    }

    /// The state of the target; fails unless it is unchanged, fenced, or equal to the source.
    fn target_is(&self) -> Target {
        let fenced = "SELECT (SELECT count(*) = 1 AND min(version) = 2147483647 FROM schema_version)
            AND (SELECT count(*) = 1 AND min(compat_version) = 2147483647 FROM schema_compat_version)";
        if self.target.psql("synapse", fenced) == "t" {
            return Target::Fenced;
        }
        match contents(&self.target, "synapse") {
            now if now == self.fresh => Target::AsItWas,
            now if now == self.arrived => Target::Proven,
            now => panic!("the target holds neither what it held nor what the source holds:\n{now}"),
        }
    }

    /// Re-runs the pipeline, which must complete and leave nothing but its results.
    fn again(&self, fault: Fault) {
        let mut ran = self.line("first", "", None).run().success();
        if matches!(fault, BitFlipped | FileTruncated) && ran.stdout.trim() != "0 0 0 0" {
            // The damaged dump is not accepted as complete, and not discarded without a message.
            let said = self.world.read("first/pgdump-wrap");
            assert!(
                said.contains("give --replace to move it aside and dump again"),
                "no way on is named"
            );
            ran = self.line("first", "--replace", None).run().success();
        }
        assert_eq!(ran.stdout.trim(), "0 0 0 0", "the line again");
        assert_eq!(self.target_is(), Target::Proven);
        self.is_whole("dump");
        self.is_whole("ess-before-wipe");
        let mut names = names_in(&self.world, "export");
        names.retain(|name| !name.starts_with("dump."));
        assert_eq!(names, [".lock", "documents", "dump", "ess-before-wipe"]);
    }

    /// The output of all programs in the last run.
    fn said(&self) -> String {
        let said = LINE_TOOLS.iter().map(|tool| {
            let path = self.world.path("first").join(tool);
            format!("--- {tool}\n{}", fs::read_to_string(path).unwrap_or_default())
        });
        said.collect()
    }

    /// Runs rounds, prints their results, and fails if one failed.
    fn rounds(&self, seeds: impl Iterator<Item = u64>) {
        let mut counts: BTreeMap<(Fault, Target), u32> = BTreeMap::new();
        let mut failed = Vec::new();
        for seed in seeds {
            if let Ok(outcome) = catch_unwind(AssertUnwindSafe(|| self.round(seed))) {
                *counts.entry(outcome).or_default() += 1;
            } else {
                println!("seed {seed} failed; the last line's programs said:\n{}", self.said());
                failed.push(seed);
            }
        }
        println!("| fault | as it was | fenced | proven |\n| --- | --- | --- | --- |");
        let count = |fault, target| counts.get(&(fault, target)).copied().unwrap_or(0);
        for &fault in Fault::value_variants() {
            let [was, fenced, proven] = [Target::AsItWas, Target::Fenced, Target::Proven].map(|t| count(fault, t));
            println!("| {fault:?} | {was} | {fenced} | {proven} |");
        }
        let all: u32 = counts.values().sum();
        println!("{all} rounds ended well, {} did not: {failed:?}", failed.len());
        assert!(failed.is_empty(), "seeds that failed: {failed:?}");
    }
}

#[test]
fn each_fault_leaves_a_proven_or_a_fenced_target_and_the_same_command_resumes() {
    assert_eq!(SERVER_NAME, "example.org");
    Soak::new().rounds(0..Fault::value_variants().len() as u64);
}

#[test]
fn each_stage_is_as_safe() {
    let soak = Soak::new();
    let mut failed = Vec::new();
    for (tool, stage, fault, left) in [
        ("pgdump-wrap", "/pg_dump --no-password", SnapshotLost, Target::AsItWas),
        ("pgdump-wrap", "/pg_dump --no-password", SourceReset, Target::AsItWas),
        ("ess-wipe", "/pg_dump --no-password", TargetKilled, Target::AsItWas),
        ("ess-wipe", "--file=/dev/null", TargetCut, Target::AsItWas),
        ("restore", "--section=pre-data", TargetReset, Target::Fenced),
        (
            "restore",
            "--section=data --section=post-data",
            TargetKilled,
            Target::Fenced,
        ),
    ] {
        let round = || {
            let said = soak.world.path("first").join(tool);
            let reached = || fs::read_to_string(&said).is_ok_and(|text| text.contains(stage));
            let (_, target) = soak.with(fault, &mut Dice(0), || wait_until("the stage is reached", reached));
            assert_eq!(target, left);
        };
        if catch_unwind(AssertUnwindSafe(round)).is_err() {
            println!("{fault:?} at {stage} of {tool}:\n{}", soak.said());
            failed.push((tool, stage, fault));
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
#[ignore = "it takes as long as one likes: `just soak`"]
fn soak() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let first = number("SOAK_SEED").unwrap_or(now);
    let rounds = number("SOAK_ROUNDS").unwrap_or(200);
    println!("{rounds} rounds from seed {first} on");
    Soak::new().rounds(first..first + rounds);
}
