//! What becomes of each secret on ESS, and what users would notice if it were lost.

use std::fmt;

/// What becomes of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// The same option, carried in `synapse.additional` or in that of another component.
    Kept,
    /// ESS has a field of its own for it.
    NeededAs(&'static str),
    /// ESS makes its own.
    Replaced,
    /// Nothing on ESS uses it.
    Unneeded,
}

impl fmt::Display for Becomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("kept"),
            Self::NeededAs(field) => write!(f, "needed by ESS as {field}"),
            Self::Replaced => f.write_str("replaced by ESS"),
            Self::Unneeded => f.write_str("no longer needed"),
        }
    }
}

/// What becomes of one secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) becomes: Becomes,
    /// What users would notice if the secret were lost.
    pub(crate) if_lost: &'static str,
    /// The field of Element's older installer. Element's guide names the field of the macaroon, and its manual the page
    /// for other options; `(inferred)` marks a default of the operator's custom resource definition.
    pub(crate) installer: &'static str,
}

const ADDITIONAL_CONFIG: &str = r"Synapse \ Advanced \ Additional Config";
/// Element's guide names no field.
const NONE_KNOWN: &str = "none known";
const NONE_NEEDED: &str = "none needed";
const NOTHING: &str = "nothing: it protects only what is not migrated";
const NO_IDENTITY_PROVIDER: &str = "users cannot log in through this identity provider";
const NO_CALLS: &str = "calls fail between users behind NAT";
const NO_CAPTCHA: &str = "the captcha always fails, so new users cannot register";
const NO_EMAIL: &str = "no e-mail is sent: neither notifications nor password resets";

