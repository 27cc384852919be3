//! Adaptive offload of cold reads: whether a read that needs the disk runs in place, or is handed
//! to a thread that may block.
//!
//! An offload costs two context switches, more than the read itself if the operating system has the
//! bytes in memory. That is not known beforehand, but it shows afterwards: a read whose elapsed
//! time exceeds its CPU time has waited. So reads run in place until one waits, and then as many
//! are offloaded as the wait would have paid for. This is the ski-rental rule (Karlin et al.,
//! "Competitive Snoopy Caching", Algorithmica 1988): whatever the disk does, the waits in place
//! cost no more than offloading every read would have. Preemption is misread as I/O wait. At this
//! time scale that is rare and only causes a few unnecessary offloads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// The cost of an offload, in microseconds: about two context switches.
const OFFLOAD_US: u128 = 20;
/// The most offloads after one wait: those that a wait of 200 ms pays for. It bounds how long a
/// disk that has become fast again is treated as slow.
const OWED_MAX: u32 = 10_000;

#[derive(Default)]
pub(crate) struct ReadOffload {
    /// How many reads to offload before the next one runs in place.
    owed: AtomicU32,
    /// Disk reads that ran in place.
    in_place: AtomicU64,
}

impl ReadOffload {
    /// Whether to offload this read; counts it if so.
    pub(crate) fn should_offload(&self) -> bool {
        self.owed.fetch_update(Relaxed, Relaxed, |owed| owed.checked_sub(1)).is_ok()
    }

    /// Runs a read in place and measures whether it waited.
    pub(crate) fn run_in_place<T>(&self, read: impl FnOnce() -> T) -> T {
        let (started, cpu_before) = (Instant::now(), cpu_time());
        let result = read();
        self.in_place.fetch_add(1, Relaxed);
        self.record(started.elapsed(), cpu_time().saturating_sub(cpu_before));
        result
    }

    /// Records a read in place that took `elapsed`, of which `cpu` was CPU time.
    pub(crate) fn record(&self, elapsed: Duration, cpu: Duration) {
        let waited_us = elapsed.saturating_sub(cpu).as_micros();
        let offloads = u32::try_from(waited_us / OFFLOAD_US).unwrap_or(u32::MAX);
        self.owed.fetch_max(offloads.min(OWED_MAX), Relaxed);
    }

    /// How many disk reads ran in place.
    pub(crate) fn in_place(&self) -> u64 {
        self.in_place.load(Relaxed)
    }
}

/// The CPU time of the calling thread.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owed(offload: &ReadOffload) -> usize {
        std::iter::from_fn(|| offload.should_offload().then_some(())).count()
    }

    #[test]
    fn a_wait_is_followed_by_as_many_offloads_as_it_would_have_paid_for() {
        let (offload, us) = (ReadOffload::default(), Duration::from_micros);
        assert!(!offload.should_offload());
        for (time, worked, expected) in [
            (0, 0, 0),
            (19, 0, 0),
            (100, 0, 5),
            (10_000, 0, 500),
            (10_000, 9_990, 0),
            (10_000, 8_000, 100),
            (5, 10, 0),
            (60_000_000, 0, 10_000),
        ] {
            offload.record(us(time), us(worked));
            assert_eq!(owed(&offload), expected, "{time} {worked}");
        }
        offload.record(us(200), us(0));
        offload.record(us(100), us(0));
        assert_eq!(owed(&offload), 10, "the longer of two waits counts");
    }

    #[test]
    fn sleeping_counts_as_waiting() {
        let offload = ReadOffload::default();
        offload.run_in_place(|| std::thread::sleep(Duration::from_millis(2)));
        assert!(owed(&offload) > 50);
        assert_eq!(offload.in_place(), 1);
    }
}
