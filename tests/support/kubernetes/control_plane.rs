//! etcd and the control plane: API server, controllers, scheduler, and the cluster's DNS.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::machine::Machine;
use crate::support::wait_until;

/// The addresses of Services, of the API server among them, and of the cluster's DNS.
const SERVICES: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";
pub(super) const DNS_SERVICE: &str = "10.96.0.10";

/// The users of the static token file, each with its groups.
const USERS: [(&str, &str); 6] = [
    ("admin", "system:masters"),
    ("system:kube-controller-manager", ""),
    ("system:kube-scheduler", ""),
    ("system:kube-proxy", ""),
    ("system:node:node-1", "system:nodes"),
    ("system:coredns", ""),
];

/// Certificates of a cluster: an authority, and what it issued. Each is a pair NAME.crt, NAME.key.
const CERTIFICATES: &str = r#"
umask 077
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=cluster
issue() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -out "$1.csr" -subj "$2"
    echo "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out "$1.crt" -extfile "$1.ext"
}
issue api-server /CN=kube-apiserver "subjectAltName=IP:$ADDRESS,IP:127.0.0.1,IP:$SERVICE,DNS:kubernetes.default.svc"
issue api-server-client /O=system:masters/CN=kube-apiserver extendedKeyUsage=clientAuth
issue kubelet /CN=system:node:node-1 "subjectAltName=IP:$ADDRESS"
openssl genpkey -algorithm RSA -out accounts.key
openssl pkey -in accounts.key -pubout -out accounts.pub
"#;

pub(super) struct ControlPlane {
    dir: PathBuf,
    programs: PathBuf,
    /// How clients reach the API server.
    pub(super) server: String,
}

impl ControlPlane {
    pub(super) fn start(machine: &Machine, dir: &Path, programs: &Path) -> Self {
        issue(machine, dir);
        let server = format!("https://{}:6443", machine.address);
        write_tokens(dir, &server);
        let start = |name: &str, args: &[&str]| machine.start_program(&programs.join(name), args);
        machine.start_program(&programs.join("kube-apiserver"), api_server_args(&machine.address));
        start(
            "etcd",
            &["--data-dir", "etcd", "--unsafe-no-fsync", "--log-level", "warn"],
        );
        let control = Self {
            dir: dir.to_owned(),
            programs: programs.to_owned(),
            server,
        };
        control.wait_until_ready();
        start(
            "kube-controller-manager",
            &[
                "--kubeconfig=system:kube-controller-manager.kubeconfig",
                "--service-account-private-key-file=accounts.key",
                "--root-ca-file=ca.crt",
                "--use-service-account-credentials",
                "--leader-elect=false",
                "--secure-port=0",
            ],
        );
        start(
            "kube-scheduler",
            &[
                "--kubeconfig=system:kube-scheduler.kubeconfig",
                "--leader-elect=false",
                "--secure-port=0",
            ],
        );
        control
    }

    fn wait_until_ready(&self) {
        wait_until("the API server is ready", || {
            self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        });
    }

    /// Kills the API server, which would first wait for its clients, and starts it again.
    pub(super) fn restart_api_server(&self, machine: &Machine) {
        machine.kill_program("kube-apiserver");
        machine.start_program(&self.programs.join("kube-apiserver"), api_server_args(&machine.address));
        self.wait_until_ready();
    }

    /// Runs kubectl as an administrator. Returns its output, or its error message.
    pub(super) fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let out = Command::new(self.programs.join("kubectl"))
            .arg("--kubeconfig")
            .arg(self.dir.join("admin.kubeconfig"))
            .args(args)
            .env_clear()
            .env("HOME", &self.dir)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if out.status.success() {
            Ok(text(&out.stdout))
        } else {
            Err(text(&out.stderr))
        }
    }

    /// Starts the cluster's DNS on the machine, behind the Service that pods ask.
    pub(super) fn start_dns(&self, machine: &Machine) {
        let corefile = format!(
            ".:53 {{\n    errors\n    kubernetes cluster.local {{\n        endpoint {}\n        kubeconfig \
             {}\n    }}\n    cache 5\n}}\n",
            self.server,
            self.dir.join("system:coredns.kubeconfig").display()
        );
        fs::write(self.dir.join("Corefile"), corefile).unwrap();
        machine.start_program(&self.programs.join("coredns"), ["-conf", "Corefile"]);
    }
}

fn issue(machine: &Machine, dir: &Path) {
    let out = Command::new("/bin/sh")
        .args(["-ec", CERTIFICATES])
        .env("ADDRESS", &machine.address)
        .env("SERVICE", API_SERVICE)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

/// Writes the API server's token file, and a kubeconfig for each user.
fn write_tokens(dir: &Path, server: &str) {
    let mut tokens = String::new();
    for (number, (user, group)) in USERS.iter().enumerate() {
        let _ = writeln!(tokens, "token-of-{user},{user},{number},{group}");
        let kubeconfig = kubeconfig(server, &dir.join("ca.crt"), user, &format!("token-of-{user}"));
        fs::write(dir.join(format!("{user}.kubeconfig")), kubeconfig).unwrap();
    }
    fs::write(dir.join("tokens.csv"), tokens).unwrap();
}

/// The text of a kubeconfig.
pub(super) fn kubeconfig(server: &str, authority: &Path, user: &str, token: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user}}],
        "current-context": "tests",
    })
    .to_string()
}

fn api_server_args(address: &str) -> Vec<String> {
    [
        ("etcd-servers", "http://127.0.0.1:2379"),
        ("advertise-address", address),
        ("service-cluster-ip-range", SERVICES),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("service-account-signing-key-file", "accounts.key"),
        ("service-account-key-file", "accounts.pub"),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("token-auth-file", "tokens.csv"),
        ("client-ca-file", "ca.crt"),
        ("tls-cert-file", "api-server.crt"),
        ("tls-private-key-file", "api-server.key"),
        ("kubelet-client-certificate", "api-server-client.crt"),
        ("kubelet-client-key", "api-server-client.key"),
        ("kubelet-certificate-authority", "ca.crt"),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("allow-privileged", "true"),
    ]
    .map(|(flag, value)| format!("--{flag}={value}"))
    .to_vec()
}
