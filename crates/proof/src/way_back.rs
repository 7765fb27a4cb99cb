//! The line that brings back what a wipe erased.

use std::path::Path;

use ess_document::{Document, PasswordAt};
use ess_run::in_quotes;

/// The line that brings a backup back, as one types it.
///
/// An export has all that it takes; without one everything is in the line.
/// Without the homeserver's name it shows the plan, which ends with what to add.
pub fn way_back(document: &Document, backup: &Path, server_name: Option<&str>) -> String {
    let target = document.target.clone().unwrap_or_default();
    let mut words: Vec<(&str, String)> = Vec::new();
    // Every tool that knows the export keeps its document there, ess-wipe before it erases anything.
    if let Some(export) = document.export.as_ref().filter(|export| export.is_dir()) {
        words.push(("--export", export.display().to_string()));
    } else {
        words.extend(address(document));
        words.push(("--backup", backup.display().to_string()));
        if let Some(dump) = &document.dump {
            words.push(("--dump", document.locate(&dump.path).display().to_string()));
        }
    }
    if let (Some(name), Some(identity)) = (server_name, &target.identity) {
        words.push(("--confirm", format!("{name}/{}", identity.database)));
    }
    let executes = words.iter().any(|(flag, _)| *flag == "--confirm");
    let words: Vec<String> = words
        .iter()
        .map(|(flag, word)| format!("{flag} {}", in_quotes(word)))
        .collect();
    let execute = if executes { " --execute" } else { "" };
    format!("ess-wipe -n --undo {}{execute}", words.join(" "))
}

/// Where the target is, as flags.
fn address(document: &Document) -> Vec<(&'static str, String)> {
    let target = document.target.clone().unwrap_or_default();
    let place: Vec<String> = ["host", "port", "user", "dbname", "sslmode", "sslrootcert"]
        .iter()
        .filter_map(|keyword| target.connection.get(*keyword).map(|value| (keyword, value)))
        .map(|(keyword, value)| format!("{keyword}='{}'", value.replace('\\', r"\\").replace('\'', r"\'")))
        .collect();
    let mut words = match &target.kube {
        Some(kube) => vec![("--target", kube.to_string())],
        None => vec![("--target", place.join(" "))],
    };
    if let Some(context) = target.kube.as_ref().and_then(|kube| kube.context.clone()) {
        words.push(("--kube-context", context));
    }
    if let Some(PasswordAt::File { path }) = &target.password {
        words.push(("--target-password-file", path.display().to_string()));
    }
    if let Some(role) = target.role {
        words.push(("--role", role));
    }
    words
}
