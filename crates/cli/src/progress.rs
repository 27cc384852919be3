//! Progress on standard error: a bar on a terminal; elsewhere a line every five seconds.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::out::note;

/// How often a line is written if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Shorter work shows nothing.
const SILENT_FOR: Duration = Duration::from_secs(2);
/// How often progress should be updated.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// One step of work and its progress.
#[derive(Debug)]
pub(crate) struct Progress {
    label: &'static str,
    total: Option<u64>,
    bar: ProgressBar,
    terminal: bool,
    started: Instant,
    line_at: Instant,
}

impl Progress {
    /// Starts to show a step of `total` units, if their number is known.
    pub(crate) fn start(label: &'static str, total: Option<u64>) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        let template = match total {
            Some(_) => "{prefix} {elapsed:>4} {wide_bar} {pos}/{len} {msg}",
            None => "{prefix} {elapsed:>4} {pos} {msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label);
        let now = Instant::now();
        Progress { label, total, bar, terminal, started: now, line_at: now }
    }

    /// Shows the progress.
    pub(crate) fn show(&mut self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_owned());
        if self.terminal {
            if self.bar.is_hidden() && self.started.elapsed() >= SILENT_FOR {
                self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            }
        } else if self.line_at.elapsed() >= LINE_EVERY {
            self.line_at = Instant::now();
            let of = self.total.map_or(String::new(), |total| format!("/{total}"));
            note(&format!("{}: {done}{of} {message}", self.label));
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Waiting for a condition, and what is missing.
#[derive(Debug)]
pub(crate) struct Waiting {
    bar: ProgressBar,
    terminal: bool,
    started: Instant,
    last: String,
}

impl Waiting {
    /// Starts to wait.
    pub(crate) fn start(what: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) =
            ProgressStyle::with_template("{spinner} waiting for {prefix} ({elapsed}): {msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        let terminal = std::io::stderr().is_terminal();
        Self { bar, terminal, started: Instant::now(), last: String::new() }
    }

    /// Shows what is missing: on a terminal in place, elsewhere when it changes.
    pub(crate) fn show(&mut self, missing: &str) {
        if self.terminal {
            if self.bar.is_hidden() && self.started.elapsed() >= SILENT_FOR {
                self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
                self.bar.enable_steady_tick(TICK);
            }
            self.bar.set_message(missing.to_owned());
        } else if self.started.elapsed() >= SILENT_FOR && missing != self.last {
            note(&format!("waiting: {missing}"));
            missing.clone_into(&mut self.last);
        }
    }

    /// Removes it.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}
