//! Configuration that is not carried over unchanged, with the place of each part in ESS.

use ess_document::Finding;
use ess_run::text::count;
use ess_synapse::Config;
use ess_synapse::ess::OWNED;
use ess_synapse::yaml::{Map, Value};
use serde_json::json;

use crate::finding::{Detail, blocker, info, some_of, warning};
use crate::ids::{
    CARRY_APPSERVICES, CARRY_CAPTCHA, CARRY_CAS, CARRY_EMAIL, CARRY_JWT, CARRY_LDAP, CARRY_LISTENERS, CARRY_MAS,
    CARRY_MODULES, CARRY_OIDC, CARRY_OWNED, CARRY_PEPPER, CARRY_RETENTION, CARRY_SAML, CARRY_SYN2MAS, CARRY_TEMPLATES,
    CARRY_TURN, CARRY_WORKERS, Id, MSC3861,
};

/// A part of the configuration, which is present if any of its options is set.
struct Part {
    id: &'static Id,
    options: &'static [&'static str],
    /// The message of the finding.
    message: &'static str,
    /// What to do about it.
    hint: &'static str,
    /// Whether it needs an action or a decision: a warning, otherwise informational.
    warn: bool,
}

const PARTS: &[Part] = &[
    Part {
        id: &CARRY_PEPPER,
        options: &["password_config.pepper"],
        message: "passwords are peppered: without the same pepper, no password is accepted",
        hint: "extract-secrets writes the pepper for synapse.additional; with MAS, it is the secret of the bcrypt scheme in passwords.schemes",
        warn: false,
    },
    Part {
        id: &CARRY_SAML,
        options: &["saml2_config.sp_config", "saml2_config.config_path"],
        message: "users log in with SAML, which MAS does not support",
        hint: "install ESS without MAS (matrixAuthenticationService.enabled=false), with saml2_config in synapse.additional and its files in synapse.extraVolumes; or move users to OpenID Connect first",
        warn: true,
    },
    Part {
        id: &CARRY_CAS,
        options: &["cas_config.enabled"],
        message: "users log in with CAS, which MAS does not support",
        hint: "install ESS without MAS (matrixAuthenticationService.enabled=false), with cas_config in synapse.additional",
        warn: true,
    },
    Part {
        id: &CARRY_JWT,
        options: &["jwt_config.enabled"],
        message: "users log in with JSON Web Tokens, which MAS does not support",
        hint: "install ESS without MAS (matrixAuthenticationService.enabled=false), with jwt_config in synapse.additional",
        warn: true,
    },
    Part {
        id: &CARRY_OIDC,
        options: &["oidc_providers", "oidc_config.enabled"],
        message: "users log in with OpenID Connect, which ESS's Synapse does not accept together with MAS",
        hint: "install ESS without MAS (matrixAuthenticationService.enabled=false), with oidc_providers in synapse.additional; later, make them upstream_oauth2 providers of MAS, with syn2mas",
        warn: true,
    },
    Part {
        id: &CARRY_MAS,
        options: &["matrix_authentication_service.enabled"],
        message: "Synapse delegates logins to Matrix Authentication Service (MAS), whose database must be migrated too",
        hint: "dump MAS's database at the same time, and give ESS its secrets: matrixAuthenticationService.synapseSharedSecret, .encryptionSecret and .privateKeys",
        warn: true,
    },
    Part {
        id: &CARRY_TEMPLATES,
        options: &[
            "templates.custom_template_directory",
            "email.template_dir",
            "sso.template_dir",
            "user_consent.template_dir",
        ],
        message: "Synapse uses custom templates, which are files",
        hint: "extract-secrets --emit kubernetes --emit helm writes them as a Secret, and mounts it with synapse.extraVolumes and extraVolumeMounts",
        warn: true,
    },
    Part {
        id: &CARRY_TURN,
        options: &["turn_uris"],
        message: "calls use a TURN server, which stays where it is",
        hint: "extract-secrets writes turn_uris and its secret for synapse.additional",
        warn: false,
    },
    Part {
        id: &CARRY_CAPTCHA,
        options: &["enable_registration_captcha"],
        message: "registration requires a captcha",
        hint: "extract-secrets writes its options for synapse.additional; MAS has its own captcha",
        warn: false,
    },
    Part {
        id: &CARRY_RETENTION,
        options: &["retention.enabled"],
        message: "a retention policy deletes old messages, on ESS too as soon as it runs",
        hint: "extract-secrets writes it for synapse.additional; leave it out as long as old messages are needed for comparison",
        warn: false,
    },
    Part {
        id: &CARRY_WORKERS,
        options: &[
            "instance_map",
            "stream_writers",
            "worker_app",
            "redis.enabled",
            "start_pushers",
            "send_federation",
        ],
        message: "Synapse runs with workers, which ESS configures in its own way",
        hint: "extract-secrets --emit helm enables the worker types that it recognises in synapse.workers; ESS sets instance_map, stream_writers and redis itself",
        warn: false,
    },
];

