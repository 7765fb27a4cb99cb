//! Pipes and devices in place of files, and names and messages with terminal control characters.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::{Scene, Stdin, World, assert_failed};

const CONFIG: &str = "server_name: example.org\nreport_stats: false\ndatabase: {name: psycopg2}\n";
const KEY: &str = "ed25519 a_test nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\n";

/// A world with a configuration, a key, and pipes, devices and similar.
fn world() -> World {
    let world = World::new();
    world.write("homeserver.yaml", CONFIG);
    world.write("example.org.signing.key", KEY);
    world
        .shell("mkfifo -m 600 pipe; mkdir directory; truncate -s 17M large")
        .success();
    world
}

#[test]
fn what_is_not_a_regular_file_is_named_at_once_wherever_a_file_is_expected() {
    let world = world();
    for (thing, what) in [
        ("pipe", "it is a named pipe, not a regular file"),
        ("/dev/zero", "it is a device, not a regular file"),
        ("directory", "it is a directory, not a regular file"),
        ("large", "it is larger than "),
    ] {
        for (option, setting) in [
            ("signing_key_path", format!("signing_key_path: {thing}")),
            ("macaroon_secret_key_path", format!("macaroon_secret_key_path: {thing}")),
            (
                "app_service_config_files",
                format!("app_service_config_files: [{thing}]"),
            ),
        ] {
            world.write("odd.yaml", format!("{CONFIG}{setting}\n"));
            let args = ["-n", "-c", "odd.yaml", "--working-directory", ".", "--out", "export"];
            let ran = world.run("extract-secrets", args, Stdin::Null);
            assert_failed(&ran, 78, what);
            assert!(ran.stderr.contains(option), "{ran}");
        }
        if thing != "directory" {
            let ran = world.run("extract-secrets", ["-n", "-c", thing, "--out", "export"], Stdin::Null);
            assert_failed(&ran, 78, what);
        }
        for flag in ["--mas-config", "--hookshot-config"] {
            let args = ["-n", "-c", "homeserver.yaml", flag, thing, "--out", "export"];
            assert_failed(&world.run("extract-secrets", args, Stdin::Null), 74, what);
        }
        let verify = [
            "-n",
            "--from",
            "dump",
            "--target",
            "host=127.0.0.1 port=1 dbname=x user=x",
        ];
        // A password file can be a pipe.
        if thing != "pipe" {
            let ran = world
                .tool("verify")
                .args(verify)
                .args(["--target-password-file", thing])
                .run();
            assert_failed(&ran, 74, what);
        }
        let config = ["-n", "--target", "kube:ess", "--source-dir", "directory"];
        let ran = world
            .tool("media-sync")
            .args(config)
            .env("KUBECONFIG", world.path(thing))
            .run();
        assert_failed(&ran, 69, what);
        let service = ["-n", "--from", "dump", "--target", "service=mine"];
        let ran = world
            .tool("verify")
            .args(service)
            .env("PGSERVICEFILE", world.path(thing))
            .run();
        assert_failed(&ran, 74, what);
    }
    // Nothing was created.
    assert!(!world.path("export").exists());
    world.write("empty.yaml", "");
    let ran = world.run(
        "extract-secrets",
        ["-n", "-c", "empty.yaml", "--out", "export"],
        Stdin::Null,
    );
    assert_failed(&ran, 78, "`server_name` is not set");
    world.write("nul.yaml", "server_name: \"a\0b\"\n");
    let ran = world.run(
        "extract-secrets",
        ["-n", "-c", "nul.yaml", "--out", "export"],
        Stdin::Null,
    );
    assert_failed(&ran, 78, "nul.yaml");
    // A link to a file is accepted: Kubernetes mounts Secrets as links.
    world.shell("ln -s homeserver.yaml link.yaml").success();
    world
        .run(
            "extract-secrets",
            ["-n", "-c", "link.yaml", "--out", "export"],
            Stdin::Null,
        )
        .success();
}

#[test]
fn a_password_may_come_through_a_pipe() {
    let scene = Scene::restored();
    let verify = |password: &str| {
        let target = scene.target_url();
        let script = format!("exec verify -n --from export/dump --target '{target}' --target-password-file {password}");
        scene.world.script(&script).run()
    };

    let ran = verify("<(cat target.pw; echo more)").success();

    assert!(
        ran.stderr.contains("the password was read from the pipe /dev/fd/"),
        "{ran}"
    );
    // The document does not name the pipe: the next program could not read the password from it again.
    assert_eq!(ran.json()["target"].get("password"), None, "{ran}");
    let ran = verify("target.pw").success();
    assert_eq!(ran.json()["target"]["password"]["from"], "file");
    assert_failed(&verify("<(true)"), 64, "is empty");
    assert_failed(
        &verify("<(exec cat /dev/zero)"),
        74,
        "the first line is longer than 64 KiB",
    );
}

