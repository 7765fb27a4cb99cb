//! The two sides of media-sync: a command carries the stream, neither side trusts the other, and none waits forever.

use std::fs;

use serde_json::json;

use crate::support::frames::{assert_trusts_no_sender, frame, hello, text};
use crate::support::media::{PATHS, assert_equal, files, fill, media};
use crate::support::{World, assert_failed, names_in};

#[test]
fn a_command_carries_the_stream_to_the_other_half() {
    let world = World::new();
    fill(&world);
    let far = |script: &str| {
        let call = world
            .tool("media-sync")
            .args(["-n", "--source-dir", "store", "--", "bash", "-c"]);
        call.args([script]).run()
    };

    let ran = far("exec media-sync -n --receive copy # c4n4ry").success();
    assert_equal(&world);
    assert_eq!(media(&ran)["sent"]["files"], PATHS.len());
    assert_eq!(media(&ran)["copy"], "bash");
    assert!(!ran.to_string().contains("c4n4ry"), "{ran}");
    let ran = far("exec media-sync -n --receive copy").success();
    assert_eq!(media(&ran)["unchanged"]["files"], PATHS.len());

    fs::remove_dir_all(world.path("copy")).unwrap();
    // Damaged in transit to the receiver, and in transit from it.
    let damage = "python3 -c 'import os
left = 100000
while data := bytearray(os.read(0, 65536)):
    if 0 <= left < len(data):
        data[left] ^= 1
    left -= len(data)
    while data:
        data = data[os.write(1, data):]'";
    let damaged = far(&format!("{damage} | media-sync -n --receive copy"));
    assert_failed(&damaged, 74, "the stream is broken: a frame is damaged");
    let cut = "the stream is broken: it ends within a frame";
    assert_failed(
        &far("exec media-sync -n --receive copy > >(dd bs=1 count=100 status=none)"),
        74,
        cut,
    );
    assert_failed(
        &far("dd bs=1 count=100000 status=none | media-sync -n --receive copy"),
        74,
        cut,
    );
    assert_failed(
        &far("echo 'Welcome to this host'; cat > /dev/null"),
        74,
        "the stream is broken",
    );
    assert_failed(&far("exec no-such-program"), 69, "no-such-program: not found");
    assert_failed(&far("head -c 10 > /dev/null"), 69, "ended unexpectedly");
    assert_failed(&far("exec media-sync -n --receive /proc/nowhere"), 74, "/proc/nowhere");
    for (path, bytes) in files(&world.path("copy")) {
        assert!(bytes == fs::read(world.path("store").join(&path)).unwrap(), "{path}");
    }
    far("exec media-sync -n --receive copy").success();
    assert_equal(&world);
}

#[test]
fn what_is_sent_while_both_sides_are_read_is_read_there_too() {
    let world = World::new();
    fill(&world);
    // A receiver whose disk corrupts bytes where `rots` is true; and one file looks changed in the second listing.
    let on_a_disk = |rots: &str| {
        let rot = format!(
            "        self.place(lane)
        if {rots}:
            file = self.lanes[lane]
            os.pwrite(file[0], b'!', 5)
            os.utime(file[0], ns=(0, file[2] * 10**9 + file[3]))\n"
        );
        let list = format!(
            "        if kind == 2:
            self.lists += 1
            if self.lists == 2:
                os.utime(self.path + '/{}', (0, 0))\n",
            PATHS[2]
        );
        let script = include_str!("../../crates/media/src/receive.py")
            .replace("        self.place(lane)\n", &rot)
            .replace("        if kind == 2:\n", &list)
            .replace("class Receiver:\n", "class Receiver:\n    lists = 0\n");
        world.write("receive.py", script);
        world.shell("rm -rf copy");
        let call = world
            .tool("media-sync")
            .args(["-n", "--verify", "--source-dir", "store"]);
        call.args(["--", "python3", "receive.py", "copy"]).run()
    };

    let well = on_a_disk("False").success();
    assert_eq!(media(&well)["sent"]["files"], PATHS.len() + 1);
    let rotten = format!("{} was damaged repeatedly", PATHS[2]);
    let place = "self.lanes[lane][1][-1] == 'Xx'";
    assert_failed(&on_a_disk(&format!("{place} and self.lists == 2")), 69, &rotten);
    let rotten = format!("{} was damaged repeatedly", PATHS[0]);
    assert_failed(&on_a_disk("self.lanes[lane][1][-1] == 'EfGhIjKl'"), 69, &rotten);
    let once = on_a_disk("self.lanes[lane][1][-1] == 'EfGhIjKl' and self.lists == 1").success();
    assert_eq!(media(&once)["damaged"], json!({"count": 1, "names": [PATHS[0]]}));
}

