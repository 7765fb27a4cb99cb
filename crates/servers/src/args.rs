//! The options that name source and target. Each program flattens those that it honours.
//!
//! The structs have no doc comments: clap would use them as the program's description. Each option names its heading,
//! because clap applies a struct's heading to all options that follow the struct.

use std::path::PathBuf;

use ess_proof::Allow;

const SOURCE: &str = "Source";
const TARGET: &str = "Target";

#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Synapse's configuration: a file, or a directory of *.yaml; repeatable
    #[arg(short, long, value_name = "PATH", help_heading = SOURCE)]
    pub config: Vec<PathBuf>,
    /// Working directory of Synapse, to which its relative paths are relative
    #[arg(long, value_name = "DIR", help_heading = SOURCE)]
    pub working_directory: Option<PathBuf>,
    /// Synapse's --data-directory
    #[arg(long, value_name = "DIR", help_heading = SOURCE)]
    pub data_directory: Option<PathBuf>,
    /// Synapse's --keys-directory
    #[arg(long, value_name = "DIR", help_heading = SOURCE)]
    pub keys_directory: Option<PathBuf>,
    /// Map a path in Synapse's container to this host; repeatable
    #[arg(long, value_name = "FROM=TO", help_heading = SOURCE)]
    pub path_map: Vec<String>,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct SourceArgs {
    #[command(flatten)]
    pub configuration: ConfigArgs,
    /// Source database: a libpq URL or key=value string without password
    #[arg(long, value_name = "URL", conflicts_with = "config", help_heading = SOURCE)]
    pub source: Option<String>,
    /// File whose first line is the source's password
    #[arg(long, value_name = "FILE", help_heading = SOURCE)]
    pub source_password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, clap::Args)]
pub struct TargetArgs {
    /// Target: a libpq URL or key=value string without password, or kube:NAMESPACE[/RELEASE]
    #[arg(long, value_name = "URL", help_heading = TARGET)]
    pub target: Option<String>,
    /// Context of the kubeconfig, with --target kube: (default: its current context)
    #[arg(long, value_name = "NAME", help_heading = TARGET)]
    pub kube_context: Option<String>,
    /// File whose first line is the target's password
    #[arg(long, value_name = "FILE", help_heading = TARGET)]
    pub target_password_file: Option<PathBuf>,
    /// Role that will own everything (default: the database's owner)
    #[arg(long, value_name = "ROLE", help_heading = TARGET)]
    pub role: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct LiftArgs {
    /// Let Synapse start although the source cannot be checked for changes since the dump
    #[arg(long, help_heading = SOURCE)]
    pub allow_unchecked_source: bool,
    /// Let Synapse start on a dump of a source that was in use
    #[arg(long, help_heading = SOURCE)]
    pub allow_running_source: bool,
}

impl LiftArgs {
    /// The options that were given.
    pub fn overrides(self) -> Vec<String> {
        [
            (self.allow_unchecked_source, "--allow-unchecked-source"),
            (self.allow_running_source, "--allow-running-source"),
        ]
        .into_iter()
        .filter(|(given, _)| *given)
        .map(|(_, flag)| flag.to_owned())
        .collect()
    }

    /// What the options allow when a fence is lifted.
    pub fn allow(self) -> Allow {
        Allow {
            unchecked_source: self.allow_unchecked_source,
            running_source: self.allow_running_source,
        }
    }
}
