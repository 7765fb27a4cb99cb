//! A target to work on: connected, locked, identified, and without other sessions.

use std::thread;
use std::time::Duration;

use ess_document::Identity;
use ess_postgres::{
    Access, Conninfo, Elsewhere, Facts, Session, end_leftovers, escape_identifier, lock_database, other_sessions,
    owners_among, role_rights, server_facts, tables_outside_public,
};
use ess_run::Report;
use ess_run::text::{count, counted};
use ess_stop::{Exit, Stop};

use crate::fence::{Fence, Standing, standing};

/// A locked target.
pub struct Target {
    /// The session that holds the lock.
    pub session: Session,
    /// The server's and the database's properties.
    pub facts: Facts,
    /// The role that must own everything.
    pub role: String,
    /// The fence, if one is in place.
    pub fence: Option<Fence>,
}

/// How long to wait for other sessions and their locks to go away.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(200);

impl Target {
    /// Connects and takes the lock. `role` must own everything; by default it is the database's owner. `known` is the
    /// identity that the target must have.
    ///
    /// # Errors
    ///
    /// The lock is held, the target is another one, the role cannot read it, or its fence is incomplete.
    pub fn open(
        conninfo: &Conninfo,
        application_name: &str,
        role: Option<&str>,
        known: Option<&Identity>,
        report: &dyn Report,
    ) -> anyhow::Result<Self> {
        let session = Session::connect(conninfo, application_name, Access::ReadWrite)?;
        take_lock(&session)?;
        let ended = end_leftovers(
            &session,
            &[
                "ess-wipe",
                "restore",
                "verify",
                "rehearse",
                "pg_dump",
                "pg_restore",
                "psql",
            ],
        )?;
        if ended > 0 {
            report.note(&format!(
                "ended {} that an earlier run had left on the target",
                count(ended, "session")
            ));
        }
        let facts = server_facts(&session)?;
        if let Some(known) = known
            && *known != facts.identity
        {
            return Err(Stop::no(format!(
                "the target is {}, but the document is for {known}",
                facts.identity
            ))
            .hint("check --target; a tunnel may now lead to another server")
            .into());
        }
        let role = role.unwrap_or(&facts.owner).to_owned();
        require_inheritance(&session, &facts, &role)?;
        require_public(&session, &role, "target")?;
        let fence = match standing(&session)? {
            Standing::Nothing => None,
            Standing::Complete(fence) => Some(fence),
            Standing::Incomplete(incomplete) => {
                return Err(
                    Stop::no(format!("the target has an incomplete fence: {}", incomplete.what))
                        .hint(incomplete.remedy)
                        .into(),
                );
            }
        };
        Ok(Self {
            session,
            facts,
            role,
            fence,
        })
    }

    /// The role to `SET ROLE` to, if it is not the one that connected.
    pub fn other_role(&self) -> Option<&str> {
        (self.role != self.facts.user).then_some(self.role.as_str())
    }

    /// Refuses if the connecting role cannot act as the role that must own everything, or that role cannot create
    /// tables.
    pub fn require_role(&self) -> anyhow::Result<()> {
        let (user, role) = (&self.facts.user, &self.role);
        let why = match role_rights(&self.session, role)? {
            Some(rights) if rights.acts && rights.creates => return Ok(()),
            Some(rights) if rights.acts => {
                return Err(Stop::new(
                    Exit::Permission,
                    format!("role {role} cannot create objects in the target's schema public, or it is missing"),
                )
                .hint(format!(
                    "on the target, as its owner: CREATE SCHEMA IF NOT EXISTS public; GRANT CREATE, USAGE ON SCHEMA \
                     public TO {}",
                    escape_identifier(role)
                ))
                .into());
            }
            Some(_) => format!("role {user} cannot act as {role}, which must own everything on the target"),
            None => format!("role {role}, which must own everything, does not exist on the target"),
        };
        Err(Stop::new(Exit::Permission, why)
            .hint("connect as the role that Synapse uses there, or specify it with --role")
            .into())
    }

