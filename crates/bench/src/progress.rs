//! Progress on stderr: a bar on a terminal, a line every five seconds elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line is written if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// How often a bar should be updated.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// One step of work and its progress.
#[derive(Debug)]
pub(crate) struct Progress {
    label: &'static str,
    total: u64,
    bar: ProgressBar,
    terminal: bool,
    line_at: Instant,
}

impl Progress {
    /// Starts to show a step of `total` units (0: no bar).
    pub(crate) fn start(label: &'static str, total: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(Some(total), target(terminal));
        let template = "{prefix} {elapsed:>4} {wide_bar} {pos}/{len} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(label);
        Progress { label, total, bar, terminal, line_at: Instant::now() }
    }

    /// Shows the progress.
    pub(crate) fn show(&mut self, done: u64, message: &str) {
        self.bar.set_position(done);
        self.bar.set_message(message.to_string());
        if !self.terminal && self.line_at.elapsed() >= LINE_EVERY {
            self.line_at = Instant::now();
            eprintln!("{}: {done}/{} {message}", self.label, self.total);
        }
    }

    /// Removes the bar.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
    }
}

fn target(terminal: bool) -> ProgressDrawTarget {
    if terminal { ProgressDrawTarget::stderr_with_hz(5) } else { ProgressDrawTarget::hidden() }
}
