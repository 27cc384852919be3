//! Anti-entropy: makes replicas converge in the background.
//!
//! For each peer a task compares the Merkle trees that both hold: every interval, as soon as the
//! peer is back, and at once where a partition is known to be dirty. Differences are narrowed down
//! and repaired in both directions by `protocol::exchange` (`exchange`), a page of keys at a time
//! and within a share of a core ([`crate::background::throttle`]). Of two nodes, the one that comes
//! first in a partition's preference list starts the exchange. The answering side is in
//! [`answers`]; operators see the [`Report`]s.

pub mod answers;
mod exchange;
mod round;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::name::NodeId;
use tokio::time::MissedTickBehavior;

pub use self::exchange::{Asking, Talk, Way, receive_key, repair_tree, way};
pub use self::round::{Scope, run as run_round};
pub use self::state::Report;
use crate::background::jobs::{JobState, Pause};
use crate::liveness::health::State;
use crate::liveness::peer_time::PeerTime;
use crate::node::Node;

/// How often a peer's task checks for a reason to compare before the interval is over.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Compares with one peer for as long as the node runs.
pub async fn run(node: Arc<Node>, peer: NodeId, job: Arc<JobState>) {
    let interval_ms = node.config.anti_entropy.interval_ms;
    if interval_ms == 0 {
        return;
    }
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut compared_at = None;
    loop {
        tokio::select! {
            biased;
            _ = ticks.tick() => {}
            () = node.anti_entropy.wake.notified() => {}
        }
        if let Some(why) = not_now(&node) {
            job.pauses(why);
            continue;
        }
        let Some(up_since) = up_since(&node, peer) else {
            job.pauses(Pause::PeerDown);
            continue;
        };
        job.waits();
        let now = node.peers.now();
        let dirty = node.anti_entropy.take_dirty(peer);
        if !dirty.is_empty() {
            let _working = job.works();
            round::run(&node, peer, Scope::Partitions(dirty)).await;
        }
        let is_back = was_away(compared_at, up_since) && !is_handed_off_to(&node, peer);
        let is_due = compared_at.is_none_or(|at| now.since(at) >= interval_ms);
        if is_back || is_due {
            compared_at = Some(now);
            let _working = job.works();
            round::run(&node, peer, Scope::MineToBegin).await;
        }
    }
}

/// Why nothing can be compared now, whatever the peer.
fn not_now(node: &Node) -> Option<Pause> {
    match (node.takes_part(), node.filled.is_complete()) {
        (false, _) => Some(Pause::NotAdmitted),
        (true, false) => Some(Pause::NotFilled),
        (true, true) => None,
    }
}

/// Whether a peer was away since the last comparison: it may have missed what no node has hints for.
/// Both times are of the peers' clock: the node's uptime starts later, and a comparison would seem
/// to lie before the peer came up.
fn was_away(compared_at: Option<PeerTime>, up_since: PeerTime) -> bool {
    compared_at.is_none_or(|at| at < up_since)
}

/// Since when a peer has been up; `None` if it is not.
fn up_since(node: &Node, peer: NodeId) -> Option<PeerTime> {
    let health = node.peers.health(peer)?;
    (health.state() == State::Up).then(|| health.since())
}

/// Whether hints are still being delivered to a peer: comparing now would repair the same keys.
fn is_handed_off_to(node: &Node, peer: NodeId) -> bool {
    node.store.hint_targets().is_ok_and(|targets| targets.iter().any(|(node, ..)| *node == peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_compared_once_for_each_time_it_comes_up() {
        // The store took a minute to open: by the node's uptime it is 1,000 ms when the peer is
        // compared, by the peers' clock 61,000 ms.
        let (up_since, compared_at) = (PeerTime(60_500), PeerTime(61_000));
        assert!(was_away(None, up_since), "never compared");
        assert!(!was_away(Some(compared_at), up_since), "compared since it came up");
        assert!(was_away(Some(compared_at), PeerTime(61_001)), "it went down and came back");
    }
}
