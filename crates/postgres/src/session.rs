//! One connection, used through blocking calls that a signal interrupts.

use std::io::Cursor;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ess_run::{interrupted, locked};
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
    /// With `default_transaction_read_only`. Sources are only ever opened like this.
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
    /// Whether the connection is through a pooler, which gives this session to another client when we disconnect.
    pooled: bool,
    /// Whether a call has timed out: then every further call fails at once.
    silent: AtomicBool,
    /// Whether a signal interrupts calls.
    heeds_signals: bool,
}

/// The `what` of errors while a session is set up.
const SET_UP: &str = "set up the session";

/// Resets `session_replication_role`, with which triggers would not fire, if it is set for the role and we are a
/// superuser.
const TRIGGERS_FIRE: &str = "SELECT pg_catalog.set_config('session_replication_role', 'origin', false) \
    WHERE pg_catalog.current_setting('session_replication_role') <> 'origin' \
    AND pg_catalog.current_setting('is_superuser') = 'on'";

impl Session {
    /// Connects and pins the session's settings.
    ///
    /// The first connection to a server checks for a pooler that gives sessions to other clients between transactions,
    /// and fails before any setting is changed there.
    pub fn connect(conninfo: &Conninfo, application_name: &str, access: Access) -> Result<Self, Error> {
        // Held during the check, so that other threads wait for its result instead of repeating it.
        let mut met = locked(conninfo.met());
        if let Some(known) = *met {
            drop(met);
            let session = Self::open(conninfo, application_name)?;
            return session.set_up(application_name, access, known, None);
        }
        // Without an application_name: a pooler would leave it on a session that it gives to other clients.
        let session = Self::open(conninfo, "")?;
        let (known, other) = session.meet()?;
        *met = Some(known);
        drop(met);
        session.set_up(application_name, access, known, (!known.pooled).then_some(other))
    }

    /// Connects, without changing any setting.
    fn open(conninfo: &Conninfo, application_name: &str) -> Result<Self, Error> {
        let tls = conninfo.connector(application_name)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Io)?;
        let server = conninfo.to_string();
        let client = runtime.block_on(dial(&tls, &server))?;
        Ok(Self {
            // The setup is part of connecting, so connect_timeout applies to it too.
            limit: tls.limit(),
            runtime,
            client,
            tls,
            server,
            pooled: false,
            silent: AtomicBool::new(false),
            heeds_signals: true,
        })
    }

    /// Checks for a pooler with a second connection. Returns what is known about the server, and the process ID of the
    /// second connection, which has been closed.
    fn meet(&self) -> Result<(Met, i32), Error> {
        let version = self.wait(SET_UP, version(&self.client))?;
        let second = self.runtime.block_on(dial(&self.tls, &self.server))?;
        let (met, other) = self.wait("check for a connection pooler", async {
            let met = probe(&self.client, &second, version).await?;
            // After a pooler was recognised, it may already have closed the second connection.
            let other = if met.is_ok() { pid(&second).await? } else { 0 };
            Ok((met, other))
        })?;
        let met = met.map_err(|sign| Error::Pooler {
            server: self.server.clone(),
            sign,
        })?;
        Ok((met, other))
    }

    /// Pins the settings, and verifies each. Waits until the process `other` of a closed connection has ended, so that
    /// it is not counted as another session later.
    fn set_up(mut self, application_name: &str, access: Access, met: Met, other: Option<i32>) -> Result<Self, Error> {
        self.pooled = met.pooled;
        if met.pooled {
            // Through a pooler, a child program cannot be given settings: they must already have the right values.
            self.read_back(pinned::needed(met.version, access))?;
        }
        let wanted = || pinned::of_session(met.version, access);
        let set =
            |(name, value): (&str, &str)| format!("pg_catalog.set_config('{name}', {}, false)", escape_literal(value));
        let mut calls: Vec<String> = wanted().map(set).collect();
        calls.push(set(("application_name", application_name)));
        // statement_timeout first, since it limits the following statement too.
        let calls = calls.join(", ");
        self.batch(
            SET_UP,
            &format!("SET statement_timeout = 0; SELECT {calls}; {TRIGGERS_FIRE}"),
        )?;
        self.read_back(wanted().chain([("statement_timeout", "0")]))?;
        // With this, the server notices during a query that we were killed, and releases our lock. Not every operating
        // system supports it; without it, the next run waits for the query.
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

    /// Waits, up to a second, until the server process of a closed connection has ended.
    fn gone(&self, process: i32) -> Result<(), Error> {
        let sql = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = $1";
        for _ in 0..200 {
            if self
                .one("check for a closed session", sql, &[&process])?
                .get::<_, i64>(0)
                == 0
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Limits how long any call waits for an answer. A timeout of the server, in contrast, does not help if the network
    /// is down.
    #[must_use]
    pub fn limited(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Lets later calls finish even after a signal, to clean up; each still ends after `limit`.
    pub fn ignore_signals(&mut self, limit: Duration) {
        self.limit = Some(limit);
        self.heeds_signals = false;
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

    /// Returns all rows of a query. `what` completes "cannot ..." in errors.
    pub fn rows(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.wait(what, self.client.query(sql, params))
    }

    /// Returns the only row of a query.
    pub fn one(&self, what: &str, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.wait(what, self.client.query_one(sql, params))
    }

    /// Runs statements and discards their results.
    pub fn batch(&self, what: &str, sql: &str) -> Result<(), Error> {
        self.wait(what, self.client.batch_execute(sql))
    }

    /// Runs one statement and returns how many rows it changed. The server rejects a string with several statements.
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
        let outcome = if self.heeds_signals {
            self.runtime.block_on(stoppable(limited))
        } else {
            self.runtime.block_on(limited)
        };
        match outcome {
            Ok(result) => result.map_err(|source| Error::Query {
                what: what.to_owned(),
                server: self.server.clone(),
                source,
            }),
            Err(error) => {
                // Cancel the query: the server would continue it even after we have disconnected.
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

/// A `COPY ... FROM stdin` in progress. If it is dropped without [`CopyIn::finish`], the server stores no rows.
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
            // The server has aborted the COPY, and sends its error when the COPY is ended.
            Err(error @ Error::Query { .. }) => Err(self.end().err().unwrap_or(error)),
            sent => sent,
        }
    }

    /// Ends the rows; returns how many the server stored.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.end()
    }

    fn end(&mut self) -> Result<u64, Error> {
        self.session.wait(&self.what, self.sink.as_mut().finish())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Most poolers do this themselves, but it can be turned off.
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

/// Connects, and spawns a task that drives the connection on the current runtime.
async fn dial(tls: &Tls, server: &str) -> Result<Client, Error> {
    let connected = stoppable(async { Ok(tls.connect().await) }).await?;
    let (client, connection) = connected.map_err(|source| Error::Connect {
        server: server.to_owned(),
        source,
    })?;
    tokio::spawn(async move {
        // An error of the connection also fails the current query, which reports it.
        let _ = connection.await;
    });
    Ok(client)
}

/// The outcome of `work`, or an error if a signal comes first.
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
