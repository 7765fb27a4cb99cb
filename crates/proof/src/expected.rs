//! Reads what a stopped source holds now, to compare a target with when its dump has no manifest.

use ess_archive::carried;
use ess_document::Carried;
use ess_postgres::{Access, Conninfo, Inventory, Reading, Session, Table, database_state, database_tables, digests};
use ess_run::Report;

/// Reads the complete source. The caller makes sure that no other session writes to it.
pub fn live_inventory(
    conninfo: &Conninfo,
    application_name: &str,
    jobs: usize,
    report: &dyn Report,
) -> anyhow::Result<Inventory> {
    let session = Session::connect(conninfo, application_name, Access::ReadOnly)?;
    let all = database_tables(&session)?;
    let carried = |table: &Table| carried(table, false);
    let to_read: Vec<&Table> = all.iter().filter(|table| carried(table) == Carried::Rows).collect();
    report.stage(
        "reading the source",
        u64::try_from(to_read.iter().map(|t| t.bytes).sum::<i64>()).ok(),
    );
    let before = database_state(&session)?;
    let digests = digests(&Reading::now(conninfo, application_name, jobs, report), &to_read)?;
    report.done();
    Ok(Inventory::read(&session, &all, carried, digests, before)?)
}
