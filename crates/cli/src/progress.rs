//! Everything on standard error: bars on a terminal, a line every ten seconds otherwise.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ess_run::Report;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::exit::hint_of;
use crate::{output, visible};

/// How often a stage says where it is when nobody watches a terminal.
const EVERY: Duration = Duration::from_secs(10);

/// How long a line waits for a reader of standard error once a signal has come.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The tool's voice.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    tool: &'static str,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    stage: Mutex<Option<Stage>>,
    /// What is kept back, while it is: visible text.
    held: Mutex<Option<Vec<String>>>,
}

struct Stage {
    what: String,
    bar: ProgressBar,
    started: Instant,
    said: Instant,
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

    /// From now on keeps back all but errors.
    pub fn hold(&self) {
        self.held().get_or_insert_default();
    }

    /// Says what was kept back, and goes on as usual.
    pub fn release(&self) {
        let held = self.held().take();
        held.iter().flatten().for_each(|line| self.write(line));
    }

    fn held(&self) -> MutexGuard<'_, Option<Vec<String>>> {
        self.0.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Prints an error with its causes and, if there is one, its hint.
    pub fn error(&self, error: &anyhow::Error) {
        self.clear();
        self.print(&format!("{}: {error:#}", self.0.tool));
        if let Some(hint) = hint_of(error) {
            // Ours, and of several lines where it is a manifest to be applied.
            self.write(&visible::lines(&format!("hint: {hint}")));
        }
    }

    /// Prints what clap says of a wrong command line, in our form.
    pub(crate) fn usage(&self, text: &str) {
        let text = text.trim_end();
        let text = text.strip_prefix("error: ").unwrap_or(text);
        self.write(&visible::lines(&format!("{}: {text}", self.0.tool)));
    }

    /// Takes the bar off the terminal.
    pub(crate) fn clear(&self) {
        if let Some(stage) = self.stage_now().take() {
            stage.bar.finish_and_clear();
        }
    }

    /// A line for people that is the tool's own output, such as a plan: without prefix.
    pub fn line(&self, text: &str) {
        self.keep_or_write(visible::message(text).into_owned());
    }

    /// Such a line, which begins with a word in one of the terminal's colours (a parameter of SGR).
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
        self.0.stage.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

/// A closed standard error leaves nobody to tell.
fn write_line(text: &str) {
    let _ = output::write_all(io::stderr().as_fd(), format!("{text}\n").as_bytes(), LAST_WORDS);
}

impl Report for Console {
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
            said: now,
        });
    }

    fn advance(&self, bytes: u64) {
        let mut stage = self.stage_now();
        let Some(stage) = stage.as_mut() else { return };
        stage.bar.inc(bytes);
        if !self.0.terminal && stage.said.elapsed() >= EVERY {
            stage.said = Instant::now();
            let done = stage.bar.position();
            let of = stage
                .bar
                .length()
                .map_or_else(String::new, |all| format!(" of {}", HumanBytes(all)));
            let rate = HumanBytes(done / stage.started.elapsed().as_secs().max(1));
            // Some stages only wait.
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
