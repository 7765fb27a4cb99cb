//! What a stopped source holds now: what a dump without a manifest is held against.

use ess_archive::carried;
use ess_document::Carried;
use ess_postgres::{Access, Conninfo, Inventory, Reading, Session, Table, digests, mark, tables};
use ess_run::Report;

/// Reads the whole source, which nobody may be writing to.
pub fn live_inventory(
    conninfo: &Conninfo,
    application_name: &str,
    jobs: usize,
    report: &dyn Report,
) -> anyhow::Result<Inventory> {
    let session = Session::connect(conninfo, application_name, Access::ReadOnly)?;
    let all = tables(&session)?;
    let carried = |table: &Table| carried(table, false);
    let to_read: Vec<&Table> = all.iter().filter(|table| carried(table) == Carried::Rows).collect();
    report.stage(
        "reading the source",
        u64::try_from(to_read.iter().map(|t| t.bytes).sum::<i64>()).ok(),
    );
    let before = mark(&session)?;
    let digests = digests(&Reading::now(conninfo, application_name, jobs, report), &to_read)?;
    report.done();
    Ok(Inventory::read(&session, &all, carried, digests, before)?)
}
