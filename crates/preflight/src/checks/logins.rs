//! The login providers of users, according to the database.

use ess_document::Finding;
use ess_postgres::{Error, Session};
use ess_synapse::Config;
use ess_synapse::yaml::Value;

use super::texts;
use crate::finding::{Detail, info, some_of};
use crate::ids::CARRY_SYN2MAS;

/// Finds providers with accounts that the configuration does not define: syn2mas stops at the first such account.
pub(crate) fn check(session: &Session, config: &Config) -> Result<Vec<Finding>, Error> {
    let sql = include_str!("../../sql/auth_providers.sql");
    let used = texts(session, "read the login providers", sql)?;
    Ok(unnamed(used, &named(config)).into_iter().collect())
}

/// The names that OpenID Connect providers have in `user_external_ids`: `_parse_oidc_config_dict` of
/// synapse/config/oidc.py puts `oidc-` in front of `idp_id`, unless that is `oidc`.
fn named(config: &Config) -> Vec<String> {
    let providers = config
        .get("oidc_providers")
        .and_then(Value::as_list)
        .unwrap_or_default();
    let id = |provider: &Value| Some(provider.as_map()?.get("idp_id")?.as_str()?.to_owned());
    let mut all: Vec<String> = providers.iter().filter_map(id).collect();
    for id in all.iter_mut().filter(|id| *id != "oidc") {
        id.insert_str(0, "oidc-");
    }
    if config.get("oidc_config.enabled").is_some_and(Value::is_true) {
        all.push("oidc".to_owned());
    }
    all
}

fn unnamed(used: Vec<String>, named: &[String]) -> Option<Finding> {
    let unnamed: Vec<String> = used.into_iter().filter(|used| !named.contains(used)).collect();
    if unnamed.is_empty() {
        return None;
    }
    let message = format!(
        "syn2mas will stop at accounts of providers that oidc_providers does not define: {}",
        some_of(&unnamed)
    );
    Some(
        info(&CARRY_SYN2MAS, message)
            .hint(
                "only if logins move to MAS later: define the provider before syn2mas, or delete its rows in \
                 user_external_ids",
            )
            .with("providers", unnamed),
    )
}
