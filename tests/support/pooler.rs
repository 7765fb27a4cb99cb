//! A throwaway `PgBouncer` in front of a throwaway server.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::place::{free_port, place};
use super::postgres::percent;
use super::{Cluster, World};

/// A `PgBouncer` on a loopback port, until it is dropped. The listed roles connect without a password.
pub(crate) struct Pooler {
    process: Child,
    pub(crate) port: u16,
}

impl Pooler {
    /// `settings` are additional lines of its configuration.
    pub(crate) fn new(world: &World, cluster: &Cluster, roles: &[&str], mode: &str, size: u32, settings: &str) -> Self {
        let port = free_port();
        world.mask(port.to_string(), "$POOLER_PORT");
        let listed: Vec<String> = roles.iter().map(|role| format!("\"{role}\" \"\"\n")).collect();
        let listed = listed.concat();
        let users = world.write("pooler/users", listed);
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = {mode}\ndefault_pool_size = {size}\n\
             ignore_startup_parameters = options,extra_float_digits\n{settings}\n",
            cluster.dir.display(),
            cluster.port,
            users.display(),
        );
        let settings = world.write("pooler/ini", settings);
        let log = File::create(world.path("pooler/log")).unwrap();
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"];
        let program = program.iter().find(|path| fs::exists(path).unwrap());
        let mut process = place()
            .command(
                program.expect("these tests need PgBouncer: install pgbouncer"),
                &world.path("pooler"),
            )
            .arg(settings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = process.try_wait().unwrap();
            let log = fs::read_to_string(world.path("pooler/log")).unwrap();
            assert!(
                ended.is_none() && start.elapsed() < Duration::from_secs(60),
                "PgBouncer did not start ({ended:?}):\n{log}"
            );
            thread::sleep(Duration::from_millis(10));
        }
        Self { process, port }
    }

    /// A libpq URL through the pooler.
    pub(crate) fn url(&self, database: &str, role: &str) -> String {
        format!(
            "postgresql://{}@127.0.0.1:{}/{}",
            percent(role),
            self.port,
            percent(database)
        )
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
