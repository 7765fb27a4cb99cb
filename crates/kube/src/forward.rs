//! Forwards a local port or socket to a port of a pod.
//!
//! Each connection is a stream of its own through the API server, so that a broken stream affects no other connection.
//! When a stream is cut, its connection ends in the middle, which every PostgreSQL client treats as an error; the
//! reason is also reported.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ess_run::Report;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use kube::Client;
use kube::core::Request;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};

use crate::cluster::Worker;
use crate::error::{Error, ErrorKind};
use crate::exec::{BLOCK, PING};
use crate::{Cluster, PodPort};

const DATA: u8 = 0;
const TROUBLE: u8 = 1;

/// A listener that forwards to a pod until it is dropped.
pub struct Forward {
    place: Listens,
    task: JoinHandle<()>,
    // Keeps the runtime alive when the `Cluster` is dropped.
    _runtime: Arc<Worker>,
}

/// Where a [`Forward`] listens.
enum Listens {
    /// On a Unix socket in a private directory; the socket's name contains the port, as in PostgreSQL.
    Socket(TempDir, u16),
    /// On the loopback address, for connections that need TLS to the server itself.
    Loopback(u16),
}

impl Forward {
    /// libpq's `host`, or its `hostaddr`.
    pub fn host(&self) -> String {
        match &self.place {
            Listens::Socket(directory, _) => directory.path().display().to_string(),
            Listens::Loopback(_) => Ipv4Addr::LOCALHOST.to_string(),
        }
    }