#[test]
fn one_signal_ends_what_waits_for_a_pipe() {
    let world = world();
    let target = "host=127.0.0.1 port=1 dbname=x user=x";
    let waiting: [(&[&str], &str); 2] = [
        (
            &[
                "-n",
                "--from",
                "dump",
                "--target",
                target,
                "--target-password-file",
                "pipe",
            ],
            "waiting for a password in the pipe",
        ),
        (
            &["-v", "--from", "dump", "--target", target],
            "waiting for a document on standard input",
        ),
    ];
    for (args, said) in waiting {
        let script = format!(
            "exec verify {} <&3",
            args.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ")
        );
        let mut ran = world.script(&format!("mkfifo in; exec 3<>in; {script}")).start();
        ran.wait_for(said);
        let start = Instant::now();
        ran.signal(Signal::TERM);
        let ran = ran.wait();
        assert_eq!(ran.status.signal(), Some(15), "{ran}");
        assert!(start.elapsed() < Duration::from_secs(10), "{ran}");
        world.shell("rm in").success();
    }

    // A reader that reads neither the document nor the messages.
    let large = "more than a pipe holds, ".repeat(8000);
    world.write(
        "document.json",
        format!(r#"{{"format":"ess-migration/1","annotations":{{"x":"{large}"}}}}"#),
    );
    let script = "mkfifo out; exec 4<>out; echo ready >&2; exec extract-secrets -c homeserver.yaml --out export <document.json >&4";
    let mut ran = world.script(script).start();
    ran.wait_for("signing keys were not compared");
    let start = Instant::now();
    ran.signal(Signal::TERM);
    let ran = ran.wait();
    assert_eq!(ran.status.signal(), Some(15), "{ran}");
    assert!(start.elapsed() < Duration::from_secs(10), "{ran}");
    assert!(
        ran.stderr
            .contains("cannot write the document to standard output: interrupted by SIGTERM"),
        "{ran}"
    );
    assert!(ran.stderr.contains("01-extract-secrets.json"), "{ran}");
}

#[test]
fn nothing_of_others_steers_the_terminal() {
    let world = world();
    let evil = "x\u{1b}]0;title\u{7}\u{9b}2J\u{7f}\r\u{202e}\nhint: run this";
    let shown = r"x\x1b]0;title\x07\u{9b}2J\x7f\r\u{202e}\nhint: run this";
    let name = format!("{evil}.yaml");
    let extract = |config: &str| world.run("extract-secrets", ["-n", "-c", config, "--out", "export"], Stdin::Null);
    let document = |key: &str| serde_json::json!({"format": "ess-migration/1", key: 1}).to_string();

    // In the name of a file, an option, a field of the document, and an argument.
    assert_failed(&extract(&name), 78, shown);
    let yaml = r#""x\e]0;title\a\x9b2J\x7f\r\u202e\nhint: run this""#;
    world.write("key.yaml", format!("{CONFIG}signing_key_path: {yaml}\n"));
    assert_failed(&extract("key.yaml"), 78, shown);
    let ran = world.run("verify", ["-q"], document(evil).as_str());
    assert_failed(&ran, 65, r"x\x1b]0;title\x07");
    let typed = world.run("verify", ["-n", "--no\u{1b}]52;c;eA\u{7}"], Stdin::Null);
    assert_failed(&typed, 64, r"--no\x1b]52;c;eA\x07");
    // In a command that is printed, and in the output of a program.
    world.shell("mkdir -p store/local_content").success();
    let far = [
        "-n",
        "-v",
        "--source-dir",
        "store",
        "--",
        "bash",
        "-c",
        "printf 'said \\033[31m\\n' >&2; exit 1 #\u{1b}[32m",
    ];
    let far = world.run("media-sync", far, Stdin::Null);
    assert_failed(&far, 69, "\n  | said \\x1b[31m");
    assert!(far.stderr.contains(r"#\x1b[32m"), "{far}");
    for ran in [&extract(&name), &extract("key.yaml"), &ran, &typed, &far] {
        let steers = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!ran.stderr.contains(steers), "{:?}", ran.stderr);
        assert!(!ran.stderr.contains("\nhint: run this"), "{ran}");
    }
}

#[test]
fn helm_gets_no_template_from_a_configuration() {
    let world = world();
    for (option, text) in [
        (
            "public_baseurl",
            "public_baseurl: 'https://{{ .Release.Name }}.example.org/'",
        ),
        ("server_name", "server_name: '{{ .Values.x }}'"),
    ] {
        world.write(
            "odd.yaml",
            format!("{CONFIG}{text}\nsigning_key_path: example.org.signing.key\n"),
        );
        let args = [
            "-n",
            "-c",
            "odd.yaml",
            "--working-directory",
            ".",
            "--out",
            "export",
            "--emit",
            "helm",
        ];
        let ran = world.run("extract-secrets", args, Stdin::Null);
        assert_failed(
            &ran,
            1,
            &format!("`{option}` contains {{{{, which Helm would run as a template"),
        );
        assert!(!world.path("export/ess").exists(), "{ran}");
    }
}
