//! Clusters of several sizes. First how many replicas move when a node joins, then what the nodes say at
//! rest, and how soon all follow a change of the layout: the nodes are those that ship, on the simulator's
//! clock and network, with the settings that ship.
//!
//! `cargo run --release --example scale -p quorate-sim [-- NODES…]`

// It prints.
#![allow(clippy::print_stdout)]

use quorate_sim::scale::{Joined, Scale, join, measure};

/// The sizes of the table in `docs/performance/results.md`.
const SIZES: [usize; 4] = [3, 10, 30, 100];
/// Those to which a node is added in placement alone, up to the most that a layout may have.
const JOINED: [usize; 6] = [3, 10, 30, 50, 100, 254];
const PARTITIONS: [u32; 3] = [1024, 4096, 16_384];
const N: u16 = 3;

fn main() -> Result<(), String> {
    let named: Result<Vec<usize>, _> = std::env::args().skip(1).map(|word| word.parse()).collect();
    let named = named.map_err(|error| format!("a number of nodes: {error}"))?;
    let of =
        |usual: &'static [usize]| if named.is_empty() { usual.to_vec() } else { named.clone() };
    print_joins(&of(&JOINED))?;
    println!();
    print_measured(&of(&SIZES))
}

/// How many replicas move when a node joins so many others.
fn print_joins(sizes: &[usize]) -> Result<(), String> {
    println!(
        "| nodes | partitions | moved | least | times the least | greatest load | placing, ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for nodes in sizes {
        for partitions in PARTITIONS {
            let joined = join(*nodes, partitions, N).map_err(|error| error.to_string())?;
            let Joined { moved, least, greatest_load, placing } = joined;
            let (times, placing_ms) = (moved as f64 / least as f64, placing.as_millis());
            println!(
                "| {nodes} | {partitions} | {moved} | {least} | {times:.2} | {greatest_load:.2} \
                 | {placing_ms} |"
            );
        }
    }
    Ok(())
}

/// Clusters of so many nodes, at rest and in a change.
fn print_measured(sizes: &[usize]) -> Result<(), String> {
    println!(
        "| nodes | messages/s | bytes/s | record, bytes | decided, ms | all know, ms | over, ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for nodes in sizes {
        let Scale {
            messages_per_s, bytes_per_s, record_bytes, decided_ms, known_ms, over_ms, ..
        } = measure(*nodes)?;
        println!(
            "| {nodes} | {messages_per_s:.1} | {bytes_per_s:.0} | {record_bytes} | {decided_ms} \
             | {known_ms} | {over_ms} |"
        );
    }
    Ok(())
}
