//! Disk watermarks: checks the free space several times a second.
//!
//! Below the watermark the store refuses writes that make the data grow, so that compaction, the
//! log and the operator keep room to work in. Deletes are accepted down to 1/8 of it, and the
//! node's own records down to 1/16; below that nothing is written at all. Each kind is accepted
//! again 10 % above its mark, so that it does not flap. Near the watermark the free space is
//! checked more often. Once the free space has stopped falling, the [`Reserve`] is released to make
//! room for deletes. In a simulation, each check asks for the next one ([`Later::CheckDisk`]).

use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::data_dir::DataDir;
use crate::error::Error;
use crate::host::{Host, Later, Simulation};
use crate::reserve::Reserve;

/// Interval of checks far from the watermark. A check costs microseconds.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Interval of checks near the watermark: below [`NEAR_FACTOR`] times it.
const CHECK_INTERVAL_NEAR: Duration = Duration::from_millis(25);
const NEAR_FACTOR: u64 = 4;
/// How long the free space must not have fallen before the reserve is released: whatever is filling
/// the disk would fill the released space too.
const STABLE_BEFORE_RELEASE: Duration = Duration::from_secs(2);
/// After a flush found no space, RocksDB checks for space every 5 s: wait longer than that.
const ROCKSDB_RECOVERY: Duration = Duration::from_secs(6);

/// What a call needs disk space for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// A small record of the node's own.
    Record,
    /// A change that adds no values.
    Release,
    /// Any other change.
    Growth,
}

impl Need {
    /// The free bytes below which it is refused.
    fn bytes(self, min: u64) -> u64 {
        match self {
            Self::Record => min / 16,
            Self::Release => min / 8,
            Self::Growth => min,
        }
    }
}

/// The size of the reserve.
pub(crate) fn reserve_bytes(min: u64) -> u64 {
    // With the defaults about what the log may hold, which opening writes to tables.
    min
}

/// Watches the free space of one file system.
pub(crate) struct DiskWatch {
    shared: Arc<Shared>,
    /// `None` in a simulation.
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: DataDir,
    host: Host,
    has_failed: Box<dyn Fn() -> bool + Send + Sync>,
    state: Mutex<WatchState>,
    min: u64,
    reserve: Reserve,
    free: AtomicU64,
    /// How many of the [`Need`]s are met, in their order.
    met: AtomicU8,
    stopped: Mutex<bool>,
    wake: Condvar,
}

/// What is kept from one check to the next.
#[derive(Default)]
struct WatchState {
    /// The lowest free space since there was last plenty, and when it was first seen.
    lowest: Option<(u64, Duration)>,
    /// When RocksDB last failed in the background for lack of space.
    failed_at: Option<Duration>,
    cannot_reserve: bool,
}

