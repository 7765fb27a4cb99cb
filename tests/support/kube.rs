//! A stand-in for an API server, because the real one needs a machine of its own, a container runtime and root.
//!
//! It is an HTTPS server that implements the real protocol: lists, watches, merge patches, access reviews, and streams
//! over WebSocket. A port of a pod leads to a real `PostgreSQL`, a program in a pod is a real process in a directory,
//! and pods start and stop with the number of replicas. It has no schemas, defaults, admission or scheduling, and a pod
//! shares this machine's processes and files. The real kubectl works with it (tests/cluster/kube_stand_in.rs), which
//! keeps it compatible with real clients.

mod answer;
mod layout;
mod pods;
mod spdy;
mod store;
mod streams;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

use super::{Call, Cluster, World, free_port};
use store::Store;

/// The token in the kubeconfig; tests/faults/canary.rs searches for it everywhere it must not be.
const TOKEN: &str = "c4n4ry-stand-in-token-Wq7";
/// The user that the token authenticates.
const USER: &str = "mover";

/// The stand-in, until it is dropped.
pub(crate) struct Kube {
    state: Arc<State>,
    kubeconfig: PathBuf,
    _runtime: Runtime,
}

/// State that the server and the test share.
struct State {
    store: Mutex<Store>,
    faults: Mutex<Vec<Fault>>,
    /// Permissions that the account lacks: namespace (empty for all), verb, group, resource.
    denied: Mutex<Vec<[String; 4]>>,
    /// Where a port of a pod leads: namespace, prefix of the pod's name, port, and the port of this machine.
    ports: Mutex<Vec<(String, String, u16, u16)>>,
    /// The directory that contains one directory per volume claim, and the pods' own directories.
    directory: PathBuf,
    settings: Mutex<Settings>,
    /// Method and path of every request.
    requests: Mutex<Vec<String>>,
    /// Whether a stream has been cut.
    cut: AtomicBool,
}

/// How the cluster behaves.
pub(crate) struct Settings {
    /// How long a pod takes to become ready, and to end.
    pub(crate) slowness: Duration,
    /// Workloads whose replicas a GitOps controller resets: name and replicas.
    pub(crate) healed: Vec<(String, i64)>,
    /// Whether the updater of the older ESS runs.
    pub(crate) updater: bool,
    /// The objects that the operator of the older ESS creates for its custom resource.
    pub(crate) made_by_operator: Vec<Value>,
}

/// A fault that occurs a number of times.
#[derive(Clone)]
pub(crate) struct Fault {
    /// The HTTP method; empty for any.
    pub(crate) method: &'static str,
    /// Text in the path and query.
    pub(crate) path: &'static str,
    pub(crate) times: u32,
    pub(crate) effect: Effect,
}

#[derive(Clone)]
pub(crate) enum Effect {
    /// A response with this status in place of the correct one.
    Status(u16),
    /// A stream ends without a close message after so many bytes from the pod.
    CutAfter(usize),
    /// The correct response, late.
    Late(Duration),
}

