//! The disk's watermarks: a look at the free space several times a second.
//!
//! Below the watermark nothing is taken that makes the data grow, so that compaction, the log and
//! the operator keep room to work in. What deletes goes on down to an eighth of it, and the node's
//! own records to a sixteenth; below that nothing is written at all. Above each by a tenth it is
//! taken again: the gap keeps it from flapping. The nearer the watermark, the more often it is
//! looked at. When whatever filled the disk has come to rest, the [`Reserve`] is given up, and
//! deletes have room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::reserve::Reserve;

/// Far from the watermark. A look costs microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Within a few times the watermark.
const LOOK_OFTEN: Duration = Duration::from_millis(25);
const NEAR: u64 = 4;
/// So long the free space must not have fallen before the reserve is given up: what fills the disk
/// would fill it too.
const AT_REST: Duration = Duration::from_secs(2);
/// RocksDB, once a flush found no room, looks for it every five seconds.
const ROCKSDB_RECOVERS: Duration = Duration::from_secs(6);

/// What is done to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// A small record of the node's own.
    Record,
    /// A change that leaves no more values than before.
    Release,
    /// Any other.
    Growth,
}

impl Need {
    /// Below how many free bytes it is refused.
    fn bytes(self, min: u64) -> u64 {
        match self {
            Self::Record => min / 16,
            Self::Release => min / 8,
            Self::Growth => min,
        }
    }
}

/// How much room the reserve holds back.
pub(crate) fn reserve_bytes(min: u64) -> u64 {
    // With the defaults as much as the log may hold, which opening writes to tables.
    min
}

/// Watches the free space of one file system.
pub(crate) struct DiskWatch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: PathBuf,
    min: u64,
    reserve: Reserve,
    free: AtomicU64,
    /// How many of the [`Need`]s are met.
    met: AtomicU8,
    stopped: Mutex<bool>,
    wake: Condvar,
}

/// What the watching thread remembers from look to look.
#[derive(Default)]
struct Watching {
    /// The lowest free space since it last fell, and when that was.
    lowest: Option<(u64, Instant)>,
    /// When RocksDB last failed in the background for want of room.
    failed_at: Option<Instant>,
    cannot_hold: bool,
}