#[test]
fn a_receiver_that_falls_silent_is_given_up_and_a_busy_one_is_not() {
    let world = World::new();
    fill(&world);
    let far = |limit: &str, more: &[&str], script: &str| {
        let call = world
            .tool("media-sync")
            .args(["-n", "--source-dir", "store", "--timeout", limit]);
        call.args(more).args(["--", "bash", "-c", script]).run()
    };
    let python = include_str!("../../crates/media/src/receive.py");
    let with = |from: &str, to: &str| {
        assert!(python.contains(from));
        world.write("receive.py", python.replace(from, to));
        world.shell("rm -rf copy");
    };

    let ran = far("2", &[], "exec sleep 1000");
    assert_failed(&ran, 69, "the receiver is unresponsive: no output for 2 s");
    assert!(ran.stderr.contains("hint: check the receiver and its host"), "{ran}");
    // In the middle of a file, while more is sent than fits into a pipe, and below a shell.
    with(
        "        self.place(lane)\n",
        "        os.kill(os.getpid(), signal.SIGSTOP)\n",
    );
    let ran = far("2", &[], "python3 receive.py copy; echo");
    assert_failed(&ran, 69, "the receiver is unresponsive");
    for program in ["python3", "sleep", "bash"] {
        assert_eq!(world.running(program), [""; 0], "it outlives us");
    }

    // A receiver that reads for a long time, and one that is sent nothing for a long time.
    let fadvise = "            os.posix_fadvise(";
    let sleep = "            parts[-1] == 'Xx' and __import__('time').sleep(10)\n";
    with(fadvise, &[sleep, fadvise].concat());
    far("4", &["--verify"], "python3 receive.py copy").success();
    assert_equal(&world);
    for receiver in ["python3 receive.py copy", "media-sync -n --receive copy"] {
        world.shell("rm -rf copy");
        let slow = ["--bwlimit", "50K", "--without", "remote", "--without", "previews"];
        far("4", &slow, receiver).success();
    }
}

#[test]
fn a_receiver_trusts_no_sender() {
    assert_trusts_no_sender(&World::new(), "media-sync -n --receive copy");
}

const RECEIVERS: [&str; 2] = ["exec media-sync -n --receive copy", "exec python3 receive.py copy"];