    /// Refuses a target that is the source itself; no option overrides this.
    pub fn refuse_if_source(&self, source: Option<&Identity>) -> Result<(), Stop> {
        if source == Some(&self.facts.identity) {
            return Err(Stop::no(format!(
                "source and target are the same database, {}",
                self.facts.identity
            ))
            .hint("check --target"));
        }
        Ok(())
    }
}

/// Refuses a connecting role that can `SET ROLE` to `role` but does not inherit its privileges: the checks of these
/// tools read the target without `SET ROLE`.
fn require_inheritance(session: &Session, facts: &Facts, role: &str) -> anyhow::Result<()> {
    match role_rights(session, role)? {
        Some(rights) if rights.acts && !rights.inherits => Err(Stop::new(
            Exit::Permission,
            format!(
                "role {} can act as {role}, but does not inherit its privileges, which reading the target requires",
                facts.user
            ),
        )
        .hint("connect as the role that Synapse uses there, or grant that role to the connecting one WITH INHERIT TRUE")
        .into()),
        _ => Ok(()),
    }
}

/// Refuses a database in which Synapse does not use schema `public`, the only one that these tools migrate.
///
/// A Synapse that does not find its tables sets up a new homeserver.
pub fn require_public(session: &Session, role: &str, whose: &str) -> anyhow::Result<()> {
    let stop = match tables_outside_public(session, role)? {
        None => return Ok(()),
        Some(Elsewhere::In(schema)) => Stop::no(format!(
            "Synapse's tables are in schema {schema} of the {whose}, not in public, the only one that these tools \
             migrate"
        ))
        .hint("stop Synapse and move them: ALTER TABLE ... SET SCHEMA public, sequences and functions too"),
        Some(Elsewhere::SearchPath(path)) => Stop::no(format!(
            "the search_path of role {role} on the {whose} is {path}, so Synapse does not use schema public"
        ))
        .hint(format!(
            "reset it: ALTER ROLE {role} RESET search_path, also with IN DATABASE (see pg_db_role_setting)"
        )),
    };
    Err(stop.into())
}

/// Takes the lock of a database, which only one run at a time can hold, until the session ends.
pub(crate) fn take_lock(session: &Session) -> anyhow::Result<()> {
    // The previous program of the pipeline may have exited a moment before the server releases its lock.
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if lock_database(session)? {
            return Ok(());
        }
        ess_run::stop_if_interrupted()?;
        thread::sleep(STEP);
    }
    Err(
        Stop::new(Exit::Busy, format!("another run is working on {}", session.server()))
            .hint("wait for that run, or stop it")
            .into(),
    )
}

/// Refuses to ignore Synapse's own role: its sessions show whether Synapse is running.
pub fn refuse_ignoring_synapse(session: &Session, ignored_roles: &[String]) -> anyhow::Result<()> {
    match owners_among(session, ignored_roles)?.first() {
        None => Ok(()),
        Some(role) => Err(Stop::usage(format!(
            "--ignore-role {role} is not allowed: it owns the tables, so it is Synapse's own role"
        ))
        .hint("let the monitor connect with a role of its own")
        .into()),
    }
}

/// Refuses while other sessions are connected, after checking again for five seconds.
///
/// The role that owns the tables is Synapse's own and cannot be ignored.
pub fn wait_until_unused(session: &Session, ignored_roles: &[String], whose: &str) -> anyhow::Result<()> {
    refuse_ignoring_synapse(session, ignored_roles)?;
    let mut found = other_sessions(session, ignored_roles)?;
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if found.is_empty() {
            return Ok(());
        }
        ess_run::stop_if_interrupted()?;
        thread::sleep(STEP);
        found = other_sessions(session, ignored_roles)?;
    }
    let list: Vec<String> = found.iter().take(5).map(ToString::to_string).collect();
    let sessions = counted(found.len(), "other session is", "other sessions are");
    Err(Stop::no(format!("{sessions} using the {whose}: {}", list.join(", ")))
        .hint("stop Synapse and everything else that is connected there (use --ignore-role NAME for a monitor)")
        .into())
}
