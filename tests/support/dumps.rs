//! Dumps as people take them, with pg_dump and without a manifest, and how they are restored.

use super::{Call, Scene, source_cluster, text_of};

/// Dumps the source to `from` as people do, with `pg_dump` and these arguments.
pub(crate) fn pg_dump(scene: &Scene, from: &str, args: &[&str]) {
    let mut dump = source_cluster().program("pg_dump");
    // So that other tests do not regard this session as a use of the source.
    dump.env("PGAPPNAME", "ess-migrate/test");
    dump.args(["-U", "postgres", "-d", &scene.source.name, "-f"]);
    dump.arg(scene.world.path(from)).args(args);
    text_of(dump);
}

/// `restore --from` a dump without a manifest.
pub(crate) fn restore_from<'a>(scene: &Scene, from: &str) -> Call<'a> {
    scene.tool("restore").args(scene.target_args()).args(["--from", from])
}

/// SQL for the row count of every table.
pub(crate) const COUNTS: &str = "SELECT table_name, (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I', \
    table_name), false, true, '')))[1]::text FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
