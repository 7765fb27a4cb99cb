//! Which databases a program works on, and how it connects to them: options first, then the document, then the
//! environment.

mod args;
mod cluster;
mod password;
mod source;
mod target;

use ess_cli::{Context, Stop};

pub use args::{ConfigArgs, LiftArgs, SourceArgs, TargetArgs};
pub use cluster::{Named, OnKube, Reached, connect, find, kind, named, needed, reach, rights, target};
pub use source::{PgVariables, adopt_source, config, identify_source, options, source, source_to_check};
pub use target::{lock_target, names_a_server};

/// Records the homeserver's name that an option gives; refuses one that contradicts the document's.
pub fn name_server(context: &mut Context, given: Option<&str>) -> Result<(), Stop> {
    let Some(given) = given else { return Ok(()) };
    let known = &mut context.source_section().server_name;
    match known {
        Some(known) if known != given => Err(contradiction("--server-name", given, "source.server_name", known)),
        _ => {
            *known = Some(given.to_owned());
            Ok(())
        }
    }
}

/// The error for an option that contradicts what the document records about a server.
pub fn contradiction(flag: &str, given: &str, field: &str, known: &str) -> Stop {
    Stop::contradiction(flag, given, field, known).hint("omit the option, or start with a document for that server")
}
