//! The connection to an API server, with calls that a signal can interrupt.

use std::env;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use ess_run::interrupted;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy};
use kube::client::ConfigExt as _;
use kube::client::retry::RetryPolicy;
use kube::config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config, Resource};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use crate::error::{Error, ErrorKind};
use crate::proxy::is_exempt;

/// Timeout of a request; streams have no limit.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long sent data may remain unacknowledged, or untransmitted because the server accepts nothing
/// (`TCP_USER_TIMEOUT`, see tcp(7)).
const GONE: Duration = Duration::from_secs(300);

/// How often a change is tried when another client changes the object at the same time.
const TRIES: u32 = 5;

/// A connection to an API server, in one namespace.
pub struct Cluster {
    pub(crate) runtime: Arc<Worker>,
    pub(crate) client: Client,
    namespace: String,
    context: Option<String>,
}

/// A type of object that has a name in a namespace.
pub trait Thing:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Thing for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl Cluster {
    /// Connects as kubectl would, or with the service account of the pod in which this program runs.
    ///
    /// `context` is a context of the kubeconfig; the default is its current context.
    pub fn connect(namespace: &str, context: Option<&str>) -> Result<Self, Error> {
        let (namespace, context) = (namespace.to_owned(), context.map(str::to_owned));
        let (send, made) = mpsc::channel();
        // In a thread of its own: a credential plugin may wait for its user, or for a server, forever.
        let connect = move || {
            // Fails when a signal has ended the wait for the result.
            let _ = send.send(Self::connect_here(namespace, context.as_deref()));
        };
        thread::Builder::new()
            .name(THREADS.to_owned())
            .spawn(connect)
            .map_err(|error| Error::new(ErrorKind::Unavailable, FINDING, error.to_string()))?;
        loop {
            match made.recv_timeout(Duration::from_millis(50)) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(interrupted) = interrupted() {
                        end_children();
                        return Err(Error::interrupted(FINDING, interrupted));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Error::new(ErrorKind::Unavailable, FINDING, "the client library failed"));
                }
            }
        }
    }

    fn connect_here(namespace: String, context: Option<&str>) -> Result<Self, Error> {
        // Two workers, so that one stream transfers data while another is encrypting.
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(THREADS)
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorKind::Unavailable, FINDING, error.to_string()))?;
        let runtime = Worker(Some(runtime));
        // Fails if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (mut config, context) = runtime.block_on(config(context))?;
        // With such a token the client library would panic.
        let token = config.auth_info.token.as_ref().map(ExposeSecret::expose_secret);
        if token.is_some_and(|token| token.contains(char::is_control)) {
            let why = "the token of the kubeconfig's user contains a line break or another control character";
            let hint = "write the token without a line break, also at its end";
            return Err(Error::new(ErrorKind::Unavailable, FINDING, why).hint(hint));
        }
        if let Some(exec) = config.auth_info.exec.as_mut().filter(|_| !io::stdin().is_terminal()) {
            // An interactive plugin would read the document, or other input of the calling script, as its answer.
            exec.interactive_mode = Some(ExecInteractiveMode::Never);
        }
        let plugin = config.auth_info.exec.as_ref().and_then(|exec| exec.command.clone());
        let client = {
            let _guard = runtime.enter();
            client(config).map_err(|error| match plugin {
                Some(plugin) => Error::api(FINDING, &error).hint(format!(
                    "the kubeconfig uses the credential plugin {plugin}: check that `kubectl get pods` works"
                )),
                None => Error::api(FINDING, &error),
            })?
        };
        Ok(Self {
            runtime: Arc::new(runtime),
            client,
            namespace,
            context,
        })
    }

    /// Whether this program runs in a pod and there is no kubeconfig, so that names of contexts mean nothing.
    pub fn is_of_our_pod() -> bool {
        usual_kubeconfigs().is_none() && is_in_a_pod()
    }

    /// The namespace of this connection.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The kubeconfig's context; `None` with the service account of a pod.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Whether this program runs in a pod of the cluster, where the names of its Services resolve.
    pub fn is_around_us(&self) -> bool {
        self.context.is_none()
    }

    pub(crate) fn api<K: Thing>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads an object; `None` if it does not exist.
    pub fn get<K: Thing>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let what = format!("cannot read {} {namespace}/{name}", kind::<K>());
        self.wait(&what, self.api::<K>(namespace).get_opt(name))
    }

    /// Lists the objects that match a label selector, sorted by name.
    pub fn list<K: Thing>(&self, namespace: &str, labels: &str) -> Result<Vec<K>, Error> {
        let what = format!("cannot list {} in namespace {namespace}", K::plural(&()));
        let params = ListParams::default().labels(labels);
        let mut found = self.wait(&what, self.api::<K>(namespace).list(&params))?.items;
        found.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
        Ok(found)
    }

    /// Creates an object.
    pub fn create<K: Thing>(&self, namespace: &str, object: &K) -> Result<K, Error> {
        let name = object.meta().name.clone().unwrap_or_default();
        let what = format!("cannot create {} {namespace}/{name}", kind::<K>());
        self.wait(&what, self.api::<K>(namespace).create(&PostParams::default(), object))
    }

    /// Changes an object by a merge patch.
    pub fn patch<K: Thing>(&self, namespace: &str, name: &str, patch: &Value) -> Result<K, Error> {
        let what = format!("cannot change {} {namespace}/{name}", kind::<K>());
        let (api, params) = (self.api::<K>(namespace), PatchParams::default());
        self.wait(&what, api.patch(name, &params, &Patch::Merge(patch)))
    }

    /// Changes an object by the merge patch that `change` returns for its current state; nothing if it returns `None`.
    ///
    /// The patch applies only to the very version of the object that `change` was given. If another client changed the
    /// object meanwhile, this is repeated with its new state.
    pub fn change<K: Thing>(
        &self,
        namespace: &str,
        name: &str,
        change: impl Fn(&K) -> Option<Value>,
    ) -> Result<K, Error> {
        let what = format!("cannot change {} {namespace}/{name}", kind::<K>());
        for _ in 0..TRIES {
            let Some(object) = self.get::<K>(namespace, name)? else {
                return Err(Error::new(ErrorKind::NotFound, what, "it does not exist"));
            };
            let Some(mut patch) = change(&object) else {
                return Ok(object);
            };
            patch["metadata"]["resourceVersion"] = object.meta().resource_version.clone().into();
            match self.patch(namespace, name, &patch) {
                Err(error) if error.kind() == ErrorKind::Conflict => self.pause(Duration::from_millis(200))?,
                outcome => return outcome,
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            what,
            format!("another client changed it {TRIES} times meanwhile"),
        )
        .hint("find out what writes to it (a GitOps controller, an operator), and try again"))
    }

    /// Deletes an object and everything it owns; succeeds if it does not exist.
    pub fn delete<K: Thing>(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let what = format!("cannot delete {} {namespace}/{name}", kind::<K>());
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self.wait(&what, self.api::<K>(namespace).delete(name, &params)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object that this program created, even after a signal.
    pub fn clean_up<K: Thing>(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let what = format!("cannot delete {} {namespace}/{name}", kind::<K>());
        let (api, params) = (self.api::<K>(namespace), DeleteParams::default());
        let deleted = self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), api.delete(name, &params)).await });
        match deleted {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match Error::api(&what, &error) {
                error if error.kind() == ErrorKind::NotFound => Ok(()),
                error => Err(error),
            },
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                what,
                "the API server did not answer within 10 s",
            )),
        }
    }

    /// Waits for `time`, or until a signal is received.
    pub fn pause(&self, time: Duration) -> Result<(), Error> {
        self.stoppable("cannot wait", async {
            tokio::time::sleep(time).await;
            Ok(())
        })
    }

    /// Runs a request, with a timeout.
    pub(crate) fn wait<T>(&self, what: &str, work: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
        self.stoppable(what, async {
            match tokio::time::timeout(PATIENCE, work).await {
                Ok(outcome) => outcome.map_err(|error| Error::api(what, &error)),
                Err(_) => Err(Error::new(
                    ErrorKind::Unavailable,
                    what,
                    format!("the API server did not answer within {} s", PATIENCE.as_secs()),
                )),
            }
        })
    }

    /// Runs `work` until it ends or a signal is received.
    pub(crate) fn stoppable<T>(&self, what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(stoppable(what, work))
    }
}

