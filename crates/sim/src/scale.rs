//! What the nodes of a large cluster say when nothing happens, and how soon all of them follow a change of
//! the layout: measured, in the simulator's time, not judged.

use std::sync::Arc;
use std::time::Duration;

use quorate_engine::membership::voting::Proposed;
use quorate_engine::node::Node;
use quorate_protocol::record::{ClusterRecord, Reason};
use tokio::time::{Instant, sleep};

use crate::cluster::Cluster;
use crate::run::run_in_world;
use crate::setup::Setup;
use crate::world::World;

/// What chance is drawn from: delays.
const SEED: u64 = 1;
/// How long nodes are given to greet each other and to compare what they have.
const SETTLING: Duration = Duration::from_secs(30);
/// For how long messages are counted.
const COUNTED: Duration = Duration::from_secs(60);
/// How long a change is waited for.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether all nodes follow it.
const GLANCE_EVERY: Duration = Duration::from_millis(1);
/// An operator waits that long for a decision.
const DECISION: Duration = Duration::from_secs(30);

/// A cluster of one size, measured.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Its nodes.
    pub nodes: usize,
    /// Messages that a node sends in a second at rest, to all others together. Gossip is not among them.
    pub messages_per_s: f64,
    /// Bytes of the frames in which they are sent.
    pub bytes_per_s: f64,
    /// Bytes of the record of a change.
    pub record_bytes: usize,
    /// From its proposal until it is decided, in milliseconds.
    pub decided_ms: u128,
    /// From then until every node follows it, in milliseconds.
    pub known_ms: u128,
    /// From then until the change, which moves no data, is over for every node, in milliseconds.
    pub over_ms: u128,
}

/// Measures a cluster of so many nodes without data, with the settings that ship, in which messages take up
/// to 2 ms.
///
/// # Errors
/// What did not happen, in words.
pub fn measure(nodes: usize) -> Result<Scale, String> {
    let mut measured = Err("nothing was measured".to_owned());
    let run = run_in_world(SEED, None, false, async |world| {
        measured = measure_in(world, nodes).await;
    });
    match run.violation {
        Some(violation) => Err(format!("{}: {}", violation.property, violation.story)),
        None => measured,
    }
}

async fn measure_in(world: Arc<World>, nodes: usize) -> Result<Scale, String> {
    let setup = Setup { nodes, as_shipped: true, ..Setup::calm() };
    let cluster = Cluster::start(world, setup).await;
    sleep(SETTLING).await;
    let all = cluster.nodes();
    if all.len() < nodes || !all.iter().all(|node| node.takes_part()) {
        return Err(format!("of {nodes} nodes not all take part"));
    }
    let before = sent(&all);
    sleep(COUNTED).await;
    let after = sent(&all);
    let per_node_second = |count: u64| count as f64 / nodes as f64 / COUNTED.as_secs_f64();
    let (record, decided) = decide_a_change(&all).await?;
    let decided_at = Instant::now();
    let known = until_followed(&all, record.epoch()).await?;
    let over = until_followed(&all, record.epoch() + 1).await?;
    cluster.end();
    Ok(Scale {
        nodes,
        messages_per_s: per_node_second(after.0 - before.0),
        bytes_per_s: per_node_second(after.1 - before.1),
        record_bytes: record.encode().len(),
        decided_ms: decided.as_millis(),
        known_ms: known.duration_since(decided_at).as_millis(),
        over_ms: over.duration_since(decided_at).as_millis(),
    })
}

/// Messages and bytes that these nodes have sent.
fn sent(nodes: &[Arc<Node>]) -> (u64, u64) {
    let (mut messages, mut bytes) = (0, 0);
    for node in nodes {
        for peer in node.peers.all().iter() {
            messages += peer.traffic.messages();
            bytes += peer.traffic.sent_bytes();
        }
    }
    (messages, bytes)
}

/// Doubles the weight of the last member, at the first one. Returns the record, and how long it took.
async fn decide_a_change(nodes: &[Arc<Node>]) -> Result<(ClusterRecord, Duration), String> {
    let node = nodes.first().ok_or("there is no node")?;
    let record = node.membership.record();
    let mut next = record.stable().to_vec();
    next.last_mut().ok_or("there is no member")?.weight *= 2;
    let reason = Reason { by: node.me, at: node.now(), note: String::new() };
    let wanted = record.begin(next, &[], reason).map_err(|error| error.to_string())?;
    let began = Instant::now();
    match node.propose(wanted.clone(), DECISION).await {
        Ok(Proposed::Decided) => Ok((wanted, began.elapsed())),
        Ok(Proposed::Overtaken(other)) => Err(format!("epoch {} came first", other.epoch())),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until all follow an epoch. Returns when that was.
async fn until_followed(nodes: &[Arc<Node>], epoch: u64) -> Result<Instant, String> {
    let began = Instant::now();
    while nodes.iter().any(|node| node.epoch().number < epoch) {
        if began.elapsed() > PATIENCE {
            return Err(format!("after {PATIENCE:?} not all nodes follow epoch {epoch}"));
        }
        sleep(GLANCE_EVERY).await;
    }
    Ok(Instant::now())
}
