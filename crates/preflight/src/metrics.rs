//! Findings as metrics: a file for the textfile collector of Prometheus's node exporter.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use ess_document::{Preflight, Severity};
use ess_files::create_file;

/// Replaces the file atomically, so that the collector reads either the old one or the new one.
pub(crate) fn write(path: &Path, preflight: &Preflight) -> anyhow::Result<()> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The collector only reads files whose names end in `.prom`.
    let partial = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // A killed run with the same process id may have left one; no other process has this id now.
    let _ = fs::remove_file(&partial);
    let mut file = create_file(&partial)?;
    let written = file
        .write_all(text(preflight, now).as_bytes())
        // The node exporter runs as another user.
        .and_then(|()| file.set_permissions(Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&partial, path));
    written.with_context(|| {
        let _ = fs::remove_file(&partial);
        format!("cannot write {}", path.display())
    })
}

fn text(preflight: &Preflight, now: u64) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, help: &str, samples: &[(String, u64)]| {
        let _ = writeln!(
            text,
            "# HELP ess_migrate_preflight_{name} {help}\n# TYPE ess_migrate_preflight_{name} gauge"
        );
        for (labels, value) in samples {
            let _ = writeln!(text, "ess_migrate_preflight_{name}{labels} {value}");
        }
    };
    let word = |severity| match severity {
        Severity::Blocker => "blocker",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let counts: Vec<(String, u64)> = [Severity::Blocker, Severity::Warning, Severity::Info]
        .into_iter()
        .map(|severity| {
            let count = preflight
                .findings
                .iter()
                .filter(|finding| finding.severity == severity)
                .count();
            (format!("{{severity=\"{}\"}}", word(severity)), count as u64)
        })
        .collect();
    metric("findings", "Findings of the last run of preflight.", &counts);
    let mut found: Vec<(String, u64)> = preflight
        .findings
        .iter()
        .filter(|finding| finding.severity != Severity::Info)
        .map(|finding| {
            (
                format!("{{id=\"{}\",severity=\"{}\"}}", finding.id, word(finding.severity)),
                1,
            )
        })
        .collect();
    // Prometheus rejects duplicate samples.
    found.dedup();
    metric(
        "finding",
        "Blockers and warnings of the last run of preflight, by id.",
        &found,
    );
    let open = preflight.open_blockers().len() as u64;
    metric(
        "open_blockers",
        "Blockers that were not accepted.",
        &[(String::new(), open)],
    );
    metric(
        "finished_timestamp_seconds",
        "Time at which the last run of preflight finished.",
        &[(String::new(), now)],
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::{blocker, info, warning};
    use crate::ids::{DNS_TTL, MEDIA, TARGET_USED};

    #[test]
    fn findings_are_counted_and_named() {
        let preflight = Preflight {
            version: String::new(),
            started_at: String::new(),
            finished_at: String::new(),
            findings: vec![
                blocker(&TARGET_USED, "x"),
                warning(&DNS_TTL, "x"),
                warning(&DNS_TTL, "y"),
                info(&MEDIA, "x"),
            ],
            accepted: vec!["target-used".to_owned()],
            next: ess_document::Next::default(),
        };
        let text = text(&preflight, 7);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "ess_migrate_preflight_findings{severity=\"blocker\"} 1",
                "ess_migrate_preflight_findings{severity=\"warning\"} 2",
                "ess_migrate_preflight_findings{severity=\"info\"} 1",
                "ess_migrate_preflight_finding{id=\"target-used\",severity=\"blocker\"} 1",
                "ess_migrate_preflight_finding{id=\"dns-ttl\",severity=\"warning\"} 1",
                "ess_migrate_preflight_open_blockers 0",
                "ess_migrate_preflight_finished_timestamp_seconds 7",
            ]
        );
    }
}