#[test]
fn a_receiver_stays_small_whatever_a_sender_requests() {
    let world = World::new();
    world.write("receive.py", include_str!("../../crates/media/src/receive.py"));
    // Directories to be listed, for which the sender grants no credit.
    world
        .shell("mkdir -m 700 copy; for a in {A..Z}{a..z}; do mkdir -p copy/local_content/$a/Cd; done")
        .success();
    let start = || hello("ess-media/1");
    let list = || frame(&[&[2], &[1, 0, 0, 0], &text("local_content")]);
    let many = |one: Vec<u8>, count: usize| one.repeat(count);
    let file = |lane: u8| frame(&[&[4, lane], &text("local_content/Ab/Cd/EfGh"), &[0; 12]]);
    let data = |lane: u8| frame(&[&[5, lane], &vec![0; 256 << 10]]);
    let filled: Vec<u8> = (0..64)
        .flat_map(|lane| [file(lane), data(lane).repeat(4)].concat())
        .collect();
    for receiver in RECEIVERS {
        // Enough address space for the runtime of Rust or Python, and not for much more.
        let receive = |frames: &[Vec<u8>]| {
            world.write("stream", frames.concat());
            world.shell(&format!("ulimit -v 3000000; cat stream - <&0 | ({receiver} > answer)"))
        };
        for (frames, status, said) in [
            (
                many(list(), 20_000),
                65,
                "requested a list before the last one was complete",
            ),
            (file(64), 65, "the sender uses lane 64"),
            (frame(&[&[5, 255, 1]]), 65, "the sender uses lane 255"),
            (frame(&[&[5, 0], &vec![0; (256 << 10) + 1]]), 74, "a frame is too long"),
            (
                [[0xff; 4], [0; 4]].concat(),
                74,
                "it contains something other than frames",
            ),
            (frame(&[&[22]]), 65, "unexpected frame from the sender"),
            (start(), 65, "unexpected frame from the sender"),
            (frame(&[&[4, 0], &[200, 0, 0, 0], b"short"]), 74, "too short"),
            (frame(&[&[9], &[2, 0, 0, 0], &[0xff, 0xfe]]), 74, "not UTF-8"),
            (
                frame(&[&[9], &text("local_content/Ab/Cd/a\0b")]),
                65,
                "that Synapse never creates",
            ),
        ] {
            let ran = receive(&[start(), frames]);
            assert_failed(&ran, status, said);
        }
        // All lanes at once, each with as much as it can buffer.
        receive(&[start(), filled.clone(), frame(&[&[11]])]).success();
    }
}

#[test]
fn two_signals_end_a_receiver_that_lists_for_a_silent_sender() {
    let world = World::new();
    world.write(
        "stream",
        [
            hello("ess-media/1"),
            frame(&[&[2], &[1, 0, 0, 0], &text("local_content")]),
        ]
        .concat(),
    );
    world
        .shell("mkdir -m 700 copy; mkdir -p copy/local_content/Ab")
        .success();
    let script =
        "mkfifo pipe; exec 3<>pipe; cat stream >&3; echo sent >&2; exec media-sync -n --receive copy <&3 >answer";
    let mut ran = world.script(script).start();
    ran.wait_for("sent");
    world.shell("until [ -s answer ]; do sleep 0.02; done").success();
    ran.signal(rustix::process::Signal::TERM);
    let ran = ran.wait();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ran.status),
        Some(15),
        "{ran}"
    );
}

/// Sizes in bytes of the sender's greeting, the receiver's greeting, and the first request for a list.
const HELLO: usize = 37;
const READY: usize = 24;
const LIST: usize = 138;

