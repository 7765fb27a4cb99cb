#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;
use crate::Access;

/// An environment with these variables, and with a home directory that does not exist unless `HOME` is given.
fn env(vars: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let mut vars: BTreeMap<_, _> = vars
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    vars.entry("HOME".to_owned()).or_insert("/nowhere".to_owned());
    move |name| vars.get(name).cloned()
}

fn resolved(text: &str, vars: &[(&str, &str)]) -> Result<Conninfo, ConninfoError> {
    Conninfo::parse(text).unwrap().resolve(&env(vars), true)
}

#[test]
fn what_is_absent_has_libpqs_defaults() {
    let conninfo = resolved("host=h user=u", &[]).unwrap();
    assert_eq!(conninfo.to_string(), "u@h:5432/u");
    assert_eq!(conninfo.get("sslmode"), Some("prefer"));

    let local = resolved("host='' user=u dbname=d port=1", &[]).unwrap();
    assert_eq!(local.to_string(), "u@/var/run/postgresql:1/d");

    let me = resolved("host=h", &[]).unwrap();
    assert!(!me.user().is_empty());
    assert_eq!(me.user(), me.dbname());
}

#[test]
fn text_outranks_the_service_which_outranks_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("services");
    std::fs::write(&file, "[s]\nhost=service\ndbname=service\npassword=p\n").unwrap();
    let vars = [
        ("PGSERVICEFILE", file.to_str().unwrap()),
        ("PGHOST", "env"),
        ("PGDATABASE", "env"),
        ("PGUSER", "env"),
        ("PGPASSWORD", "no"),
    ];

    let mut conninfo = resolved("service=s host=text", &vars).unwrap();
    assert_eq!(conninfo.to_string(), "env@text:5432/service");
    assert_eq!(
        conninfo.find_password(&env(&vars)).unwrap(),
        PasswordOrigin::Service(file.clone())
    );

    let conninfo = Conninfo::parse("service=s")
        .unwrap()
        .resolve(&env(&vars), false)
        .unwrap();
    assert_eq!(conninfo.host(), "service");
    assert_ne!(conninfo.user(), "env");
}

#[test]
fn the_environment_is_left_alone_when_it_serves_another_server() {
    let vars = [
        ("PGHOST", "env"),
        ("PGPASSWORD", "x"),
        ("PGSSLMODE", "require"),
        ("PGSERVICE", "s"),
    ];
    let mut conninfo = Conninfo::parse("host=h user=u")
        .unwrap()
        .resolve(&env(&vars), false)
        .unwrap();
    assert_eq!((conninfo.host(), conninfo.get("sslmode")), ("h", Some("prefer")));
    assert_eq!(conninfo.find_password(&env(&vars)).unwrap(), PasswordOrigin::None(None));
}

#[test]
fn a_password_is_looked_up_in_the_passfile() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pass");
    std::fs::write(
        &file,
        "localhost:5432:d:u:socket\nb:6:d:u:listed\n1.2.3.4:5432:d:u:address\n",
    )
    .unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let vars = env(&[("PGPASSFILE", file.to_str().unwrap())]);
    let lookup = |text: &str| {
        let mut conninfo = Conninfo::parse(text).unwrap().resolve(&vars, false).unwrap();
        let origin = conninfo.find_password(&vars).unwrap();
        (
            conninfo.password().map(|password| password.expose_secret().to_owned()),
            origin,
        )
    };

    let found = PasswordOrigin::Passfile(file.clone());
    assert_eq!(
        lookup("host=/tmp user=u dbname=d"),
        (Some("socket".to_owned()), found.clone())
    );
    assert_eq!(
        lookup("host=localhost user=u dbname=d"),
        (Some("socket".to_owned()), found.clone())
    );
    assert_eq!(
        lookup("host=a,b port=5,6 user=u dbname=d"),
        (Some("listed".to_owned()), found.clone())
    );
    assert_eq!(
        lookup("hostaddr=1.2.3.4 user=u dbname=d"),
        (Some("address".to_owned()), found)
    );
    assert_eq!(
        lookup("host=/elsewhere user=u dbname=d"),
        (None, PasswordOrigin::None(None))
    );

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        matches!(lookup("host=/tmp user=u dbname=d"), (None, PasswordOrigin::None(Some((path, _)))) if path == file)
    );
}