impl DiskWatch {
    /// Checks once, then starts the thread that checks periodically, or asks the simulation to.
    /// Each time it calls `has_failed`, which says whether RocksDB has failed in the background since
    /// the last call. `min` is the watermark in bytes, 0 for none.
    pub(crate) fn start(
        dir: &DataDir,
        host: &Host,
        min: u64,
        has_failed: impl Fn() -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            dir: dir.clone(),
            host: host.clone(),
            has_failed: Box::new(has_failed),
            state: Mutex::default(),
            min,
            reserve: Reserve::new(dir, reserve_bytes(min)),
            free: AtomicU64::new(u64::MAX),
            met: AtomicU8::new(3),
            stopped: Mutex::new(false),
            wake: Condvar::new(),
        });
        shared.check_space(false);
        let thread = match host {
            Host::Simulated(simulation) => {
                shared.check_later(simulation);
                None
            }
            Host::Machine(_) => {
                let theirs = Arc::clone(&shared);
                let watch = move || {
                    while theirs.wait() {
                        theirs.check_space((theirs.has_failed)());
                    }
                };
                Some(thread::Builder::new().name("quorate-disk".to_owned()).spawn(watch)?)
            }
        };
        Ok(Self { shared, thread })
    }

    /// Free bytes at the last check.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.shared.free.load(Ordering::Relaxed)
    }

    /// Checks for space.
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
    /// Has the simulation check from time to time, if there is a watermark.
    fn check_later(self: &Arc<Self>, simulation: &Arc<dyn Simulation>) {
        if self.min == 0 {
            return;
        }
        let (theirs, again) = (Arc::downgrade(self), Arc::clone(simulation));
        let check = move || {
            if let Some(shared) = theirs.upgrade() {
                shared.check_space((shared.has_failed)());
                shared.check_later(&again);
            }
        };
        simulation.later(Later::CheckDisk { after: self.pause() }, Box::new(check));
    }

    fn check_space(&self, has_failed: bool) {
        // If the free space cannot be determined, writes are still accepted: a full disk then shows
        // as a failed write.
        let Some(free) = self.dir.free_bytes() else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.host.now();
        self.free.store(free, Ordering::Relaxed);
        let was_met = self.met.load(Ordering::Relaxed);
        let mut met = met(was_met, free, self.min);
        if has_failed && met.min(was_met) <= Need::Growth as u8 {
            state.failed_at = Some(now);
        }
        if state.failed_at.is_some_and(|at| now.saturating_sub(at) < ROCKSDB_RECOVERY) {
            met = met.min(was_met); // a write before RocksDB has noticed the space would fail
        }
        self.met.store(met, Ordering::Relaxed);
        self.log_changes(free, was_met, met);
        self.adjust_reserve(&mut state, now, (free, met));
    }

    fn log_changes(&self, free: u64, was_met: u8, met: u8) {
        let is_met = |met: u8, need: Need| met > need as u8;
        for (need, what) in [
            (Need::Growth, "disk low: refusing writes; deletes and reads go on"),
            (Need::Release, "disk full: refusing deletes too until space is freed"),
            (Need::Record, "disk full: writing nothing until space is freed"),
        ] {
            if is_met(was_met, need) && !is_met(met, need) {
                tracing::warn!(free_bytes = free, min = need.bytes(self.min), "{what}");
            }
        }
        if !is_met(was_met, Need::Growth) && is_met(met, Need::Growth) {
            tracing::info!(free_bytes = free, "disk has space again: accepting writes");
        }
    }

    /// Releases the reserve if deletes need it, and allocates it if there is plenty of space.
    fn adjust_reserve(&self, state: &mut WatchState, now: Duration, (free, met): (u64, u8)) {
        if self.min == 0 {
            return;
        }
        match &state.lowest {
            Some((lowest, _)) if free >= *lowest => {}
            Some(_) | None => state.lowest = Some((free, now)),
        }
        let is_plenty =
            free >= self.min.saturating_add(self.min / 2).saturating_add(self.reserve.bytes());
        if is_plenty {
            state.lowest = None;
            if !state.cannot_reserve && !self.reserve.is_allocated() {
                let allocated = self.reserve.allocate();
                state.cannot_reserve = allocated.is_err();
                if let Err(error) = allocated {
                    tracing::info!(%error, "this file system cannot reserve space");
                }
            }
        } else if met <= Need::Release as u8
            && state.lowest.is_some_and(|(_, at)| now.saturating_sub(at) >= STABLE_BEFORE_RELEASE)
            && self.reserve.allocated_bytes() > 0
        {
            match self.reserve.release() {
                Ok(()) => tracing::warn!("released the disk reserve to make room for deletes"),
                Err(error) => tracing::warn!(%error, "could not release the disk reserve"),
            }
        }
    }

    /// The time until the next check.
    fn pause(&self) -> Duration {
        let is_near = self.free.load(Ordering::Relaxed) / NEAR_FACTOR < self.min;
        if is_near { CHECK_INTERVAL_NEAR } else { CHECK_INTERVAL }
    }

    /// Waits for the next check; `false` once stopped.
    fn wait(&self) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.wake.wait_timeout_while(stopped, self.pause(), |stopped| !*stopped);
        let (stopped, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*stopped
    }
}

/// How many needs are met now: those whose mark the free space has reached, or exceeds by 10 % if
/// they were not met before.
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
    use std::path::Path;

    use super::*;

    fn watch(dir: &Path, min: u64) -> DiskWatch {
        DiskWatch::start(&dir.into(), &Host::machine(), min, || false).unwrap()
    }

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
        let full = watch(dir.path(), u64::MAX);
        assert!(full.free_bytes() > 0);
        assert!(matches!(full.check(Need::Growth), Err(Error::DiskLow { min: u64::MAX, .. })));
        let half = full.free_bytes().saturating_mul(4);
        let low = watch(dir.path(), half);
        assert!(matches!(low.check(Need::Growth), Err(Error::DiskLow { .. })));
        assert_eq!((low.check(Need::Release), low.check(Need::Record)), (Ok(()), Ok(())));
        let roomy = watch(dir.path(), 1);
        assert_eq!(roomy.check(Need::Growth), Ok(()));
    }
}
