//! The size of homeserver for which ESS must be configured.

use ess_document::Finding;
use ess_postgres::{Error, Session};
use ess_run::text::count;
use ess_synapse::Config;

use super::number_of;
use crate::finding::{Detail, info, number};
use crate::ids::PROFILE;

/// Maximum number of monthly active users in the smallest profile of ESS.
const SMALL: i64 = 500;

/// Users, monthly active users and federation, with the settings of ESS that fit them.
pub(crate) fn check(session: &Session, config: Option<&Config>) -> Result<Vec<Finding>, Error> {
    let users = number_of(session, "count the users", include_str!("../../sql/users.sql"))?;
    let monthly = number_of(
        session,
        "count the monthly active users",
        include_str!("../../sql/monthly_users.sql"),
    )?;
    Ok(vec![profile(users, monthly, config.map(federation))])
}

fn profile(users: i64, monthly: i64, federation: Option<&str>) -> Finding {
    let people = count(usize::try_from(users).unwrap_or_default(), "user");
    let shown = federation.map_or(String::new(), |federation| format!(", federation is {federation}"));
    let mau = if monthly <= SMALL {
        "up to 500 monthly active users"
    } else {
        "more than 500 monthly active users"
    };
    let advice = match federation {
        Some("open") => {
            "keep federation closed until the import is complete, so that other servers cannot reach ESS before that"
        }
        Some("limited to a list") => "federation_domain_whitelist belongs in synapse.additional",
        _ => "if federation is to stay closed, federation_domain_whitelist: [] belongs in synapse.additional",
    };
    info(
        &PROFILE,
        format!("{people}, {monthly} of them active in the last month{shown}"),
    )
    .hint(format!("choose the ESS profile for {mau}; {advice}"))
    .with("users", number(users))
    .with("monthly_active_users", number(monthly))
    .with("federation", federation)
}

fn federation(config: &Config) -> &'static str {
    match config.get("federation_domain_whitelist") {
        None => "open",
        Some(value) if value.is_null() => "open",
        Some(value) if value.is_true() => "limited to a list",
        Some(_) => "closed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_fits_the_homeserver() {
        let small = profile(1, 1, Some("closed"));
        assert_eq!(
            small.message,
            "1 user, 1 of them active in the last month, federation is closed"
        );
        assert!(
            small
                .hint
                .expect("there is advice")
                .contains("for up to 500 monthly active users")
        );
        let large = profile(9_000, 501, None);
        assert_eq!(large.message, "9000 users, 501 of them active in the last month");
        assert!(large.hint.expect("there is advice").contains("for more than 500"));
    }
}