#[test]
fn values_that_make_no_sense_are_refused_without_being_repeated() {
    for (text, wanted) in [
        ("port=hunter2", "port: expected a number from 1 to 65535"),
        ("port=0", "port: expected"),
        ("port=70000", "port: expected"),
        (
            "host=a,b port=1,2,3",
            "port: expected one port, or as many as there are hosts",
        ),
        ("host=a,b hostaddr=1.2.3.4", "hostaddr: expected as many"),
        ("hostaddr=example.org", "hostaddr: expected an IPv4 or IPv6 address"),
        ("sslmode=verify", "sslmode: expected"),
        ("sslmode=''", "sslmode: expected"),
        ("connect_timeout=soon", "connect_timeout: expected an integer"),
        ("channel_binding=maybe", "channel_binding: expected"),
        ("sslrootcert=system sslmode=require", "sslmode: expected verify-full"),
        ("sslnegotiation=direct", "sslmode: expected require or stronger"),
        (
            "ssl_max_protocol_version=TLSv1",
            "not supported: versions before TLS 1.2",
        ),
        (
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
            "no more than",
        ),
        ("sslcrl=/f", "sslcrl: not supported"),
        ("sslpassword=hunter2", "sslpassword: not supported"),
        ("requirepeer=postgres", "requirepeer: not supported"),
        ("require_auth=scram-sha-256", "require_auth: not supported"),
        ("gssencmode=require", "gssencmode: not supported"),
        (
            "target_session_attrs=prefer-standby",
            "target_session_attrs: not supported",
        ),
        ("host=@abstract", "host: not supported"),
    ] {
        let text = if text.contains("host") {
            text.to_owned()
        } else {
            format!("host=h {text}")
        };
        let error = resolved(&text, &[]).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn parameters_of_a_program_are_taken_with_their_password() {
    let params = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let conninfo = Conninfo::from_params(
        params(&[("user", "u"), ("password", "p"), ("keepalives_idle", "10")]),
        None,
    )
    .unwrap();
    assert_eq!(conninfo.password().unwrap().expose_secret(), "p");
    assert_eq!(conninfo.get("password"), None);
    assert!(!format!("{conninfo:?}").contains("\"p\""));

    let error = Conninfo::from_params(params(&[("cp_max", "10")]), None).unwrap_err();
    assert!(error.to_string().contains("\"cp_max\""), "{error}");
}

#[test]
fn a_child_gets_all_of_it_and_nothing_else() {
    let text = "host=h user=u dbname='a=b' sslmode=require keepalives_idle=10 options='-c x=1' \
                client_encoding=LATIN1 target_session_attrs=read-write";
    let mut conninfo = resolved(text, &[]).unwrap();
    conninfo.set_password("p:a\\ss".to_owned().into());

    let child = conninfo
        .child_environment("ess-migrate/test/1", Access::ReadOnly, &[("jit", "on")])
        .unwrap();

    let get = |name: &str| {
        child
            .vars
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.to_str().unwrap())
    };
    assert_eq!(get("PGHOST"), Some("h"));
    assert_eq!(get("PGDATABASE"), Some("a=b"));
    let options = get("PGOPTIONS").unwrap();
    assert!(options.starts_with("-c x=1 -c statement_timeout=0 -c "), "{options}");
    assert!(
        options.ends_with(" -c default_transaction_read_only=on -c jit=on"),
        "{options}"
    );
    assert_eq!(get("PGSSLMODE"), Some("require"));
    assert_eq!(get("PGAPPNAME"), Some("ess-migrate/test/1"));
    assert_eq!(get("PGTARGETSESSIONATTRS"), Some("primary"));
    for gone in [
        "PGPASSWORD",
        "PGCLIENTENCODING",
        "PGHOSTADDR",
        "PGSSLCERT",
        "PGREQUIRESSL",
    ] {
        assert_eq!(get(gone), None);
        assert!(child.unset.contains(&gone), "{gone}");
    }
    let passfile = PathBuf::from(get("PGPASSFILE").unwrap());
    assert_eq!(std::fs::read_to_string(&passfile).unwrap(), "*:*:*:*:p\\:a\\\\ss\n");
    assert_eq!(passfile.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let services = std::fs::read_to_string(get("PGSERVICEFILE").unwrap()).unwrap();
    assert_eq!(
        services,
        format!(
            "[{}]\nkeepalives_idle=10\nkeepalives_interval=10\nkeepalives_count=6\n",
            get("PGSERVICE").unwrap()
        )
    );
    assert_eq!(conninfo.dbname_argument(), "dbname='a=b'");

    drop(child);
    assert!(!passfile.exists());
}

#[test]
fn a_password_with_a_line_break_goes_by_the_variable() {
    let mut conninfo = resolved("host=h user=u", &[]).unwrap();
    conninfo.set_password("a\nb".to_owned().into());
    let child = conninfo.child_environment("t", Access::ReadOnly, &[]).unwrap();
    assert!(child.vars.contains(&("PGPASSWORD".to_owned(), "a\nb".into())));
}

#[test]
fn our_connections_get_the_same_settings() {
    let conninfo = resolved(
        "host=h user=u connect_timeout=1 keepalives_count=7 options='-c x=1'",
        &[],
    )
    .unwrap();
    let config = conninfo.template("app").unwrap();
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(2)));
    assert_eq!(config.get_keepalives_retries(), Some(7));
    assert_eq!(config.get_options(), Some("-c x=1"));
    assert_eq!(config.get_application_name(), Some("app"));
}

