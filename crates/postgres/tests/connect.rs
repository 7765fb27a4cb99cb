//! Our connections behave like libpq's: whatever `psql` connects to or refuses, in the environment that we give to
//! child programs, our own connections connect to or refuse too, and use TLS if and only if it does.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod server;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use ess_postgres::{Access, Conninfo, Error, Session};
use tempfile::TempDir;
use tokio_postgres::SimpleQueryMessage;

use server::{bin, serve};

/// A temporary server with one socket and one port, and a certificate authority.
struct Server {
    dir: TempDir,
    port: u16,
}

const QUERY: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
const PASSWORDS: [&str; 7] = [
    "plain",
    "sp ace",
    r"back\slash\",
    "co:lon:",
    "quo'te\"%40@/",
    "pässwörd ✓",
    "#",
];

fn run(program: &str, args: &[&str], dir: &Path) -> Output {
    server::run(Command::new(program).args(args).current_dir(dir))
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { dir, port };
        let at = server.dir.path();
        fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(at.join("home")).unwrap();
        make_certificates(at);
        fs::create_dir(at.join("server")).unwrap();
        server.own();

        serve(
            "initdb",
            &[
                "-D",
                "server/data",
                "-U",
                "boss",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
            ],
            at,
        );
        let config = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n\
             ssl = on\nssl_cert_file = '{at}/server/tls.crt'\nssl_key_file = '{at}/server/tls.key'\nssl_ca_file = '{at}/ca.crt'\n",
            at.join("server").display(),
            at = at.display(),
        );
        fs::write(at.join("server/data/postgresql.auto.conf"), config).unwrap();
        let hba = "local all boss trust\nlocal all all scram-sha-256\n\
                   hostssl all certified 127.0.0.1/32 cert\nhostssl all sslonly 127.0.0.1/32 trust\n\
                   hostnossl all plainonly 127.0.0.1/32 trust\nhost all boss 127.0.0.1/32 trust\n\
                   host all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(at.join("server/data/pg_hba.conf"), hba).unwrap();
        server.certificate("good");
        serve("pg_ctl", &["-D", "server/data", "-l", "server/log", "-w", "start"], at);
        let roles = PASSWORDS.iter().enumerate().map(|(number, password)| {
            let password = password.replace('\'', "''");
            format!("CREATE ROLE role{number} LOGIN PASSWORD '{password}'")
        });
        server.sql(&[
            "CREATE DATABASE \"My-D B=1\"",
            "CREATE ROLE sslonly LOGIN; CREATE ROLE plainonly LOGIN; CREATE ROLE certified LOGIN",
            &roles.collect::<Vec<_>>().join("; "),
        ]);
        server
    }

    fn own(&self) {
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            run("chown", &["-R", "nobody", "server"], self.dir.path());
        }
    }

    fn sql(&self, statements: &[&str]) -> String {
        let mut psql = Command::new(bin().join("psql"));
        psql.args([
            "-X",
            "-q",
            "-At",
            "-U",
            "boss",
            "-d",
            "postgres",
            "-p",
            &self.port.to_string(),
            "-h",
        ]);
        psql.arg(self.path("server"))
            .args(statements.iter().flat_map(|sql| ["-c", sql]));
        let output = psql.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    }

    /// Installs a certificate for new connections.
    fn certificate(&self, name: &str) {
        for end in ["crt", "key"] {
            let to = self.dir.path().join(format!("server/tls.{end}"));
            fs::copy(self.dir.path().join(format!("{name}.{end}")), &to).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
        }
        self.own();
    }

    /// Makes the running server reload its certificate and the setting `ssl`.
    fn reload(&self, ssl: &str) {
        let loaded = "SELECT pg_conf_load_time()";
        let set = format!("ALTER SYSTEM SET ssl = {ssl}");
        let before = self.sql(&[loaded, &set, "SELECT pg_reload_conf()"]);
        // The postmaster reloads asynchronously.
        while self.sql(&[loaded]) == before {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn env(&self) -> impl Fn(&str) -> Option<String> {
        let (home, pass) = (self.path("home"), self.path("pass"));
        move |name| match name {
            "HOME" => Some(home.to_str().unwrap().to_owned()),
            "PGPASSFILE" => Some(pass.to_str().unwrap().to_owned()),
            _ => None,
        }
    }

    fn conninfo(&self, text: &str) -> Conninfo {
        let text = format!("port={} dbname=postgres {text}", self.port);
        Conninfo::parse(&text).unwrap().resolve(&self.env(), false).unwrap()
    }

    /// The outcomes of our connection and of `psql`: `t` with TLS, `f` without, or the error.
    fn both(&self, conninfo: &Conninfo) -> (Result<String, String>, Result<String, String>) {
        (ours(conninfo), psql(conninfo, &self.path("home")))
    }

    /// The outcome of both, which must agree.
    fn agreed(&self, conninfo: &Conninfo, case: &str) -> Result<String, String> {
        let (ours, psql) = self.both(conninfo);
        assert_eq!(
            ours.as_ref().ok(),
            psql.as_ref().ok(),
            "{case}: ours {ours:?}, psql {psql:?}"
        );
        ours
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        serve(
            "pg_ctl",
            &["-D", "server/data", "-m", "immediate", "stop"],
            self.dir.path(),
        );
    }
}

fn ours(conninfo: &Conninfo) -> Result<String, String> {
    let tls = conninfo
        .connector("ess-migrate/test/1")
        .map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (client, connection) = tls.connect().await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let rows = client.simple_query(QUERY).await.map_err(|error| error.to_string())?;
        let row = rows.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        Ok(row.unwrap())
    })
}

