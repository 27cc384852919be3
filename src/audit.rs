//! The audit log: who did what, one JSON object per line, in a file or on standard error.
//!
//! It never holds up a request: a line waits in a bounded queue for a thread of its own, and is dropped and
//! counted (`quorate_audit_dropped_total`) if there is no room. What administrators do and what is refused
//! is always in it, requests for data if `audit.data` says so. Keys are hashed with a key that follows from
//! the cluster's, unless `audit.keys` is set: equal keys have equal hashes on all nodes.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::AuditConfig;
use quorate_engine::seldom::Seldom;

/// The most lines that wait.
const LINES_MAX: usize = 8 << 10;

/// Where lines go. Clones are of the same log.
#[derive(Clone)]
pub(crate) struct Audit(Arc<Shared>);

struct Shared {
    queue: SyncSender<String>,
    state: Arc<State>,
    key: [u8; 32],
    data: bool,
    keys: bool,
}

#[derive(Default)]
struct State {
    /// Whether the file is to be opened again.
    reopen: AtomicBool,
    /// Lines that could not be written, and were not counted yet.
    lost: AtomicU64,
    /// Lines that wait or are being written.
    waiting: Mutex<usize>,
    written: Condvar,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("audit.to: {path}: {source}")]
    File {
        /// Its path.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// Its thread cannot be started.
    #[error("starting the audit thread: {0}")]
    Thread(io::Error),
}

enum Out {
    StandardError,
    File(PathBuf, File),
}

impl Audit {
    /// Opens the log; `None` if it is off. `secret` is the cluster's key.
    ///
    /// # Errors
    /// [`AuditError`].
    pub(crate) fn open(
        config: &AuditConfig,
        secret: &[u8; 32],
    ) -> Result<Option<Self>, AuditError> {
        let out = match config.to.as_str() {
            "off" => return Ok(None),
            "stderr" => Out::StandardError,
            path => {
                let wrong = |source| AuditError::File { path: path.to_owned(), source };
                let path = PathBuf::from(path);
                let file = open(&path).map_err(wrong)?;
                Out::File(path, file)
            }
        };
        let (queue, lines) = sync_channel(LINES_MAX);
        let state = Arc::new(State::default());
        let of_thread = state.clone();
        let writer = thread::Builder::new().name("audit".to_owned());
        writer.spawn(move || write_all(&lines, out, &of_thread)).map_err(AuditError::Thread)?;
        let key = blake3::derive_key("quorate 2026-11 audit key hash", secret);
        Ok(Some(Self(Arc::new(Shared { queue, state, key, data: config.data, keys: config.keys }))))
    }

    /// Whether requests for data are in it.
    pub(crate) fn has_data(&self) -> bool {
        self.0.data
    }

    /// Whether keys are in it as they are.
    pub(crate) fn has_keys(&self) -> bool {
        self.0.keys
    }

    /// What stands for a key.
    pub(crate) fn hash(&self, bucket: &str, key: &[u8]) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0.key);
        hasher.update(bucket.as_bytes()).update(&[0]).update(key);
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// Adds a line, which has no line break. Returns how many lines were dropped, this one or earlier ones.
    pub(crate) fn add(&self, line: String) -> u64 {
        let Shared { queue, state, .. } = &*self.0;
        *state.waiting() += 1;
        let dropped = match queue.try_send(line) {
            Ok(()) => 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                state.done(1);
                1
            }
        };
        dropped + state.lost.swap(0, Relaxed)
    }

    /// Opens the file again before the next line, so that it can be moved away.
    pub(crate) fn reopen(&self) {
        self.0.state.reopen.store(true, Relaxed);
    }

    /// Waits until all lines are written, at most `patience`. Blocks.
    pub(crate) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut waiting = self.0.state.waiting();
        while *waiting > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.state.written.wait_timeout(waiting, left);
            waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn waiting(&self) -> std::sync::MutexGuard<'_, usize> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, lines: usize) {
        let mut waiting = self.waiting();
        *waiting = waiting.saturating_sub(lines);
        if *waiting == 0 {
            self.written.notify_all();
        }
    }
}

/// Readable by its owner only. One that is there is appended to.
fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn write_all(lines: &Receiver<String>, mut out: Out, state: &State) {
    let failures = Seldom::new();
    let (mut batch, mut count) = (Vec::new(), 0);
    while let Ok(line) = lines.recv() {
        batch.clear();
        count = 0;
        for line in [line].into_iter().chain(lines.try_iter().take(LINES_MAX)) {
            batch.extend_from_slice(line.as_bytes());
            batch.push(b'\n');
            count += 1;
        }
        let written = out.write(&batch, state.reopen.swap(false, Relaxed));
        if let Err(error) = written {
            state.lost.fetch_add(count as u64, Relaxed);
            if failures.now().is_some() {
                tracing::error!(%error, "the audit log cannot be written: it has gaps");
            }
        }
        state.done(count);
    }
    state.done(count);
}

impl Out {
    fn write(&mut self, batch: &[u8], opens_again: bool) -> io::Result<()> {
        match self {
            Self::StandardError => io::stderr().write_all(batch),
            Self::File(path, file) => {
                if opens_again {
                    *file = open(path)?;
                }
                file.write_all(batch)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn config(to: &str) -> AuditConfig {
        AuditConfig { to: to.to_owned(), ..AuditConfig::default() }
    }

    #[test]
    fn lines_are_written_for_their_owner_and_the_file_can_be_moved() {
        let dir = tempfile::tempdir().unwrap();
        let (file, old) = (dir.path().join("audit.log"), dir.path().join("audit.old"));
        let audit = Audit::open(&config(file.to_str().unwrap()), &[7; 32]).unwrap().unwrap();
        assert_eq!(audit.add("one".to_owned()), 0);
        audit.flush(PATIENCE);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::rename(&file, &old).unwrap();
        audit.reopen();
        audit.add("two".to_owned());
        audit.flush(PATIENCE);
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&file).unwrap(), "two\n");
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_nobody_waits() {
        let audit = Audit::open(&config("/dev/full"), &[7; 32]).unwrap().unwrap();
        let mut dropped: u64 = (0..3 * LINES_MAX).map(|_| audit.add("x".repeat(100))).sum();
        audit.flush(PATIENCE);
        dropped += audit.add(String::new());
        assert!(dropped >= 3 * LINES_MAX as u64, "{dropped}");
        assert!(Audit::open(&config("/no/such/directory/x"), &[7; 32]).is_err());
        assert!(Audit::open(&config("off"), &[7; 32]).unwrap().is_none());
    }

    #[test]
    fn keys_are_told_apart_and_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        let open = |key| Audit::open(&config(file.to_str().unwrap()), &key).unwrap().unwrap();
        let (one, other) = (open([7; 32]), open([8; 32]));
        assert_eq!(one.hash("b", b"k"), open([7; 32]).hash("b", b"k"));
        assert_ne!(one.hash("b", b"k"), one.hash("b", b"l"));
        assert_ne!(one.hash("b", b"k"), other.hash("b", b"k"));
    }
}
