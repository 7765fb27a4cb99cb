//! A real Kubernetes: etcd, a control plane, and a node with the kubelet, containerd and runc, in namespaces of this
//! machine that only root can make.
//!
//! One cluster serves all tests of a process, each with a namespace of its own. Nothing is pulled from a registry: the
//! images are made of Debian's packages, of Synapse's virtual environment and of our programs. The network of the
//! machine leads to this host and nowhere else, and this host reaches pods only through the API server, as an
//! administrator does.

mod control_plane;
mod images;
mod machine;
mod node;
mod programs;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, RwLock};

use control_plane::ControlPlane;
use machine::Machine;
use serde_json::{Value, json};

use super::{World, place, wait_until};

/// Volumes that are there for claims: directories of the node, of the kind `local`, because the kubelet does not change
/// the group of a `hostPath`.
const VOLUMES: u32 = 40;

pub(crate) struct Kubernetes {
    dir: PathBuf,
    programs: PathBuf,
    machine: Machine,
    control: ControlPlane,
    namespaces: AtomicU32,
    /// Held by tests; for writing, by those that run alone.
    pub(crate) running: RwLock<()>,
}

impl Kubernetes {
    /// The cluster of this process, which is started when it is first needed.
    pub(crate) fn shared() -> &'static Self {
        static KUBERNETES: OnceLock<Kubernetes> = OnceLock::new();
        KUBERNETES.get_or_init(Self::start)
    }

    fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "a cluster needs root");
        let programs = programs::programs();
        let dir = place().dir.join("kubernetes");
        let machine = Machine::start(&dir);
        node::start_containerd(&machine, &dir);
        images::import_all(&machine, &dir);
        let control = ControlPlane::start(&machine, &dir, &programs);
        node::start(&machine, &dir, &programs);
        control.start_dns(&machine);
        let kubernetes = Self {
            dir,
            programs,
            machine,
            control,
            namespaces: AtomicU32::new(0),
            running: RwLock::new(()),
        };
        kubernetes.apply(&json!({"apiVersion": "v1", "kind": "List", "items": kubernetes.objects()}));
        kubernetes.wait_for_node();
        kubernetes
    }

    fn wait_for_node(&self) {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        wait_until(&format!("the node is ready\n{}", self.machine.logs()), || {
            self.control
                .kubectl(&["get", "node", "node-1", "--output", ready])
                .as_deref()
                == Ok("True")
        });
    }

    /// What a cluster has before anything is installed: the address of its DNS, permissions of it, storage.
    fn objects(&self) -> Vec<Value> {
        let labels = json!({"kubernetes.io/service-name": "kube-dns"});
        let ports =
            json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]);
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"},
                "spec": {"clusterIP": control_plane::DNS_SERVICE, "ports": ports}}),
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
                "endpoints": [{"addresses": [self.machine.address]}], "ports": ports}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "coredns"}, "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}]}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "coredns"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns"}]}),
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "kubernetes.io/no-provisioner",
                "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
                "volumeBindingMode": "WaitForFirstConsumer"}),
        ];
        for number in 0..VOLUMES {
            let path = self.dir.join(format!("volumes/{number}"));
            fs::create_dir_all(&path).unwrap();
            objects.push(
                json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("local-{number}")},
                "spec": {"capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "local", "persistentVolumeReclaimPolicy": "Retain", "local": {"path": path},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node-1"]}]}]}}}}),
            );
        }
        objects
    }

    /// Creates objects, or changes those that exist.
    #[track_caller]
    pub(crate) fn apply(&self, objects: &Value) {
        let file = self.write(objects);
        self.kubectl(&["apply", "--server-side", "--filename", &file]);
    }

    /// The same for objects that another client created.
    #[track_caller]
    pub(crate) fn apply_anyway(&self, objects: &Value) {
        let file = self.write(objects);
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &file]);
    }

    fn write(&self, objects: &Value) -> String {
        let number = rustix::thread::gettid().as_raw_nonzero();
        let file = self.dir.join(format!("objects-{number}.json"));
        fs::write(&file, objects.to_string()).unwrap();
        file.display().to_string()
    }

    /// Runs kubectl as an administrator.
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args)
            .unwrap_or_else(|error| panic!("kubectl {args:?}: {error}\n{}", self.machine.logs()))
    }

    /// The same, with its error message.
    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.control.kubectl(args)
    }

    /// An object, as the API server has it.
    #[track_caller]
    pub(crate) fn object(&self, kind: &str, namespace: &str, name: &str) -> Value {
        let text = self.kubectl(&["get", kind, name, "--namespace", namespace, "--output", "json"]);
        serde_json::from_str(&text).unwrap()
    }

    /// Creates a namespace of a name that no other test has.
    pub(crate) fn namespace(&self) -> String {
        let name = format!("ess-{}", self.namespaces.fetch_add(1, Ordering::Relaxed));
        self.kubectl(&["create", "namespace", &name]);
        name
    }

    /// Writes a kubeconfig for this user and token.
    pub(crate) fn kubeconfig(&self, world: &World, user: &str, token: &str) -> PathBuf {
        let authority = world.write("kube/ca.crt", fs::read(self.dir.join("ca.crt")).unwrap());
        let text = control_plane::kubeconfig(&self.control.server, &authority, user, token);
        world.write(&format!("kube/{user}"), text)
    }

    /// The path of a program of the cluster, such as helm.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Kills the API server and starts it again.
    pub(crate) fn restart_api_server(&self) {
        self.control.restart_api_server(&self.machine);
    }
}
