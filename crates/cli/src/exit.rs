//! Which error has which exit status and which hint.

use std::error::Error;
use std::io;

use ess_stop::{Exit, Stop};

/// The status for an error: that of the first error in its chain that has one.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Software)
}

/// All statuses on one line, for `--help`.
pub(crate) fn statuses() -> String {
    let each = Exit::ALL.map(|exit| format!("{} {}", exit as u8, exit.meaning()));
    each.join(", ")
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(stop) = cause.downcast_ref::<Stop>() {
        return Some(stop.exit());
    }
    if cause.is::<ess_document::ReadError>() {
        return Some(Exit::Data);
    }
    if let Some(error) = cause.downcast_ref::<ess_postgres::Error>() {
        return match error {
            ess_postgres::Error::Conninfo(error) => Some(of_conninfo(error)),
            ess_postgres::Error::Pooler { .. } | ess_postgres::Error::Setting { .. } => Some(Exit::No),
            ess_postgres::Error::Io(_) => None,
            _ if error.is_permission() => Some(Exit::Permission),
            _ => Some(Exit::Unavailable),
        };
    }
    if let Some(error) = cause.downcast_ref::<ess_postgres::ConninfoError>() {
        return Some(of_conninfo(error));
    }
    if let Some(error) = cause.downcast_ref::<ess_synapse::ConfigError>() {
        return Some(if error.is_permission() {
            Exit::Permission
        } else {
            Exit::Config
        });
    }
    if let Some(error) = cause.downcast_ref::<ess_run::Error>() {
        // If the pipe to a child failed, the status is that of the io::Error next in the chain.
        return (!matches!(error, ess_run::Error::Stream { .. })).then_some(Exit::Unavailable);
    }
    cause.downcast_ref::<io::Error>().map(of_io)
}

fn of_conninfo(error: &ess_postgres::ConninfoError) -> Exit {
    error.of_file().map_or(Exit::Usage, of_io)
}

fn of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Io,
    }
}

/// The hint of the first error in the chain that has one.
pub fn hint_of(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(stop) = cause.downcast_ref::<Stop>() {
            return stop.remedy().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_document::ReadError>() {
            return error.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_postgres::ConninfoError>() {
            return error.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_postgres::Error>() {
            return error.hint().map(str::to_owned);
        }
        if let Some(error) = cause.downcast_ref::<ess_synapse::ConfigError>() {
            return error.hint().map(str::to_owned);
        }
        match cause.downcast_ref::<ess_run::Error>() {
            Some(ess_run::Error::Missing { hint, .. }) => Some(hint.clone()),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn context_does_not_hide_the_reason() {
        let refused = Err::<(), _>(Stop::no("no").hint("do this")).context("cannot wipe");
        let error = refused.expect_err("it was refused");
        assert_eq!(exit_of(&error), Exit::No);
        assert_eq!(hint_of(&error).as_deref(), Some("do this"));
        assert_eq!(format!("{error:#}"), "cannot wipe: no");
    }

    #[test]
    fn files_that_fail_are_distinguished_from_forbidden_ones() {
        let of_io = |kind| exit_of(&anyhow::Error::from(io::Error::from(kind)));
        assert_eq!(of_io(io::ErrorKind::StorageFull), Exit::Io);
        assert_eq!(of_io(io::ErrorKind::PermissionDenied), Exit::Permission);
        assert_eq!(exit_of(&anyhow::anyhow!("an unclassified error")), Exit::Software);
    }
}
