//! What a store on a simulated disk costs: opening, minting, closing, recovering.
//!
//! `cargo run --release -p quorate-storage --example simulated_rate [ROWS]`
//!
//! Prints the mean time of a start, a hundred synced mints and a clean stop, on an empty disk and on
//! one with this many rows (default 1000).
#![allow(clippy::print_stdout, reason = "prints its results")]

use std::env;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::WriteId;
use quorate_protocol::row::{Draft, Limits};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Blocking, Later, Options, Place, SimulatedDisk, Simulation, Store, Task};

const PARTITIONS: u32 = 64;
const MINTS: u64 = 100;
const ROUNDS: u64 = 200;
const LIMITS: Limits = Limits { siblings_max: 100, object_bytes_max: 1 << 20 };

/// A simulation in which a sync takes no time.
#[derive(Default)]
struct AtOnce(AtomicU64);

impl Simulation for AtOnce {
    fn later(&self, what: Later, task: Task) {
        if what == Later::Sync {
            task();
        }
    }

    fn random(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let rows = env::args().nth(1).map_or(Ok(1000), |word| word.parse::<u64>())?;
    let simulation: Arc<dyn Simulation> = Arc::new(AtOnce::default());
    let run = |disk: &SimulatedDisk, mints: std::ops::Range<u64>| {
        let options = Options {
            row_cache_bytes: 64 << 10,
            disk_free_bytes_min: 0,
            ..Options::new(NodeId::parse("n1")?, "bench", PARTITIONS)
        };
        let store = Store::open_simulated(disk, Arc::clone(&simulation), options)?;
        for i in mints {
            mint(&store, i)?;
            drop(store.durable());
        }
        store.close()?;
        Ok::<(), Box<dyn Error>>(())
    };
    for rows in [0, rows] {
        let mut took = Duration::ZERO;
        let full = SimulatedDisk::new("n1");
        run(&full, 0..rows)?;
        for _ in 0..ROUNDS {
            let disk = full.copy();
            let began = Instant::now();
            run(&disk, rows..rows + MINTS)?;
            took += began.elapsed();
        }
        println!("{} us with {rows} rows", took.as_micros() as u64 / ROUNDS);
    }
    Ok(())
}

fn mint(store: &Store, i: u64) -> Result<(), Box<dyn Error>> {
    let key = Key::new("bench", format!("{i}").as_bytes())?;
    let draft = Draft {
        write_id: WriteId(u128::from(i).to_le_bytes()),
        value: Some(Bytes::from_static(&[7; 100])),
        ..Draft::default()
    };
    let place = Place::Home(Tree { partition: key.partition(PARTITIONS), n: 3 });
    store.mint(place, &key, &draft, WallTime(1), &LIMITS, Blocking::Never)??;
    Ok(())
}
