//! What becomes of each secret on ESS, and what its loss would mean.

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
    /// Nothing on ESS asks for it.
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

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    pub(crate) becomes: Becomes,
    /// What users would notice.
    pub(crate) if_lost: &'static str,
    /// The field of Element's older installer. Its guide names that of the macaroon, its manual the page for other
    /// options; `(inferred)` is what the operator's definition has for a default.
    pub(crate) installer: &'static str,
}

const ADDITIONAL_CONFIG: &str = r"Synapse \ Advanced \ Additional Config";
/// Its guide names no field.
const NONE_KNOWN: &str = "none known";
const NOTHING: &str = "nothing: it guards only what is left behind";

/// Looks an option up.
pub(crate) fn of(option: &str) -> Fate {
    use Becomes::{Kept, NeededAs, Replaced, Unneeded};
    let kept = |if_lost| (Kept, if_lost, ADDITIONAL_CONFIG);
    let needed = |field, if_lost, installer| (NeededAs(field), if_lost, installer);
    let left = |becomes| (becomes, NOTHING, "none needed");
    let (becomes, if_lost, installer) = match without_indices(option).as_str() {
        "signing_key" => needed(
            "synapse.signingKey",
            "other servers reject what this one signs: federation breaks, and old events cannot be checked",
            "signingKey of the Secret synapse, in secrets.yml (inferred)",
        ),
        "macaroon_secret_key" => needed(
            "synapse.macaroon",
            "guests, single sign-on logins in flight and unsubscribe links in e-mails; all other logins stay",
            r"Secrets \ Synapse \ Macaroon",
        ),
        "registration_shared_secret" => needed(
            "synapse.registrationSharedSecret",
            "scripts and bots that register users with it are refused",
            "registrationSharedSecret of the Secret synapse, in secrets.yml (inferred)",
        ),
        "password_config.pepper" => kept("no password is right any more: every user has to reset it"),
        "form_secret" => kept("consent forms and links in mails already sent are refused"),
        "turn_shared_secret" | "turn_username" | "turn_password" => kept("calls fail between users behind NAT"),
        "recaptcha_public_key" | "recaptcha_private_key" => kept("nobody passes the captcha, so nobody registers"),
        "email.smtp_user" | "email.smtp_pass" => kept("no mail is sent: neither notifications nor password resets"),
        "oidc_providers.client_secret"
        | "oidc_config.client_secret"
        | "oidc_providers.client_secret_jwt_key.key"
        | "oidc_config.client_secret_jwt_key.key" => kept("nobody can log in through this identity provider"),
        "jwt_config.secret" => kept("nobody can log in with a JSON web token"),
        "sentry.dsn" => kept("errors are no longer reported; users notice nothing"),
        "app_service_config_files" => needed(
            "synapse.appservices",
            "this bridge or bot stops: Synapse and it refuse each other's tokens",
            NONE_KNOWN,
        ),
        option if option.starts_with("media_storage_providers.") => {
            kept("media in the object store can be neither read nor written")
        }
        "key_server_signing_keys_path" => (
            Kept,
            "servers that ask this one as a notary no longer trust its answers",
            ADDITIONAL_CONFIG,
        ),
        option if option.starts_with("saml2_config.") => kept("nobody can log in through SAML"),
        "matrix_authentication_service.secret" | "experimental_features.msc3861.admin_token" | "mas.matrix.secret" => {
            needed(
                "matrixAuthenticationService.synapseSharedSecret",
                "nothing, if both sides get the same new one",
                NONE_KNOWN,
            )
        }
        "mas.secrets.encryption" => needed(
            "matrixAuthenticationService.encryptionSecret",
            "Matrix Authentication Service cannot read what it has encrypted in its database, nor its cookies",
            NONE_KNOWN,
        ),
        "mas.secrets.keys.key" | "mas.secrets.keys_dir" => needed(
            "matrixAuthenticationService.privateKeys",
            "tokens that other services have from Matrix Authentication Service are no longer valid",
            NONE_KNOWN,
        ),
        "hookshot.passFile" => needed(
            "hookshot.passkey",
            "Hookshot cannot read the tokens that it has stored: users log in to GitHub, GitLab and Jira again",
            NONE_KNOWN,
        ),
        "database.args.password"
        | "database.args.sslpassword"
        | "worker_replication_secret"
        | "redis.password"
        | "redis.private_key_file"
        | "mas.database.uri"
        | "mas.database.password" => left(Replaced),
        "experimental_features.msc3861.client_secret"
        | "manhole_settings.password"
        | "manhole_settings.ssh_priv_key_path"
        | "tls_certificate_path"
        | "tls_private_key_path" => left(Unneeded),
        // Keys of connections to what ESS brings itself.
        option
            if ["database.", "databases.", "mas.database.", "redis."]
                .iter()
                .any(|section| option.starts_with(section)) =>
        {
            left(Replaced)
        }
        option if option.starts_with("mas.http.") => left(Unneeded),
        option if option.starts_with("hookshot.") => (Kept, "the part of Hookshot that uses it", NONE_KNOWN),
        option if option.starts_with("mas.") => (
            Kept,
            "the part of Matrix Authentication Service that uses it",
            NONE_KNOWN,
        ),
        _ => kept("the feature that uses it"),
    };
    Fate {
        becomes,
        if_lost,
        installer,
    }
}

/// `oidc_providers.0.client_secret` is `oidc_providers.client_secret` in the table.
fn without_indices(option: &str) -> String {
    let names: Vec<&str> = option
        .split('.')
        .filter(|name| name.parse::<usize>().is_err())
        .collect();
    names.join(".")
}

#[cfg(test)]
mod tests {
    use super::{Becomes, of};

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