#[test]
fn no_connection_waits_for_ever_unless_it_is_set_to() {
    let patience = |text: &str| {
        let conninfo = resolved(text, &[]).unwrap();
        let config = conninfo.template("app").unwrap();
        let child = conninfo.child_environment("app", Access::ReadOnly, &[]).unwrap();
        let timeout = child.vars.iter().find(|(name, _)| name == "PGCONNECT_TIMEOUT");
        let timeout = timeout.map(|(_, value)| value.to_str().unwrap().to_owned());
        (
            config.get_connect_timeout().copied(),
            config.get_keepalives_idle(),
            timeout,
        )
    };
    let seconds = Duration::from_secs;
    assert_eq!(
        patience("host=h user=u"),
        (Some(seconds(30)), seconds(60), Some("30".into()))
    );
    let patient = patience("host=h user=u connect_timeout=0 keepalives_idle=900");
    assert_eq!(patient, (None, seconds(900), Some("0".into())));
}

#[test]
fn a_missing_root_file_matters_to_those_who_verify() {
    let tokio = |text: &str| resolved(text, &[]).unwrap().connector("t").map(|_| ());
    assert!(tokio("host=h sslmode=require sslrootcert=/nowhere").is_ok());
    let error = tokio("host=h sslmode=verify-ca sslrootcert=/nowhere")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("/nowhere") && error.contains("does not exist"),
        "{error}"
    );
    assert!(tokio("host=h sslmode=verify-ca").is_err());
    assert!(tokio("host=/run/pg sslmode=verify-full").is_ok());
    assert!(tokio("hostaddr=1.2.3.4 sslmode=verify-full sslrootcert=/nowhere").is_err());
}

proptest! {
    #[test]
    fn no_text_makes_resolving_panic(host in ".*", port in ".*", addr in "[0-9a-f.:,]*") {
        let params = [("host", host), ("port", port), ("hostaddr", addr), ("user", "u".to_owned())];
        let params = params.map(|(keyword, value)| (keyword.to_owned(), value));
        if let Ok(conninfo) = Conninfo::from_params(params.into(), None)
            && let Ok(conninfo) = conninfo.resolve(&env(&[]), false)
        {
            let _ = conninfo.connector("t");
            let _ = conninfo.child_environment("t", Access::ReadOnly, &[]);
        }
    }
}

#[test]
fn a_document_gets_what_anybody_may_read() {
    let text =
        "host=h user=u sslkey=/key sslpassword=s oauth_client_secret=s options='-c geqo=off -c app.key=s' port=7";
    let conninfo = Conninfo::parse(text).unwrap();
    let names = |params: BTreeMap<String, String>| params.into_keys().collect::<Vec<_>>().join(" ");
    assert_eq!(names(conninfo.harmless_params()), "host port sslkey user");
    assert_eq!(
        names(conninfo.other_params()),
        "oauth_client_secret options sslpassword"
    );
    let endpoint = Conninfo::parse("postgresql://u@h/d?options=endpoint%3Dquiet-sea-1").unwrap();
    assert_eq!(names(endpoint.other_params()), "");
    for keyword in KEYWORDS {
        let secret = ["password", "secret", "key"]
            .iter()
            .any(|word| keyword.name.ends_with(word));
        let path = ["sslkey"].contains(&keyword.name);
        assert!(
            !secret || path || !keyword::is_harmless(keyword.name, ""),
            "{}",
            keyword.name
        );
    }
}

#[test]
fn a_connection_string_in_a_parameter_brings_no_password() {
    for value in [
        "postgresql://u:hunter2@h/d",
        "postgres://u:hunter2@h",
        "host=h password=hunter2",
        "h password = 'hunter2'",
    ] {
        for keyword in ["host", "dbname", "user", "sslrootcert"] {
            let params = [(keyword.to_owned(), value.to_owned())];
            let error = Conninfo::from_params(params.into(), None).unwrap_err();
            assert!(
                matches!(&error, ConninfoError::PasswordInValue(found) if found == keyword),
                "{error}"
            );
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
    for value in [
        "postgres://c",
        "a=b",
        "My-D B=1",
        "postgresql://u@h/d",
        "/run/passwords",
    ] {
        let params = [("dbname".to_owned(), value.to_owned())];
        assert!(Conninfo::from_params(params.into(), None).is_ok(), "{value}");
    }
}