#[test]
fn a_sender_trusts_no_receiver() {
    let world = World::new();
    fill(&world);
    let run = |answer: &[Vec<u8>], script: &str| {
        world.write("answer", answer.concat());
        let args = [
            "-n",
            "--source-dir",
            "store",
            "--timeout",
            "5",
            "--",
            "bash",
            "-c",
            script,
        ];
        world.tool("media-sync").args(args).run()
    };
    // Answers the greeting, and sends the rest when a list is requested.
    let far = |answer: &[Vec<u8>], then: &str| {
        let script = format!(
            "head -c {HELLO} >/dev/null; head -c {READY} answer; head -c {LIST} >/dev/null
             tail -c +$(({READY} + 1)) answer; {then}"
        );
        run(answer, &script)
    };
    let ready = || frame(&[&[20], &text("ess-media/1")]);
    let failed = |exit: u8| frame(&[&[26, exit], &text("went wrong")]);
    let unit = |path: &str, last: u8| frame(&[&[21], &text(path), &[last], &[0; 4]]);
    let stored = || frame(&[&[23, 0], &[0; 40]]);
    let unasked = "the receiver answered something that was not requested";
    // The receiver's exit status becomes the sender's only for data, files, locks and permissions.
    for (theirs, ours) in [
        (65, 65),
        (74, 74),
        (75, 75),
        (77, 77),
        (0, 69),
        (1, 69),
        (64, 69),
        (69, 69),
        (70, 69),
        (78, 69),
        (255, 69),
    ] {
        assert_failed(&far(&[ready(), failed(theirs)], "cat >/dev/null"), ours, "went wrong");
    }
    for (answer, said) in [
        (
            vec![frame(&[&[20], &text("ess-media/9")])],
            "the receiver uses protocol ess-media/9",
        ),
        (vec![ready(), ready()], unasked),
        (vec![ready(), frame(&[&[22]]), frame(&[&[22]])], unasked),
        (vec![ready(), frame(&[&[25]])], unasked),
        (vec![ready(), stored(), stored(), stored()], unasked),
        (vec![ready(), frame(&[&[23, 200], &[0; 40]])], unasked),
        (vec![ready(), frame(&[&[10]])], "sent an unexpected frame: Sync"),
        (
            vec![ready(), unit("local_content/Zz", 1), unit("local_content/Aa", 1)],
            "out of order",
        ),
    ] {
        assert_failed(&far(&answer, "cat >/dev/null"), 69, said);
    }
    let mut cut = ready();
    cut.pop();
    assert_failed(&run(&[cut], "exec cat answer"), 74, "it ends within a frame");
    assert_failed(
        &run(&[[[0xff; 4], [0; 4]].concat()], "cat answer; cat >/dev/null"),
        74,
        "it contains something other than frames",
    );
    // A receiver that does not end when its input is closed.
    assert_failed(
        &far(&[ready(), frame(&[&[10]])], "exec sleep 1000"),
        69,
        "sent an unexpected frame",
    );
    assert_eq!(world.running("sleep"), [""; 0]);
}

#[test]
fn a_receiver_that_never_stops_does_not_fill_the_memory_of_the_sender() {
    let world = World::new();
    fill(&world);
    let unasked = "the receiver answered something that was not requested";
    for (body, said) in [
        (
            "b'\\x15' + t('local_content/Ab') + b'\\0' + struct.pack('<I', 5000) + b''.join(t('Cd/%020d' % n) + bytes(20) for n in range(5000))",
            "listed more than 128 MiB of names at a time",
        ),
        (
            "b'\\x15' + t('local_content/Ab') + b'\\1' + bytes(4)",
            "the receiver answered",
        ),
        ("b'\\x19'", unasked),
    ] {
        let script = format!(
            "import struct, sys, zlib
t = lambda s: struct.pack('<I', len(s)) + s.encode()
f = lambda b: struct.pack('<II', len(b), zlib.crc32(b)) + b
out = sys.stdout.buffer
sys.stdin.buffer.read({HELLO})
out.write(f(b'\\x14' + t('ess-media/1')))
out.flush()
sys.stdin.buffer.read({LIST})
endless = f({body})
try:
    while True:
        out.write(endless)
except BrokenPipeError:
    import os; os._exit(0)
"
        );
        world.write("endless.py", script);
        let line = "ulimit -v 2000000; exec media-sync -n --source-dir store --timeout 5 -- python3 endless.py";
        let ran = world.shell(line);
        assert_failed(&ran, 69, said);
    }
}

#[test]
fn a_receiver_ends_when_its_answers_are_not_read() {
    let world = World::new();
    world.write("hello", hello("ess-media/1"));
    world.write(
        "file",
        [
            frame(&[&[4, 0], &text("local_content/Ab/Cd/EfGh"), &[0; 12]]),
            frame(&[&[5, 0, 1, 2, 3]]),
            frame(&[&[6, 0]]),
        ]
        .concat(),
    );
    // The receiver's standard input stays open.
    let script = "mkfifo pipe; exec 3<>pipe
        exec 4> >(dd bs=1 count=24 of=answer status=none); reader=$!
        media-sync -n --receive copy <&3 >&4 & receiver=$!
        exec 4>&-; cat hello >&3; wait $reader; cat file >&3; wait $receiver";

    let ran = world.shell(script);

    assert_failed(&ran, 74, "the sender has ended");
    assert_eq!(names_in(&world, "copy/.media-sync"), ["lock"]);
}
