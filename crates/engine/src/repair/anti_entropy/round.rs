//! One round with one peer: compares the roots of all trees that both hold, and runs an exchange
//! for each that differs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Repair, RepairReply, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::tree::Tree;

use super::Report;
use super::exchange::{Asking, Talk, repair_tree};
use crate::background::work;
use crate::node::Node;

/// Roots in one message: 20 bytes each.
const ROOTS_MAX: usize = 2048;
/// Trees that are repaired at a time. Each spends most of its time waiting for the recheck.
const EXCHANGES_MAX: usize = 64;
/// The most differing partitions that a report names.
const PARTITIONS_NAMED_MAX: usize = 16;

/// Which partitions to compare.
#[derive(Clone, Debug)]
pub enum Scope {
    /// All partitions that both hold and in whose preference list this node comes first.
    MineToBegin,
    /// All partitions that both hold.
    All,
    /// These, where both hold them.
    Partitions(BTreeSet<Partition>),
}

/// Compares trees with a peer and repairs what differs. The report is also kept for operators.
pub async fn run(node: &Arc<Node>, peer: NodeId, scope: Scope) -> Report {
    let began = node.uptime();
    let talk = Talk::new(node, peer);
    let trees = trees_in_common(node, peer, &scope);
    let mut report = Report {
        peer,
        began,
        took_ms: 0,
        trees: trees.len() as u64,
        differing: 0,
        keys_compared: 0,
        keys_repaired: 0,
        bytes_sent: 0,
        bytes_received: 0,
        partitions: Vec::new(),
        is_complete: true,
    };
    report.is_complete &= node.trees_fit();
    for chunk in trees.chunks(ROOTS_MAX) {
        match differing(node, &talk, chunk).await {
            Some(trees) => repair_trees(&talk, trees, &mut report).await,
            None => report.is_complete = false,
        }
    }
    (report.bytes_sent, report.bytes_received) = talk.bytes();
    report.took_ms = node.uptime().since(began);
    if report.differing > 0 {
        tracing::info!(
            %peer, trees = report.differing, keys = report.keys_repaired,
            complete = report.is_complete, "anti-entropy"
        );
    }
    let is_whole = !matches!(scope, Scope::Partitions(_));
    if let (false, Scope::Partitions(partitions)) = (report.is_complete, scope) {
        node.anti_entropy.put_back(peer, partitions);
    }
    node.anti_entropy.note(report.clone(), is_whole);
    if report.is_complete && is_whole && node.restored.backed_up_at().is_some() {
        note_restored(node, peer).await;
    }
    report
}

/// This node, which was restored, and the peer hold the same now.
async fn note_restored(node: &Arc<Node>, peer: NodeId) {
    let note = move |node: &Node| node.restored.compared(&node.store, peer, node.peers.nodes());
    if let Err(error) = work::run(node, note).await {
        tracing::warn!(%error, %peer, "could not record that it was compared with");
    }
}

/// The trees of which both nodes are home replicas, and that this node has received.
fn trees_in_common(node: &Node, peer: NodeId, scope: &Scope) -> Vec<Tree> {
    let view = node.view();
    let ns = view.ns();
    let is_wanted = |partition: &Partition| match scope {
        Scope::Partitions(partitions) => partitions.contains(partition),
        Scope::MineToBegin => {
            let list = view.placement().preference_list(*partition);
            list.iter().find(|other| **other == node.me || **other == peer) == Some(&node.me)
        }
        Scope::All => true,
    };
    let trees = |partition: Partition| {
        let tree = move |n: &u16| Tree { partition, n: *n };
        ns.iter().map(tree).filter(|tree| view.is_home(peer, *tree) && view.is_home(node.me, *tree))
    };
    let ready = |partition: &Partition| node.filled.is_ready(*partition);
    view.partitions().filter(is_wanted).filter(ready).flat_map(trees).collect()
}

/// The trees whose roots differ; `None` if the peer does not answer.
async fn differing(node: &Arc<Node>, talk: &Talk<'_>, trees: &[Tree]) -> Option<Vec<Tree>> {
    let roots = trees.iter().map(|tree| (*tree, node.store.root(*tree))).collect();
    let reply = talk.ask(Message::Repair(Repair::Roots { roots }), &[]).await?;
    let Reply::Repair(RepairReply::Differing { trees: places }) = reply else { return None };
    places.into_iter().map(|place| trees.get(usize::from(place)).copied()).collect()
}

async fn repair_trees(talk: &Talk<'_>, trees: Vec<Tree>, report: &mut Report) {
    report.differing += trees.len() as u64;
    let room = PARTITIONS_NAMED_MAX.saturating_sub(report.partitions.len());
    report.partitions.extend(trees.iter().take(room).map(|tree| tree.partition));
    let exchanges = stream::iter(trees).map(|tree| repair_tree(talk, tree, Asking::ToCompare));
    let mut summaries = exchanges.buffer_unordered(EXCHANGES_MAX);
    while let Some(summary) = summaries.next().await {
        report.keys_compared += summary.keys_compared;
        report.keys_repaired += summary.keys_repaired;
        report.is_complete &= summary.is_complete;
    }
}

/// How long a peer may take to answer a request of anti-entropy.
pub(super) fn patience(node: &Node) -> Duration {
    Duration::from_millis(node.config.timeouts.request_ms)
}
