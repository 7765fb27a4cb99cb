//! What a stopped source holds now: what a dump without a manifest is held against.

use ess_archive::carried;
use ess_document::Carried;
use ess_postgres::{
    Access, Algorithm, Conninfo, Inventory, Reading, Session, Table, TableRecord, catalogue, digests, mark,
    schema_rows, tables,
};
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
    let records: Vec<(&Table, Carried)> = all.iter().map(|t| (t, carried(t, false))).collect();
    let to_read: Vec<&Table> = records
        .iter()
        .filter(|(_, c)| *c == Carried::Rows)
        .map(|(t, _)| *t)
        .collect();
    report.stage(
        "reading the source",
        u64::try_from(to_read.iter().map(|t| t.bytes).sum::<i64>()).ok(),
    );
    let before = mark(&session)?;
    let reading = Reading {
        conninfo,
        application_name,
        snapshot: None,
        jobs,
        queue: None,
        access: Access::ReadOnly,
        report,
    };
    let mut sums = digests(&reading, &to_read)?.into_iter();
    report.done();
    Ok(Inventory {
        algorithm: Algorithm::default(),
        tables: records
            .iter()
            .map(|(table, carried)| TableRecord {
                schema: table.schema.clone(),
                name: table.name.clone(),
                carried: *carried,
                digest: (*carried == Carried::Rows).then(|| sums.next()).flatten(),
            })
            .collect(),
        mark: before,
        schema: schema_rows(&session)?,
        catalogue: catalogue(&session)?,
    })
}
