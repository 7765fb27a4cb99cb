//! WebSocket streams to a program in a pod and to a port of a pod.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::answer::{Body, status, whole};
use super::{State, query, spdy};
use crate::support::place;

/// The protocol of kubectl's port forwarding: SPDY inside a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Responds with the upgrade, and serves the stream in a task of its own.
pub(super) fn open(
    state: &Arc<State>,
    namespace: &str,
    pod: &str,
    exec: bool,
    mut request: Request<Incoming>,
    cut: Option<usize>,
) -> Response<Body> {
    let Some(object) = state.store().named("pods", namespace, pod).cloned() else {
        return status(404, "NotFound", &format!("pods \"{pod}\" not found"));
    };
    if object["status"]["phase"] != "Running" {
        return status(500, "InternalError", &format!("pod {pod} is not running"));
    }
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let wanted = ["v5.channel.k8s.io", "v4.channel.k8s.io", TUNNEL];
    let offered: Vec<&str> = header(SEC_WEBSOCKET_PROTOCOL).split(',').map(str::trim).collect();
    // The API server supports only v4 for port forwarding.
    let mut spoken = wanted.iter().filter(|known| exec || **known != wanted[0]);
    let Some(protocol) = spoken.find(|known| offered.contains(known)).copied() else {
        return status(400, "BadRequest", "the stand-in speaks WebSocket only");
    };
    let accept = derive_accept_key(header(SEC_WEBSOCKET_KEY).as_bytes());
    let query = query(request.uri());
    let room = room(state, namespace, pod, &object);
    let port = || query.get("ports").and_then(|ports| ports[0].parse().ok());
    let port = port().or_else(|| only_port(state, namespace, pod));
    let to = port.and_then(|port| leads(state, namespace, pod, port));
    let upgrade = hyper::upgrade::on(&mut request);
    let cutting = Arc::clone(state);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        let (sink, stream) = socket.split();
        if exec {
            run(sink, stream, query, room, cut, &cutting).await;
        } else if protocol == TUNNEL {
            spdy::forward(sink, stream, to).await;
        } else {
            forward(sink, stream, port.unwrap_or_default(), to, cut, &cutting).await;
        }
    });
    let mut response = whole(StatusCode::SWITCHING_PROTOCOLS, &Value::Null);
    *response.body_mut() = Body::new(futures_util::stream::empty().boxed());
    let headers = response.headers_mut();
    headers.clear();
    for (name, value) in [
        (UPGRADE, "websocket"),
        (CONNECTION, "Upgrade"),
        (SEC_WEBSOCKET_ACCEPT, &accept),
        (SEC_WEBSOCKET_PROTOCOL, protocol),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    response
}

fn leads(state: &State, namespace: &str, pod: &str, port: u16) -> Option<u16> {
    let ports = state.ports.lock().unwrap();
    let fits = |to: &&(String, String, u16, u16)| to.0 == namespace && pod.starts_with(&to.1) && to.2 == port;
    ports.iter().find(fits).map(|to| to.3)
}

/// The only port of a pod: kubectl names the port only inside its compressed headers.
fn only_port(state: &State, namespace: &str, pod: &str) -> Option<u16> {
    let ports = state.ports.lock().unwrap();
    ports
        .iter()
        .find(|to| to.0 == namespace && pod.starts_with(&to.1))
        .map(|to| to.2)
}

/// The directory of a pod, and the directory behind each mounted path.
struct Room {
    directory: PathBuf,
    mounts: Vec<(String, PathBuf)>,
}

/// Creates the directories: those of claims are shared, all others belong to the pod, like volumes in memory.
fn room(state: &State, namespace: &str, pod: &str, object: &Value) -> Room {
    let directory = state.directory.join(format!("{namespace}.{pod}"));
    let make = |directory: &PathBuf| {
        if !directory.exists() {
            place().make_dir(directory);
        }
    };
    make(&directory);
    let mut mounts = Vec::new();
    let containers = object["spec"]["containers"].as_array().into_iter().flatten();
    for mount in containers.flat_map(|container| container["volumeMounts"].as_array().into_iter().flatten()) {
        let volumes = object["spec"]["volumes"].as_array().into_iter().flatten();
        let volume = volumes.into_iter().find(|volume| volume["name"] == mount["name"]);
        let claim = volume.and_then(|volume| volume["persistentVolumeClaim"]["claimName"].as_str());
        let place = match claim {
            Some(claim) => state.volume(claim),
            None => directory.join(mount["name"].as_str().unwrap()),
        };
        make(&place);
        mounts.push((mount["mountPath"].as_str().unwrap().to_owned(), place));
    }
    // The longest path first: it is the mount that applies.
    mounts.sort_by_key(|mount| std::cmp::Reverse(mount.0.len()));
    Room { directory, mounts }
}

