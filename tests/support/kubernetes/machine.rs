//! A machine within this one: namespaces of its own, which end with all their processes and mounts.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use crate::support::wait_until;

/// Its first process, which waits for those that lost their parent.
const INIT: &str = "hostname node-1; trap : HUP INT TERM; while :; do sleep infinity & wait; done";

pub(super) struct Machine {
    /// Where programs run and write their logs. The watchdog of the tests kills every process that works in it.
    dir: PathBuf,
    _unshare: Child,
    init: String,
    /// The programs that run in it, by their names.
    programs: Mutex<Vec<(String, Child)>>,
    /// The address of this machine on the link between the two.
    pub(super) host: String,
    /// The address of the machine within.
    pub(super) address: String,
}

impl Machine {
    pub(super) fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("log")).unwrap();
        let unshare = Command::new("/usr/bin/unshare")
            .args([
                "--pid",
                "--mount",
                "--net",
                "--uts",
                "--ipc",
                "--mount-proc",
                "--fork",
                "--kill-child",
            ])
            .args(["/bin/bash", "-c", INIT])
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts: install util-linux");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = || fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        wait_until("the machine has a first process", || !init().is_empty());
        // A network of four addresses, one for each test process of this host.
        let number = unshare.id() % 4096;
        let network = |last: u32| format!("10.213.{}.{}", number / 16, number % 16 * 16 + last);
        let machine = Self {
            dir: dir.to_owned(),
            init: init(),
            _unshare: unshare,
            programs: Mutex::default(),
            host: network(1),
            address: network(2),
        };
        machine.link(number);
        machine
    }

    fn link(&self, number: u32) {
        let ours = format!("ess{number}");
        let script = format!(
            "ip link add {ours} type veth peer name eth0 netns {} && ip address add {}/30 dev {ours} && ip link set {ours} up",
            self.init, self.host
        );
        let out = Command::new("/bin/sh").args(["-ec", &script]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        self.run(&format!(
            "ip link set lo up; ip address add {}/30 dev eth0; ip link set eth0 up; ip route add default via {};
             sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1",
            self.address, self.host
        ));
    }

    /// A program in the machine.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command
            .args([
                "--target", &self.init, "--pid", "--mount", "--net", "--uts", "--ipc", "--",
            ])
            // To enter a mount namespace is to leave the working directory.
            .args(["/bin/sh", "-c", r#"cd "$0" && exec "$@""#])
            .arg(&self.dir)
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a shell script as root in the machine. Returns its output.
    #[track_caller]
    pub(super) fn run(&self, script: &str) -> String {
        let Output { status, stdout, stderr } = self
            .command(Path::new("/bin/sh"))
            .args(["-ec", script])
            .output()
            .unwrap();
        assert!(status.success(), "{script}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Starts a program as root in the machine, where it runs until [`Machine::kill_program`].
    pub(super) fn start_program<A: AsRef<OsStr>>(&self, program: &Path, args: impl IntoIterator<Item = A>) {
        let log = self.log(program);
        let log = File::options().create(true).append(true).open(log).unwrap();
        let child = self
            .command(program)
            .args(args)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let name = program.file_name().unwrap().to_string_lossy().into_owned();
        self.programs.lock().unwrap().push((name, child));
    }

    /// Kills a program, and waits until it has ended.
    pub(super) fn kill_program(&self, name: &str) {
        let mut programs = self.programs.lock().unwrap();
        let at = programs.iter().position(|(running, _)| running == name).unwrap();
        let (_, mut child) = programs.remove(at);
        // The brackets keep the pattern from matching its own shell.
        self.run(&format!("pkill -KILL -f '[/]{name} '"));
        child.wait().unwrap();
    }

    fn log(&self, program: &Path) -> PathBuf {
        self.dir.join("log").join(program.file_name().unwrap())
    }

    /// The end of each program's log, for a failed assertion.
    pub(super) fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.dir.join("log")).unwrap() {
            let path = entry.unwrap().path();
            let log = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(15)..].join("\n");
            let _ = writeln!(text, "{}:\n{last}", path.display());
        }
        text
    }
}
