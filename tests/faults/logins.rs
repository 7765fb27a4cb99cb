//! Logins that fail: a wrong password, a server that is missing, and certificates that sslmode does not accept.

use std::fs;

use crate::support::{Call, Cluster, Scene, World, assert_failed, link_programs, names_in, pgbin, write_program};

#[test]
fn a_wrong_password_is_distinguished_from_a_missing_server() {
    let scene = Scene::restored();
    let before = scene.target_dump();
    scene.world.write("wrong.pw", "wrong");
    let wrong = |tool| {
        scene.tool(tool).args([
            "-n",
            "--target",
            &scene.target_url(),
            "--target-password-file",
            "wrong.pw",
        ])
    };

    for (ran, status, said) in [
        (wrong("ess-wipe").run(), 77, "password authentication failed for user"),
        (
            wrong("restore").args(["--from", "export/dump"]).run(),
            77,
            "password authentication failed for user",
        ),
        (
            wrong("verify").args(["--from", "export/dump"]).run(),
            77,
            "password authentication failed for user",
        ),
        (
            scene
                .tool("verify")
                .args([
                    "-n",
                    "--from",
                    "export/dump",
                    "--target",
                    "postgresql://u@127.0.0.1:1/d",
                ])
                .run(),
            69,
            "onnection refused",
        ),
    ] {
        assert_failed(&ran, status, said);
    }
    assert_eq!(scene.target_dump(), before);
}

/// A server that accepts only TLS, with a replaceable certificate, and a database with one table.
struct Encrypted {
    world: World,
    cluster: Cluster,
}

/// Creates certificates; `ca.crt` has signed all of them but one.
const CERTIFICATES: &str = r"
    set -e
    ec='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
    for ca in ca stranger; do
        openssl req -x509 $ec -subj /CN=$ca -days 30 -keyout $ca.key -out $ca.crt
    done
    sign() { # name, authority, days, host
        openssl req $ec -subj /CN=x -keyout $1.key -out $1.csr
        echo subjectAltName=DNS:$4 >ext
        openssl x509 -req -in $1.csr -CA $2.crt -CAkey $2.key -CAcreateserial -days $3 -extfile ext -out $1.crt
    }
    sign good ca 30 db.example.org
    sign expired ca -1 db.example.org
    sign other ca 30 other.example.org
    sign unknown stranger 30 db.example.org
    chmod 600 *.key
";

/// Installs a certificate as the server's user, and reloads it, for new connections.
const INSTALL: &str = r#"
    set -e
    loaded() {
        env -i "PATH=$PATH" psql -XAtq -h "$PWD/encrypted" -p "$(sed -n 4p encrypted/data/postmaster.pid)" \
            -U postgres -c 'SELECT pg_conf_load_time()' postgres
    }
    cp $NAME.crt tls.crt
    cp $NAME.key tls.key
    before=$(loaded)
    kill -HUP "$(head -n1 encrypted/data/postmaster.pid)"
    until now=$(loaded) && [[ $now != "$before" ]]; do sleep 0.05; done
"#;

impl Encrypted {
    fn new() -> Self {
        let world = World::new();
        world.shell(CERTIFICATES).success();
        let cluster = Cluster::new(&world, "encrypted");
        cluster.create_role("app", "pw");
        cluster.create_database("plain", "app");
        cluster.psql_as(
            "app",
            "plain",
            "CREATE TABLE t AS SELECT 1 AS x;
             CREATE TABLE schema_version (lock char(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'), version int NOT NULL,
                                          upgraded bool NOT NULL);
             CREATE TABLE schema_compat_version (lock char(1) DEFAULT 'X' NOT NULL UNIQUE CHECK (lock = 'X'),
                                                 compat_version int NOT NULL);
             INSERT INTO schema_version (version, upgraded) VALUES (94, true);
             INSERT INTO schema_compat_version (compat_version) VALUES (84)",
        );
        world.shell("cp good.crt tls.crt; cp good.key tls.key").success();
        for (name, value) in [("ssl_cert_file", "tls.crt"), ("ssl_key_file", "tls.key")] {
            let value = world.path(value).display().to_string();
            cluster.psql("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"));
        }
        cluster.psql("postgres", "ALTER SYSTEM SET ssl = on");
        let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
        fs::write(cluster.dir.join("data/pg_hba.conf"), hba).unwrap();
        cluster.stop();
        cluster.start();
        world.write("pgpass", "*:*:*:app:pw\n");
        Self { world, cluster }
    }

    fn install(&self, certificate: &str) {
        self.world.script(INSTALL).env("NAME", certificate).run().success();
    }

    fn dumper<'a>(&self, mode: &str, out: &str) -> Call<'a> {
        let root = self.world.path("ca.crt").display().to_string();
        let source = format!(
            "host=db.example.org hostaddr=127.0.0.1 port={} user=app dbname=plain sslmode={mode} sslrootcert={}",
            self.cluster.port,
            // With a root certificate file, libpq treats `require` as `verify-ca`.
            if mode.starts_with("verify") {
                &root
            } else {
                "/nonexistent"
            },
        );
        let dumper = self
            .world
            .tool("pgdump-wrap")
            .args(["-n", "--source", &source, "--out", out]);
        dumper.env("PGPASSFILE", self.world.path("pgpass"))
    }
}

#[test]
fn certificates_are_checked_by_sslmode_and_nothing_is_dumped_otherwise() {
    let server = Encrypted::new();
    let mut outs = Vec::new();
    for (certificate, mode, status, said) in [
        ("good", "disable", 77, "no encryption"),
        ("good", "verify-full", 0, ""),
        (
            "expired",
            "verify-full",
            69,
            "the server's certificate is not accepted: it has expired",
        ),
        (
            "expired",
            "verify-ca",
            69,
            "the server's certificate is not accepted: it has expired",
        ),
        ("expired", "require", 0, ""),
        (
            "other",
            "verify-full",
            69,
            "the server's certificate is not accepted: it is for another host",
        ),
        ("other", "verify-ca", 0, ""),
        (
            "unknown",
            "verify-ca",
            69,
            "it is not signed by an authority in sslrootcert",
        ),
        ("unknown", "prefer", 0, ""),
    ] {
        server.install(certificate);
        let out = format!("{certificate}-{mode}");

        let ran = server.dumper(mode, &out).run();

        if status == 0 {
            ran.success();
            outs.push(out);
        } else {
            assert_failed(&ran, status, said);
            assert!(!server.world.path(out).exists());
        }
    }
    // pg_dump connected too, although the server accepts only TLS.
    for out in outs {
        assert_eq!(names_in(&server.world, &out), ["data", "manifest.json"]);
    }
}

#[test]
fn a_child_holds_the_server_to_the_same_terms() {
    let server = Encrypted::new();
    // Another server answers after our connection and before pg_dump's.
    for (certificate, mode, refused) in [
        ("expired", "verify-ca", true),
        ("other", "verify-full", true),
        ("other", "verify-ca", false),
    ] {
        server.install("good");
        let swap = INSTALL.replace("$NAME", certificate);
        let real = format!("{}/pg_dump", pgbin());
        let script = format!("[[ $* == *--version* ]] || {{ {swap} }}\nexec {real} \"$@\"\n");
        write_program(&server.world, "bin/pg_dump", &script);
        link_programs(&server.world, "bin");

        let ran = server.dumper(mode, "dump").args(["--pg-bin", "bin"]).run();

        if refused {
            assert_failed(&ran, 69, "pg_dump: error: connection to server at ");
            assert!(!server.world.path("dump").exists());
        } else {
            ran.success();
        }
    }
}
