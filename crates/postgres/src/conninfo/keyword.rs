//! The connection parameters of libpq, each with its environment variable.

use super::error::ConninfoError;

/// A parameter. Without a variable, libpq reads it from connection strings and service files only.
pub(crate) struct Keyword {
    pub(crate) name: &'static str,
    pub(crate) variable: Option<&'static str>,
}

const fn with(name: &'static str, variable: &'static str) -> Keyword {
    Keyword {
        name,
        variable: Some(variable),
    }
}

const fn without(name: &'static str) -> Keyword {
    Keyword { name, variable: None }
}

/// The list of libpq 18 (`PQconninfoOptions` in `fe-connect.c`). An older libpq ignores the newer variables.
pub(crate) const KEYWORDS: &[Keyword] = &[
    with("service", "PGSERVICE"),
    with("servicefile", "PGSERVICEFILE"),
    with("user", "PGUSER"),
    with("password", "PGPASSWORD"),
    with("passfile", "PGPASSFILE"),
    with("channel_binding", "PGCHANNELBINDING"),
    with("connect_timeout", "PGCONNECT_TIMEOUT"),
    with("dbname", "PGDATABASE"),
    with("host", "PGHOST"),
    with("hostaddr", "PGHOSTADDR"),
    with("port", "PGPORT"),
    with("client_encoding", "PGCLIENTENCODING"),
    with("options", "PGOPTIONS"),
    with("application_name", "PGAPPNAME"),
    without("fallback_application_name"),
    without("keepalives"),
    without("keepalives_idle"),
    without("keepalives_interval"),
    without("keepalives_count"),
    without("tcp_user_timeout"),
    with("sslmode", "PGSSLMODE"),
    with("sslnegotiation", "PGSSLNEGOTIATION"),
    with("sslcompression", "PGSSLCOMPRESSION"),
    with("sslcert", "PGSSLCERT"),
    with("sslkey", "PGSSLKEY"),
    with("sslcertmode", "PGSSLCERTMODE"),
    without("sslpassword"),
    with("sslrootcert", "PGSSLROOTCERT"),
    with("sslcrl", "PGSSLCRL"),
    with("sslcrldir", "PGSSLCRLDIR"),
    with("sslsni", "PGSSLSNI"),
    without("sslkeylogfile"),
    with("requirepeer", "PGREQUIREPEER"),
    with("require_auth", "PGREQUIREAUTH"),
    with("min_protocol_version", "PGMINPROTOCOLVERSION"),
    with("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    with("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    with("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    with("gssencmode", "PGGSSENCMODE"),
    with("krbsrvname", "PGKRBSRVNAME"),
    with("gsslib", "PGGSSLIB"),
    with("gssdelegation", "PGGSSDELEGATION"),
    without("replication"),
    with("target_session_attrs", "PGTARGETSESSIONATTRS"),
    with("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    without("scram_client_key"),
    without("scram_server_key"),
    without("oauth_issuer"),
    without("oauth_client_id"),
    without("oauth_client_secret"),
    without("oauth_scope"),
];

/// Parameters whose values are not secret. Only these are stored in the document.
///
/// In addition to these, `options` is not secret if it sets only parameters of PostgreSQL itself: one of an
/// application, such as `app.key`, may be.
const HARMLESS: &[&str] = &[
    "user",
    "passfile",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "client_encoding",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslmode",
    "sslnegotiation",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslcertmode",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "requirepeer",
    "require_auth",
    "min_protocol_version",
    "max_protocol_version",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "gssencmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "target_session_attrs",
    "load_balance_hosts",
];

/// Whether this parameter is not secret.
pub(crate) fn is_harmless(name: &str, value: &str) -> bool {
    let sets_own = |word: &str| word.split('=').next().is_some_and(|set| set.contains('.'));
    match name {
        "options" => !value.split_whitespace().any(sets_own),
        _ => HARMLESS.contains(&name),
    }
}

/// Whether the value of a single parameter looks like a connection string that contains a password.
pub(crate) fn holds_password(value: &str) -> bool {
    let in_url = value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.and_then(|user| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty())
    });
    let mut after = value.split("password").skip(1);
    in_url || after.any(|rest| rest.trim_start().starts_with('='))
}

/// Further environment variables that affect libpq or its programs. No child program inherits them.
pub(crate) const OTHER_VARIABLES: &[&str] = &[
    "PGSYSCONFDIR",
    "PGREQUIRESSL",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
    "PGLOCALEDIR",
];

pub(crate) fn is_known(name: &str) -> bool {
    KEYWORDS.iter().any(|keyword| keyword.name == name)
}

/// Refuses an unknown keyword, and a value that contains a password or a NUL character.
pub(crate) fn check(keyword: &str, value: &str) -> Result<(), ConninfoError> {
    if !is_known(keyword) {
        return Err(ConninfoError::UnknownKeyword(keyword.to_owned()));
    }
    if keyword != "options" && holds_password(value) {
        return Err(ConninfoError::PasswordInValue(keyword.to_owned()));
    }
    if value.contains('\0') {
        return Err(ConninfoError::Value {
            keyword: keyword.to_owned(),
            expected: "text without a NUL",
        });
    }
    Ok(())
}
