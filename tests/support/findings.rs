//! The findings in a document that preflight has written.

use serde_json::Value;

use super::Ran;

/// The findings of these severities in the document, such as `blocker target-used`.
pub(crate) fn found(ran: &Ran, severities: &[&str]) -> Vec<String> {
    let document = ran.json();
    let findings = document["preflight"]["findings"].as_array().unwrap();
    findings
        .iter()
        .map(|finding| (finding["severity"].as_str().unwrap(), finding["id"].as_str().unwrap()))
        .filter(|(severity, _)| severities.contains(severity))
        .map(|(severity, id)| format!("{severity} {id}"))
        .collect()
}

/// The blockers and warnings.
pub(crate) fn serious(ran: &Ran) -> Vec<String> {
    found(ran, &["blocker", "warning"])
}

/// Fails unless the document has each of these, such as `warning dns-ttl`.
#[track_caller]
pub(crate) fn fires(ran: &Ran, wanted: &[&str]) {
    let found = found(ran, &["blocker", "warning", "info"]);
    for finding in wanted {
        assert!(found.iter().any(|found| found == finding), "{finding} is not in {ran}");
    }
}

/// The finding with this id; fails if there is none.
#[track_caller]
pub(crate) fn finding(ran: &Ran, id: &str) -> Value {
    let document = ran.json();
    let findings = document["preflight"]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["id"] == id).cloned();
    finding.unwrap_or_else(|| panic!("{id} is not in {ran}"))
}

/// The data of a finding.
#[track_caller]
pub(crate) fn data(ran: &Ran, id: &str) -> Value {
    finding(ran, id)["data"].clone()
}
