//! Decides which partitions count as received once they are merged with all other home replicas:
//! asks those replicas what they hold, and leaves the judgement to `protocol::received`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::received::{self, Holdings, Received};
use quorate_protocol::tree::Tree;

use crate::node::Node;

/// The verdict on partitions that were merged with all other home replicas.
#[derive(Debug, Default)]
pub struct Judged {
    /// They are received.
    pub received: Vec<Partition>,
    /// How many wait for a decision about rows that are set aside.
    pub undecided: usize,
    /// How many are lost.
    pub lost: usize,
}

/// Judges them by what their home replicas report after the merge.
pub async fn judge(node: &Arc<Node>, merged: &[Partition]) -> Judged {
    let mut judged = Judged::default();
    if merged.is_empty() {
        return judged;
    }
    let holdings = ask_all(node).await;
    let (mine, view) = (node.holdings(), node.view());
    for partition in merged {
        let homes = view.living_homes_of(Tree { partition: *partition, n: view.n_max() });
        match received::judge((node.me, &mine), *partition, &homes, &holdings) {
            Some(Received::Yes) => judged.received.push(*partition),
            Some(Received::Undecided) => judged.undecided += 1,
            Some(Received::Lost) => judged.lost += 1,
            None => {} // a replica did not answer: retried soon
        }
    }
    judged
}

/// Asks all peers what they hold; those that do not answer are missing.
async fn ask_all(node: &Arc<Node>) -> BTreeMap<NodeId, Holdings> {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let hello = Message::Cluster(Cluster::Hello { status: Box::new(node.status()) });
    let replies = node.peers.ask_each(&hello, timeout).await.into_iter();
    let holdings = replies.filter_map(|(peer, reply)| match reply {
        Some(Reply::Cluster(ClusterReply::Status(status))) => Some((peer, status.holdings)),
        Some(_) | None => None,
    });
    holdings.collect()
}
