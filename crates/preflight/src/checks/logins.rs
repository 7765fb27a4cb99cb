//! By whom people log in, as the database knows it.

use ess_document::Finding;
use ess_postgres::{Error, Session};
use ess_synapse::Config;
use ess_synapse::yaml::Value;

use super::texts;
use crate::finding::{Detail, info, some_of};

/// Providers that the configuration does not name: syn2mas stops at the first account of theirs.
pub(crate) fn check(session: &Session, config: &Config) -> Result<Vec<Finding>, Error> {
    let sql = include_str!("../../sql/auth_providers.sql");
    let used = texts(session, "read by whom users log in", sql)?;
    Ok(unnamed(used, &named(config)).into_iter().collect())
}

/// As Synapse calls its OpenID Connect providers.
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
        "syn2mas will stop at accounts of providers that no oidc_providers name: {}",
        some_of(&unnamed)
    );
    Some(
        info("carry-syn2mas", message)
            .hint("only when logins move to MAS later: name the provider then, or remove its rows of user_external_ids")
            .with("providers", unnamed),
    )
}
