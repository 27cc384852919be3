//! When a client looks at its cluster, and when it probes nodes that were dead.
//!
//! However many answers ask for a look, there is one, a second later at the least, and up to another by
//! chance: the clients of a cluster learn of a change at the same time, and must not all ask at once.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The shortest time between two looks that answers ask for; twice that is the longest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// When to look at the cluster, and when to probe dead nodes.
#[derive(Debug)]
pub(crate) struct Upkeep {
    began: Instant,
    /// The next look.
    pub(crate) look: Due,
    /// The next probe.
    pub(crate) probe: Due,
    running: AtomicBool,
    /// The highest epoch of the layout that was heard of since the last look; 0 before the first.
    epoch: AtomicU64,
}

/// A time, in milliseconds since the client began; [`NEVER`] for none.
#[derive(Debug)]
pub(crate) struct Due(AtomicU64);

const NEVER: u64 = u64::MAX;

impl Upkeep {
    /// A look is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        let (look, probe) = (Due(AtomicU64::new(0)), Due(AtomicU64::new(NEVER)));
        let (running, epoch) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { began: now, look, probe, running, epoch }
    }

    /// Whether it begins now: it does not run.
    pub(crate) fn begins(&self) -> bool {
        !self.running.swap(true, Relaxed)
    }

    /// It does not run any more.
    pub(crate) fn ends(&self) {
        self.running.store(false, Relaxed);
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(NEVER)
    }

    /// Whether its time has come.
    pub(crate) fn is_due(&self, due: &Due) -> bool {
        due.0.load(Relaxed) <= self.ms(Instant::now())
    }

    /// Not later than this.
    pub(crate) fn by(&self, due: &Due, at: Instant) {
        due.0.fetch_min(self.ms(at), Relaxed);
    }

    /// After [`again_after`], if it is not due by then anyway. Drawn once: of many draws the shortest would
    /// count.
    pub(crate) fn soon(&self, due: &Due, now: Instant) {
        if due.0.load(Relaxed) > self.ms(now + LOOK_AGAIN * 2) {
            self.by(due, now + again_after());
        }
    }

    /// At this time; `None`: until further notice not.
    pub(crate) fn set(&self, due: &Due, at: Option<Instant>) {
        due.0.store(at.map_or(NEVER, |at| self.ms(at)), Relaxed);
    }

    /// The highest epoch of the layout that was heard of since the last look; 0 before the first.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Notes an epoch that a node follows. Returns whether it is news: later than what was known. Before the
    /// first look nothing is known, and that look is due anyway.
    pub(crate) fn hears(&self, epoch: u64) -> bool {
        let known = self.epoch.fetch_max(epoch, Relaxed);
        known != 0 && known < epoch
    }

    /// Notes the epoch that a look has found. It may be an earlier one: of a cluster that was formed afresh.
    pub(crate) fn knows(&self, epoch: u64) {
        self.epoch.store(epoch, Relaxed);
    }
}

/// How long after an answer that asks for a look, or one that failed, comes the next.
pub(crate) fn again_after() -> Duration {
    LOOK_AGAIN.mul_f64(1.0 + rand::random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next look is in half a minute.
    fn upkeep() -> Upkeep {
        let now = Instant::now();
        let upkeep = Upkeep::new(now);
        upkeep.set(&upkeep.look, Some(now + Duration::from_secs(30)));
        upkeep
    }

    fn due_ms(upkeep: &Upkeep) -> u64 {
        upkeep.look.0.load(Relaxed)
    }

    #[test]
    fn only_a_later_epoch_is_news() {
        let upkeep = upkeep();
        assert!(!upkeep.hears(9), "before the first look");
        upkeep.knows(4);
        let heard = [4, 3, 0, 5, 5, 4, u64::MAX].map(|epoch| upkeep.hears(epoch));
        assert_eq!(heard, [false, false, false, true, false, false, true]);
        upkeep.knows(1);
        assert!(upkeep.hears(2), "a cluster that was formed afresh is followed");
    }

    #[test]
    fn a_look_is_soon_and_all_that_ask_for_one_get_the_same() {
        let upkeep = upkeep();
        upkeep.soon(&upkeep.look, upkeep.began);
        let first = due_ms(&upkeep);
        assert!((1_000..=2_000).contains(&first), "{first}");
        for ms in 0..500 {
            upkeep.soon(&upkeep.look, upkeep.began + Duration::from_millis(ms));
        }
        assert_eq!(due_ms(&upkeep), first);
        upkeep.set(&upkeep.look, Some(upkeep.began));
        upkeep.soon(&upkeep.look, upkeep.began);
        assert_eq!(due_ms(&upkeep), 0, "what is due is not put off");
    }

    #[test]
    fn clients_do_not_look_together() {
        let draws = [(); 50].map(|()| {
            let upkeep = upkeep();
            upkeep.soon(&upkeep.look, upkeep.began);
            due_ms(&upkeep)
        });
        let (least, most) = (draws.iter().min(), draws.iter().max());
        assert!(most > least.map(|least| least + 300).as_ref(), "{draws:?}");
    }
}