/// Options that syn2mas does not accept, or does not migrate, when logins move to MAS later.
const NOT_FOR_MAS: &[&str] = &[
    "allow_guest_access",
    "cas_config.enabled",
    "enable_3pid_changes",
    "enable_registration",
    "enable_registration_captcha",
    "jwt_config.enabled",
    "login_via_existing_session.enabled",
    "saml2_config.sp_config",
    "saml2_config.config_path",
    "user_consent",
];

/// Findings about all parts of the configuration that need a place in ESS.
pub(crate) fn check(config: &Config) -> Vec<Finding> {
    let mut found: Vec<Finding> = PARTS.iter().filter_map(|part| of_part(config, part)).collect();
    found.extend(modules(config));
    found.extend(application_services(config));
    found.extend(email(config));
    found.extend(msc3861(config));
    found.extend(listeners(config));
    found.extend(owned(config));
    found.extend(not_for_mas(config));
    found
}

/// The value of an option that is set and true by Python's rules.
fn set<'a>(config: &'a Config, option: &str) -> Option<&'a Value> {
    config.get(option).filter(|value| value.is_true())
}

fn of_part(config: &Config, part: &Part) -> Option<Finding> {
    let options: Vec<&str> = part
        .options
        .iter()
        .copied()
        .filter(|option| set(config, option).is_some())
        .collect();
    if options.is_empty() {
        return None;
    }
    let found = if part.warn {
        warning(part.id, part.message)
    } else {
        info(part.id, part.message)
    };
    Some(found.hint(part.hint).with("options", options))
}

/// Third-party modules, which ESS's image of Synapse does not contain.
fn modules(config: &Config) -> Vec<Finding> {
    let mut names = Vec::new();
    for option in [
        "modules",
        "password_providers",
        "spam_checker",
        "third_party_event_rules",
    ] {
        let Some(value) = set(config, option) else { continue };
        let all = value.as_list().unwrap_or(std::slice::from_ref(value));
        let name = |entry: &Value| Some(entry.as_map()?.get("module")?.as_str()?.to_owned());
        names.extend(all.iter().map(|entry| name(entry).unwrap_or_else(|| option.to_owned())));
    }
    let (ldap, others): (Vec<String>, Vec<String>) =
        names.into_iter().partition(|name| name.to_lowercase().contains("ldap"));
    let mut found = Vec::new();
    if !ldap.is_empty() {
        found.push(
            warning(
                &CARRY_LDAP,
                format!(
                    "users log in with LDAP ({}), which MAS does not support",
                    some_of(&ldap)
                ),
            )
            .hint(
                "put an OpenID Connect provider such as Dex or Keycloak in front of LDAP, or use an image of \
                     Synapse with the module, without MAS",
            )
            .with("modules", ldap),
        );
    }
    if !others.is_empty() {
        found.push(
            warning(
                &CARRY_MODULES,
                format!(
                    "Synapse loads modules that ESS's image does not contain: {}",
                    some_of(&others)
                ),
            )
            .hint(
                "set synapse.image to an image that contains them and put their settings in synapse.additional, \
                     or do without them",
            )
            .with("modules", others),
        );
    }
    found
}

/// Bridges and bots, which keep their tokens. Whether they and the cluster reach each other is for a person to check.
fn application_services(config: &Config) -> Option<Finding> {
    let files = set(config, "app_service_config_files")?.as_list()?;
    let files: Vec<&str> = files.iter().filter_map(Value::as_str).collect();
    if files.is_empty() {
        return None;
    }
    Some(
        warning(
            &CARRY_APPSERVICES,
            format!(
                "{} must be able to reach ESS's Synapse, and be reachable from it",
                count(files.len(), "application service")
            ),
        )
        .hint(
            "put each registration in synapse.appservices with a url that the cluster can reach, and give the \
             application service Synapse's new address",
        )
        .with("files", files),
    )
}

/// The mail server. One on the old host itself is not reachable from ESS by the same name.
fn email(config: &Config) -> Option<Finding> {
    let email = set(config, "email")?.as_map()?;
    let host = email.get("smtp_host").and_then(Value::as_str).unwrap_or("localhost");
    let local = host == "localhost" || host.starts_with("127.") || host == "::1";
    Some(if local {
        warning(
            &CARRY_EMAIL,
            format!("mail is sent through {host}, which is a different host in the cluster"),
        )
        .hint("in synapse.additional, set email.smtp_host to a mail server that the cluster can reach")
    } else {
        info(&CARRY_EMAIL, format!("mail is sent through {host}")).hint(
            "extract-secrets writes the section email for synapse.additional; check that the cluster can reach \
                 that server",
        )
    })
}

fn msc3861(config: &Config) -> Option<Finding> {
    set(config, "experimental_features.msc3861")?;
    Some(
        blocker(
            &MSC3861,
            "experimental_features.msc3861 is set, and Synapse 1.157 and newer refuse to start with it",
        )
        .hint("replace it with matrix_authentication_service before the migration"),
    )
}