fn psql(conninfo: &Conninfo, home: &Path) -> Result<String, String> {
    let child = conninfo
        .child_environment("ess-migrate/test/1", Access::ReadOnly, &[])
        .map_err(|error| error.to_string())?;
    let mut command = Command::new(bin().join("psql"));
    command
        .env("PGHOST", "nowhere.invalid")
        .env("PGPASSWORD", "inherited")
        .env("HOME", home);
    child.apply(&mut command);
    let output = command.args(["-X", "-At", "-w", "-c", QUERY]).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// Creates certificates, signed by `ca.crt` unless the name indicates otherwise. `v1` is created as described in
/// PostgreSQL's manual: without extensions, with the host in the common name.
fn make_certificates(dir: &Path) {
    let script = r#"
        set -e
        ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
        for ca in ca stranger; do
            openssl req -x509 $ec -subj /CN=$ca -days 30 -keyout $ca.key -out $ca.crt
        done
        sign() { # name, authority, days, extensions, subject
            openssl req $ec -subj $5 -keyout $1.key -out $1.csr
            printf '%s\n' "$4" > $1.ext
            openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -CAcreateserial -days $3 -extfile $1.ext -out $1.crt
        }
        sign good ca 30 subjectAltName=DNS:db.example.org,IP:127.0.0.1 /CN=ignored
        sign wild ca 30 subjectAltName=DNS:*.Example.org /CN=db.example.org
        sign expired ca -1 subjectAltName=DNS:db.example.org /CN=db.example.org
        sign other ca 30 subjectAltName=DNS:other.example.org /CN=db.example.org
        sign unknown stranger 30 subjectAltName=DNS:db.example.org /CN=db.example.org
        sign common ca 30 basicConstraints=CA:FALSE /CN=db.example.org
        sign middle ca 30 basicConstraints=critical,CA:TRUE /CN=middle
        sign chained middle 30 subjectAltName=DNS:db.example.org /CN=chained
        cat middle.crt >> chained.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=db.example.org -keyout v1.key -out v1.csr
        openssl x509 -req -in v1.csr -days 30 -CA ca.crt -CAkey ca.key -CAcreateserial -out v1.crt
        openssl x509 -req -in v1.csr -days -1 -CA ca.crt -CAkey ca.key -CAcreateserial -out v1expired.crt
        openssl x509 -req -in v1.csr -days 30 -CA stranger.crt -CAkey stranger.key -CAcreateserial -out v1unknown.crt
        cp v1.key v1expired.key; cp v1.key v1unknown.key
        openssl req -x509 $ec -subj /CN=db.example.org -days 30 -keyout own.key -out own.crt
        openssl req -newkey rsa:2048 -nodes -subj /CN=certified -keyout client.key -out client.csr
        openssl x509 -req -in client.csr -days 30 -CA ca.crt -CAkey ca.key -CAcreateserial -out client.crt
        cat ca.crt own.crt > roots.crt
        chmod 644 *.key; chmod 600 client.key
    "#;
    run("sh", &["-c", script], dir);
}

#[test]
fn a_session_that_became_unresponsive_gets_no_more_queries() {
    let server = Server::start();
    let conninfo = server.conninfo("user=boss host=127.0.0.1");
    let session = Session::connect(&conninfo, "ess-migrate/test/silent", Access::ReadOnly).unwrap();
    let session = session.limited(Duration::from_secs(1));
    session.one("look", "SELECT 1", &[]).unwrap();

    let sleeps = session.batch("wait", "SELECT pg_sleep(600)").unwrap_err().to_string();
    let after = session.one("look again", "SELECT 1", &[]).unwrap_err().to_string();

    assert!(
        sleeps.contains("cannot wait on") && sleeps.ends_with("no answer within 1s"),
        "{sleeps}"
    );
    assert!(
        after.contains("cannot look again on") && after.ends_with("no answer within 1s"),
        "{after}"
    );
    // And the server has cancelled the query.
    let works = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ess-migrate/test/silent' \
        AND state = 'active'";
    while server.sql(&[works]) != "0" {
        std::thread::sleep(Duration::from_millis(10));
    }
}

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

#[test]
fn every_mode_and_certificate_ends_as_with_libpq() {
    let server = Server::start();
    let certificates = [
        "good",
        "wild",
        "expired",
        "other",
        "unknown",
        "common",
        "chained",
        "v1",
        "v1expired",
        "v1unknown",
        "own",
    ];
    let refused = "the server's certificate is not accepted: ";
    let mut trusted = Vec::new();
    for certificate in certificates {
        server.certificate(certificate);
        server.reload("on");
        for mode in MODES {
            let mut cases = vec![("ca", "sslonly")];
            match certificate {
                "good" | "unknown" | "v1" => cases.extend([("nowhere", "sslonly"), ("ca", "plainonly")]),
                "own" => cases.push(("roots", "sslonly")),
                _ => {}
            }
            for (root, user) in cases {
                let conninfo = server.conninfo(&format!(
                    "user={user} host=db.example.org hostaddr=127.0.0.1 sslmode={mode} sslrootcert='{}'",
                    server.path(&format!("{root}.crt")).display()
                ));
                let outcome = server.agreed(&conninfo, &format!("{certificate}, {mode}, {root}, {user}"));
                match (mode, certificate, outcome) {
                    ("verify-full", _, Ok(_)) => trusted.push(format!("{certificate} by {root}")),
                    ("verify-full", "expired", Err(why)) => {
                        assert_eq!(why, format!("{refused}it has expired"));
                    }
                    ("verify-full", "other", Err(why)) => {
                        assert_eq!(why, format!("{refused}it is for another host"));
                    }
                    ("verify-full", "unknown", Err(why)) if root == "ca" && user == "sslonly" => {
                        assert_eq!(why, format!("{refused}it is not signed by an authority in sslrootcert"));
                    }
                    _ => {}
                }
            }
        }
    }
    let expected = [
        "good by ca",
        "wild by ca",
        "common by ca",
        "chained by ca",
        "v1 by ca",
        "own by roots",
    ];
    assert_eq!(trusted, expected);

    names_and_versions(&server);
}

fn names_and_versions(server: &Server) {
    server.certificate("good");
    server.reload("on");
    let root = server.path("ca.crt").display().to_string();
    for (host, verified) in [
        ("host=127.0.0.1", true),
        ("hostaddr=127.0.0.1", false),
        ("host=localhost hostaddr=127.0.0.1", false),
    ] {
        let conninfo = server.conninfo(&format!("user=boss {host} sslmode=verify-full sslrootcert='{root}'"));
        assert_eq!(server.agreed(&conninfo, host).is_ok(), verified, "{host}");
        let conninfo = server.conninfo(&format!("user=boss {host} sslmode=verify-ca sslrootcert='{root}'"));
        assert_eq!(server.agreed(&conninfo, host).as_deref(), Ok("t"), "{host}");
    }
    for version in ["ssl_max_protocol_version=TLSv1.2", "ssl_min_protocol_version=TLSv1.3"] {
        for certificate in ["good", "v1"] {
            server.certificate(certificate);
            server.reload("on");
            let conninfo = server.conninfo(&format!(
                "user=boss host=127.0.0.1 sslmode=verify-ca sslrootcert='{root}' {version}"
            ));
            assert_eq!(
                server.agreed(&conninfo, version).as_deref(),
                Ok("t"),
                "{certificate}, {version}"
            );
        }
    }

    server.reload("off");
    for mode in MODES {
        let conninfo = server.conninfo(&format!("user=boss host=127.0.0.1 sslmode={mode} sslrootcert='{root}'"));
        let outcome = server.agreed(&conninfo, mode);
        assert_eq!(
            outcome.is_ok(),
            ["disable", "allow", "prefer"].contains(&mode),
            "{mode}: {outcome:?}"
        );
    }
}

#[test]
fn passwords_client_certificates_and_host_lists_work_as_with_libpq() {
    // One server for all of them, because starting it takes longer than the tests.
    let server = Server::start();
    passwords(&server);
    client_certificates(&server);
    lists_of_hosts(&server);
}

fn passwords(server: &Server) {
    let socket = server.path("server").display().to_string();

    for (number, password) in PASSWORDS.iter().enumerate() {
        for host in ["127.0.0.1", &socket] {
            let mut conninfo = server.conninfo(&format!("user=role{number} host={host}"));
            conninfo.set_password((*password).to_owned().into());
            let tls = if host == socket { "f" } else { "t" };
            assert_eq!(server.agreed(&conninfo, password).as_deref(), Ok(tls), "{password}");
        }
        let mut conninfo = server.conninfo(&format!("user=role{number} host=127.0.0.1"));
        conninfo.set_password(format!("{password}\n").into());
        assert!(server.agreed(&conninfo, password).is_err(), "{password}");
    }
    let without = server.conninfo("user=role0 host=127.0.0.1");
    assert!(server.agreed(&without, "no password").is_err());

    // Each password is found in a password file if and only if psql finds it by itself.
    let escaped = |password: &str| password.replace('\\', "\\\\").replace(':', "\\:");
    let lines = PASSWORDS
        .iter()
        .enumerate()
        .map(|(n, password)| format!("*:{}:*:role{n}:{}\n", server.port, escaped(password)));
    fs::write(server.path("pass"), lines.collect::<String>()).unwrap();
    for (mode, found) in [(0o600, true), (0o640, false)] {
        fs::set_permissions(server.path("pass"), fs::Permissions::from_mode(mode)).unwrap();
        for (number, password) in PASSWORDS.iter().enumerate() {
            let mut conninfo = server.conninfo(&format!("user=role{number} host={socket} dbname='My-D B=1'"));
            conninfo.find_password(&server.env()).unwrap();
            assert_eq!(server.agreed(&conninfo, password).is_ok(), found, "{password}");

            let mut alone = Command::new(bin().join("psql"));
            alone
                .env("PGPASSFILE", server.path("pass"))
                .args(["-X", "-At", "-w", "-c", QUERY]);
            alone.arg(format!(
                "host={socket} port={} user=role{number} dbname='My-D B=1'",
                server.port
            ));
            assert_eq!(alone.output().unwrap().status.success(), found, "{password}");
        }
    }
}

fn client_certificates(server: &Server) {
    let with = |more: &str| server.conninfo(&format!("user=certified host=127.0.0.1 sslmode=require {more}"));
    let (certificate, key) = (server.path("client.crt"), server.path("client.key"));
    let pair = format!("sslcert='{}' sslkey='{}'", certificate.display(), key.display());
    assert_eq!(server.agreed(&with(&pair), "certificate").as_deref(), Ok("t"));
    assert!(server.agreed(&with(""), "no certificate").is_err());
    assert!(server.agreed(&with("sslcert=/nowhere"), "absent certificate").is_err());
    assert!(
        server
            .agreed(
                &with(&format!("sslcert='{}' sslkey=/nowhere", certificate.display())),
                "absent key"
            )
            .is_err()
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(server.agreed(&with(&pair), "open key").is_err());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();

    // The same files in libpq's default place.
    fs::create_dir(server.path("home/.postgresql")).unwrap();
    for (from, to) in [
        ("client.crt", "postgresql.crt"),
        ("client.key", "postgresql.key"),
        ("stranger.crt", "root.crt"),
    ] {
        fs::copy(server.path(from), server.path("home/.postgresql").join(to)).unwrap();
    }
    assert!(server.agreed(&with(""), "a strange root.crt").is_err());
    fs::copy(server.path("ca.crt"), server.path("home/.postgresql/root.crt")).unwrap();
    assert_eq!(server.agreed(&with(""), "files of ~/.postgresql").as_deref(), Ok("t"));
}

fn lists_of_hosts(server: &Server) {
    let socket = server.path("server").display().to_string();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();

    for (text, expected) in [
        (
            format!("host=127.0.0.1,{socket} port={dead},{} user=boss", server.port),
            Ok("f"),
        ),
        (
            format!("host={socket},127.0.0.1 port={dead},{} user=boss", server.port),
            Ok("t"),
        ),
        (
            "host=127.0.0.1 user=boss target_session_attrs=read-write options='-c default_transaction_read_only=off'"
                .to_owned(),
            Ok("t"),
        ),
        (
            "host=127.0.0.1 user=boss target_session_attrs=standby".to_owned(),
            Err(()),
        ),
        ("host=127.0.0.1 user=boss channel_binding=require".to_owned(), Err(())),
        (
            "host=127.0.0.1 user=boss keepalives_idle=30 tcp_user_timeout=10000".to_owned(),
            Ok("t"),
        ),
        // The server refuses the connection: the next host is not tried.
        (format!("host=127.0.0.1,{socket} user=nobody_known"), Err(())),
    ] {
        let outcome = server.agreed(&server.conninfo(&text), &text);
        assert_eq!(outcome.as_deref().map_err(|_| ()), expected, "{text}: {outcome:?}");
    }

    let mut bound = server.conninfo("host=127.0.0.1 user=role0 channel_binding=require");
    bound.set_password(PASSWORDS[0].to_owned().into());
    assert_eq!(server.agreed(&bound, "channel binding").as_deref(), Ok("t"));
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!(
        "host=127.0.0.1 port={} user=u connect_timeout=2",
        silent.local_addr().unwrap().port()
    );
    let conninfo = Conninfo::parse(&text).unwrap().resolve(&|_| None, false).unwrap();
    assert_eq!(ours(&conninfo).unwrap_err(), "no answer within 2s");
}

#[test]
fn a_server_that_falls_silent_when_it_has_let_us_in_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        client.read_exact(&mut length).unwrap();
        let mut startup = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut startup).unwrap();
        // AuthenticationOk, ReadyForQuery; then nothing, until the client disconnects.
        client.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
        let _ = client.read_to_end(&mut startup);
    });
    let text = format!("host=127.0.0.1 port={port} user=u sslmode=disable connect_timeout=2");
    let conninfo = Conninfo::parse(&text).unwrap().resolve(&|_| None, false).unwrap();

    let error = Session::connect(&conninfo, "test", Access::ReadOnly).err().unwrap();

    assert!(
        matches!(&error, Error::NoAnswer { what, limit, .. } if what == "set up the session" && limit.as_secs() == 2),
        "{error}"
    );
}

