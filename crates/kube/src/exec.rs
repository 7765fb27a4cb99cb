//! Runs a program in a pod: its input, its output, its exit status.
//!
//! The protocol is that of the API server (`v5.channel.k8s.io`, or `v4` with an old one): the first byte of each
//! message is the number of its stream. If the connection ends before the exit status arrives, it was cut, and that is
//! an error, never an end of file.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use kube::api::AttachParams;
use kube::core::Request;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Bytes, Error as SocketError, Message};

use crate::Cluster;
use crate::cluster::{Worker, stoppable};
use crate::error::{Error, ErrorKind};

/// Interval of pings: some load balancers cut an idle connection after a minute.
pub(crate) const PING: Duration = Duration::from_secs(20);

/// How much of a program's standard error is kept, in bytes.
const MESSAGES: usize = 64 << 10;

/// The largest message that is sent, in bytes.
pub(crate) const BLOCK: usize = 64 << 10;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
const CLOSE: u8 = 255;

/// A program that runs in a container.
pub struct Exec {
    /// Its standard input, if requested. Dropping it closes it.
    pub stdin: Option<Input>,
    /// Its standard output.
    pub stdout: Output,
    runtime: Arc<Worker>,
    what: String,
    ended: oneshot::Receiver<Result<Ended, Error>>,
    tasks: Vec<JoinHandle<()>>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status.
    pub code: i32,
    /// The end of its standard error.
    pub stderr: String,
}

/// A program's standard input.
pub struct Input {
    runtime: Arc<Worker>,
    what: String,
    sender: mpsc::Sender<Vec<u8>>,
}

/// A program's standard output. Reading fails if the connection was cut.
pub struct Output {
    runtime: Arc<Worker>,
    what: String,
    receiver: mpsc::Receiver<Result<Bytes, String>>,
    rest: Bytes,
    limit: Duration,
    tasks: Vec<AbortHandle>,
}

impl Cluster {
    /// Runs a program in a container of a pod, without a terminal and without a shell.
    ///
    /// Never pass a secret as an argument: arguments are part of the request's URL, and so of audit logs.
    pub fn exec(&self, pod: &str, container: &str, command: &[&str], stdin: bool) -> Result<Exec, Error> {
        let what = format!(
            "cannot run {} in pod {}/{pod}",
            command.first().copied().unwrap_or_default(),
            self.namespace()
        );
        let params = AttachParams::default()
            .container(container)
            .stdin(stdin)
            .stdout(true)
            .stderr(true);
        let request = Request::new(format!("/api/v1/namespaces/{}/pods", self.namespace()))
            .exec(pod, command.iter().copied(), &params)
            .map_err(|error| Error::new(ErrorKind::Usage, &what, error.to_string()))?;
        let connection = self.wait(&what, self.client.connect(request))?;
        let ends_input = connection.supports_stream_close();
        let (sink, stream) = connection.into_stream().split();
        let (input, to_send) = mpsc::channel(4);
        let (output, receiver) = mpsc::channel(16);
        let (end, ended) = oneshot::channel();
        let tasks = vec![
            self.runtime.spawn(send(sink, to_send, ends_input)),
            self.runtime.spawn(receive(stream, output, end, what.clone())),
        ];
        Ok(Exec {
            stdin: stdin.then(|| Input {
                runtime: Arc::clone(&self.runtime),
                what: what.clone(),
                sender: input,
            }),
            stdout: Output {
                runtime: Arc::clone(&self.runtime),
                what: what.clone(),
                receiver,
                rest: Bytes::new(),
                limit: Duration::MAX,
                tasks: tasks.iter().map(JoinHandle::abort_handle).collect(),
            },
            runtime: Arc::clone(&self.runtime),
            what,
            ended,
            tasks,
        })
    }
}

impl Exec {
    /// Closes the input and waits for the program to end, for at most `limit`. Further standard output is discarded.
    pub fn wait(mut self, limit: Duration) -> Result<Ended, Error> {
        drop(self.stdin.take());
        self.stdout.receiver.close();
        let Self {
            what, ended, runtime, ..
        } = &mut self;
        let lost = || {
            Err(Error::new(
                ErrorKind::Dropped,
                what.as_str(),
                "the stream to it was lost",
            ))
        };
        let late = || Err(Error::new(ErrorKind::Dropped, what.as_str(), "it did not end in time"));
        let ended = async {
            match timeout(limit, ended).await {
                Ok(ended) => ended.unwrap_or_else(|_| lost()),
                Err(_) => late(),
            }
        };
        runtime.block_on(stoppable(what, ended))
    }
}