/// The same client as [`Client::try_from`] creates, but its connections send without delay, and end when the server no
/// longer answers.
fn client(mut config: Config) -> Result<Client, kube::Error> {
    config.write_timeout = None;
    if config.proxy_url.is_some() {
        return Client::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(config.connect_timeout);
    // Before each query of a database, small messages are exchanged.
    connector.set_nodelay(true);
    // Takes effect on idle streams too, because each stream sends pings.
    connector.set_tcp_user_timeout(Some(GONE));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace))
}

pub(crate) async fn stoppable<T>(what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let stop = async {
        loop {
            if let Some(interrupted) = interrupted() {
                return Err(Error::interrupted(what, interrupted));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (work, stop) = (std::pin::pin!(work), std::pin::pin!(stop));
    match futures_util::future::select(work, stop).await {
        futures_util::future::Either::Left((outcome, _)) | futures_util::future::Either::Right((outcome, _)) => outcome,
    }
}

pub(crate) fn kind<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).into_owned()
}

/// Why a kubeconfig cannot be read. For an invalid one only the position: the library's message quotes what is there,
/// which may be a token.
fn unreadable(error: &KubeconfigError) -> String {
    let damaged = |text: String| {
        let mut words = text.split([' ', ':', '\n']).skip_while(|word| *word != "line");
        let mut number = || words.nth(1).and_then(|word| word.parse::<u32>().ok());
        match (number(), number()) {
            (Some(line), Some(column)) => {
                format!("the kubeconfig is invalid at line {line} column {column}")
            }
            _ => "the kubeconfig is invalid".to_owned(),
        }
    };
    match error {
        KubeconfigError::Parse(error) => damaged(error.to_string()),
        error => error.to_string(),
    }
}

/// The first step, as named in error messages.
const FINDING: &str = "cannot find the cluster";

/// The name of the threads in which the client library starts credential plugins.
const THREADS: &str = "ess-kube";

/// The runtime of a connection. Dropping it does not wait for an unresponsive credential plugin.
pub(crate) struct Worker(Option<Runtime>);

impl std::ops::Deref for Worker {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("it is taken only by drop")
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        end_children();
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Terminates the credential plugins that the client library has started.
fn end_children() {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let is_ours = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == THREADS);
    let tasks = tasks.map(|task| task.path()).filter(is_ours);
    for children in tasks.filter_map(|task| fs::read_to_string(task.join("children")).ok()) {
        let ids = children
            .split_whitespace()
            .filter_map(|id| Pid::from_raw(id.parse().ok()?));
        for id in ids {
            let _ = kill_process(id, Signal::TERM);
        }
    }
}

const LOG_IN: &str = "set KUBECONFIG, or log in as for kubectl: `kubectl get pods` must work";

/// The kubeconfig that k3s's own kubectl falls back to, without a word about it.
const K3S: &str = "/etc/rancher/k3s/k3s.yaml";

fn is_in_a_pod() -> bool {
    Path::new("/var/run/secrets/kubernetes.io/serviceaccount/token").exists()
}

fn usual_kubeconfigs() -> Option<Vec<PathBuf>> {
    kubeconfigs(env::var_os("KUBECONFIG").as_deref(), env::home_dir().as_deref())
}

/// The kubeconfig files to read; `None` if KUBECONFIG names none and the default one does not exist.
///
/// Of several files in KUBECONFIG those that do not exist are skipped, as kubectl does. But if none of them exists, all
/// are returned, so that reading them fails: otherwise, in a pod, the pod's own cluster would be used in place of the
/// one that was meant.
fn kubeconfigs(named: Option<&OsStr>, home: Option<&Path>) -> Option<Vec<PathBuf>> {
    let named = named.into_iter().flat_map(env::split_paths);
    let named: Vec<PathBuf> = named.filter(|path| !path.as_os_str().is_empty()).collect();
    let is_there = |path: &&PathBuf| !matches!(path.try_exists(), Ok(false));
    if named.is_empty() {
        let usual = home?.join(".kube/config");
        return is_there(&&usual).then(|| vec![usual]);
    }
    let there: Vec<PathBuf> = named.iter().filter(is_there).cloned().collect();
    Some(if there.is_empty() { named } else { there })
}

/// The kubeconfig's cluster and the name of its context, or the cluster of the pod in which this program runs.
async fn config(context: Option<&str>) -> Result<(Config, Option<String>), Error> {
    let what = FINDING;
    let unavailable = |why: String| Error::new(ErrorKind::Unavailable, what, why);
    let Some(files) = usual_kubeconfigs() else {
        if context.is_none() && is_in_a_pod() {
            return match Config::incluster_env() {
                Ok(config) => Ok((config, None)),
                Err(error) => Err(unavailable(error.to_string())),
            };
        }
        let hint = if Path::new(K3S).exists() {
            format!(
                "this host runs k3s: `export KUBECONFIG={K3S}`, which only root can read unless its mode was changed"
            )
        } else {
            LOG_IN.to_owned()
        };
        return Err(unavailable("there is no kubeconfig ~/.kube/config".to_owned()).hint(hint));
    };
    for file in &files {
        readable(file).map_err(|why| unavailable(why).hint(LOG_IN))?;
    }
    let read = files.iter().try_fold(Kubeconfig::default(), |all, file| {
        all.merge(Kubeconfig::read_from(file)?)
    });
    let read = read.map_err(|error| unavailable(unreadable(&error)).hint(LOG_IN))?;
    let context = context.map(str::to_owned).or_else(|| read.current_context.clone());
    let options = KubeConfigOptions {
        context: context.clone(),
        ..KubeConfigOptions::default()
    };
    let named = read.clusters.iter().filter_map(|known| known.cluster.as_ref());
    let named = named.filter_map(|cluster| cluster.certificate_authority.as_ref());
    let users = read.auth_infos.iter().filter_map(|known| known.auth_info.as_ref());
    let users = users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]);
    for file in named.chain(users.flatten()) {
        // A file of another context may be missing.
        if Path::new(file).exists() {
            readable(Path::new(file)).map_err(unavailable)?;
        }
    }
    let known: Vec<String> = read.contexts.iter().map(|context| context.name.clone()).collect();
    let names_proxy = names_proxy(&read, context.as_deref());
    let mut config = Config::from_custom_kubeconfig(read, &options).await.map_err(|error| {
        Error::new(ErrorKind::Usage, what, error.to_string()).hint(format!(
            "choose one of the kubeconfig's contexts with --kube-context: {}",
            known.join(", ")
        ))
    })?;
    if !names_proxy {
        let list = env::var("NO_PROXY")
            .or_else(|_| env::var("no_proxy"))
            .unwrap_or_default();
        let (host, port) = (config.cluster_url.host(), config.cluster_url.port_u16());
        config.proxy_url = config
            .proxy_url
            .filter(|_| !is_exempt(&list, host.unwrap_or_default(), port.unwrap_or(443)));
    }
    Ok((config, context))
}