impl Room {
    /// An argument with the directories of this machine in place of those of the pod.
    fn here(&self, argument: &str) -> String {
        let mut here = String::new();
        let mut rest = argument;
        while let Some(next) = rest.chars().next() {
            let begins = here.is_empty() || here.ends_with([' ', '=', '\'', '"', '>', '<']);
            let mount = self.mounts.iter().filter(|_| begins).find_map(|(path, place)| {
                let after = rest.strip_prefix(path.as_str())?;
                let ends = after.is_empty() || after.starts_with(['/', ' ', '\'', '"', ';', '&', '|']);
                ends.then_some((place, after))
            });
            if let Some((place, after)) = mount {
                here.push_str(&place.display().to_string());
                rest = after;
            } else {
                here.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        here
    }
}

/// Runs a program: channel 0 is its input, 1 and 2 are its outputs, 3 reports its exit status.
async fn run(
    mut sink: impl Sink<Message, Error = Error> + Unpin,
    mut stream: impl Stream<Item = Result<Message, Error>> + Unpin,
    query: std::collections::BTreeMap<String, Vec<String>>,
    room: Room,
    cut: Option<usize>,
    state: &State,
) {
    let command: Vec<String> = query["command"].iter().map(|argument| room.here(argument)).collect();
    let mut program = tokio::process::Command::from(place().command(&command[0], &room.directory));
    let has_input = query.get("stdin").is_some_and(|value| value[0] == "true");
    let input = if has_input { Stdio::piped() } else { Stdio::null() };
    let spawned = program
        .args(&command[1..])
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let failed = json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("error executing command in container: {error}")});
            let _ = sink.send(message(3, failed.to_string().as_bytes())).await;
            let _ = sink.send(end()).await;
            return;
        }
    };
    let mut stdin = child.stdin.take();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut out, mut err) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let (mut out_open, mut err_open, mut sent) = (true, true, 0);
    while out_open || err_open {
        let outgoing = tokio::select! {
            read = stdout.read(&mut out), if out_open => {
                let count = read.unwrap_or(0);
                out_open = count > 0;
                Some((1, &out[..count]))
            }
            read = stderr.read(&mut err), if err_open => {
                let count = read.unwrap_or(0);
                err_open = count > 0;
                Some((2, &err[..count]))
            }
            incoming = stream.next() => match incoming {
                Some(Ok(Message::Binary(data))) if data.first() == Some(&0) => {
                    if let Some(stdin) = &mut stdin {
                        let _ = stdin.write_all(&data[1..]).await;
                    }
                    None
                }
                Some(Ok(Message::Binary(data))) if data[..] == [255, 0] => {
                    stdin = None;
                    None
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => None,
            },
        };
        let Some((channel, data)) = outgoing.filter(|(_, data)| !data.is_empty()) else {
            continue;
        };
        if channel == 1 && cut.is_some_and(|cut| sent + data.len() > cut) {
            let _ = sink.send(message(1, &data[..cut.unwrap() - sent])).await;
            state.cut.store(true, Ordering::Relaxed);
            return;
        }
        sent += data.len();
        if sink.send(message(channel, data)).await.is_err() {
            return;
        }
    }
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137);
    let ended = match code {
        0 => json!({"metadata": {}, "status": "Success"}),
        code => json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]}}),
    };
    if cut.is_none() {
        let _ = sink.send(message(3, ended.to_string().as_bytes())).await;
        let _ = sink.send(end()).await;
    }
}

/// The message with which the API server ends a stream.
fn end() -> Message {
    let (code, reason) = (CloseCode::Normal, Utf8Bytes::default());
    Message::Close(Some(CloseFrame { code, reason }))
}

fn message(channel: u8, data: &[u8]) -> Message {
    let mut message = vec![channel];
    message.extend_from_slice(data);
    Message::binary(message)
}

/// Forwards a connection: channel 0 carries data, 1 errors.
async fn forward(
    mut sink: impl Sink<Message, Error = Error> + Unpin,
    mut stream: impl Stream<Item = Result<Message, Error>> + Unpin,
    port: u16,
    to: Option<u16>,
    cut: Option<usize>,
    state: &State,
) {
    for channel in [0, 1] {
        let _ = sink.send(message(channel, &port.to_le_bytes())).await;
    }
    let connected = match to {
        Some(to) => TcpStream::connect(("127.0.0.1", to)).await.ok(),
        None => None,
    };
    let Some(server) = connected else {
        let why = format!("error forwarding port {port} to pod: connection refused");
        let _ = sink.send(message(1, why.as_bytes())).await;
        let _ = sink.send(end()).await;
        return;
    };
    let (mut from_server, mut to_server) = server.into_split();
    let mut block = vec![0; 32 << 10];
    let mut sent = 0;
    loop {
        tokio::select! {
            read = from_server.read(&mut block) => {
                let count = read.unwrap_or(0);
                if count == 0 {
                    let _ = sink.send(end()).await;
                    return;
                }
                if let Some(cut) = cut.filter(|cut| sent + count > *cut) {
                    let _ = sink.send(message(0, &block[..cut - sent])).await;
                    state.cut.store(true, Ordering::Relaxed);
                    return;
                }
                sent += count;
                if sink.send(message(0, &block[..count])).await.is_err() {
                    return;
                }
            }
            incoming = stream.next() => match incoming {
                Some(Ok(Message::Binary(data))) if data.first() == Some(&0) => {
                    if to_server.write_all(&data[1..]).await.is_err() {
                        let _ = sink.send(end()).await;
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}
