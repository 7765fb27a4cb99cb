//! All output on standard error: messages, and progress as a bar on a terminal or a line every ten seconds elsewhere.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ess_run::{Report, locked};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::exit::hint_of;
use crate::{output, visible};

/// How often to print the progress of a stage if standard error is not a terminal.
const EVERY: Duration = Duration::from_secs(10);

/// How long to wait for a reader of standard error after a signal.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Prints a tool's messages and progress.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    tool: &'static str,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    stage: Mutex<Option<Stage>>,
    /// Lines that are held back, with control characters already made visible; `None` if lines are printed at once.
    held: Mutex<Option<Vec<String>>>,
}

struct Stage {
    what: String,
    bar: ProgressBar,
    started: Instant,
    reported: Instant,
}

impl Console {
    pub(crate) fn new(tool: &'static str, quiet: bool, verbose: bool) -> Self {
        Self(Arc::new(Inner {
            tool,
            quiet,
            verbose,
            terminal: io::stderr().is_terminal(),
            stage: Mutex::new(None),
            held: Mutex::new(None),
        }))
    }

    /// Holds back everything except errors from now on.
    pub fn hold(&self) {
        self.held().get_or_insert_default();
    }

    /// Prints what was held back, and stops holding back.
    pub fn release(&self) {
        let held = self.held().take();
        held.iter().flatten().for_each(|line| self.write(line));
    }

    fn held(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        locked(&self.0.held)
    }

    /// Prints an error with its causes and, if there is one, its hint.
    pub fn error(&self, error: &anyhow::Error) {
        self.clear();
        self.print(&format!("{}: {error:#}", self.0.tool));
        if let Some(hint) = hint_of(error) {
            // Hints are written by these tools; one that contains a manifest to apply has several lines.
            self.write(&visible::lines(&format!("hint: {hint}")));
        }
    }

    /// Prints clap's message about a wrong command line, in the form of these tools' errors.
    pub(crate) fn usage(&self, text: &str) {
        let text = text.trim_end();
        let text = text.strip_prefix("error: ").unwrap_or(text);
        self.write(&visible::lines(&format!("{}: {text}", self.0.tool)));
    }

    /// Whether standard error is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.0.terminal
    }

    /// Prints a note with `-v`.
    pub(crate) fn detail(&self, text: &str) {
        if self.0.verbose {
            self.note(text);
        }
    }

    /// Removes the progress bar from the terminal.
    pub(crate) fn clear(&self) {
        if let Some(stage) = self.stage_now().take() {
            stage.bar.finish_and_clear();
        }
    }

    /// Prints a line without the tool's name in front, and its first word in a colour, which is a parameter of the SGR escape sequence.
    pub fn coloured(&self, colour: Option<u8>, word: &str, rest: &str) {
        let (word, rest) = (visible::message(word), visible::message(rest));
        self.keep_or_write(match colour {
            Some(colour) => format!("\x1b[{colour}m{word}\x1b[0m{rest}"),
            None => format!("{word}{rest}"),
        });
    }

    fn keep_or_write(&self, text: String) {
        if self.0.quiet {
            return;
        }
        match &mut *self.held() {
            Some(held) => held.push(text),
            None => self.write(&text),
        }
    }

    fn stage_now(&self) -> MutexGuard<'_, Option<Stage>> {
        locked(&self.0.stage)
    }

    fn print(&self, text: &str) {
        self.write(&visible::message(text));
    }

    fn write(&self, text: &str) {
        let write = || write_line(text);
        match &*self.stage_now() {
            Some(stage) => stage.bar.suspend(write),
            None => write(),
        }
    }
}

/// Writes a line; an error is ignored, since there is nowhere to report it.
fn write_line(text: &str) {
    let _ = output::write_all(io::stderr().as_fd(), format!("{text}\n").as_bytes(), LAST_WORDS);
}

impl Report for Console {
    fn line(&self, text: &str) {
        self.keep_or_write(visible::message(text).into_owned());
    }

    fn note(&self, line: &str) {
        self.line(&format!("{}: {line}", self.0.tool));
    }

    fn command(&self, line: &str) {
        if self.0.verbose {
            self.print(&format!("{}: + {line}", self.0.tool));
        }
    }

    fn stage(&self, what: &str, bytes: Option<u64>) {
        let what = &*visible::message(what);
        self.done();
        if self.0.quiet || self.held().is_some() {
            return;
        }
        if self.0.verbose && !self.0.terminal {
            self.note(what);
        }
        let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
        let shape = match bytes {
            Some(_) => "{prefix}: {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            None => "{prefix}: {msg} {spinner} {bytes} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style);
        }
        bar.set_prefix(self.0.tool);
        bar.set_message(what.to_owned());
        if self.0.terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let now = Instant::now();
        *self.stage_now() = Some(Stage {
            what: what.to_owned(),
            bar,
            started: now,
            reported: now,
        });
    }

    fn advance(&self, bytes: u64) {
        let mut stage = self.stage_now();
        let Some(stage) = stage.as_mut() else { return };
        stage.bar.inc(bytes);
        if !self.0.terminal && stage.reported.elapsed() >= EVERY {
            stage.reported = Instant::now();
            let done = stage.bar.position();
            let of = stage
                .bar
                .length()
                .map_or_else(String::new, |all| format!(" of {}", HumanBytes(all)));
            let rate = HumanBytes(done / stage.started.elapsed().as_secs().max(1));
            // Some stages only wait, without any bytes to count.
            let bytes = match done {
                0 => String::new(),
                done => format!("{}{of}, {rate}/s, ", HumanBytes(done)),
            };
            let took = HumanDuration(stage.started.elapsed());
            write_line(&format!("{}: {}: {bytes}{took}", self.0.tool, stage.what));
        }
    }

    fn done(&self) {
        self.clear();
    }
}
