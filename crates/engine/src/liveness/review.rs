//! Re-evaluates several times a second which peers are suspected.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::liveness::peer_time::PeerTime;
use crate::node::Node;

/// If a turn comes this many intervals late, the whole process was held up.
const TURNS_LATE: u64 = 5;

/// The turns at which gossip is heard and peers are reviewed.
#[derive(Debug)]
pub struct Turns {
    every_ms: u64,
    ticks: Interval,
    last: PeerTime,
}

impl Turns {
    /// Two turns in each interval of gossip.
    pub fn new(node: &Node) -> Self {
        let every_ms = (node.config.gossip.interval_ms / 2).max(1);
        let mut ticks = interval(Duration::from_millis(every_ms));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { every_ms, ticks, last: node.peers.now() }
    }

    /// Waits for the next turn. Silence while this process was held up is held against no peer.
    pub async fn next(&mut self, node: &Node) -> PeerTime {
        self.ticks.tick().await;
        let now = node.peers.now();
        if now.since(self.last) > TURNS_LATE * self.every_ms {
            node.peers.forgive(now);
        }
        self.last = now;
        now
    }
}
