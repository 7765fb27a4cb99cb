//! What all programs share: arguments, the document in and out, exit statuses, messages and progress
//! on standard error, signals, locks. The only code that prints.

mod args;
mod bug;
mod context;
mod exit;
mod input;
mod output;
mod password_file;
mod progress;
mod visible;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use args::{Common, ExportArg};

pub use context::Context;
pub use ess_stop::{Exit, Stop};
pub use exit::{exit_of, hint_of};
pub use input::EmptyPipe;
pub use password_file::PasswordFile;
pub use progress::Console;

/// Runs a tool from its arguments to its exit status.
///
/// `work` gets the document that was read, and ends with [`Context::finish`].
pub fn main<A: Args>(
    name: &'static str,
    empty_pipe: EmptyPipe,
    work: impl FnOnce(&A, &mut Context) -> anyhow::Result<Exit>,
) -> ExitCode {
    start::<A>(name, empty_pipe, Export::Used, work)
}

/// As [`main`], for a tool that uses no export and therefore has no `--export`.
pub fn main_without_export<A: Args>(
    name: &'static str,
    empty_pipe: EmptyPipe,
    work: impl FnOnce(&A, &mut Context) -> anyhow::Result<Exit>,
) -> ExitCode {
    start::<A>(name, empty_pipe, Export::Unused, work)
}

/// Refuses to run under a name that is not one of `programs`.
pub fn refuse_name(programs: &[&str]) -> ExitCode {
    Console::new("ess-migrate", false, false).usage(&format!(
        "this file contains several programs: call it by the name of one of them, through a link: {}",
        programs.join(", ")
    ));
    Exit::Usage.into()
}

/// Whether a tool uses the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Export {
    Used,
    Unused,
}

fn start<A: Args>(
    name: &'static str,
    empty_pipe: EmptyPipe,
    uses: Export,
    work: impl FnOnce(&A, &mut Context) -> anyhow::Result<Exit>,
) -> ExitCode {
    let (export, common, args) = match parse::<A>(name, uses, std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(text) if text.use_stderr() => {
            Console::new(name, false, false).usage(&text.to_string());
            return Exit::Usage.into();
        }
        Err(help) => return help.print().map_or(Exit::Io, |()| Exit::Done).into(),
    };
    // No core dumps, of this process or its children: they would contain secrets. The limit is 1 rather than 0: core
    // dumps that are piped to a program are made whatever the limit is, unless it is 1 (core(5)).
    let no_core = rustix::process::Rlimit {
        current: Some(1),
        maximum: Some(1),
    };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    // Files that this process and its children write contain secrets or data.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    input::listen_to_signals();
    bug::remember_panics();
    let console = Console::new(name, common.quiet, common.verbose);
    let outcome = bug::catch(|| {
        let document = input::read(&common, empty_pipe, &console)?;
        let mut context = Context::new(name, export, console.clone(), document)?;
        work(&args, &mut context)
    });
    // Before an error, which may follow from it.
    input::note_ignored(&common, &console);
    let exit = outcome.unwrap_or_else(|error| {
        console.error(&error);
        exit_of(&error)
    });
    input::die_if_interrupted();
    exit.into()
}

/// The directory of `--export`, the other common options, and the tool's own arguments.
fn parse<A: Args>(
    name: &'static str,
    uses: Export,
    words: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Option<PathBuf>, Common, A), clap::Error> {
    let command = command::<A>(name, uses);
    let matches: ArgMatches = command.try_get_matches_from(words)?;
    let export = match uses {
        Export::Used => ExportArg::from_arg_matches(&matches)?.export,
        Export::Unused => None,
    };
    Ok((
        export,
        Common::from_arg_matches(&matches)?,
        A::from_arg_matches(&matches)?,
    ))
}

/// The command line of a tool: its own options, then those that all tools have. Its `after_help` contains its examples.
fn command<A: Args>(name: &'static str, uses: Export) -> Command {
    let own = Command::new(name)
        .version(env!("CARGO_PKG_VERSION"))
        // clap's own -h and -V have no heading, so they and all others without one would come first.
        .disable_help_flag(true)
        .disable_version_flag(true)
        .next_help_heading("Options");
    let mut common = A::augment_args(own).next_help_heading("Common options");
    if uses == Export::Used {
        common = ExportArg::augment_args(common);
    }
    let all = Common::augment_args(common)
        .arg(
            Arg::new("help")
                .short('h')
                .long("help")
                .action(ArgAction::Help)
                .help("Print help (see more with '--help')")
                .long_help("Print help (see a summary with '-h')"),
        )
        .arg(
            Arg::new("version")
                .short('V')
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version"),
        );
    let examples = all.get_after_help().map(ToString::to_string).unwrap_or_default();
    all.after_help(ending(name, &examples))
}

/// The end of `--help`: examples, exit statuses, and where to read more.
fn ending(name: &str, examples: &str) -> String {
    let examples = examples.replace('\n', "\n  ");
    let statuses = exit::statuses();
    format!(
        "Examples:\n  {examples}\n\nExit status: {statuses}\n\n\
         See man {name}, ess-options(7), and ess-migrate(7) for all steps of a migration"
    )
}