    /// libpq's `port`.
    pub fn port(&self) -> u16 {
        match self.place {
            Listens::Socket(_, port) | Listens::Loopback(port) => port,
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A local connection, TCP or Unix socket.
trait Local: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Local for T {}

impl Cluster {
    /// Listens on a Unix socket, which no other user of this host can access.
    pub fn forward(&self, to: &PodPort, report: Arc<dyn Report>) -> Result<Forward, Error> {
        let wrong = |error: io::Error| cannot_listen(to, &error);
        let directory = directory().map_err(wrong)?;
        let _guard = self.runtime.enter();
        let listener = UnixListener::bind(directory.path().join(format!(".s.PGSQL.{}", to.port))).map_err(wrong)?;
        let pod = self.pod(to, report);
        let task = self.runtime.spawn(async move {
            while let Ok((local, _)) = listener.accept().await {
                tokio::spawn(pod.clone().carry(Box::new(local)));
            }
        });
        let place = Listens::Socket(directory, to.port);
        Ok(Forward {
            place,
            task,
            _runtime: Arc::clone(&self.runtime),
        })
    }

    /// Listens on a free port of the loopback address.
    pub fn forward_loopback(&self, to: &PodPort, report: Arc<dyn Report>) -> Result<Forward, Error> {
        let wrong = |error: io::Error| cannot_listen(to, &error);
        let listener = self.runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let listener = listener.map_err(wrong)?;
        let place = Listens::Loopback(listener.local_addr().map_err(wrong)?.port());
        let pod = self.pod(to, report);
        let task = self.runtime.spawn(async move {
            while let Ok((local, _)) = listener.accept().await {
                let _ = local.set_nodelay(true);
                tokio::spawn(pod.clone().carry(Box::new(local)));
            }
        });
        Ok(Forward {
            place,
            task,
            _runtime: Arc::clone(&self.runtime),
        })
    }

    fn pod(&self, to: &PodPort, report: Arc<dyn Report>) -> Pod {
        Pod {
            client: self.client.clone(),
            to: to.clone(),
            report,
        }
    }
}

fn cannot_listen(to: &PodPort, error: &io::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("cannot listen for {to}"),
        error.to_string(),
    )
}

/// The destination of a listener's connections.
#[derive(Clone)]
struct Pod {
    client: Client,
    to: PodPort,
    report: Arc<dyn Report>,
}

impl Pod {
    /// Forwards one connection until its end.
    async fn carry(self, mut local: Box<dyn Local>) {
        if let Err(why) = self.try_carry(&mut *local).await
            && ess_run::interrupted().is_none()
        {
            self.report
                .note(&format!("the connection to {} was cut: {why}", self.to));
        }
    }

    async fn try_carry(&self, local: &mut dyn Local) -> Result<(), String> {
        let request = Request::new(format!("/api/v1/namespaces/{}/pods", self.to.namespace))
            .portforward(&self.to.pod, &[self.to.port])
            .map_err(|error| error.to_string())?;
        let connection = self.client.connect(request).await;
        let connection = connection.map_err(|error| Error::api("", &error).why())?;
        let (sink, stream) = connection.into_stream().split();
        let (from_local, to_local) = tokio::io::split(local);
        tokio::select! {
            // Ends when the local program has closed its connection: it expects no more answers.
            sent = to_pod(from_local, sink) => sent,
            received = from_pod(stream, to_local) => received,
        }
    }
}

async fn to_pod(
    mut local: impl AsyncRead + Unpin,
    mut sink: impl Sink<Message, Error = SocketError> + Unpin,
) -> Result<(), String> {
    let mut block = vec![DATA; BLOCK + 1];
    loop {
        tokio::select! {
            read = local.read(&mut block[1..]) => {
                let message = match read {
                    // The local program has closed its connection. Whether that is an error is for the server to judge.
                    Ok(0) | Err(_) => {
                        let _ = sink.close().await;
                        return Ok(());
                    }
                    Ok(count) => Message::binary(block[..=count].to_vec()),
                };
                sink.send(message).await.map_err(|error| error.to_string())?;
            }
            () = tokio::time::sleep(PING) => {
                let ping = sink.send(Message::Ping(Bytes::new())).await;
                ping.map_err(|error| error.to_string())?;
            }
        }
    }
}

async fn from_pod(
    mut stream: impl Stream<Item = Result<Message, SocketError>> + Unpin,
    mut local: impl AsyncWrite + Unpin,
) -> Result<(), String> {
    // The first message of each channel contains only the number of the port.
    let mut named = [false; 2];
    loop {
        match stream.next().await {
            Some(Ok(Message::Binary(mut data))) if !data.is_empty() => {
                let channel = data.split_to(1)[0];
                let Some(named) = named.get_mut(usize::from(channel)) else {
                    return Err(format!(
                        "the API server used channel {channel}, which this stream does not have"
                    ));
                };
                if !*named {
                    *named = true;
                } else if channel == TROUBLE {
                    return Err(String::from_utf8_lossy(&data).into_owned());
                } else if local.write_all(&data).await.is_err() {
                    // The local program has closed its connection.
                    return Ok(());
                }
            }
            // The server has closed its connection, as the API server reports.
            Some(Ok(Message::Close(why))) => {
                let _ = local.shutdown().await;
                return match why.filter(|why| why.code != CloseCode::Normal) {
                    None => Ok(()),
                    Some(why) => Err(format!("it was closed with code {} {}", why.code, why.reason)),
                };
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the API server, or a proxy on the way to it, ended the stream".to_owned()),
        }
    }
}

/// The prefix of the directories' names, which the process's id follows.
const PREFIX: &str = "ess-kube-";

/// The longest parent directory, in bytes: a Unix socket's path has at most 107 bytes (see unix(7)), and the names of
/// directory and socket need about thirty.
const LONGEST: usize = 70;

/// Creates a private directory with a short path, and removes those that killed runs have left next to it.
fn directory() -> io::Result<TempDir> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let places = runtime.into_iter().chain([std::env::temp_dir(), PathBuf::from("/tmp")]);
    let mut last = io::Error::other("there is no directory with a short enough path");
    for place in places.filter(|place| place.as_os_str().len() <= LONGEST) {
        remove_leftovers(&place);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        match tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&place)
        {
            Ok(directory) => return Ok(directory),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn remove_leftovers(place: &Path) {
    let ours = rustix::process::geteuid().as_raw();
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next()?.parse::<u32>().ok());
        let is_ours = || entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == ours);
        if id.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) && is_ours() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
