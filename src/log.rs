//! Log output: to standard error, by a thread of its own, and never at the expense of the node.
//!
//! A log reader that exits or stalls, or a full disk behind it, must neither stop nor block a node:
//! the other nodes would log its failure, and every node whose log is gone would fail in turn. So a
//! line waits in a bounded buffer until it is written. A line that finds no space, or that cannot
//! be written, is dropped and counted ([`lost`]), and the log reports it as soon as it can be
//! written again.
//!
//! Every event is one line: control characters in quoted data, such as a client's key, are escaped,
//! so that no client can forge a line.

use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use quorate_engine::config::sections::{LogConfig, LogFormat};

/// The most bytes of pending lines.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Retry interval when standard error was made non-blocking by another process.
const NOT_NOW: Duration = Duration::from_millis(20);

static LOG: Log = Log {
    queue: Mutex::new(Queue { waiting: Vec::new(), is_writing: false }),
    more: Condvar::new(),
    written: Condvar::new(),
    lost: AtomicU64::new(0),
};

struct Log {
    queue: Mutex<Queue>,
    more: Condvar,
    written: Condvar,
    lost: AtomicU64,
}

struct Queue {
    waiting: Vec<u8>,
    is_writing: bool,
}

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The levels are invalid.
    #[error("log.level: {0}")]
    Level(String),
    /// The writer thread could not be started.
    #[error("starting the log thread: {0}")]
    Thread(io::Error),
}

/// Changes the log levels at runtime.
pub struct Levels(Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>);

/// Starts logging. Call once per process.
///
/// # Errors
/// [`LogError`].
pub fn start(config: &LogConfig) -> Result<Levels, LogError> {
    let filter = filter(&config.level).map_err(LogError::Level)?;
    let writer = std::thread::Builder::new().name("log".to_owned());
    writer.spawn(|| LOG.write_for_ever(io::stderr())).map_err(LogError::Thread)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter);
    let lines = lines.log_internal_errors(false).with_writer(Lines);
    Ok(match config.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(false).with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Levels(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
        LogFormat::Json => {
            let lines = lines.json().with_filter_reloading();
            let handle = lines.reload_handle();
            lines.init();
            Levels(Box::new(move |filter| handle.reload(filter).map_err(|e| e.to_string())))
        }
    })
}

impl Levels {
    /// Switches to these levels.
    ///
    /// # Errors
    /// The reason, if they are invalid.
    pub fn set(&self, level: &str) -> Result<(), String> {
        self.0(filter(level)?)
    }
}

/// Parses levels, such as `info` or `info,quorate=debug`.
///
/// # Errors
/// The reason; above all, a word that is not a level is rejected: as a module name it would silence
/// everything else.
pub fn filter(levels: &str) -> Result<EnvFilter, String> {
    let directives: Vec<&str> =
        levels.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    for directive in &directives {
        let level = directive.rsplit_once('=').map_or(*directive, |(_, level)| level);
        let known = ["off", "error", "warn", "info", "debug", "trace"];
        if !known.iter().any(|known| level.eq_ignore_ascii_case(known)) {
            return Err(format!("{level:?} is no level; the levels are: {}", known.join(", ")));
        }
    }
    EnvFilter::try_new(directives.join(",")).map_err(|error| error.to_string())
}

/// Log lines lost since the start, because the buffer was full or writing failed.
pub fn lost() -> u64 {
    LOG.lost.load(Ordering::Relaxed)
}

/// Writes a line unformatted, after those pending.
pub fn line(text: &str) {
    LOG.push(format!("{text}\n").as_bytes());
}

/// Waits until all lines are written, at most `patience`.
pub fn flush(patience: Duration) {
    LOG.flush(patience);
}

impl Log {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.queue();
        if queue.waiting.len() + line.len() > WAITING_BYTES_MAX {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        escape(line, &mut queue.waiting);
        drop(queue);
        self.more.notify_one();
    }

    fn write_for_ever(&self, mut out: impl Write) {
        let mut told = 0;
        let mut batch = Vec::new();
        loop {
            let mut queue = self.queue();
            queue.is_writing = false;
            self.written.notify_all();
            while queue.waiting.is_empty() {
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            batch.clear();
            std::mem::swap(&mut batch, &mut queue.waiting);
            queue.is_writing = true;
            drop(queue);
            let unwritten = write_all(&mut out, &batch);
            let lines = batch[batch.len() - unwritten..].iter().filter(|b| **b == b'\n').count();
            let lost = lines as u64 + self.lost.fetch_add(lines as u64, Ordering::Relaxed);
            if unwritten == 0 && lost > told {
                tracing::warn!(lines = lost - told, "log lines were lost");
                told = lost;
            }
        }
    }

    fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut queue = self.queue();
        while queue.is_writing || !queue.waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.written.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Copies a line. Control characters before its end are escaped.
fn escape(line: &[u8], out: &mut Vec<u8>) {
    let (text, end) = match line {
        [text @ .., b'\n'] => (text, &b"\n"[..]),
        text => (text, &b""[..]),
    };
    if text.iter().any(|byte| is_control(*byte)) {
        for byte in text {
            match byte {
                b'\n' => out.extend_from_slice(b"\\n"),
                byte if is_control(*byte) => {
                    out.extend_from_slice(format!("\\x{byte:02x}").as_bytes())
                }
                byte => out.push(*byte),
            }
        }
    } else {
        out.extend_from_slice(text);
    }
    out.extend_from_slice(end);
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// Writes as much as possible, and returns how many bytes were not written.
fn write_all(out: &mut impl Write, mut bytes: &[u8]) -> usize {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(NOT_NOW),
            Err(_) => break,
        }
    }
    bytes.len()
}

/// The subscriber's writer.
struct Lines;

struct TransportContext;

impl MakeWriter<'_> for Lines {
    type Writer = TransportContext;

    fn make_writer(&self) -> TransportContext {
        TransportContext
    }
}

impl Write for TransportContext {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Accepts this many bytes, then fails.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.0.min(bytes.len());
            self.0 -= room;
            if room == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(room) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_quotes() {
        let escaped = |line: &str| {
            let mut out = Vec::new();
            escape(line.as_bytes(), &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(escaped("key=ü\t1\n"), "key=ü\t1\n");
        assert_eq!(escaped("key=a\nERROR b\r\x1b[0m\n"), "key=a\\nERROR b\\x0d\\x1b[0m\n");
        assert_eq!(escaped("no end"), "no end");
    }

    #[test]
    fn what_cannot_be_written_is_dropped_and_counted() {
        assert_eq!(write_all(&mut Full(100), b"a\nb\n"), 0);
        assert_eq!(write_all(&mut Full(3), b"a\nb\nc\n"), 3);
        let log = Log {
            queue: Mutex::new(Queue { waiting: Vec::new(), is_writing: false }),
            more: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
        };
        let line = [b'x'; 1 << 10];
        for _ in 0..2048 {
            log.push(&line);
        }
        assert_eq!(log.lost.load(Ordering::Relaxed), 1024);
        log.flush(Duration::ZERO); // there is no writer, so it does not wait either
    }

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in ["info", "INFO", "off", "info,quorate=debug", "warn, quorate::link=trace", ""] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "info,quorate", "quorate=debgu", "verbose"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }
}
