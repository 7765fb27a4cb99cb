//! Detects a connection pooler that gives a session to other clients between our transactions.
//!
//! A pooler in transaction mode (`PgBouncer`'s `pool_mode=transaction`, Supavisor, RDS Proxy, Odyssey) would pass the
//! settings that we make on a session to the next client. Settings at connection start cannot detect it, because
//! poolers drop or refuse them. So, before any setting is changed, two connections compare which server processes serve
//! them.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ess_run::locked;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, SimpleQueryMessage};

/// What the first connection found out about a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met {
    /// `server_version_num`.
    pub(crate) version: i32,
    /// Whether connections go through a pooler in session mode, which keeps one session for each connection.
    pub(crate) pooled: bool,
}

/// How a pooler was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Two connections were served by one server process.
    Shared,
    /// One connection was served by two server processes.
    Moved,
    /// A connection had to wait for the transaction of another.
    Waited,
    /// A transaction could not be started.
    NoTransaction,
}

/// How long a query for the process ID may take before it counts as waiting for another connection.
const PROMPT: Duration = Duration::from_secs(3);

/// How many rounds are made if there is a pooler. In each, it has four chances to switch processes.
const ROUNDS: usize = 4;

/// Compares the server processes of two connections. The outer error is that of a query.
pub(crate) async fn probe(a: &Client, b: &Client, version: i32) -> Result<Result<Met, Sign>, tokio_postgres::Error> {
    // A server's cancel key (BackendKeyData) contains its process ID; a pooler makes up keys of its own.
    let direct = key_of(a).await == Some(pid(a).await?) && key_of(b).await == Some(pid(b).await?);
    for round in 0..if direct { 1 } else { ROUNDS } {
        let (first, second) = if round % 2 == 0 { (a, b) } else { (b, a) };
        match look(first, second, direct).await? {
            None => {}
            // Without a pooler, the server was merely slow.
            Some(Sign::Waited) if direct => {}
            Some(sign) => return Ok(Err(sign)),
        }
    }
    Ok(Ok(Met {
        version,
        pooled: !direct,
    }))
}

/// Makes one round: while a transaction of `second` is open, queries the process of `first` again.
///
/// A pool hands out the session that was returned either last or first. In one case, `second` gets the session that
/// `first` had just returned; in the other, `first` gets another one than before.
async fn look(first: &Client, second: &Client, direct: bool) -> Result<Option<Sign>, tokio_postgres::Error> {
    let firsts = pid(first).await?;
    // `PgBouncer` in statement mode refuses transactions. Errors of class 57 mean that the server is shutting down.
    let no_transaction = |error: tokio_postgres::Error| {
        if !direct && error.code().is_none_or(|code| !code.code().starts_with("57")) {
            Ok(Some(Sign::NoTransaction))
        } else {
            Err(error)
        }
    };
    // The transaction is idle while the other connection is queried, so a timeout of the role must not end it.
    // SET LOCAL lasts only until its end.
    let begin = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_catalog.pg_backend_pid()";
    let seconds = match number(second, begin).await {
        Ok(pid) => pid,
        Err(error) => return no_transaction(error),
    };
    // Hold the transaction only briefly: other clients may be waiting for its process.
    let again = if seconds == firsts {
        Ok(Ok(firsts))
    } else {
        tokio::time::timeout(PROMPT, pid(first)).await
    };
    if let Err(error) = second.batch_execute("COMMIT").await {
        return no_transaction(error);
    }
    let again = match again {
        Ok(again) => again?,
        Err(_) => return Ok(Some(Sign::Waited)),
    };
    Ok(if seconds == firsts {
        Some(Sign::Shared)
    } else if again != firsts || pid(second).await? != seconds {
        Some(Sign::Moved)
    } else {
        None
    })
}

/// `server_version_num`.
pub(crate) async fn version(client: &Client) -> Result<i32, tokio_postgres::Error> {
    number(client, "SHOW server_version_num").await
}

pub(crate) async fn pid(client: &Client) -> Result<i32, tokio_postgres::Error> {
    number(client, "SELECT pg_catalog.pg_backend_pid()").await
}

/// Runs a query that returns one number, in the simple protocol, which leaves no prepared statement behind.
async fn number(client: &Client, sql: &str) -> Result<i32, tokio_postgres::Error> {
    let answers = client.simple_query(sql).await?;
    let number = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    // 0 if there is no number: it is neither a valid process ID nor a valid version.
    Ok(number.unwrap_or(0))
}

/// The process ID in the cancel key. The driver reveals it only in a cancel request, so we let it write one to
/// [`Paper`].
async fn key_of(client: &Client) -> Option<i32> {
    let paper = Paper::default();
    client
        .cancel_token()
        .cancel_query_raw(paper.clone(), Nothing)
        .await
        .ok()?;
    let written = locked(&paper.0);
    // Length, code, process ID, secret key; an SSLRequest may precede it.
    let process = written.len().checked_sub(8)?;
    Some(i32::from_be_bytes(written.get(process..process + 4)?.try_into().ok()?))
}

/// A stream that is not connected to anything: it stores what is written, and answers an `SSLRequest` with `S`.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl AsyncRead for Paper {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        buffer.put_slice(b"S");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paper {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        locked(&self.0).extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Paper {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

/// A TLS connector for [`Paper`] that does nothing.
struct Nothing;

impl TlsConnect<Paper> for Nothing {
    type Stream = Paper;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Paper, Self::Error>>;

    fn connect(self, stream: Paper) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