/// Listeners other than plain HTTP, which have no counterpart in ESS.
fn listeners(config: &Config) -> Option<Finding> {
    let all = config.get("listeners")?.as_list()?;
    let kind = |listener: &Map| {
        let name = listener.get("type").and_then(Value::as_str).unwrap_or("http");
        let tls = listener.get("tls").is_some_and(Value::is_true);
        let port = listener.get("port").and_then(Value::as_int).unwrap_or_default();
        (tls || name != "http").then(|| format!("{}{name} on {port}", if tls { "TLS " } else { "" }))
    };
    let special: Vec<String> = all.iter().filter_map(Value::as_map).filter_map(kind).collect();
    if special.is_empty() {
        return None;
    }
    Some(
        info(
            &CARRY_LISTENERS,
            format!("listeners that ESS does not have: {}", some_of(&special)),
        )
        .hint(
            "the ingress terminates TLS, on port 443 only: other servers that use 8448 need .well-known or SRV \
                 records; metrics are on port 9001 of each pod",
        )
        .with("listeners", special),
    )
}

fn owned(config: &Config) -> Option<Finding> {
    let fields: serde_json::Map<_, _> = OWNED
        .iter()
        .filter(|(option, _)| config.get(option).is_some())
        .map(|(option, field)| ((*option).to_owned(), json!(field)))
        .collect();
    if fields.is_empty() {
        return None;
    }
    let names: Vec<String> = fields.keys().cloned().collect();
    Some(
        info(&CARRY_OWNED, format!("ESS sets these itself: {}", some_of(&names)))
            .hint("the document names the chart field that controls each of them")
            .with("fields", fields),
    )
}

fn not_for_mas(config: &Config) -> Option<Finding> {
    let options: Vec<String> = NOT_FOR_MAS
        .iter()
        .filter(|option| set(config, option).is_some())
        .map(|&option| option.to_owned())
        .collect();
    if options.is_empty() {
        return None;
    }
    Some(
        info(
            &CARRY_SYN2MAS,
            format!(
                "options that stop syn2mas, or that it does not migrate: {}",
                some_of(&options)
            ),
        )
        .hint("only if logins move to MAS later: turn them off before syn2mas")
        .with("options", options),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ess_synapse::Options;

    use super::*;

    fn found(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().expect("there is room");
        let file = dir.path().join("homeserver.yaml");
        fs::write(&file, format!("server_name: example.org\n{text}")).expect("it is writable");
        let options = Options {
            configs: vec![file],
            ..Options::default()
        };
        let config = Config::load(&options).expect("it is a configuration");
        let found = check(&config).into_iter();
        found
            .filter(|found| found.id != "carry-owned")
            .map(|found| format!("{:?} {}", found.severity, found.id))
            .collect()
    }

    #[test]
    fn each_part_that_does_not_carry_over_is_named() {
        for (text, wanted) in [
            ("password_config: {pepper: x}", "Info carry-pepper"),
            (
                "saml2_config: {config_path: /x.py}",
                "Warning carry-saml Info carry-syn2mas",
            ),
            ("cas_config: {enabled: true}", "Warning carry-cas Info carry-syn2mas"),
            ("cas_config: {enabled: false}", ""),
            ("jwt_config: {enabled: yes}", "Warning carry-jwt Info carry-syn2mas"),
            ("oidc_providers: [{idp_id: a}]", "Warning carry-oidc"),
            ("matrix_authentication_service: {enabled: true}", "Warning carry-mas"),
            ("experimental_features: {msc3861: {enabled: false}}", "Blocker msc3861"),
            ("experimental_features: {msc3861: {}}", ""),
            ("templates: {custom_template_directory: /x}", "Warning carry-templates"),
            ("turn_uris: ['turn:turn.example.org']", "Info carry-turn"),
            ("turn_uris: []", ""),
            (
                "enable_registration_captcha: true",
                "Info carry-captcha Info carry-syn2mas",
            ),
            ("retention: {enabled: true}", "Info carry-retention"),
            ("instance_map: {main: {host: a}}", "Info carry-workers"),
            (
                "modules: [{module: a.B}, {module: ldap_auth.C}]",
                "Warning carry-ldap Warning carry-modules",
            ),
            (
                "password_providers: [{module: ldap_auth_provider.LdapAuthProvider}]",
                "Warning carry-ldap",
            ),
            ("spam_checker: {module: a.B}", "Warning carry-modules"),
            ("app_service_config_files: [/a.yaml]", "Warning carry-appservices"),
            ("email: {smtp_host: mail.example.org}", "Info carry-email"),
            ("email: {notif_from: a}", "Warning carry-email"),
            (
                "listeners: [{port: 8448, type: http, tls: true}]",
                "Info carry-listeners",
            ),
            ("listeners: [{port: 8008, type: http}]", ""),
            ("allow_guest_access: true", "Info carry-syn2mas"),
        ] {
            assert_eq!(found(text).join(" "), wanted, "{text}");
        }
    }
}
