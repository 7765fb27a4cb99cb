//! One connection, driven by blocking calls that a signal can end.

use std::io::Cursor;
use std::pin::Pin;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ess_run::interrupted;
use futures_util::SinkExt;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, CopyInSink, Row};

use crate::pooler::{Met, pid, probe, version};
use crate::tls::Tls;
use crate::{Conninfo, Error, escape_literal, pinned};

/// Whether a connection may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `default_transaction_read_only`: the only way a source is ever opened.
    ReadOnly,
    /// For targets.
    ReadWrite,
}

/// One connection to one database.
pub struct Session {
    runtime: Runtime,
    client: Client,
    tls: Tls,
    server: String,
    limit: Option<Duration>,
    /// A pooler gives this session to others once we are gone.
    pooled: bool,
    /// It let a call run out of time: nothing more is awaited from it.
    silent: AtomicBool,
}

/// What is done before a session can be used.
const SET_UP: &str = "set up the session";

/// Where a role's sessions are as those of a replica, if it is ours to say.
const TRIGGERS_FIRE: &str = "SELECT pg_catalog.set_config('session_replication_role', 'origin', false) \
    WHERE pg_catalog.current_setting('session_replication_role') <> 'origin' \
    AND pg_catalog.current_setting('is_superuser') = 'on'";

impl Session {
    /// Connects and pins the session's settings.
    ///
    /// A server that is met for the first time is looked at before: a pooler that would give the session to others
    /// between our transactions is refused before anything is set.
    pub fn connect(conninfo: &Conninfo, application_name: &str, access: Access) -> Result<Self, Error> {
        // Others that want to connect to the same server wait for what the first finds.
        let mut met = conninfo.met().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = *met {
            drop(met);
            let session = Self::open(conninfo, application_name)?;
            return session.set_up(application_name, access, known, None);
        }
        // Without a name: a pooler would leave it on a session that it gives to others.
        let session = Self::open(conninfo, "")?;
        let (known, other) = session.meet()?;
        *met = Some(known);
        drop(met);
        session.set_up(application_name, access, known, (!known.pooled).then_some(other))
    }

