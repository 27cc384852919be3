//! Which wall clock a node uses: its own, unless most of the cluster disagrees with it.
//!
//! Wall clocks give stamps, ages and message transit times; none of these decides causality, so a
//! peer's stamp is never refused. A clock is corrected where it is *read*: each node compares its
//! own clock with its peers' at every Hello, and if it is more than a minute off the median of all,
//! it uses the median. For an even number that is the lower of the two in the middle: of two nodes
//! the one ahead follows the other, because a stamp in the future beats every later write of an
//! `lww` bucket, while one in the past does no harm. Peers report their clocks uncorrected, so that
//! corrections do not feed back. Source: the median as an agreement function, Lamport and
//! Melliar-Smith, "Synchronizing Clocks in the Presence of Faults" (JACM 1985).

use std::collections::BTreeMap;

use crate::name::NodeId;
use crate::time::WallTime;

/// How far a working clock may be off the cluster's, in milliseconds: far beyond NTP's errors and
/// the uncertainty of a Hello's round trip, and small against the delete grace.
pub const SKEW_MS_MAX: u64 = 60_000;

/// How far this node's wall clock is ahead of its peers' clocks.
#[derive(Clone, Debug, Default)]
pub struct Skew {
    ahead_ms: BTreeMap<NodeId, i64>,
}

impl Skew {
    /// A peer's clock read `theirs` in a reply that arrived at `mine`, `round_trip_ms` after the
    /// request. All by uncorrected wall clocks.
    pub fn observe(&mut self, peer: NodeId, theirs: WallTime, mine: WallTime, round_trip_ms: u64) {
        let said_at = mine.0.saturating_sub(round_trip_ms / 2);
        // A peer may report any 64-bit value.
        let ahead_ms = i128::from(said_at) - i128::from(theirs.0);
        let bound = i128::from(i64::MAX / 2);
        self.ahead_ms.insert(peer, ahead_ms.clamp(-bound, bound) as i64);
    }

    /// A node is no peer any more: its clock does not count.
    pub fn forget(&mut self, peer: NodeId) {
        self.ahead_ms.remove(&peer);
    }

    /// How far this node's clock is ahead of the cluster's, in milliseconds; negative if it is
    /// behind.
    pub fn ahead_ms(&self) -> i64 {
        // Own clock minus the peer's: the peer furthest behind has the greatest difference.
        let mut all: Vec<i64> = self.ahead_ms.values().copied().chain([0]).collect();
        all.sort_unstable();
        all[all.len() / 2]
    }

    /// The correction to add to this node's wall clock, in milliseconds: 0 while it is within
    /// [`SKEW_MS_MAX`].
    pub fn correction_ms(&self) -> i64 {
        let ahead_ms = self.ahead_ms();
        if ahead_ms.unsigned_abs() > SKEW_MS_MAX { -ahead_ms } else { 0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    /// The skew of a node whose clock reads `mine`, with peers whose clocks read `theirs`.
    fn skew(mine: u64, theirs: &[u64]) -> Skew {
        let mut skew = Skew::default();
        for (i, clock) in theirs.iter().enumerate() {
            let peer = NodeId::parse(&format!("n{i}")).unwrap();
            skew.observe(peer, WallTime(*clock), WallTime(mine), 0);
        }
        skew
    }

    #[test]
    fn who_is_no_peer_any_more_does_not_count() {
        let mut skew = skew(100 * HOUR_MS, &[102 * HOUR_MS; 2]);
        assert_eq!(skew.ahead_ms(), -2 * HOUR_MS as i64);
        for name in ["n0", "n1", "n9"] {
            skew.forget(NodeId::parse(name).unwrap());
        }
        assert_eq!(skew.ahead_ms(), 0);
    }

    #[test]
    fn one_wrong_clock_follows_the_others_and_moves_none() {
        let (right, wrong) = (100 * HOUR_MS, 102 * HOUR_MS);
        assert_eq!(skew(wrong, &[right; 4]).correction_ms(), -2 * HOUR_MS as i64);
        assert_eq!(skew(right, &[wrong, right, right, right]).correction_ms(), 0);
        assert_eq!(skew(right - HOUR_MS, &[right; 2]).correction_ms(), HOUR_MS as i64);
    }

    #[test]
    fn of_two_nodes_the_one_ahead_follows() {
        assert_eq!(skew(5 * HOUR_MS, &[HOUR_MS]).correction_ms(), -4 * HOUR_MS as i64);
        assert_eq!(skew(HOUR_MS, &[5 * HOUR_MS]).correction_ms(), 0);
    }

    #[test]
    fn small_differences_and_slow_answers_correct_nothing() {
        assert_eq!(skew(HOUR_MS, &[HOUR_MS + 60_000; 2]).correction_ms(), 0);
        assert_eq!(skew(HOUR_MS, &[]).correction_ms(), 0);
        let mut skew = Skew::default();
        let peer = NodeId::parse("n1").unwrap();
        skew.observe(peer, WallTime(HOUR_MS), WallTime(HOUR_MS + 100_000), 200_000);
        assert_eq!(skew.ahead_ms(), 0, "half of the round trip");
    }

    #[test]
    fn absurd_clocks_do_no_harm() {
        assert!(skew(0, &[u64::MAX, u64::MAX]).correction_ms() > 0);
        assert!(skew(u64::MAX, &[0, 0]).correction_ms() < 0);
    }
}
