//! The command that undoes a wipe.

use std::path::Path;

use ess_document::{Document, PasswordAt};
use ess_run::in_quotes;

/// The command that loads the backup of a wipe, ready to be typed into a shell.
///
/// With an export it needs little else; without one it names everything itself. Without the homeserver's name it only
/// prints the plan, which ends with the options to add.
pub fn undo_command(document: &Document, backup: &Path, server_name: Option<&str>) -> String {
    let target = document.target.clone().unwrap_or_default();
    let mut words: Vec<(&str, String)> = Vec::new();
    // The export contains the saved documents; ess-wipe saves its own before it erases anything.
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

/// The options that name the target.
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
