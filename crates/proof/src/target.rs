//! A target that we may work on: locked, identified, without anyone else.

use std::thread;
use std::time::Duration;

use ess_cli::{Context, Exit, Stop};
use ess_document::Identity;
use ess_postgres::{
    Access, Conninfo, Elsewhere, Facts, Session, elsewhere, end_leftovers, escape_identifier, facts, lock, others,
    owners_among, rights,
};
use ess_run::Report;

use crate::fence::{Fence, Standing, standing};

/// A target under our lock.
pub struct Target {
    /// The session that holds the lock.
    pub session: Session,
    /// What the server says about itself.
    pub facts: Facts,
    /// The role that must own everything.
    pub role: String,
    /// The fence that stands there.
    pub fence: Option<Fence>,
}

/// How long we wait for others to go.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(200);

impl Target {
    /// Connects, takes the lock and notes the target's identity and version in the document.
    pub fn open(context: &mut Context, conninfo: &Conninfo) -> anyhow::Result<Self> {
        let session = Session::connect(conninfo, &context.application_name(), Access::ReadWrite)?;
        take_lock(&session)?;
        let ended = end_leftovers(
            &session,
            &["ess-wipe", "restore", "verify", "pg_dump", "pg_restore", "psql"],
        )?;
        if ended > 0 {
            context.console.note(&format!(
                "ended {ended} sessions that an earlier run had left on the target"
            ));
        }
        let facts = facts(&session)?;
        let target = context.document.target.get_or_insert_default();
        if let Some(known) = &target.identity
            && *known != facts.identity
        {
            return Err(Stop::no(format!(
                "the target is {}, and the document was made for {known}",
                facts.identity
            ))
            .hint("check --target; a tunnel may lead elsewhere now")
            .into());
        }
        target.identity = Some(facts.identity.clone());
        target.server_version = Some(facts.version_text.clone());
        let role = target.role.clone().unwrap_or_else(|| facts.owner.clone());
        inherits(&session, &facts, &role)?;
        require_public(&session, &role, "target")?;
        let fence = match standing(&session)? {
            Standing::Nothing => None,
            Standing::Whole(fence) => Some(fence),
            Standing::Half(half) => {
                return Err(Stop::no(format!("the target holds half a fence: {}", half.what))
                    .hint(half.remedy)
                    .into());
            }
        };
        Ok(Self {
            session,
            facts,
            role,
            fence,
        })
    }

    /// The role to switch to, when it is not the one that connected.
    pub fn other_role(&self) -> Option<&str> {
        (self.role != self.facts.user).then_some(self.role.as_str())
    }

    /// Refused: that everything is to belong to a role that we cannot act as.
    pub fn may_act(&self) -> anyhow::Result<()> {
        let (user, role) = (&self.facts.user, &self.role);
        let why = match rights(&self.session, role)? {
            Some(rights) if rights.acts && rights.creates => return Ok(()),
            Some(rights) if rights.acts => {
                return Err(Stop::new(
                    Exit::Permission,
                    format!("role {role} may create nothing in the target's schema public, or there is no such schema"),
                )
                .hint(format!(
                    "on the target, as its owner: CREATE SCHEMA IF NOT EXISTS public; GRANT CREATE, USAGE ON SCHEMA public TO {}",
                    escape_identifier(role)
                ))
                .into());
            }
            Some(_) => format!("role {user} may not act as {role}, which is to own everything on the target"),
            None => format!("the target has no role {role}, which is to own everything"),
        };
        Err(Stop::new(Exit::Permission, why)
            .hint("connect as the role that Synapse uses there, or name it with --role")
            .into())
    }

    /// The same database is refused, with no override.
    pub fn is_not(&self, source: Option<&Identity>) -> Result<(), Stop> {
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

/// Refused: a role that may act as `role` but cannot read what is its own, as every check of these tools does.
fn inherits(session: &Session, facts: &Facts, role: &str) -> anyhow::Result<()> {
    match rights(session, role)? {
        Some(rights) if rights.acts && !rights.inherits => Err(Stop::new(
            Exit::Permission,
            format!(
                "role {} may act as {role}, but does not inherit its rights, with which the target is read",
                facts.user
            ),
        )
        .hint("connect as the role that Synapse uses there, or grant ours that role WITH INHERIT TRUE")
        .into()),
        _ => Ok(()),
    }
}

/// Refuses a database in which Synapse does not look into the schema `public`, which is the one that these tools move.
///
/// Where a Synapse does not find its tables it founds a new server.
pub fn require_public(session: &Session, role: &str, whose: &str) -> anyhow::Result<()> {
    let stop = match elsewhere(session, role)? {
        None => return Ok(()),
        Some(Elsewhere::In(schema)) => Stop::no(format!(
            "Synapse's tables are in schema {schema} of the {whose}, not in public, which is what these tools move"
        ))
        .hint("move them with Synapse stopped: ALTER TABLE ... SET SCHEMA public, sequences and functions too"),
        Some(Elsewhere::SearchPath(path)) => Stop::no(format!(
            "the search_path of role {role} on the {whose} is {path}, so Synapse does not look into the schema public"
        ))
        .hint(format!(
            "reset it: ALTER ROLE {role} RESET search_path, and the same IN DATABASE (see pg_db_role_setting)"
        )),
    };
    Err(stop.into())
}

/// Takes the lock of a database, which one run at a time holds, until the session ends.
pub fn take_lock(session: &Session) -> anyhow::Result<()> {
    // The program before us in the pipe may be gone a moment before its lock is.
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if lock(session)? {
            return Ok(());
        }
        ess_run::check()?;
        thread::sleep(STEP);
    }
    Err(
        Stop::new(Exit::Busy, format!("another run works on {}", session.server()))
            .hint("wait for that run, or end it")
            .into(),
    )
}

/// Refuses to ignore Synapse's own role: whether it runs decides what may be done.
pub fn not_synapse(session: &Session, ignored_roles: &[String]) -> anyhow::Result<()> {
    match owners_among(session, ignored_roles)?.first() {
        None => Ok(()),
        Some(role) => Err(Stop::usage(format!(
            "--ignore-role {role} is not for the role that owns the tables, which is Synapse's own"
        ))
        .hint("let the monitor connect as a role of its own")
        .into()),
    }
}

/// Refuses while anyone else is connected, after asking again for five seconds.
///
/// The role that owns the tables is Synapse's own, and is not to be ignored.
pub fn nobody_else(session: &Session, ignored_roles: &[String], whose: &str) -> anyhow::Result<()> {
    not_synapse(session, ignored_roles)?;
    let mut found = others(session, ignored_roles)?;
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        if found.is_empty() {
            return Ok(());
        }
        ess_run::check()?;
        thread::sleep(STEP);
        found = others(session, ignored_roles)?;
    }
    let list: Vec<String> = found.iter().take(5).map(ToString::to_string).collect();
    let sessions = match found.len() {
        1 => "1 other session is".to_owned(),
        n => format!("{n} other sessions are"),
    };
    Err(Stop::no(format!("{sessions} using the {whose}: {}", list.join(", ")))
        .hint("stop Synapse and everything else there (--ignore-role NAME for a monitor)")
        .into())
}
