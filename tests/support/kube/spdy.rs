//! The protocol of kubectl's port forwarding inside a WebSocket: SPDY/3.1 with two streams per connection, first one
//! for errors, then one for data.
//!
//! Its headers are compressed with a dictionary and contain the kind of each stream and the port. They are not read:
//! the order of the streams is enough, and a pod has only one port here.

use std::collections::BTreeMap;

use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error, Message};

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const FIN: u8 = 1;

/// Writes empty header lists as an uncompressed zlib stream; one for the complete connection.
struct NoHeaders {
    begun: bool,
}

impl NoHeaders {
    fn block(&mut self) -> Vec<u8> {
        let mut block = if self.begun { Vec::new() } else { vec![0x78, 0x01] };
        self.begun = true;
        // A stored block of four bytes (zero pairs), then an empty block, at which the reader flushes.
        block.extend([0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        block.extend([0, 0, 0, 0xff, 0xff]);
        block
    }
}

fn control(kind: u16, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80, 3];
    frame.extend(kind.to_be_bytes());
    frame.extend((u32::from(flags) << 24 | u32::try_from(data.len()).unwrap()).to_be_bytes());
    frame.extend(data);
    frame
}

fn data(stream: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = stream.to_be_bytes().to_vec();
    frame.extend((u32::from(flags) << 24 | u32::try_from(data.len()).unwrap()).to_be_bytes());
    frame.extend(data);
    frame
}

/// Forwards all connections that kubectl opens.
pub(super) async fn forward(
    mut sink: impl Sink<Message, Error = Error> + Unpin,
    mut stream: impl Stream<Item = Result<Message, Error>> + Unpin,
    to: Option<u16>,
) {
    let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(16);
    let mut servers: BTreeMap<u32, OwnedWriteHalf> = BTreeMap::new();
    let mut no_headers = NoHeaders { begun: false };
    let mut errors = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        tokio::select! {
            frame = outgoing.recv() => {
                let Some(frame) = frame else { return };
                if sink.send(Message::binary(frame)).await.is_err() {
                    return;
                }
            }
            incoming = stream.next() => match incoming {
                Some(Ok(Message::Binary(bytes))) => buffer.extend_from_slice(&bytes),
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
        while let Some(frame) = take(&mut buffer) {
            let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            let (flags, body) = (frame[4], &frame[8..]);
            if frame[0] & 0x80 == 0 {
                let id = word(0);
                if let Some(server) = servers.get_mut(&id) {
                    let _ = server.write_all(body).await;
                    if flags & FIN != 0 {
                        servers.remove(&id);
                    }
                }
                continue;
            }
            match u16::from_be_bytes([frame[2], frame[3]]) {
                SYN_STREAM => {
                    let id = word(8) & 0x7fff_ffff;
                    let reply = [&id.to_be_bytes()[..], &no_headers.block()].concat();
                    let _ = sink.send(Message::binary(control(SYN_REPLY, 0, &reply))).await;
                    match errors.pop() {
                        None => errors.push(id),
                        Some(error) => {
                            let connected = match to {
                                Some(to) => TcpStream::connect(("127.0.0.1", to)).await.ok(),
                                None => None,
                            };
                            let Some(server) = connected else {
                                let why = b"error forwarding port: connection refused";
                                let _ = sink.send(Message::binary(data(error, FIN, why))).await;
                                continue;
                            };
                            let (mut from, write) = server.into_split();
                            servers.insert(id, write);
                            let frames = frames.clone();
                            tokio::spawn(async move {
                                let mut block = vec![0; 16 << 10];
                                loop {
                                    let count = from.read(&mut block).await.unwrap_or(0);
                                    if count == 0 {
                                        let _ = frames.send(data(id, FIN, &[])).await;
                                        let _ = frames.send(data(error, FIN, &[])).await;
                                        return;
                                    }
                                    if frames.send(data(id, 0, &block[..count])).await.is_err() {
                                        return;
                                    }
                                }
                            });
                        }
                    }
                }
                PING => {
                    let _ = sink.send(Message::binary(control(PING, 0, body))).await;
                }
                RST_STREAM => {
                    servers.remove(&word(8));
                }
                _ => {}
            }
        }
    }
}

/// Removes the first complete frame from the buffer.
fn take(buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = buffer.get(5..8)?;
    let length = usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
    if buffer.len() < 8 + length {
        return None;
    }
    Some(buffer.drain(..8 + length).collect())
}
