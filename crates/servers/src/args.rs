//! The options that name source and target. Each program flattens those that it honours.
//!
//! The structs have no doc comments: clap would use them as the program's description.

use std::path::PathBuf;

use ess_proof::Allow;

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct ConfigArgs {
    /// Synapse's configuration: a file, or a directory of *.yaml; repeatable
    #[arg(short, long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
    /// Working directory of Synapse, to which its relative paths are relative
    #[arg(long, value_name = "DIR")]
    pub working_directory: Option<PathBuf>,
    /// Synapse's --data-directory
    #[arg(long, value_name = "DIR")]
    pub data_directory: Option<PathBuf>,
    /// Synapse's --keys-directory
    #[arg(long, value_name = "DIR")]
    pub keys_directory: Option<PathBuf>,
    /// Map a path in Synapse's container to this host; repeatable
    #[arg(long, value_name = "FROM=TO")]
    pub path_map: Vec<String>,
}

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct SourceArgs {
    #[command(flatten)]
    pub configuration: ConfigArgs,
    /// Source database: a libpq URL or key=value string without password
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub source: Option<String>,
    /// File whose first line is the source's password
    #[arg(long, value_name = "FILE")]
    pub source_password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Target")]
pub struct TargetArgs {
    /// Target: a libpq URL or key=value string without password, or kube:NAMESPACE[/RELEASE]
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Context of the kubeconfig, with --target kube: (default: its current context)
    #[arg(long, value_name = "NAME")]
    pub kube_context: Option<String>,
    /// File whose first line is the target's password
    #[arg(long, value_name = "FILE")]
    pub target_password_file: Option<PathBuf>,
    /// Role that will own everything (default: the database's owner)
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct LiftArgs {
    /// Let Synapse start although the source cannot be checked for changes since the dump
    #[arg(long)]
    pub allow_unchecked_source: bool,
    /// Let Synapse start on a dump of a source that was in use
    #[arg(long)]
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
