//! What a change of the layout comes to in clusters of several sizes, without I/O: the replicas that move
//! beside the least possible, the size of the record, and how long the placement takes to compute.
//!
//! `cargo run --release --example joins -p quorate-protocol`

// It prints, and measures how long a computation takes.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::time::Instant;

use quorate_protocol::name::NodeId;
use quorate_protocol::plan::{Change, Facts, NewNode, Plan, Replacement, plan};
use quorate_protocol::record::{ClusterRecord, DiskId, Reason, RecordMember};
use quorate_protocol::time::WallTime;

/// Nodes, and partitions of a cluster of that size.
const SIZES: [(usize, u32); 5] = [(3, 1024), (10, 1024), (30, 2048), (100, 8192), (250, 16384)];
/// Replicas of each key.
const N: u16 = 3;

fn main() {
    println!(
        "| nodes | zones | partitions | change | replicas moved | least | record, bytes | placement, ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (nodes, partitions) in SIZES {
        for zones in [1, 3] {
            let base = ClusterRecord::first("c", 1, partitions, members(nodes, zones)).unwrap();
            let began = Instant::now();
            base.stable_layout();
            let placed_ms = began.elapsed().as_millis();
            for (name, change) in changes(nodes, zones) {
                let facts = Facts { n_in_use: [N].into(), ..Facts::default() };
                let planned = plan(&base, &[change], &BTreeSet::new(), &facts).unwrap();
                let bytes = begun(&planned, &base).encode().len();
                let (moved, least) = (planned.moves.replicas, planned.moves.least);
                println!(
                    "| {nodes} | {zones} | {partitions} | {name} | {moved} | {least} | {bytes} \
                     | {placed_ms} |"
                );
            }
        }
    }
}

fn changes(nodes: usize, zones: usize) -> [(&'static str, Change); 3] {
    let (name, zone) = (name(nodes + 1), zone(nodes, zones));
    let (disk, peer_addr) = (DiskId(7), address(nodes + 1));
    let client_addr = None;
    let (zone_kept, weight) = (None, None);
    let added = NewNode {
        node: name,
        disk,
        zone,
        weight: 1,
        peer_addr: peer_addr.clone(),
        client_addr: None,
    };
    let new = Replacement { node: name, disk, zone: zone_kept, weight, peer_addr, client_addr };
    [
        ("add", Change::Add(added)),
        ("remove", Change::Remove { node: self::name(1) }),
        ("replace", Change::Replace { old: self::name(1), new }),
    ]
}

fn begun(planned: &Plan, base: &ClusterRecord) -> ClusterRecord {
    let reason = Reason { by: name(1), at: WallTime(0), note: String::new() };
    planned.to_record(base, reason).unwrap()
}

fn members(nodes: usize, zones: usize) -> Vec<RecordMember> {
    let member = |number: usize| RecordMember {
        node: name(number),
        disk: DiskId(number as u128 + 1_000),
        seat: name(number),
        zone: zone(number - 1, zones),
        weight: 1,
        peer_addr: address(number),
        client_addr: None,
    };
    (1..=nodes).map(member).collect()
}

fn name(number: usize) -> NodeId {
    NodeId::parse(&format!("n{number}")).unwrap()
}

fn zone(number: usize, zones: usize) -> String {
    format!("z{}", number % zones)
}

fn address(number: usize) -> String {
    format!("node-{number}.example.org:7501")
}
