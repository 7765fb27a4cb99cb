//! One connection, driven by blocking calls that a signal can end.

use std::io::Cursor;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ess_run::interrupted;
use futures_util::SinkExt;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, CopyInSink, Row};

use crate::tls::Tls;
use crate::{Conninfo, Error};

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
    /// It let a call run out of time: nothing more is awaited from it.
    silent: AtomicBool,
}

/// What every session pins: text forms, name look-up, and no time limits of somebody's role.
///
/// `row_security = off` turns rows hidden by a policy into an error.
const PINNED: &str = "
    SET search_path = '';
    SET client_encoding = 'UTF8';
    SET standard_conforming_strings = on;
    SET bytea_output = 'hex';
    SET extra_float_digits = 3;
    SET DateStyle = 'ISO, YMD';
    SET IntervalStyle = 'postgres';
    SET TimeZone = 'UTC';
    SET xmloption = 'content';
    SET statement_timeout = 0;
    SET lock_timeout = 0;
    SET idle_in_transaction_session_timeout = 0;
    SET row_security = off;
    SET jit = off;
    SET max_parallel_workers_per_gather = 0;
    SET quote_all_identifiers = off;
";

impl Session {
    /// Connects and pins the session's settings.
    pub fn connect(conninfo: &Conninfo, application_name: &str, access: Access) -> Result<Self, Error> {
        let tls = conninfo.connector(application_name)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Io)?;
        let server = conninfo.to_string();
        let connected = runtime.block_on(stoppable(async { Ok(tls.connect().await) }));
        let (client, connection) = connected?.map_err(|source| Error::Connect {
            server: server.clone(),
            source,
        })?;
        runtime.spawn(async move {
            // Its error reaches the caller as the failure of the query in hand.
            let _ = connection.await;
        });
        let mut session = Self {
            // To set it up is a part of connecting.
            limit: tls.limit(),
            runtime,
            client,
            tls,
            server,
            silent: AtomicBool::new(false),
        };
        session.batch("set up the session", PINNED)?;
        if access == Access::ReadOnly {
            session.batch("set up the session", "SET default_transaction_read_only = on")?;
        }
        // The one limit that older servers do not have.
        if session.version()? >= 140_000 {
            session.batch("set up the session", "SET idle_session_timeout = 0")?;
            // A server that waits or works for us notices that we were killed, and gives our lock back. Not every
            // system can do that; then the next run waits.
            let _ = session.batch("set up the session", "SET client_connection_check_interval = '1s'");
        }
        session.limit = None;
        Ok(session)
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