/// Settings that a role or a database can have, with the values that our sessions and a child's have nevertheless.
const LIMITS: [(&str, &str, &str); 24] = [
    ("statement_timeout", "'3s'", "0"),
    ("lock_timeout", "'1ms'", "0"),
    ("idle_in_transaction_session_timeout", "'1ms'", "0"),
    ("idle_session_timeout", "'3s'", "0"),
    ("default_transaction_read_only", "on", "off"),
    ("default_transaction_isolation", "serializable", "read committed"),
    ("default_transaction_deferrable", "on", "off"),
    ("row_security", "on", "off"),
    ("role", "sslonly", "none"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("standard_conforming_strings", "off", "on"),
    ("bytea_output", "escape", "hex"),
    ("DateStyle", "'SQL, DMY'", "ISO, YMD"),
    ("IntervalStyle", "iso_8601", "postgres"),
    ("extra_float_digits", "0", "3"),
    ("TimeZone", "'Asia/Kolkata'", "UTC"),
    ("array_nulls", "off", "on"),
    ("quote_all_identifiers", "on", "off"),
    ("exit_on_error", "on", "off"),
    ("client_min_messages", "debug5", "warning"),
    ("tcp_keepalives_idle", "9999", "60"),
    ("tcp_keepalives_interval", "9999", "10"),
    ("tcp_keepalives_count", "99", "6"),
    // In milliseconds without a unit: PostgreSQL's `show_tcp_user_timeout` prints the value of the socket.
    ("tcp_user_timeout", "99999999", "120000"),
];

#[test]
fn no_setting_of_a_role_or_a_database_reaches_our_sessions_or_a_childs() {
    let server = Server::start();
    server.sql(&[
        "CREATE ROLE limited LOGIN PASSWORD 'pw'",
        "GRANT sslonly TO limited",
        "CREATE DATABASE limited",
    ]);
    let conninfo = || {
        let params = [("user", "limited"), ("host", "127.0.0.1"), ("dbname", "limited")];
        let mut params: std::collections::BTreeMap<String, String> =
            params.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        params.insert("port".to_owned(), server.port.to_string());
        let conninfo = Conninfo::from_params(params, Some("pw".to_owned().into())).unwrap();
        conninfo.resolve(&server.env(), false).unwrap()
    };
    for whose in ["ROLE limited", "ROLE limited IN DATABASE limited", "DATABASE limited"] {
        for (name, value, _) in LIMITS {
            server.sql(&[&format!("ALTER {whose} SET {name} = {value}")]);
        }
        let conninfo = conninfo();
        let session = Session::connect(&conninfo, "ess-migrate/test/limits", Access::ReadWrite).unwrap();
        let child = conninfo
            .child_environment("ess-migrate/test/limits", Access::ReadWrite, &[])
            .unwrap();
        for (name, _, wanted) in LIMITS {
            let show = format!("SHOW {name}");
            let ours: String = session.one("show it", &show, &[]).unwrap().get(0);
            let mut psql = Command::new(bin().join("psql"));
            child.apply(&mut psql);
            let theirs = psql.args(["-X", "-A", "-t", "-w", "-c", &show]).output().unwrap();
            let theirs = String::from_utf8(theirs.stdout).unwrap();
            assert_eq!((ours.as_str(), theirs.trim()), (wanted, wanted), "{whose}: {name}");
        }
        // Longer than any of these limits.
        session.batch("wait", "BEGIN; SELECT 1").unwrap();
        thread::sleep(Duration::from_millis(50));
        session
            .batch("write", "CREATE TEMPORARY TABLE t (n int); COMMIT")
            .unwrap();
        server.sql(&[&format!("ALTER {whose} RESET ALL")]);
    }
}

#[test]
fn a_servers_message_holds_no_value() {
    let server = Server::start();
    let conninfo = server.conninfo("user=boss host=127.0.0.1");
    let session = Session::connect(&conninfo, "ess-migrate/test/values", Access::ReadWrite).unwrap();
    let made = "CREATE TEMPORARY TABLE tokens (token text PRIMARY KEY, n int CHECK (n < 5)); INSERT INTO tokens VALUES ('canary', 1)";
    session.batch("make it", made).unwrap();
    for (sql, kept) in [
        (
            "INSERT INTO tokens VALUES ('canary', 1)",
            "constraint \"tokens_pkey\" (Key (token)=(...) already exists.)",
        ),
        (
            "INSERT INTO tokens VALUES ('canary2', 7)",
            "constraint \"tokens_n_check\" (Failing row contains (...))",
        ),
        ("SELECT 'canary'::int", "invalid input syntax for type integer: \"...\""),
        (
            "SELECT '{\"canary\": canary}'::json",
            "invalid input syntax for type json (Token \"...\" is invalid.)",
        ),
        (
            "SELECT 'canary'::timestamptz",
            "invalid input syntax for type timestamp with time zone: \"...\"",
        ),
        ("SELECT nothing FROM tokens", "column \"nothing\" does not exist"),
    ] {
        let error = session.batch("do it", sql).unwrap_err().to_string();
        assert!(error.contains(kept) && !error.contains("canary"), "{sql}: {error}");
    }
}