/// Checks a file before the client library reads it, which does so whatever the file's type and size.
fn readable(file: &Path) -> Result<(), String> {
    let size = ess_files::open(file).and_then(|file| file.metadata());
    match size {
        Ok(found) if found.len() > ess_files::CONFIGURATION => {
            Err(format!("cannot read {}: it is larger than 16 MiB", file.display()))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot read {}: {error}", file.display())),
    }
}

/// Whether the kubeconfig itself names a proxy for the cluster of a context. `NO_PROXY` does not apply to that one.
fn names_proxy(read: &Kubeconfig, context: Option<&str>) -> bool {
    let of_context = read.contexts.iter().find(|known| Some(known.name.as_str()) == context);
    let name = of_context
        .and_then(|known| known.context.as_ref())
        .map(|context| &context.cluster);
    let cluster = read.clusters.iter().find(|known| Some(&known.name) == name);
    let proxy = cluster.and_then(|known| known.cluster.as_ref()?.proxy_url.as_deref());
    proxy.is_some_and(|proxy| !proxy.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_named_and_is_not_there_is_not_taken_for_nothing() {
        let home = tempfile::tempdir().expect("a directory");
        let files = |named: &str| {
            let found = kubeconfigs(Some(OsStr::new(named)), Some(home.path()))?;
            let shown = found.iter().map(|path| path.display().to_string());
            Some(shown.collect::<Vec<_>>().join(":"))
        };
        assert_eq!(files(""), None);
        assert_eq!(files("/nowhere").as_deref(), Some("/nowhere"));
        assert_eq!(files("/nowhere:/dev/null::/neither").as_deref(), Some("/dev/null"));

        let usual = home.path().join(".kube/config");
        fs::create_dir(home.path().join(".kube")).expect("it is made");
        fs::write(&usual, "").expect("it is written");
        assert_eq!(files("").as_deref(), usual.to_str());
        assert_eq!(kubeconfigs(None, Some(home.path())), Some(vec![usual]));
    }
}
