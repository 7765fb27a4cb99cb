//! What each secret is for, where it belongs on ESS, what becomes of it there, and what users would notice if it were
//! lost. How Synapse's are read is in the table of `ess_synapse::secrets`.

use std::fmt;

use ess_synapse::ess::OWNED;
use ess_synapse::secrets::SecretId;

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

/// What is known about one secret.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate {
    /// What its component uses it for.
    pub(crate) purpose: &'static str,
    /// Where it belongs on ESS.
    pub(crate) destination: &'static str,
    pub(crate) becomes: Becomes,
    /// What users would notice if the secret were lost.
    pub(crate) if_lost: &'static str,
    /// The field of Element's older installer. Element's guide names the field of the macaroon, and its manual the page
    /// for other options; `(inferred)` marks a default of the operator's custom resource definition.
    pub(crate) installer: &'static str,
}

/// A secret that is carried in its option.
const fn kept(purpose: &'static str, destination: &'static str, if_lost: &'static str) -> Fate {
    Fate {
        purpose,
        destination,
        becomes: Becomes::Kept,
        if_lost,
        installer: r"Synapse \ Advanced \ Additional Config",
    }
}

/// A secret that belongs in a field of ESS.
const fn needed(purpose: &'static str, field: &'static str, if_lost: &'static str) -> Fate {
    Fate {
        purpose,
        destination: field,
        becomes: Becomes::NeededAs(field),
        if_lost,
        installer: NONE_KNOWN,
    }
}

/// A secret that is not carried.
const fn left(purpose: &'static str, becomes: Becomes) -> Fate {
    Fate {
        purpose,
        destination: "not needed",
        becomes,
        if_lost: "nothing: it protects only what is not migrated",
        installer: "none needed",
    }
}

const ADDITIONAL: &str = "synapse.additional";
const MAS_OR_ADDITIONAL: &str = "synapse.additional, or an upstream provider of Matrix Authentication Service";
const A_VOLUME: &str = "an extra volume of Synapse";
const SHARED_WITH_MAS: &str = "matrixAuthenticationService.synapseSharedSecret";
const KEYS_OF_MAS: &str = "matrixAuthenticationService.privateKeys";
/// Element's guide names no field.
const NONE_KNOWN: &str = "none known";

const NO_CALLS: &str = "calls fail between users behind NAT";
const NO_CAPTCHA: &str = "the captcha always fails, so new users cannot register";
const NO_EMAIL: &str = "no e-mail is sent: neither notifications nor password resets";
const NO_FEATURE: &str = "the feature that uses it stops working";
const NO_HOOKSHOT: &str = "the part of Hookshot that uses it stops working";
const NO_IDENTITY_PROVIDER: &str = "users cannot log in through this identity provider";
const NO_MAS: &str = "the part of Matrix Authentication Service that uses it stops working";
const NO_OBJECT_STORAGE: &str = "media in the object store can be neither read nor written";
const NO_SAML: &str = "users cannot log in through SAML";
const NEW_ON_BOTH_SIDES: &str = "nothing, if both sides get the same new secret";

/// The fate of Synapse's macaroon secret, also if Synapse derives it.
pub(crate) const MACAROON: Fate = Fate {
    installer: r"Secrets \ Synapse \ Macaroon",
    ..needed(
        "signs short-lived tokens",
        "synapse.macaroon",
        "guest accounts, single sign-on logins in progress and unsubscribe links in e-mails stop working; all other \
         logins stay valid",
    )
};

