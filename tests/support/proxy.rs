//! A TCP proxy between a program and a server, which simulates network faults.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// What a proxy does with data, on existing and new connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Traffic {
    /// Forwards it.
    Flows,
    /// Withholds it, and keeps the connection open.
    Stalls,
    /// Forwards half of the next data, and closes the connection normally.
    IsCut,
    /// Drops connections with a reset.
    IsReset,
}

/// Listens on a loopback port until it is dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    traffic: AtomicU8,
    /// The number of times that all connections were dropped.
    resets: AtomicU64,
    /// Text that identifies a client: the response to its next COMMIT is lost.
    unanswered: Mutex<Option<&'static str>>,
    over: AtomicBool,
}

/// State that the two directions of a connection share.
#[derive(Default)]
struct Connection {
    is_reset: AtomicBool,
    /// Whether the server's next response is lost.
    is_unanswered: AtomicBool,
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    ToServer,
    ToClient,
}

const TICK: Duration = Duration::from_millis(5);

impl Proxy {
    /// A proxy in front of a port of this host.
    pub(crate) fn new(to: u16) -> Self {
        Self::after(|_| Ok(()), to)
    }

    /// An HTTP proxy that connects every tunnel to that port of this host.
    pub(crate) fn http(to: u16) -> Self {
        Self::after(tunnel, to)
    }

    /// Like `new`, but runs `greet` on each client connection first.
    fn after(greet: fn(&mut TcpStream) -> io::Result<()>, to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", super::free_port())).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            traffic: AtomicU8::new(Traffic::Flows as u8),
            resets: AtomicU64::new(0),
            unanswered: Mutex::new(None),
            over: AtomicBool::new(false),
        });
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                if ours.over.load(Ordering::SeqCst) {
                    return;
                }
                if greet(&mut client).is_err() {
                    continue;
                }
                // Refuse the connection if the server does.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", to)) {
                    let _ = ours.connect(client, server);
                }
            }
        });
        Self { port, shared }
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.shared.traffic.store(traffic as u8, Ordering::SeqCst);
        if traffic == Traffic::IsReset {
            self.shared.resets.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Once: when a client that has sent `text` commits, the server commits, and its response is lost.
    pub(crate) fn lose_answer_to_commit_of(&self, text: &'static str) {
        *self.shared.unanswered.lock().unwrap() = Some(text);
    }

    /// Whether such a response was lost.
    pub(crate) fn has_lost_answer(&self) -> bool {
        self.shared.unanswered.lock().unwrap().is_none()
    }
}

/// Answers a request for a tunnel.
fn tunnel(client: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let answer: &[u8] = if head.starts_with(b"CONNECT ") {
        b"HTTP/1.1 200 OK\r\n\r\n"
    } else {
        b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n"
    };
    client.write_all(answer)
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wake the listener, so that it ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        self.set(Traffic::IsReset);
    }
}

impl Shared {
    /// Forwards data in both directions, each in a thread.
    fn connect(self: &Arc<Self>, client: TcpStream, server: TcpStream) -> io::Result<()> {
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TICK))?;
        }
        let resets = self.resets.load(Ordering::SeqCst);
        let connection = Arc::new(Connection::default());
        for (from, to, direction) in [
            (client.try_clone()?, server.try_clone()?, Direction::ToServer),
            (server, client, Direction::ToClient),
        ] {
            let (ours, connection) = (Arc::clone(self), Arc::clone(&connection));
            thread::spawn(move || match ours.copy(&from, &to, direction, resets, &connection) {
                Ok(()) => to.shutdown(Shutdown::Write),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    // With nothing sent first: the end of the second thread closes both.
                    for stream in [&from, &to] {
                        let _ = set_socket_linger(stream, Some(Duration::ZERO));
                    }
                    // A program that died with an answer unread resets its end, and the server's has to go too.
                    connection.is_reset.store(true, Ordering::SeqCst);
                    Ok(())
                }
                Err(_) => from.shutdown(Shutdown::Both).and(to.shutdown(Shutdown::Both)),
            });
        }
        Ok(())
    }

    fn traffic(&self) -> Traffic {
        use Traffic::{Flows, IsCut, IsReset, Stalls};
        let now = self.traffic.load(Ordering::SeqCst);
        let all = [Flows, Stalls, IsCut, IsReset];
        all.into_iter().find(|traffic| *traffic as u8 == now).unwrap()
    }

    /// Copies data until one end closes its direction normally; an error if the connection ends in another way.
    fn copy(
        &self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        direction: Direction,
        resets: u64,
        connection: &Connection,
    ) -> io::Result<()> {
        let mut said = false;
        let mut chunk = vec![0; 64 << 10];
        loop {
            let traffic = self.traffic();
            if self.over.load(Ordering::SeqCst)
                || connection.is_reset.load(Ordering::SeqCst)
                || traffic == Traffic::IsReset
                || self.resets.load(Ordering::SeqCst) != resets
            {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if traffic == Traffic::Stalls {
                thread::sleep(TICK);
                continue;
            }
            // Peek first, so that data that arrives during a stall stays in the socket.
            let n = match from.peek(&mut chunk) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                n => n?,
            };
            if n == 0 {
                return Ok(());
            }
            match self.traffic() {
                Traffic::Flows => {}
                Traffic::IsCut => {
                    to.write_all(&chunk[..n / 2])?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Traffic::Stalls | Traffic::IsReset => continue,
            }
            from.read_exact(&mut chunk[..n])?;
            match direction {
                Direction::ToServer => {
                    let mut unanswered = self.unanswered.lock().unwrap();
                    said |= unanswered.is_some_and(|text| contains(&chunk[..n], text));
                    if said && contains(&chunk[..n], "COMMIT") {
                        *unanswered = None;
                        said = false;
                        connection.is_unanswered.store(true, Ordering::SeqCst);
                    }
                }
                Direction::ToClient if connection.is_unanswered.load(Ordering::SeqCst) => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Direction::ToClient => {}
            }
            to.write_all(&chunk[..n])?;
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