impl Output {
    /// Sets a timeout: if nothing is received for `limit`, the connection is closed and reading fails with `TimedOut`.
    pub fn limited(&mut self, limit: Duration) {
        self.limit = limit;
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Write for Input {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let part = &data[..data.len().min(BLOCK)];
        if part.is_empty() {
            return Ok(0);
        }
        let mut message = Vec::with_capacity(part.len() + 1);
        message.push(STDIN);
        message.extend_from_slice(part);
        let sending = stoppable(&self.what, async {
            let gone = |_| Error::new(ErrorKind::Dropped, self.what.as_str(), "the stream to it has ended");
            self.sender.send(message).await.map_err(gone)
        });
        self.runtime.block_on(sending).map_err(|error| broken(&error))?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let (what, receiver) = (&self.what, &mut self.receiver);
            let next = stoppable(what, async { Ok(timeout(self.limit, receiver.recv()).await) });
            let Ok(next) = self.runtime.block_on(next).map_err(|error| broken(&error))? else {
                self.tasks.iter().for_each(AbortHandle::abort);
                let why = format!("{}: no output for {} s", self.what, self.limit.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            };
            match next {
                None => return Ok(0),
                Some(Err(why)) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)),
                Some(Ok(data)) => self.rest = data,
            }
        }
        let part = self.rest.split_to(self.rest.len().min(buffer.len()));
        buffer[..part.len()].copy_from_slice(&part);
        Ok(part.len())
    }
}

fn broken(error: &Error) -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, format!("{error}: {}", error.why()))
}

/// Forwards the input until its end.
async fn send(
    mut sink: impl Sink<Message, Error = SocketError> + Unpin,
    mut input: mpsc::Receiver<Vec<u8>>,
    ends_input: bool,
) {
    let mut is_open = true;
    loop {
        tokio::select! {
            next = input.recv(), if is_open => {
                let message = match next {
                    Some(message) => message,
                    None if ends_input => vec![CLOSE, STDIN],
                    None => Vec::new(),
                };
                is_open = message.first() == Some(&STDIN);
                // An error is not reported here: the reader of the output gets it too.
                if !message.is_empty() && sink.send(Message::binary(message)).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(PING) => {
                if sink.send(Message::Ping(Bytes::new())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Receives output until the exit status arrives.
async fn receive(
    mut stream: impl Stream<Item = Result<Message, SocketError>> + Unpin,
    output: mpsc::Sender<Result<Bytes, String>>,
    end: oneshot::Sender<Result<Ended, Error>>,
    what: String,
) {
    let mut stderr: Vec<u8> = Vec::new();
    let cut = loop {
        match stream.next().await {
            Some(Ok(Message::Binary(mut data))) if data.len() > 1 => match data.split_to(1)[0] {
                // Fails if the output is no longer read, which is not an error.
                STDOUT => drop(output.send(Ok(data)).await),
                STDERR => {
                    stderr.extend_from_slice(&data);
                    stderr.drain(..stderr.len().saturating_sub(MESSAGES));
                }
                STATUS => {
                    let stderr = String::from_utf8_lossy(&stderr).into_owned();
                    let _ = end.send(ended(&what, &data, stderr));
                    return;
                }
                _ => {}
            },
            Some(Ok(_)) => {}
            Some(Err(error)) => break error.to_string(),
            None => break "it was closed".to_owned(),
        }
    };
    let why = format!("the stream was cut before the program ended: {cut}");
    let _ = output.send(Err(why.clone())).await;
    let _ = end.send(Err(Error::new(ErrorKind::Dropped, what, why)));
}

/// The exit status, from the API server's last message.
fn ended(what: &str, status: &[u8], stderr: String) -> Result<Ended, Error> {
    let status: Value = serde_json::from_slice(status).unwrap_or_default();
    if status["status"] == "Success" {
        return Ok(Ended { code: 0, stderr });
    }
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    let code = causes
        .filter(|cause| cause["reason"] == "ExitCode")
        .find_map(|cause| cause["message"].as_str()?.parse().ok());
    match code {
        Some(code) => Ok(Ended { code, stderr }),
        None => Err(Error::new(
            ErrorKind::Unavailable,
            what,
            status["message"]
                .as_str()
                .unwrap_or("the API server gives no reason")
                .to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_program_is_distinguished_from_one_that_never_ran() {
        let end = |status: &str| ended("cannot run it", status.as_bytes(), "said".to_owned());
        let code = |status| end(status).map(|ended| ended.code).map_err(|error| error.why());
        assert_eq!(code(r#"{"status":"Success"}"#), Ok(0));
        let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(code(failed), Ok(3));
        assert_eq!(
            code(r#"{"status":"Failure","reason":"InternalError","message":"container not found"}"#),
            Err("container not found".to_owned())
        );
        assert!(code("not JSON").is_err());
    }
}