/// A row of the table: an option without list indices, or a section that ends in a dot.
type Row = (&'static str, Fate);

const fn kept(option: &'static str, if_lost: &'static str) -> Row {
    row(option, Becomes::Kept, if_lost, ADDITIONAL_CONFIG)
}

const fn needed(option: &'static str, field: &'static str, if_lost: &'static str, installer: &'static str) -> Row {
    row(option, Becomes::NeededAs(field), if_lost, installer)
}

const fn left(option: &'static str, becomes: Becomes) -> Row {
    row(option, becomes, NOTHING, NONE_NEEDED)
}

const fn row(option: &'static str, becomes: Becomes, if_lost: &'static str, installer: &'static str) -> Row {
    let fate = Fate {
        becomes,
        if_lost,
        installer,
    };
    (option, fate)
}

const SHARED_WITH_MAS: &str = "matrixAuthenticationService.synapseSharedSecret";
const NEW_ON_BOTH_SIDES: &str = "nothing, if both sides get the same new secret";

/// Of the rows that match an option, the longest applies. A test requires a row for every option of `ess_synapse::secrets::options`.
const FATES: &[Row] = &[
    needed(
        "signing_key",
        "synapse.signingKey",
        "other servers reject what this one signs: federation breaks, and old events cannot be verified",
        "signingKey of the Secret synapse, in secrets.yml (inferred)",
    ),
    needed(
        "macaroon_secret_key",
        "synapse.macaroon",
        "guest accounts, single sign-on logins in progress and unsubscribe links in e-mails stop working; all other \
         logins stay valid",
        r"Secrets \ Synapse \ Macaroon",
    ),
    needed(
        "registration_shared_secret",
        "synapse.registrationSharedSecret",
        "scripts and bots that register users with it are refused",
        "registrationSharedSecret of the Secret synapse, in secrets.yml (inferred)",
    ),
    kept(
        "password_config.pepper",
        "no password is accepted any more: every user has to reset theirs",
    ),
    kept(
        "form_secret",
        "consent forms, and links in e-mails that were already sent, are refused",
    ),
    kept("turn_shared_secret", NO_CALLS),
    kept("turn_username", NO_CALLS),
    kept("turn_password", NO_CALLS),
    kept("recaptcha_public_key", NO_CAPTCHA),
    kept("recaptcha_private_key", NO_CAPTCHA),
    kept("email.smtp_user", NO_EMAIL),
    kept("email.smtp_pass", NO_EMAIL),
    kept("oidc_providers.client_secret", NO_IDENTITY_PROVIDER),
    kept("oidc_providers.client_secret_jwt_key.key", NO_IDENTITY_PROVIDER),
    kept("oidc_config.client_secret", NO_IDENTITY_PROVIDER),
    kept("oidc_config.client_secret_jwt_key.key", NO_IDENTITY_PROVIDER),
    kept("jwt_config.secret", "users cannot log in with a JSON Web Token"),
    kept("saml2_config.", "users cannot log in through SAML"),
    kept("sentry.dsn", "errors are no longer reported; users notice nothing"),
    kept(
        "media_storage_providers.",
        "media in the object store can be neither read nor written",
    ),
    kept(
        "key_server_signing_keys_path",
        "servers that use this one as a notary reject its answers",
    ),
    needed(
        "app_service_config_files",
        "synapse.appservices",
        "this bridge or bot stops working: Synapse and it reject each other's tokens",
        NONE_KNOWN,
    ),
    needed(
        "matrix_authentication_service.secret",
        SHARED_WITH_MAS,
        NEW_ON_BOTH_SIDES,
        NONE_KNOWN,
    ),
    needed(
        "experimental_features.msc3861.admin_token",
        SHARED_WITH_MAS,
        NEW_ON_BOTH_SIDES,
        NONE_KNOWN,
    ),
    left("experimental_features.msc3861.client_secret", Becomes::Unneeded),
    left("worker_replication_secret", Becomes::Replaced),
    // Passwords and keys of connections to services that ESS includes.
    left("database.", Becomes::Replaced),
    left("databases.", Becomes::Replaced),
    left("redis.", Becomes::Replaced),
    // Synapse's manhole listens on the loopback address of its own host only.
    left("manhole_settings.", Becomes::Unneeded),
    left("tls_certificate_path", Becomes::Unneeded),
    left("tls_private_key_path", Becomes::Unneeded),
    needed("mas.matrix.secret", SHARED_WITH_MAS, NEW_ON_BOTH_SIDES, NONE_KNOWN),
    needed(
        "mas.secrets.encryption",
        "matrixAuthenticationService.encryptionSecret",
        "Matrix Authentication Service cannot decrypt its cookies or what it has encrypted in its database",
        NONE_KNOWN,
    ),
    needed(
        "mas.secrets.keys.key",
        "matrixAuthenticationService.privateKeys",
        "tokens that Matrix Authentication Service has issued to other services are no longer valid",
        NONE_KNOWN,
    ),
    needed(
        "mas.secrets.keys_dir",
        "matrixAuthenticationService.privateKeys",
        "tokens that Matrix Authentication Service has issued to other services are no longer valid",
        NONE_KNOWN,
    ),
    left("mas.database.", Becomes::Replaced),
    left("mas.http.", Becomes::Unneeded),
    row(
        "mas.",
        Becomes::Kept,
        "the part of Matrix Authentication Service that uses it stops working",
        NONE_KNOWN,
    ),
    needed(
        "hookshot.passFile",
        "hookshot.passkey",
        "Hookshot cannot decrypt its stored tokens: users must log in to GitHub, GitLab and Jira again",
        NONE_KNOWN,
    ),
    row(
        "hookshot.",
        Becomes::Kept,
        "the part of Hookshot that uses it stops working",
        NONE_KNOWN,
    ),
];

/// What becomes of the secret of an option. `synapse.additional` carries every section that ESS does not own, and with it
/// the secrets that were found in options of modules, which no table can list.
pub(crate) fn of(option: &str) -> Fate {
    let (_, fate) = listed(option).unwrap_or(kept("", "the feature that uses it stops working"));
    fate
}

/// The longest row that matches.
fn listed(option: &str) -> Option<Row> {
    let option = without_indices(option);
    let matches = |row: &&Row| option == row.0 || (row.0.ends_with('.') && option.starts_with(row.0));
    FATES.iter().filter(matches).max_by_key(|row| row.0.len()).copied()
}

/// Removes list indices: `oidc_providers.0.client_secret` is `oidc_providers.client_secret` in the table.
fn without_indices(option: &str) -> String {
    let names: Vec<&str> = option
        .split('.')
        .filter(|name| name.parse::<usize>().is_err())
        .collect();
    names.join(".")
}

#[cfg(test)]
mod tests {
    use super::{Becomes, FATES, listed, of};

    #[test]
    fn every_secret_of_synapse_has_a_row() {
        for option in ess_synapse::secrets::options() {
            assert!(
                listed(&option).is_some(),
                "{option} is read as a secret; add what becomes of it to FATES"
            );
        }
    }

    #[test]
    fn no_option_has_two_rows() {
        let mut options: Vec<&str> = FATES.iter().map(|row| row.0).collect();
        options.sort_unstable();
        options.dedup();
        assert_eq!(options.len(), FATES.len());
    }

    #[test]
    fn each_of_an_array_has_the_same_fate() {
        assert_eq!(
            of("app_service_config_files.7").becomes,
            Becomes::NeededAs("synapse.appservices")
        );
        assert!(
            of("oidc_providers.2.client_secret")
                .if_lost
                .contains("identity provider")
        );
        assert!(
            of("media_storage_providers.0.config.access_key_id")
                .if_lost
                .contains("object store")
        );
    }

    #[test]
    fn the_runbooks_field_is_named() {
        assert_eq!(of("macaroon_secret_key").installer, r"Secrets \ Synapse \ Macaroon");
        assert_eq!(
            of("macaroon_secret_key").becomes.to_string(),
            "needed by ESS as synapse.macaroon"
        );
        assert_eq!(of("database.args.password").becomes.to_string(), "replaced by ESS");
        assert_eq!(of("manhole_settings.password").becomes.to_string(), "no longer needed");
        assert_eq!(of("password_config.pepper").becomes.to_string(), "kept");
    }
}
