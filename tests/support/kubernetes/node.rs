//! A node: containerd with runc, the kubelet, and kube-proxy.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::control_plane::DNS_SERVICE;
use super::images::BASE;
use super::machine::Machine;
use crate::support::wait_until;

/// The addresses of pods.
const PODS: &str = "10.244.0.0/24";

/// Where Debian puts the network plugins.
const CNI: &str = "/usr/lib/cni";

/// Starts containerd, and waits for it.
pub(super) fn start_containerd(machine: &Machine, dir: &Path) {
    let at = dir.display();
    let config = format!(
        r#"version = 2
root = "{at}/containerd"
state = "{at}/containerd-state"
[grpc]
address = "{at}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{BASE}"
# A container in which these tests run may not lower the score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI}"
conf_dir = "{at}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
    );
    fs::write(dir.join("containerd.toml"), config).unwrap();
    let network = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": dir.join("cni-addresses"),
                "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    fs::create_dir(dir.join("cni")).unwrap();
    fs::write(dir.join("cni/10-pods.conflist"), network.to_string()).unwrap();
    let containerd = Path::new("/usr/bin/containerd");
    machine.start_program(containerd, ["--config", "containerd.toml"]);
    wait_until("containerd is ready", || dir.join("containerd.sock").exists());
}

/// Starts the kubelet and kube-proxy.
pub(super) fn start(machine: &Machine, dir: &Path, programs: &Path) {
    // Pods ask the cluster's DNS, and that asks no other server.
    fs::write(dir.join("resolv.conf"), format!("nameserver {}\n", machine.address)).unwrap();
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": dir.join("ca.crt")}},
        // systemd does not manage these cgroups, and the tests also run where cgroups are of version 1.
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", dir.display()),
        "tlsCertFile": dir.join("kubelet.crt"),
        "tlsPrivateKeyFile": dir.join("kubelet.key"),
        "resolvConf": dir.join("resolv.conf"),
        "podLogsDir": dir.join("pod-logs"),
        // The disk of a developer may be nearly full, and no image can be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
    });
    write(dir, "kubelet.json", &kubelet);
    machine.start_program(
        &programs.join("kubelet"),
        [
            "--config=kubelet.json",
            "--kubeconfig=system:node:node-1.kubeconfig",
            &format!("--root-dir={}", dir.join("kubelet").display()),
            "--hostname-override=node-1",
            &format!("--node-ip={}", machine.address),
        ],
    );
    let proxy = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": dir.join("system:kube-proxy.kubeconfig")},
        "clusterCIDR": PODS,
        "hostnameOverride": "node-1",
        // The limit belongs to the host's kernel.
        "conntrack": {"maxPerCore": 0},
    });
    write(dir, "kube-proxy.json", &proxy);
    machine.start_program(&programs.join("kube-proxy"), ["--config=kube-proxy.json"]);
}

fn write(dir: &Path, name: &str, value: &Value) {
    fs::write(dir.join(name), value.to_string()).unwrap();
}
