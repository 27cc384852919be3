//! Decides which partitions count as received once they are merged with all other home replicas:
//! asks those replicas what they hold, and leaves the judgement to `protocol::received`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::received::{Holdings, Received, received};

use crate::node::Node;

/// The verdict on partitions that were merged with all other home replicas.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    /// They are received.
    pub(crate) received: Vec<Partition>,
    /// How many wait for a decision about rows that are set aside.
    pub(crate) undecided: usize,
    /// How many are lost.
    pub(crate) lost: usize,
}

/// Judges them by what their home replicas report after the merge: one that lost its disk in the
/// meantime reports that.
pub(crate) async fn judge(node: &Arc<Node>, merged: &[Partition]) -> Judged {
    let mut judged = Judged::default();
    if merged.is_empty() {
        return judged;
    }
    let holdings = ask_all(node).await;
    let mine = node.holdings();
    for partition in merged {
        let homes = node.layout.homes(*partition, node.buckets.n_max());
        if !homes.contains(&node.me) {
            judged.received.push(*partition); // there is nothing to receive
            continue;
        }
        let others = homes.iter().filter(|home| **home != node.me);
        let others: Option<Vec<_>> =
            others.map(|home| holdings.get(home).map(|holdings| holdings.of(*partition))).collect();
        let Some(others) = others else { continue }; // a replica did not answer: retried soon
        match received(mine.of(*partition), others) {
            Received::Yes => judged.received.push(*partition),
            Received::Undecided => judged.undecided += 1,
            Received::Lost => judged.lost += 1,
        }
    }
    judged
}

/// Asks all peers what they hold; those that do not answer are missing.
async fn ask_all(node: &Arc<Node>) -> BTreeMap<NodeId, Holdings> {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let hello = Message::Hello { status: Box::new(node.status()) };
    let replies = node.peers.ask_each(&hello, timeout).await.into_iter();
    let holdings = replies.filter_map(|(peer, reply)| match reply {
        Some(Reply::Status(status)) => Some((peer, status.holdings)),
        Some(_) | None => None,
    });
    holdings.collect()
}
