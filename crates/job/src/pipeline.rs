//! Parses a shell pipeline, as far as is necessary to decide about retries.

/// Whether Kubernetes may retry the pipeline automatically.
///
/// Programs that erase or load are only run again by a person who has read why they failed.
pub(crate) fn may_repeat(pipeline: &str) -> bool {
    steps(pipeline).iter().all(|words| {
        let has = |flag: &str| words.iter().any(|word| word == flag);
        match words.first().map(String::as_str) {
            None | Some("preflight" | "extract-secrets" | "pgdump-wrap" | "verify" | "cat" | "tee") => true,
            Some("ess-wipe") => !has("--execute") && !has("--undo"),
            Some("ess-scale") => has("status"),
            Some("media-sync") => !has("--delete"),
            // Any other command may run one of the programs that must not be retried.
            Some(_) => false,
        }
    })
}

/// The commands of a pipeline, each split into words. Quotes keep words together; nothing is expanded.
fn steps(pipeline: &str) -> Vec<Vec<String>> {
    let mut steps = vec![Vec::new()];
    let mut word = String::new();
    let mut quote = None;
    for c in pipeline.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c.is_whitespace() || "|;&(){}<>\\".contains(c) => {
                if let Some(step) = steps.last_mut().filter(|_| !word.is_empty()) {
                    step.push(std::mem::take(&mut word));
                }
                if "|;&(){}".contains(c) || c == '\n' {
                    steps.push(Vec::new());
                }
            }
            (_, c) => word.push(c),
        }
    }
    if let Some(step) = steps.last_mut().filter(|_| !word.is_empty()) {
        step.push(word);
    }
    // Skip what may precede a program, as in `VARIABLE=value command` and `exec command`.
    for step in &mut steps {
        let is_before = |word: &String| word.contains('=') || matches!(word.as_str(), "exec" | "env" | "time" | "!");
        let command = step.iter().position(|word| !is_before(word)).unwrap_or(step.len());
        step.drain(..command);
        if let Some(program) = step.first_mut() {
            // Reduce `/usr/local/bin/restore` to `restore`.
            *program = program.rsplit('/').next().unwrap_or_default().to_owned();
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_erases_or_loads_is_not_run_twice() {
        for line in [
            "restore -n --from dump --target \"$T\"",
            "preflight -n | pgdump-wrap | ess-wipe --execute --confirm a/b | restore",
            "ess-wipe -n --undo",
            "PGSSLMODE=require /usr/local/bin/restore",
            "exec restore",
            "preflight -n;restore",
            "(preflight -n && ess-scale down)",
            "preflight -n\nrestore",
            "media-sync -n --source-dir a --out b --delete",
            "timeout 4h restore",
            "sh -c 'restore -n'",
            "if true; then restore; fi",
            "pg_restore -d x dump",
        ] {
            assert!(!may_repeat(line), "{line}");
        }
        for line in [
            "preflight -n --check",
            "pgdump-wrap -n --source 'restore' --out restore",
            "ess-wipe -n --target \"$T\"",
            "verify -n > restore.json",
            "media-sync -n --source-dir a --out b",
            "ess-scale status",
            "preflight -n | tee report.json",
        ] {
            assert!(may_repeat(line), "{line}");
        }
    }
}
