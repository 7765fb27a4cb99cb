//! Whether a session is ours alone, or a connection pooler gives it to others between our transactions.
//!
//! A pooler in transaction mode (`PgBouncer`'s `pool_mode=transaction`, Supavisor, RDS Proxy, Odyssey) hands the
//! session on which we set something to the next client. Start-up settings prove nothing: poolers drop or refuse
//! them. So two connections look which server process they have, before anything is set.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::{Client, SimpleQueryMessage};

/// What is known of a server once it was met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Met {
    /// `server_version_num`.
    pub(crate) version: i32,
    /// A pooler stands between, which gives us one session for each connection.
    pub(crate) pooled: bool,
}

/// How a pooler gave itself away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// Two connections had one server process.
    Shared,
    /// One connection had two server processes.
    Moved,
    /// A connection waited for another's transaction.
    Waited,
    /// No transaction could be begun.
    NoTransaction,
}

/// How long a server may take to name a process, before it counts as waiting for another connection.
const PROMPT: Duration = Duration::from_secs(3);

/// Rounds where something stands between. In each, a pooler has four chances to give another process, or none.
const ROUNDS: usize = 4;

/// What two connections show; an error is theirs.
pub(crate) async fn probe(a: &Client, b: &Client, version: i32) -> Result<Result<Met, Sign>, tokio_postgres::Error> {
    // A server gives its process with the key to cancel; a pooler makes keys up.
    let direct = key_of(a).await == Some(pid(a).await?) && key_of(b).await == Some(pid(b).await?);
    for round in 0..if direct { 1 } else { ROUNDS } {
        let (first, second) = if round % 2 == 0 { (a, b) } else { (b, a) };
        match look(first, second, direct).await? {
            None => {}
            // A slow server.
            Some(Sign::Waited) if direct => {}
            Some(sign) => return Ok(Err(sign)),
        }
    }
    Ok(Ok(Met {
        version,
        pooled: !direct,
    }))
}

/// One round. Pools deal from the top or from the bottom: what `first` gave back, `second` gets now, or `first`
/// itself gets another one then.
async fn look(first: &Client, second: &Client, direct: bool) -> Result<Option<Sign>, tokio_postgres::Error> {
    let firsts = pid(first).await?;
    // `PgBouncer`'s statement mode; a server that is going down says so by a class of its own.
    let no_transaction = |error: tokio_postgres::Error| {
        if !direct && error.code().is_none_or(|code| !code.code().starts_with("57")) {
            Ok(Some(Sign::NoTransaction))
        } else {
            Err(error)
        }
    };
    // The transaction waits for the other connection, whatever limit the role has. SET LOCAL ends with it.
    let begin = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = 0; SELECT pg_catalog.pg_backend_pid()";
    let seconds = match number(second, begin).await {
        Ok(pid) => pid,
        Err(error) => return no_transaction(error),
    };
    // The transaction is held no longer than this: others may wait for its process.
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

/// By the simple protocol, which leaves no prepared statement behind.
async fn number(client: &Client, sql: &str) -> Result<i32, tokio_postgres::Error> {
    let answers = client.simple_query(sql).await?;
    let number = answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    // Neither a process nor a version is 0.
    Ok(number.unwrap_or(0))
}

/// The process that the key to cancel is for. The driver shows it only in a request to cancel.
async fn key_of(client: &Client) -> Option<i32> {
    let paper = Paper::default();
    client
        .cancel_token()
        .cancel_query_raw(paper.clone(), Nothing)
        .await
        .ok()?;
    let written = paper.0.lock().unwrap_or_else(PoisonError::into_inner);
    // Length, code, process, secret; a request for TLS may stand before it.
    let process = written.len().checked_sub(8)?;
    Some(i32::from_be_bytes(written.get(process..process + 4)?.try_into().ok()?))
}

/// A connection to nowhere: it keeps what is written, and agrees to TLS.
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
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
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

/// No TLS at all, on paper.
struct Nothing;

impl TlsConnect<Paper> for Nothing {
    type Stream = Paper;
    type Error = std::convert::Infallible;
    type Future = std::future::Ready<Result<Paper, Self::Error>>;

    fn connect(self, stream: Paper) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