impl Kube {
    /// An empty cluster.
    fn new(world: &World) -> Self {
        let port = free_port();
        world.mask(port.to_string(), "$API_PORT");
        world.write("kube/.keep", "");
        let made = world.shell(
            "cd kube && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout key.pem -out cert.pem -subj /CN=kubernetes \
             -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1",
        );
        made.success();
        let credential = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
            "status": {"token": TOKEN}});
        let plugin = world.write("kube/plugin", format!("#!/bin/sh\necho '{credential}'\n"));
        let kubeconfig = world.write(
            "kube/config",
            json!({
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {
                    "server": format!("https://127.0.0.1:{port}"),
                    "certificate-authority": world.path("kube/cert.pem"),
                }}],
                "users": [
                    {"name": USER, "user": {"token": TOKEN}},
                    {"name": "plugin", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1",
                        "command": "sh", "args": [plugin], "interactiveMode": "Never"}}},
                ],
                "contexts": [
                    {"name": "stand-in", "context": {"cluster": "here", "user": USER}},
                    {"name": "plugin", "context": {"cluster": "here", "user": "plugin"}},
                    {"name": "nobody", "context": {"cluster": "here", "user": "nobody"}},
                ],
                "current-context": "stand-in",
            })
            .to_string(),
        );
        let state = Arc::new(State {
            store: Mutex::new(Store::default()),
            faults: Mutex::new(Vec::new()),
            denied: Mutex::new(Vec::new()),
            ports: Mutex::new(Vec::new()),
            directory: world.path("kube/volumes"),
            settings: Mutex::new(Settings {
                slowness: Duration::from_millis(50),
                healed: Vec::new(),
                updater: true,
                made_by_operator: Vec::new(),
            }),
            requests: Mutex::new(Vec::new()),
            cut: AtomicBool::new(false),
        });
        world.write("kube/volumes/.keep", "");
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let acceptor = acceptor(&world.path("kube"));
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .unwrap();
        runtime.spawn(serve(listener, acceptor, Arc::clone(&state)));
        runtime.spawn(pods::keep(Arc::clone(&state)));
        Self {
            state,
            kubeconfig,
            _runtime: runtime,
        }
    }

    /// ESS Community of release `ess` in namespace `ess`, with its database on `cluster`.
    pub(crate) fn community(world: &World, cluster: &Cluster) -> Self {
        Self::community_at(world, cluster, "ess", "ess")
    }

    /// The same with another namespace and release.
    pub(crate) fn community_at(world: &World, cluster: &Cluster, namespace: &str, release: &str) -> Self {
        let kube = Self::new(world);
        layout::community(&kube, namespace, release);
        kube.lead(namespace, &format!("{release}-postgres-"), 5432, cluster.port);
        kube.settle();
        kube
    }

    /// The older ESS in namespace `element-onprem`, with its database on `cluster`.
    pub(crate) fn onprem(world: &World, cluster: &Cluster) -> Self {
        let kube = Self::new(world);
        layout::onprem(&kube);
        kube.lead("element-onprem", "synapse-postgres-", 5432, cluster.port);
        kube.settle();
        kube
    }

    /// Waits until every workload has its number of pods.
    pub(crate) fn settle(&self) {
        let settled = |object: &Value| {
            object["status"]["readyReplicas"].as_i64().unwrap_or(0) == object["spec"]["replicas"].as_i64().unwrap_or(1)
        };
        let all = || {
            let store = self.state.store();
            ["statefulsets", "deployments"]
                .iter()
                .all(|resource| store.all(resource).all(settled))
        };
        let waits = std::iter::repeat_with(|| std::thread::sleep(Duration::from_millis(10)));
        assert!(waits.take(3000).any(|()| all()), "the stand-in's pods do not come up");
    }

    /// Adds a second release.
    pub(crate) fn add_community(&self, namespace: &str, release: &str) {
        layout::community(self, namespace, release);
    }

    /// Adds MAS to a release.
    pub(crate) fn add_mas(&self, namespace: &str, release: &str, replicas: i64) {
        layout::mas(self, namespace, release, replicas);
    }

    /// Makes a call use this cluster.
    pub(crate) fn seen_by<'a>(&self, call: Call<'a>) -> Call<'a> {
        call.env("KUBECONFIG", &self.kubeconfig)
    }

    /// The directory behind a PersistentVolumeClaim.
    pub(crate) fn volume(&self, claim: &str) -> PathBuf {
        self.state.volume(claim)
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&self, object: Value) {
        self.state.store().put(object);
    }

    /// An object, or null if it does not exist.
    pub(crate) fn object(&self, resource: &str, namespace: &str, name: &str) -> Value {
        let store = self.state.store();
        store.named(resource, namespace, name).cloned().unwrap_or_default()
    }

    /// Changes a value in a Secret.
    pub(crate) fn set_secret(&self, namespace: &str, name: &str, key: &str, value: &str) {
        self.edit("secrets", namespace, name, |secret| {
            secret["data"][key] = layout::encoded(value).into();
        });
    }

    /// Changes an object in place.
    pub(crate) fn edit(&self, resource: &str, namespace: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let mut object = self.object(resource, namespace, name);
        assert!(!object.is_null(), "there is no {resource} {namespace}/{name}");
        edit(&mut object);
        self.put(object);
    }

    /// Removes an object.
    pub(crate) fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.state.store().remove(resource, namespace, name);
    }

    /// Every object of a kind.
    pub(crate) fn all(&self, resource: &str) -> Vec<Value> {
        self.state.store().all(resource).cloned().collect()
    }

    /// The names of all objects of a kind in a namespace.
    pub(crate) fn names(&self, resource: &str, namespace: &str) -> Vec<String> {
        let store = self.state.store();
        let found = store
            .all(resource)
            .filter(|object| object["metadata"]["namespace"] == namespace);
        found
            .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Removes a permission of the account.
    pub(crate) fn deny(&self, verb: &str, group: &str, resource: &str) {
        self.deny_in("", verb, group, resource);
    }

    /// Removes a permission of the account in a namespace.
    pub(crate) fn deny_in(&self, namespace: &str, verb: &str, group: &str, resource: &str) {
        let denied = [namespace, verb, group, resource].map(str::to_owned);
        self.state.denied.lock().unwrap().push(denied);
    }

    /// Adds a fault.
    pub(crate) fn fault(&self, method: &'static str, path: &'static str, times: u32, effect: Effect) {
        let fault = Fault {
            method,
            path,
            times,
            effect,
        };
        self.state.faults.lock().unwrap().push(fault);
    }

    /// Removes all faults.
    pub(crate) fn forget_faults(&self) {
        self.state.faults.lock().unwrap().clear();
    }

    /// Whether a stream was cut since the last call.
    pub(crate) fn was_cut(&self) -> bool {
        self.state.cut.swap(false, Ordering::Relaxed)
    }

    /// How the cluster behaves.
    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.state.settings.lock().unwrap()
    }

    /// Method and path of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// Makes a port of the pods whose names begin with `pod` lead to a port of this machine.
    pub(crate) fn lead(&self, namespace: &str, pod: &str, port: u16, to: u16) {
        let leads = (namespace.to_owned(), pod.to_owned(), port, to);
        self.state.ports.lock().unwrap().push(leads);
    }
}

