//! Phi, a peer's suspicion level: the time since its last sign of life, in units of its usual
//! interval.
//!
//! After Hayashibara et al., "The phi accrual failure detector" (SRDS 2004), with the mean interval
//! instead of a fitted distribution, as Cassandra and chitchat do: a peer whose heartbeats arrive
//! every 200 ms on average and that has been silent for one second has phi 5. Two rules keep it
//! fair: an answer to a request is as good a sign of life as a heartbeat, and heartbeats missed
//! while *this* process was held up (stopped, swapped out, starved) do not raise any peer's
//! suspicion level.

use crate::liveness::peer_time::PeerTime;

/// A new interval has a weight of 1/16 in the moving mean.
const SMOOTHING: f64 = 16.0;
/// An interval counts as at most this many mean intervals: a gap caused by a failure says nothing
/// about the usual interval.
const INTERVALS_MAX: f64 = 8.0;

/// The heartbeats of one peer.
#[derive(Clone, Debug)]
pub struct PhiAccrual {
    /// The lower bound of the mean, in milliseconds.
    interval_ms: f64,
    mean_ms: f64,
    last: Option<PeerTime>,
    beats: u64,
}

impl PhiAccrual {
    /// Starts without a heartbeat. The expected interval never falls below `interval_ms`
    /// milliseconds (at least 1).
    pub fn new(interval_ms: u64) -> Self {
        let interval_ms = interval_ms.max(1) as f64;
        Self { interval_ms, mean_ms: interval_ms, last: None, beats: 0 }
    }

    /// A heartbeat arrived.
    pub fn beat(&mut self, now: PeerTime) {
        if let Some(last) = self.last {
            let most = self.mean_ms * INTERVALS_MAX;
            let interval = (now.since(last) as f64).clamp(self.interval_ms, most);
            self.mean_ms += (interval - self.mean_ms) / SMOOTHING;
        }
        self.last = Some(now);
        self.beats += 1;
    }

    /// This process was held up until now: the silence is counted from here.
    pub fn forgive(&mut self, now: PeerTime) {
        if self.last.is_some() {
            self.last = Some(now);
        }
    }

    /// When the last heartbeat arrived.
    pub fn last(&self) -> Option<PeerTime> {
        self.last
    }

    /// The suspicion level now, given when the peer last answered a request. `None` before the
    /// second heartbeat: there is no usual interval yet.
    pub fn phi(&self, answered: PeerTime, now: PeerTime) -> Option<f64> {
        let heard = self.last.filter(|_| self.beats >= 2)?.max(answered);
        Some(now.since(heard) as f64 / self.mean_ms)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn beating(every_ms: u64, times: u64) -> PhiAccrual {
        let mut pulse = PhiAccrual::new(100);
        for beat in 1..=times {
            pulse.beat(PeerTime(beat * every_ms));
        }
        pulse
    }

    #[test]
    fn phi_counts_silence_in_usual_intervals() {
        let pulse = beating(400, 200);
        let phi_after = |ms: u64| pulse.phi(PeerTime(0), PeerTime(200 * 400 + ms)).unwrap();
        assert!(phi_after(400) < 1.1 && phi_after(3200) > 7.5, "{}", phi_after(3200));
        assert!(phi_after(6400) > phi_after(3200));
    }

    #[test]
    fn who_never_beat_twice_is_not_suspected() {
        assert_eq!(PhiAccrual::new(100).phi(PeerTime(0), PeerTime(99_999)), None);
        assert_eq!(beating(100, 1).phi(PeerTime(0), PeerTime(99_999)), None);
    }

    #[test]
    fn an_answer_is_a_sign_of_life() {
        let pulse = beating(100, 50);
        assert!(pulse.phi(PeerTime(0), PeerTime(15_000)).unwrap() > 90.0);
        assert!(pulse.phi(PeerTime(14_900), PeerTime(15_000)).unwrap() < 1.1);
    }

    #[test]
    fn what_this_process_missed_is_forgiven() {
        let mut pulse = beating(100, 50);
        pulse.forgive(PeerTime(60_000));
        assert!(pulse.phi(PeerTime(0), PeerTime(60_100)).unwrap() < 1.1);
        let mut silent = PhiAccrual::new(100);
        silent.forgive(PeerTime(60_000));
        assert_eq!(silent.last(), None);
    }

    #[test]
    fn bursts_make_nobody_nervous_and_gaps_nobody_numb() {
        let mut pulse = beating(1, 5000); // far more often than told
        assert!(pulse.phi(PeerTime(0), PeerTime(5100)).unwrap() < 1.1);
        pulse.beat(PeerTime(900_000)); // a long absence
        assert!(pulse.phi(PeerTime(0), PeerTime(901_600)).unwrap() > 8.0);
    }
}