    /// Connects, and sets nothing.
    fn open(conninfo: &Conninfo, application_name: &str) -> Result<Self, Error> {
        let tls = conninfo.connector(application_name)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Io)?;
        let server = conninfo.to_string();
        let client = runtime.block_on(dial(&tls, &server))?;
        Ok(Self {
            // To set it up is a part of connecting.
            limit: tls.limit(),
            runtime,
            client,
            tls,
            server,
            pooled: false,
            silent: AtomicBool::new(false),
        })
    }

    /// What this server is, and the process of a second connection that was; or that a pooler is no place for us.
    fn meet(&self) -> Result<(Met, i32), Error> {
        let version = self.wait(SET_UP, version(&self.client))?;
        let second = self.runtime.block_on(dial(&self.tls, &self.server))?;
        let (met, other) = self.wait("see whether a pooler stands between", async {
            let met = probe(&self.client, &second, version).await?;
            // A pooler that was recognised may have closed it.
            let other = if met.is_ok() { pid(&second).await? } else { 0 };
            Ok((met, other))
        })?;
        let met = met.map_err(|sign| Error::Pooler {
            server: self.server.clone(),
            sign,
        })?;
        Ok((met, other))
    }

    /// Pins the settings, and reads each back. `other`: a process that is to be gone before anybody counts sessions.
    fn set_up(mut self, application_name: &str, access: Access, met: Met, other: Option<i32>) -> Result<Self, Error> {
        self.pooled = met.pooled;
        if met.pooled {
            // A child cannot be given them there.
            self.read_back(pinned::needed(met.version, access))?;
        }
        let wanted = || pinned::ours(met.version, access);
        let set =
            |(name, value): (&str, &str)| format!("pg_catalog.set_config('{name}', {}, false)", escape_literal(value));
        let mut calls: Vec<String> = wanted().map(set).collect();
        calls.push(set(("application_name", application_name)));
        // The limit of a statement first: the others are under it.
        let calls = calls.join(", ");
        self.batch(
            SET_UP,
            &format!("SET statement_timeout = 0; SELECT {calls}; {TRIGGERS_FIRE}"),
        )?;
        self.read_back(wanted().chain([("statement_timeout", "0")]))?;
        // A server that works for us notices that we were killed, and gives our lock back. Not every system can do
        // that; then the next run waits.
        if met.version >= 140_000 {
            let _ = self.batch(SET_UP, "SET client_connection_check_interval = '1s'");
        }
        if let Some(other) = other {
            self.gone(other)?;
        }
        self.limit = None;
        Ok(self)
    }

    fn read_back<'a>(&self, wanted: impl Iterator<Item = (&'a str, &'a str)>) -> Result<(), Error> {
        let (names, values): (Vec<&str>, Vec<&str>) = wanted.unzip();
        let sql = "SELECT pg_catalog.current_setting(name) FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS s(name, n) ORDER BY n";
        let rows = self.rows("read the session's settings", sql, &[&names])?;
        let read = rows.iter().map(|row| row.get::<_, &str>(0));
        let differs = names
            .iter()
            .zip(values)
            .zip(read)
            .find(|((name, value), read)| !pinned::holds(name, value, read));
        match differs {
            None => Ok(()),
            Some(((name, _), _)) => Err(Error::Setting {
                server: self.server.clone(),
                name: (*name).to_owned(),
            }),
        }
    }

    /// Waits until a connection that was ended is one no more, which takes a moment.
    fn gone(&self, process: i32) -> Result<(), Error> {
        let sql = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = $1";
        for _ in 0..200 {
            if self.one("see who is connected", sql, &[&process])?.get::<_, i64>(0) == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Waits no longer than this for any answer: a limit of the server's own ends no wait for a network that is gone.
    #[must_use]
    pub fn limited(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// `user@host:port/dbname`.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// `server_version_num`.
    pub fn version(&self) -> Result<i32, Error> {
        let row = self.one(
            "read the server's version",
            "SELECT current_setting('server_version_num')::int4",
            &[],
        )?;
        Ok(row.get(0))
    }

    /// All rows of a query. `what` completes "cannot ..." in its error.
    pub fn rows(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.wait(what, self.client.query(sql, params))
    }

    /// The one row of a query.
    pub fn one(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.wait(what, self.client.query_one(sql, params))
    }

    /// Statements without a result.
    pub fn batch(&self, what: &str, sql: &str) -> Result<(), Error> {
        self.wait(what, self.client.batch_execute(sql))
    }

    /// One statement, which the server itself holds to be no more than one; returns how many rows it changed.
    pub fn statement(&self, what: &str, sql: &str) -> Result<u64, Error> {
        self.wait(what, self.client.execute_typed(sql, &[]))
    }

    /// Begins a `COPY ... FROM stdin`.
    pub fn copy_in(&self, what: &str, sql: &str) -> Result<CopyIn<'_>, Error> {
        let sink = self.wait(what, self.client.copy_in(sql))?;
        Ok(CopyIn {
            session: self,
            what: what.to_owned(),
            sink: Box::pin(sink),
        })
    }

    fn wait<T>(&self, what: &str, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Error> {
        let no_answer = |limit| Error::NoAnswer {
            what: what.to_owned(),
            server: self.server.clone(),
            limit,
        };
        if let Some(limit) = self.limit.filter(|_| self.silent.load(Ordering::Relaxed)) {
            return Err(no_answer(limit));
        }
        let limit = self.limit.unwrap_or(Duration::MAX);
        let limited = async {
            let outcome = tokio::time::timeout(limit, work).await;
            outcome.map_err(|_| {
                self.silent.store(true, Ordering::Relaxed);
                no_answer(limit)
            })
        };
        let outcome = self.runtime.block_on(stoppable(limited));
        match outcome {
            Ok(result) => result.map_err(|source| Error::Query {
                what: what.to_owned(),
                server: self.server.clone(),
                source,
            }),
            Err(error) => {
                // The server would go on with a query whose client is gone.
                let token = self.client.cancel_token();
                let _ = self.runtime.block_on(async {
                    let cancel = token.cancel_query(self.tls.clone());
                    tokio::time::timeout(Duration::from_secs(2), cancel).await
                });
                Err(error)
            }
        }
    }
}

/// Rows on their way to the server. Without [`CopyIn::finish`] none of them arrives.
pub struct CopyIn<'a> {
    session: &'a Session,
    what: String,
    sink: Pin<Box<CopyInSink<Cursor<Vec<u8>>>>>,
}

impl CopyIn<'_> {
    /// Sends a part of the rows, which may end in the middle of one.
    pub fn send(&mut self, part: Vec<u8>) -> Result<(), Error> {
        let sent = self.session.wait(&self.what, self.sink.feed(Cursor::new(part)));
        match sent {
            // The server ended the copy, and says why at its end.
            Err(error @ Error::Query { .. }) => Err(self.end().err().unwrap_or(error)),
            sent => sent,
        }
    }

    /// Ends the rows; returns how many the server took.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.end()
    }

    fn end(&mut self) -> Result<u64, Error> {
        self.session.wait(&self.what, self.sink.as_mut().finish())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The pooler does it too, unless it was told otherwise.
        if self.pooled && !self.silent.load(Ordering::Relaxed) {
            let reset = async {
                let _ = self.client.batch_execute("ROLLBACK").await;
                let _ = self.client.batch_execute("DISCARD ALL").await;
            };
            let _ = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(2), reset).await });
        }
    }
}

/// Connects; the connection is driven by the runtime that this runs on.
async fn dial(tls: &Tls, server: &str) -> Result<Client, Error> {
    let connected = stoppable(async { Ok(tls.connect().await) }).await?;
    let (client, connection) = connected.map_err(|source| Error::Connect {
        server: server.to_owned(),
        source,
    })?;
    tokio::spawn(async move {
        // Its error reaches the caller as the failure of the query in hand.
        let _ = connection.await;
    });
    Ok(client)
}

/// The outcome of `work`, or the interruption that came first.
async fn stoppable<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let stop = async {
        loop {
            if let Some(interrupted) = interrupted() {
                return Err(Error::Interrupted(interrupted));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (mut work, mut stop) = (std::pin::pin!(work), std::pin::pin!(stop));
    std::future::poll_fn(|context| {
        if let std::task::Poll::Ready(done) = work.as_mut().poll(context) {
            return std::task::Poll::Ready(done);
        }
        stop.as_mut().poll(context)
    })
    .await
}
