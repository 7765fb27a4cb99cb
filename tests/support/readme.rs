//! The commands of the README.

use std::fs;

use super::{OFFLINE, pages};

/// The commands in the console blocks.
pub(crate) fn typed(readme: &str) -> String {
    let blocks = readme.split("```console\n").skip(1);
    blocks
        .map(|block| pages::typed(block.split("```").next().unwrap()))
        .collect()
}

/// The pipeline of the README for a target like `target`, with the configuration of a test's homeserver. It queries
/// only the databases and the cluster, not the network.
pub(crate) fn line(target: &str, config: &[String]) -> String {
    let typed = typed(&fs::read_to_string("README.md").unwrap());
    let all = typed.split_inclusive("migration.json\n");
    let mut lines = all.filter(|line| line.starts_with("preflight -c /etc") && line.contains(target));
    let line = lines.next().unwrap_or_else(|| panic!("no line for {target}"));
    let place = "-c /etc/matrix-synapse/homeserver.yaml -c /etc/matrix-synapse/conf.d";
    assert!(line.contains(place), "{line}");
    line.replace(place, &format!("{} {OFFLINE}", config.join(" ")))
}
