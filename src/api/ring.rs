//! `/ring` and `/cluster`: where keys are placed, and the state of the nodes.

use std::collections::BTreeMap;

use axum::extract::Request;
use quorate_protocol::cluster_settings::ClusterSettings;
use quorate_protocol::layout::{Layout, Partition};
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Epoch;
use serde_json::{Value, json};

use super::gate::Gate;
use super::represent;
use super::route::Answer;
use quorate_engine::node::{Node, RELEASE};
use quorate_engine::peer::member::PeerView;
use quorate_engine::repair::distrusted;

/// `GET /ring`: the layout, and how evenly it spreads the partitions.
pub(super) async fn ring(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let node = gate.node;
    let view = node.view();
    let (epoch, layout) = (view.epoch(), view.placement().layout());
    let n = node.config.defaults.properties().n.min(layout.node_count());
    let loads = loads(layout, n);
    let weights: u32 = layout.members().iter().map(|member| u32::from(member.weight)).sum();
    let places = f64::from(layout.partitions()) * f64::from(n);
    let nodes: Vec<Value> = layout
        .members()
        .iter()
        .map(|member| {
            let load = loads.get(&member.node).copied().unwrap_or(0);
            let fair = places * f64::from(member.weight) / f64::from(weights);
            json!({
                "node": member.node,
                "zone": member.zone,
                "weight": member.weight,
                "partitions": load,
                "of_fair_share": (f64::from(load) / fair * 1000.0).round() / 1000.0,
            })
        })
        .collect();
    Ok(represent::json(&json!({
        "version": epoch.number,
        "hash": epoch.hash.to_string(),
        "partitions": layout.partitions(),
        "n": n,
        "nodes": nodes,
    })))
}

/// The number of partitions of which each node is a home replica, in one pass.
fn loads(layout: &Layout, n: u16) -> BTreeMap<NodeId, u32> {
    let mut loads = BTreeMap::new();
    for partition in 0..layout.partitions() {
        for home in layout.homes(Partition(partition as u16), n) {
            *loads.entry(*home).or_default() += 1;
        }
    }
    loads
}

/// `GET /ring/partitions`: the home replicas of every partition, so that a client can contact one
/// of them directly (DeCandia et al., SOSP 2007, section 6.4: client-driven coordination). They are
/// indexes into `nodes`.
pub(super) async fn partitions(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let node = gate.node;
    let view = node.view();
    // The epoch, as in `GET /cluster`: a client reads this again when that is another.
    let (epoch, layout) = (view.epoch(), view.placement().layout());
    let n = view.n_max().min(layout.node_count());
    let nodes: Vec<NodeId> = layout.members().iter().map(|member| member.node).collect();
    let place = |home: &NodeId| nodes.binary_search(home).ok(); // members are ordered by name
    let homes_of = |partition| layout.homes(Partition(partition), n).iter().filter_map(place);
    let homes: Vec<Vec<usize>> =
        (0..layout.partitions()).map(|it| homes_of(it as u16).collect()).collect();
    Ok(represent::json(&json!({
        "version": epoch.number,
        "hash": epoch.hash.to_string(),
        "partition_of": PARTITION_OF,
        "n": n,
        "nodes": nodes,
        "homes": homes,
    })))
}

/// How a client computes the partition of a key: `protocol::name::Key::partition` in words.
const PARTITION_OF: &str = "the highest log2(partitions) bits of xxh3_64(bucket, a zero byte, key)";

/// `GET /ring/{bucket}/{key}`: home replicas first, then fallbacks in order.
pub(super) async fn key(gate: Gate, request: Request) -> Answer {
    let key = gate.key(request.uri())?;
    gate.params(request.uri())?;
    let node = gate.node;
    let view = node.view();
    Ok(represent::json(&json!({
        "bucket": key.bucket(),
        "key": key.key(),
        "partition": view.partition(&key).0,
        "n": view.n(key.bucket()).min(view.placement().node_count()),
        "preference_list": view.preference_list(&key),
    })))
}

