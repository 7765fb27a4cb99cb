//! The public side of a homeserver: its zone in a real name server, and its documents on a real HTTPS server.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::Signal;

use super::{Call, Running, World, free_port};

/// Valid well-known documents.
pub(crate) const DOCUMENTS: [(&str, &str); 2] = [
    ("server", r#"{"m.server": "matrix.example.org:443"}"#),
    (
        "client",
        r#"{"m.homeserver": {"base_url": "https://matrix.example.org"}}"#,
    ),
];

/// Valid DNS records, as they should be some days before a migration.
pub(crate) const ZONE: &str = "@ A 127.0.0.1\nmatrix A 127.0.0.1\n_matrix-fed._tcp SRV 10 0 443 matrix\n";

/// A name server and an HTTPS server for `example.org`, until they are dropped.
pub(crate) struct Internet {
    dns: u16,
    https: u16,
    certificate: PathBuf,
    servers: [Running; 2],
}

/// The instance that most tests use.
pub(crate) fn healthy() -> &'static Internet {
    static HEALTHY: OnceLock<(World, Internet)> = OnceLock::new();
    let start = || {
        let world = World::new();
        let internet = Internet::new(&world, ZONE, &DOCUMENTS);
        (world, internet)
    };
    &HEALTHY.get_or_init(start).1
}

impl Internet {
    /// Records follow the zone's SOA and NS records, with a TTL of 300 s unless they have their own.
    pub(crate) fn new(world: &World, records: &str, documents: &[(&str, &str)]) -> Self {
        let (dns, https) = (free_port(), free_port());
        let directory = world.path("internet").display().to_string();
        write_zone(world, 1, records);
        // A zone of another party, with a long TTL.
        let other = "$ORIGIN provider.test.\n$TTL 86400\n@ SOA ns root 1 3600 600 604800 300\n@ NS ns\nns A 127.0.0.1\nwww A 127.0.0.1\n";
        world.write("internet/other", other);
        world.write(
            "internet/knot.conf",
            format!(
                "server:\n  rundir: {directory}\n  listen: 127.0.0.1@{dns}\n\
                 database:\n  storage: {directory}\n\
                 log:\n  - target: stderr\n    any: info\n\
                 zone:\n  - domain: example.org\n    file: {directory}/zone\n    journal-content: none\n  \
                 - domain: provider.test\n    file: {directory}/other\n    journal-content: none\n"
            ),
        );
        for (name, text) in documents {
            world.write(&format!("internet/.well-known/matrix/{name}"), text);
        }
        world.write("internet/https.py", HTTPS);
        let made = world.shell(
            "cd internet && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -keyout key.pem -out cert.pem -subj /CN=example.org \
             -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:example.org,DNS:matrix.example.org",
        );
        made.success();
        let mut name_server = world
            .script("cd internet && PATH=$PATH:/usr/sbin exec knotd -c knot.conf 1>&2")
            .start();
        let mut web_server = world
            .script(&format!("cd internet && exec python3 https.py {https}"))
            .start();
        name_server.wait_for("server started");
        web_server.wait_for("listening");
        Self {
            dns,
            https,
            certificate: world.path("internet/cert.pem"),
            servers: [name_server, web_server],
        }
    }

    /// Makes a call use this name server and HTTPS server, and no other.
    pub(crate) fn seen_by<'a>(&self, call: Call<'a>) -> Call<'a> {
        self.seen_through(&self.resolver(), call)
    }

    /// The same with another resolver.
    pub(crate) fn seen_through<'a>(&self, resolver: &str, call: Call<'a>) -> Call<'a> {
        let detour = |host: &str| format!("{host}:443:127.0.0.1:{}", self.https);
        call.args(["--resolver", resolver, "--resolve", &detour("example.org")])
            .args(["--resolve", &detour("matrix.example.org")])
            .env("SSL_CERT_FILE", &self.certificate)
    }

    /// Starts a resolver with outdated records of the zone, or an outdated server of the zone, at 127.0.0.2, until the
    /// first of the returned values is dropped.
    pub(crate) fn memory(&self, world: &World, records: &str) -> (Running, String) {
        let directory = world.path("memory").display().to_string();
        let address = "127.0.0.2";
        world.write("memory/zone", zone(1, records));
        world.write(
            "memory/knot.conf",
            format!(
                "server:\n  rundir: {directory}\n  listen: {address}@{}\ndatabase:\n  storage: {directory}\n\
                 log:\n  - target: stderr\n    any: info\n\
                 zone:\n  - domain: example.org\n    file: {directory}/zone\n    journal-content: none\n",
                self.dns
            ),
        );
        let mut server = world
            .script("cd memory && PATH=$PATH:/usr/sbin exec knotd -c knot.conf 1>&2")
            .start();
        server.wait_for("server started");
        (server, format!("{address}:{}", self.dns))
    }

    /// The address of its name server.
    pub(crate) fn resolver(&self) -> String {
        format!("127.0.0.1:{}", self.dns)
    }

    /// Replaces the records.
    pub(crate) fn set_zone(&self, world: &World, records: &str) {
        write_zone(world, 2, records);
        self.servers[0].signal(Signal::HUP);
    }
}

fn write_zone(world: &World, serial: u32, records: &str) {
    world.write("internet/zone", zone(serial, records));
}

fn zone(serial: u32, records: &str) -> String {
    format!(
        "$ORIGIN example.org.\n$TTL 300\n@ SOA ns root {serial} 3600 600 604800 300\n@ NS ns\nns A 127.0.0.1\n{records}"
    )
}

/// Serves documents as nginx does. A document that begins with `!` is served without the header for browsers or with an
/// error status; one that begins with `?` is served as plain text.
const HTTPS: &str = r#"
import http.server, os, ssl, sys

class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "nginx"
    sys_version = ""

    def do_GET(self):
        try:
            body = open("." + self.path).read()
        except OSError:
            return self.send_error(404)
        self.send_response(503 if body == "!503" else 200)
        self.send_header("Content-Type", "text/plain" if body.startswith("?") else "application/json")
        if not body.startswith("!"):
            self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body.lstrip("!?").encode())

server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("cert.pem", "key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print("listening", file=sys.stderr, flush=True)
server.serve_forever()
"#;