/// The table of Synapse's secrets, with a row for each. A private key has no row of its own: its option decides.
pub(crate) fn of(id: SecretId, option: &str) -> Fate {
    match id {
        SecretId::SigningKey => Fate {
            installer: "signingKey of the Secret synapse, in secrets.yml (inferred)",
            ..needed(
                "this server's identity: signs its events and requests",
                "synapse.signingKey",
                "other servers reject what this one signs: federation breaks, and old events cannot be verified",
            )
        },
        SecretId::MacaroonSecretKey => MACAROON,
        SecretId::RegistrationSharedSecret => Fate {
            installer: "registrationSharedSecret of the Secret synapse, in secrets.yml (inferred)",
            ..needed(
                "registers users even if registration is closed",
                "synapse.registrationSharedSecret",
                "scripts and bots that register users with it are refused",
            )
        },
        SecretId::PasswordPepper => kept(
            "mixed into every password hash; without it, no password is accepted",
            "synapse.additional, or a password scheme's secret of Matrix Authentication Service",
            "no password is accepted any more: every user has to reset theirs",
        ),
        SecretId::FormSecret => kept(
            "authenticates the forms that are sent to users",
            ADDITIONAL,
            "consent forms, and links in e-mails that were already sent, are refused",
        ),
        SecretId::WorkerReplicationSecret => left("authenticates workers to each other", Becomes::Replaced),
        SecretId::TurnSharedSecret => kept("credentials for the TURN server", ADDITIONAL, NO_CALLS),
        SecretId::TurnUsername => kept("user of the TURN server", ADDITIONAL, NO_CALLS),
        SecretId::TurnPassword => kept("password of the TURN server", ADDITIONAL, NO_CALLS),
        SecretId::RecaptchaPublicKey | SecretId::RecaptchaPrivateKey => {
            kept("captcha at registration", ADDITIONAL, NO_CAPTCHA)
        }
        SecretId::SmtpUser => kept("user of the mail server", ADDITIONAL, NO_EMAIL),
        SecretId::SmtpPassword => kept("password of the mail server", ADDITIONAL, NO_EMAIL),
        // Passwords and keys of connections to services that ESS includes.
        SecretId::RedisPassword => Fate {
            destination: "not needed, or synapse.redis.password",
            ..left("password of Redis", Becomes::Replaced)
        },
        SecretId::RedisKey => left("authenticates to Redis", Becomes::Replaced),
        SecretId::DatabasePassword => left("password of the old database", Becomes::Replaced),
        SecretId::DatabaseKeyPassphrase => left("passphrase of the client key for the old database", Becomes::Replaced),
        SecretId::MasSecret => MAS_SHARED_SECRET,
        SecretId::Msc3861ClientSecret => left(
            "authenticates Synapse to Matrix Authentication Service",
            Becomes::Unneeded,
        ),
        SecretId::Msc3861AdminToken => needed(
            "lets Matrix Authentication Service administer Synapse",
            SHARED_WITH_MAS,
            NEW_ON_BOTH_SIDES,
        ),
        SecretId::JwtSecret => kept(
            "verifies JSON Web Tokens at login",
            ADDITIONAL,
            "users cannot log in with a JSON Web Token",
        ),
        SecretId::SamlKeyPassphrase => kept("passphrase of the SAML key", ADDITIONAL, NO_SAML),
        SecretId::SamlKey => kept("signs SAML requests", A_VOLUME, NO_SAML),
        SecretId::SamlEncryptionKey => kept("decrypts SAML messages", A_VOLUME, NO_SAML),
        // Synapse's manhole listens on the loopback address of its own host only.
        SecretId::ManholePassword => left("password of the manhole", Becomes::Unneeded),
        SecretId::ManholeHostKey => left("host key of the manhole", Becomes::Unneeded),
        SecretId::SentryDsn => kept(
            "reports errors to Sentry",
            ADDITIONAL,
            "errors are no longer reported; users notice nothing",
        ),
        SecretId::KeyServerSigningKeys => kept(
            "signs this server's answers about the keys of other servers",
            ADDITIONAL,
            "servers that use this one as a notary reject its answers",
        ),
        SecretId::ListenerKey => left("TLS of Synapse's own listeners", Becomes::Unneeded),
        SecretId::OidcClientSecret => kept(
            "authenticates Synapse to the identity provider",
            MAS_OR_ADDITIONAL,
            NO_IDENTITY_PROVIDER,
        ),
        SecretId::OidcClientSecretKey => kept(
            "signs the client secret for the identity provider",
            MAS_OR_ADDITIONAL,
            NO_IDENTITY_PROVIDER,
        ),
        SecretId::AppServiceRegistration => needed(
            "registration of an application service, with its tokens",
            "synapse.appservices",
            "this bridge or bot stops working: Synapse and it reject each other's tokens",
        ),
        SecretId::ObjectStorage => kept("access to media in object storage", ADDITIONAL, NO_OBJECT_STORAGE),
        SecretId::PrivateKey => of_private_key(option),
    }
}

/// The fate of a private key that was found in a file which an option names that is in no table, by its section.
/// `synapse.additional` carries every section that neither ESS owns nor the old host alone needs.
fn of_private_key(option: &str) -> Fate {
    const PURPOSE: &str = "a private key";
    let section = option.split('.').next().unwrap_or_default();
    match section {
        _ if OWNED.iter().any(|(owned, _)| *owned == section) => left(PURPOSE, Becomes::Replaced),
        "manhole_settings" => left(PURPOSE, Becomes::Unneeded),
        _ if section.starts_with("tls_") => left(PURPOSE, Becomes::Unneeded),
        "saml2_config" => kept(PURPOSE, A_VOLUME, NO_SAML),
        "media_storage_providers" => kept(PURPOSE, A_VOLUME, NO_OBJECT_STORAGE),
        _ => kept(PURPOSE, A_VOLUME, NO_FEATURE),
    }
}

/// The secret that Synapse and Matrix Authentication Service share, in the configuration of either.
pub(crate) const MAS_SHARED_SECRET: Fate = needed(
    "authenticates Synapse and Matrix Authentication Service to each other",
    SHARED_WITH_MAS,
    NEW_ON_BOTH_SIDES,
);

