//! What the nodes of clusters of several sizes say at rest, and how soon all follow a change of the layout.
//! The nodes are those that ship, on the simulator's clock and network, with the settings that ship.
//!
//! `cargo run --release --example scale -p quorate-sim [-- NODES…]`

// It prints.
#![allow(clippy::print_stdout)]

use quorate_sim::scale::{Scale, measure};

/// The sizes of the table in `docs/performance/results.md`.
const SIZES: [usize; 4] = [3, 10, 30, 100];

fn main() -> Result<(), String> {
    let named: Result<Vec<usize>, _> = std::env::args().skip(1).map(|word| word.parse()).collect();
    let named = named.map_err(|error| format!("a number of nodes: {error}"))?;
    println!(
        "| nodes | messages/s | bytes/s | record, bytes | decided, ms | all know, ms | over, ms |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for nodes in if named.is_empty() { SIZES.to_vec() } else { named } {
        let Scale {
            messages_per_s, bytes_per_s, record_bytes, decided_ms, known_ms, over_ms, ..
        } = measure(nodes)?;
        println!(
            "| {nodes} | {messages_per_s:.1} | {bytes_per_s:.0} | {record_bytes} | {decided_ms} \
             | {known_ms} | {over_ms} |"
        );
    }
    Ok(())
}