impl DiskWatch {
    /// Looks once, then starts the thread that looks again and again. Each time it calls
    /// `has_failed`, which says whether RocksDB has failed in the background since the last call.
    /// `min` is the watermark in bytes, 0 for none.
    pub(crate) fn start(
        dir: &Path,
        min: u64,
        has_failed: impl Fn() -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            min,
            reserve: Reserve::new(dir, reserve_bytes(min)),
            free: AtomicU64::new(u64::MAX),
            met: AtomicU8::new(3),
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        });
        let mut watching = Watching::default();
        shared.look(&mut watching, false);
        let theirs = Arc::clone(&shared);
        let watch = move || {
            while theirs.wait() {
                theirs.look(&mut watching, has_failed());
            }
        };
        let thread = thread::Builder::new().name("quorate-disk".to_owned()).spawn(watch)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Free bytes at the last look.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.shared.free.load(Ordering::Relaxed)
    }

    /// Whether there is room.
    ///
    /// # Errors
    /// [`Error::DiskLow`] if not.
    pub(crate) fn check(&self, need: Need) -> Result<(), Error> {
        if self.shared.met.load(Ordering::Relaxed) > need as u8 {
            return Ok(());
        }
        let (free_bytes, min) = (self.free_bytes(), need.bytes(self.shared.min));
        Err(Error::DiskLow { free_bytes, min })
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
    fn look(&self, watching: &mut Watching, has_failed: bool) {
        // Where the free space cannot be asked for, writing goes on: a full disk then shows as a
        // failed write.
        let Some(free) = free_bytes(&self.dir) else { return };
        self.free.store(free, Ordering::Relaxed);
        let was_met = self.met.load(Ordering::Relaxed);
        let mut met = met(was_met, free, self.min);
        if has_failed && met.min(was_met) <= Need::Growth as u8 {
            watching.failed_at = Some(Instant::now());
        }
        if watching.failed_at.is_some_and(|at| at.elapsed() < ROCKSDB_RECOVERS) {
            met = met.min(was_met); // what is written before RocksDB has seen the room fails
        }
        self.met.store(met, Ordering::Relaxed);
        self.say(free, was_met, met);
        self.tend_reserve(watching, free, met);
    }

    fn say(&self, free: u64, was_met: u8, met: u8) {
        let is_met = |met: u8, need: Need| met > need as u8;
        for (need, what) in [
            (Need::Growth, "disk low: no writes are taken, but deletes and reads"),
            (
                Need::Release,
                "disk full: no deletes are taken either until something else makes room",
            ),
            (
                Need::Record,
                "disk full: nothing is written any more until something else makes room",
            ),
        ] {
            if is_met(was_met, need) && !is_met(met, need) {
                tracing::warn!(free_bytes = free, min = need.bytes(self.min), "{what}");
            }
        }
        if !is_met(was_met, Need::Growth) && is_met(met, Need::Growth) {
            tracing::info!(free_bytes = free, "disk has room again: writes are taken");
        }
    }

    /// Gives the reserve up where deletes need it, and lays it in where there is plenty.
    fn tend_reserve(&self, watching: &mut Watching, free: u64, met: u8) {
        if self.min == 0 {
            return;
        }
        match &watching.lowest {
            Some((lowest, _)) if free >= *lowest => {}
            Some(_) | None => watching.lowest = Some((free, Instant::now())),
        }
        let is_plenty =
            free >= self.min.saturating_add(self.min / 2).saturating_add(self.reserve.bytes());
        if is_plenty {
            watching.lowest = None;
            if !watching.cannot_hold && !self.reserve.is_held() {
                let held = self.reserve.hold();
                watching.cannot_hold = held.is_err();
                if let Err(error) = held {
                    tracing::info!(%error, "this file system cannot hold back room for when it is full");
                }
            }
        } else if met <= Need::Release as u8
            && watching.lowest.is_some_and(|(_, at)| at.elapsed() >= AT_REST)
            && self.reserve.held_bytes() > 0
        {
            match self.reserve.release() {
                Ok(()) => tracing::warn!("the room that was held back is given up for deletes"),
                Err(error) => tracing::warn!(%error, "could not give up the room held back"),
            }
        }
    }

    /// Waits for the next look; whether to take it.
    fn wait(&self) -> bool {
        let is_near = self.free.load(Ordering::Relaxed) / NEAR < self.min;
        let pause = if is_near { LOOK_OFTEN } else { LOOK_EVERY };
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(stopped, pause, |stopped| !*stopped);
        let (stopped, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }
}

/// Free bytes of the file system that a directory is on; `None` if it does not say.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How many needs are met now: those above whose mark the disk is, or, if they were not met, by a
/// tenth.
fn met(was_met: u8, free: u64, min: u64) -> u8 {
    let needs = [Need::Record, Need::Release, Need::Growth];
    let is_met = |need: &Need| {
        let mark = need.bytes(min);
        free >= if was_met > *need as u8 { mark } else { mark.saturating_add(mark / 10) }
    };
    needs.iter().take_while(|need| is_met(need)).count() as u8
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_watermarks_do_not_flap() {
        let mut now = 3;
        let states =
            [1600, 1599, 1700, 1759, 1760, 1601, 200, 199, 219, 220, 99, 109, 110].map(|free| {
                now = met(now, free, 1600);
                now
            });
        assert_eq!(states, [3, 2, 2, 2, 3, 3, 2, 1, 1, 2, 0, 0, 1]);
        assert_eq!((met(3, 0, 0), met(0, 0, 0)), (3, 3), "0 turns them off");
    }

    #[test]
    fn a_real_disk_is_looked_at_before_the_first_write() {
        let dir = tempfile::tempdir().unwrap();
        let full = DiskWatch::start(dir.path(), u64::MAX, || false).unwrap();
        assert!(full.free_bytes() > 0);
        assert!(matches!(full.check(Need::Growth), Err(Error::DiskLow { min: u64::MAX, .. })));
        let half = full.free_bytes().saturating_mul(4);
        let low = DiskWatch::start(dir.path(), half, || false).unwrap();
        assert!(matches!(low.check(Need::Growth), Err(Error::DiskLow { .. })));
        assert_eq!((low.check(Need::Release), low.check(Need::Record)), (Ok(()), Ok(())));
        let roomy = DiskWatch::start(dir.path(), 1, || false).unwrap();
        assert_eq!(roomy.check(Need::Growth), Ok(()));
    }
}