/// `GET /cluster`: the nodes as this one sees them.
pub(super) async fn cluster(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let node = gate.node;
    let not_ready = node.accepts_requests().err().map(|why| why.to_string());
    let peers = node.peers.view();
    let mine = node.config.common();
    let gossip =
        node.config.gossip.enabled.then(|| BTreeMap::from(node.peers.gossip_counts().all()));
    let record = node.membership.record();
    let seen = peers.iter().map(|peer| {
        let recorded = record.member(peer.node).and_then(|member| member.client_addr.as_deref());
        (peer.node, of_peer(peer, recorded, &mine))
    });
    // In order of their names.
    let nodes: BTreeMap<NodeId, Value> = seen.chain([(node.me, of_self(&node))]).collect();
    let nodes: Vec<Value> = nodes.into_values().collect();
    Ok(represent::json(&json!({
        "cluster_id": node.config.cluster_id,
        "node": node.me,
        "waits_for_operator": distrusted::waits(&node),
        "distrusted_rows": distrusted::rows(&node),
        "lost_partitions": node.unreceived.lost(),
        "clock_ahead_ms": node.clock.ahead_ms(),
        "clock_corrected": node.clock.is_corrected(),
        "release": RELEASE,
        "ready": not_ready.is_none(),
        "not_ready": not_ready,
        "filled": node.generation.is_admitted() && node.filled.is_complete(),
        "writable": node.is_writable(),
        "layout": of_epoch(node.epoch()),
        "gossip": gossip,
        "nodes": nodes,
    })))
}

fn of_self(node: &Node) -> Value {
    let record = node.membership.record();
    let own = record.member(node.me);
    json!({
        "node": node.me,
        "zone": own.map(|own| &own.zone),
        "http_addr": node.config.advertised_client_addr(),
        "state": "self",
        "protocol_min": node.config.versions().min,
        "protocol_max": node.config.versions().max,
        "release": RELEASE,
        "layout": of_epoch(node.epoch()),
        "ready": node.filled.is_complete(),
        "writable": node.is_writable(),
        "formed": node.formation().is_some(),
    })
}

/// A peer: what it says of itself counts more than what is recorded of it, which may be older.
fn of_peer(peer: &PeerView, recorded_addr: Option<&str>, mine: &ClusterSettings) -> Value {
    let said = &peer.said;
    let disagrees = said.common.as_ref().map(|theirs| mine.differences(theirs)).unwrap_or_default();
    json!({
        "node": peer.node,
        "zone": peer.zone,
        "peer_addr": peer.peer_addr,
        "http_addr": said.client_addr.as_deref().or(recorded_addr),
        "state": peer.state,
        "since_ms": peer.since_ms,
        "suspicion": peer.phi.map(|phi| (phi * 100.0).round() / 100.0),
        "round_trip_p50_us": peer.round_trip_p50_us,
        "round_trip_p99_us": peer.round_trip_p99_us,
        "queue_depth": peer.queue_depth,
        "last_error": said.error,
        "reaches_us": peer.reaches_us,
        "hint_bytes": said.hint_bytes,
        "protocol": said.protocol,
        "protocol_min": said.versions.map(|versions| versions.min),
        "protocol_max": said.versions.map(|versions| versions.max),
        "release": said.release,
        "layout": said.layout.map(|(version, hash)| of_layout(version, hash)),
        "ready": said.ready,
        "writable": said.writable,
        "formed": said.formed,
        "disagrees": disagrees,
    })
}

fn of_epoch(epoch: Epoch) -> Value {
    of_layout(epoch.number, epoch.hash.0)
}

fn of_layout(version: u64, hash: u64) -> Value {
    json!({"version": version, "hash": format!("{hash:016x}")})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::layout::Member;

    use super::*;

    #[test]
    fn loads_agree_with_the_layout() {
        let member = |name: &str| Member::new(NodeId::parse(name).unwrap(), "z".to_owned(), 1);
        let layout = Layout::new(1, 64, vec![member("n1"), member("n2"), member("n3")]).unwrap();
        for (node, load) in loads(&layout, 2) {
            assert_eq!(load as usize, layout.load(node, 2));
        }
    }
}