pub(crate) const MAS_ENCRYPTION: Fate = needed(
    "encrypts cookies and data at rest",
    "matrixAuthenticationService.encryptionSecret",
    "Matrix Authentication Service cannot decrypt its cookies or what it has encrypted in its database",
);

pub(crate) const MAS_SIGNING_KEY: Fate = needed(
    "signs tokens",
    KEYS_OF_MAS,
    "tokens that Matrix Authentication Service has issued to other services are no longer valid",
);

/// ESS has no field for it: the key has to be decrypted with it first.
pub(crate) const MAS_SIGNING_KEY_PASSPHRASE: Fate = Fate {
    if_lost: NO_MAS,
    installer: NONE_KNOWN,
    ..left("passphrase of a signing key", Becomes::Unneeded)
};

pub(crate) const MAS_DATABASE: Fate = left(
    "access to the old database of Matrix Authentication Service",
    Becomes::Replaced,
);

/// The fate of any other secret of Matrix Authentication Service, by its section. The sections whose secrets are not
/// kept are those that the chart writes itself.
pub(crate) fn of_mas_section(section: &str) -> Fate {
    const PURPOSE: &str = "a secret of Matrix Authentication Service";
    match section {
        "database" | "matrix" | "secrets" => left(PURPOSE, Becomes::Replaced),
        "http" => left(PURPOSE, Becomes::Unneeded),
        _ => Fate {
            installer: NONE_KNOWN,
            ..kept(PURPOSE, "matrixAuthenticationService.additional", NO_MAS)
        },
    }
}

pub(crate) const HOOKSHOT_PASSKEY: Fate = needed(
    "decrypts the tokens that Hookshot has stored",
    "hookshot.passkey",
    "Hookshot cannot decrypt its stored tokens: users must log in to GitHub, GitLab and Jira again",
);

pub(crate) const HOOKSHOT_PRIVATE_KEY: Fate = of_hookshot("a private key of Hookshot");

pub(crate) const HOOKSHOT_SECRET: Fate = of_hookshot("a secret of Hookshot");

const fn of_hookshot(purpose: &'static str) -> Fate {
    Fate {
        installer: NONE_KNOWN,
        ..kept(
            purpose,
            "hookshot.additional, or an extra volume of Hookshot",
            NO_HOOKSHOT,
        )
    }
}

#[cfg(test)]
mod tests {
    use ess_synapse::secrets::SecretId;

    use super::{Becomes, of, of_mas_section};

    #[test]
    fn a_private_key_of_an_option_in_no_table_is_kept_if_its_section_is_carried() {
        for (option, destination, becomes) in [
            ("modules.0.config.dkim.key", "an extra volume of Synapse", Becomes::Kept),
            (
                "saml2_config.sp_config.other",
                "an extra volume of Synapse",
                Becomes::Kept,
            ),
            ("database.args.sslkey", "not needed", Becomes::Replaced),
            ("listeners.0.key", "not needed", Becomes::Replaced),
            ("tls_private_key_path", "not needed", Becomes::Unneeded),
            ("manhole_settings.other", "not needed", Becomes::Unneeded),
        ] {
            let fate = of(SecretId::PrivateKey, option);
            assert_eq!((fate.destination, fate.becomes), (destination, becomes), "{option}");
        }
    }

    #[test]
    fn what_is_lost_is_named() {
        assert_eq!(
            of(SecretId::AppServiceRegistration, "").becomes,
            Becomes::NeededAs("synapse.appservices")
        );
        assert!(of(SecretId::OidcClientSecret, "").if_lost.contains("identity provider"));
        assert!(of(SecretId::ObjectStorage, "").if_lost.contains("object store"));
    }

    #[test]
    fn the_sections_of_mas_that_the_chart_writes_are_not_kept() {
        for section in ["database", "http", "matrix", "secrets"] {
            assert_ne!(of_mas_section(section).becomes, Becomes::Kept, "{section}");
        }
        assert_eq!(of_mas_section("upstream_oauth2").becomes, Becomes::Kept);
    }

    #[test]
    fn the_runbooks_field_is_named() {
        let macaroon = of(SecretId::MacaroonSecretKey, "");
        assert_eq!(macaroon.installer, r"Secrets \ Synapse \ Macaroon");
        let becomes = |id| of(id, "").becomes.to_string();
        assert_eq!(
            becomes(SecretId::MacaroonSecretKey),
            "needed by ESS as synapse.macaroon"
        );
        assert_eq!(becomes(SecretId::DatabasePassword), "replaced by ESS");
        assert_eq!(becomes(SecretId::ManholePassword), "no longer needed");
        assert_eq!(becomes(SecretId::PasswordPepper), "kept");
    }
}