impl State {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    fn volume(&self, claim: &str) -> PathBuf {
        self.directory.join(claim)
    }

    /// The effect of the first fault that matches; its count decreases by one.
    fn fault(&self, method: &str, path: &str) -> Option<Effect> {
        let mut faults = self.faults.lock().unwrap();
        let fault = faults.iter_mut().find(|fault| {
            fault.times > 0 && (fault.method.is_empty() || fault.method == method) && path.contains(fault.path)
        })?;
        fault.times -= 1;
        Some(fault.effect.clone())
    }

    fn allows(&self, namespace: &str, verb: &str, group: &str, resource: &str) -> bool {
        let denied = self.denied.lock().unwrap();
        !denied
            .iter()
            .any(|[place, denied @ ..]| (place.is_empty() || *place == namespace) && *denied == [verb, group, resource])
    }
}

fn acceptor(directory: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(directory.join("cert.pem")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<State>) {
    while let Ok((socket, _)) = listener.accept().await {
        let _ = socket.set_nodelay(true);
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else {
                return;
            };
            let service = service_fn(move |request| answer::answer(Arc::clone(&state), request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        });
    }
}

/// The parameters of a query, each with all its values.
fn query(uri: &hyper::Uri) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
    {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(decode(name)).or_default().push(decode(value));
    }
    found
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_encoding::percent_decode_str(&text)
        .decode_utf8()
        .unwrap()
        .into_owned()
}
