//! The disk watermark: a look at the free space four times a second.
//!
//! Below the watermark the store takes no writes, so that compaction, the log and the operator keep
//! room to work in; above it by a tenth, it takes them again. The gap keeps it from flapping.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::Error;

/// Short enough that little is written between two looks; a look costs microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Watches the free space of one file system.
pub(crate) struct DiskWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    min: u64,
    free: AtomicU64,
    low: AtomicBool,
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl DiskWatch {
    /// Looks once, then starts the thread that looks again and again and calls `also` each
    /// time. `min` is the watermark in bytes.
    pub(crate) fn start(
        dir: &Path,
        min: u64,
        also: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            min,
            free: AtomicU64::new(0),
            low: AtomicBool::new(false),
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        });
        shared.look();
        let theirs = Arc::clone(&shared);
        let watch = move || {
            while theirs.wait() {
                theirs.look();
                also();
            }
        };
        let thread = thread::Builder::new().name("quorate-disk".to_owned()).spawn(watch)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Free bytes at the last look.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.shared.free.load(Ordering::Relaxed)
    }

    /// Whether there is room to write.
    ///
    /// # Errors
    /// [`Error::DiskLow`] if not.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.shared.low.load(Ordering::Relaxed) {
            return Err(Error::DiskLow { free_bytes: self.free_bytes(), min: self.shared.min });
        }
        Ok(())
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        *self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.wake.notify_one();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the disk watch panicked");
        }
    }
}

impl Shared {
    fn look(&self) {
        // Where the free space cannot be asked for, writing goes on: a full disk then shows as a
        // failed write.
        let Ok(stat) = rustix::fs::statvfs(&self.dir) else { return };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        self.free.store(free, Ordering::Relaxed);
        let was_low = self.low.load(Ordering::Relaxed);
        let is_low = next(was_low, free, self.min);
        self.low.store(is_low, Ordering::Relaxed);
        if is_low && !was_low {
            tracing::warn!(free_bytes = free, min = self.min, "disk low: no writes are taken");
        } else if was_low && !is_low {
            tracing::info!(free_bytes = free, "disk has room again: writes are taken");
        }
    }

    /// Waits for the next look; whether to take it.
    fn wait(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(stopped, LOOK_EVERY, |stopped| !*stopped);
        let (stopped, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }
}

/// Whether the disk is low now: below the watermark, or not yet a tenth above it again.
fn next(was_low: bool, free: u64, min: u64) -> bool {
    let enough = if was_low { min.saturating_add(min / 10) } else { min };
    free < enough
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_does_not_flap() {
        let mut low = false;
        let states = [1000, 999, 1050, 1099, 1100, 1001].map(|free| {
            low = next(low, free, 1000);
            low
        });
        assert_eq!(states, [false, true, true, true, false, false]);
        assert!(!next(false, 0, 0) && !next(true, 0, 0), "0 turns it off");
    }

    #[test]
    fn a_real_disk_is_looked_at_before_the_first_write() {
        let dir = tempfile::tempdir().unwrap();
        let full = DiskWatch::start(dir.path(), u64::MAX, || ()).unwrap();
        assert!(full.free_bytes() > 0);
        assert!(matches!(full.check(), Err(Error::DiskLow { min: u64::MAX, .. })));
        assert_eq!(DiskWatch::start(dir.path(), 1, || ()).unwrap().check(), Ok(()));
    }
}
