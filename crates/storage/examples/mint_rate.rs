//! How fast the store mints: 1 KiB values to fresh keys, one thread and eight, both durabilities.
//!
//! `cargo run --release -p quorate-storage --example mint_rate [DIRECTORY]`
//!
//! Each figure is for one second of minting and acknowledging. With one thread every synced write
//! pays for a whole sync; with `window` writes in flight per thread, as the node has them, a sync
//! is shared.
#![allow(clippy::print_stdout, reason = "prints its results")]

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use bytes::Bytes;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::WriteId;
use quorate_protocol::row::{Draft, Limits};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Blocking, Durability, Options, Place, Store};

const PARTITIONS: u32 = 1024;
const RUN: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits { siblings_max: 100, object_bytes_max: 1 << 20 };

fn main() -> Result<(), Box<dyn Error>> {
    let parent = env::args_os().nth(1).map_or_else(env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;
    println!("durability  threads  in flight  mints/s  us/mint  mints/sync  would block");
    for durability in [Durability::Buffered, Durability::Fsync] {
        for (threads, window) in [(1, 1), (8, 1), (2, 64)] {
            let path = dir.path().join(format!("{durability:?}-{threads}-{window}"));
            measure(&path, durability, threads, window)?;
        }
    }
    Ok(())
}

fn measure(
    path: &Path,
    durability: Durability,
    threads: u32,
    window: usize,
) -> Result<(), Box<dyn Error>> {
    let node = NodeId::parse("n1")?;
    let store =
        Store::open(path, Options { durability, ..Options::new(node, "bench", PARTITIONS) })?;
    let (minted, began) = (AtomicU64::new(0), Instant::now());
    thread::scope(|scope| {
        let (store, minted) = (&store, &minted);
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    writer(store, thread, window, minted).map_err(|error| error.to_string())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or(Err("a thread died".to_owned())))
    })?;
    let (minted, took) = (minted.into_inner() as f64, began.elapsed().as_secs_f64());
    let stats = store.stats();
    let us = took * 1e6 * f64::from(threads) / minted;
    println!(
        "{:<10}  {threads:>7}  {window:>9}  {:>7.0}  {us:>7.1}  {:>10.1}  {:>11}",
        format!("{durability:?}"),
        minted / took,
        minted / stats.syncs.max(1) as f64,
        stats.would_block,
    );
    store.close()?;
    Ok(())
}

/// Mints until the time is up, with up to `window` writes waiting to be durable.
fn writer(
    store: &Store,
    thread: u32,
    window: usize,
    minted: &AtomicU64,
) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let (until, mut waiting) = (Instant::now() + RUN, VecDeque::new());
    let value = Bytes::from(vec![7; 1024]);
    for i in 0u64.. {
        if Instant::now() > until {
            break;
        }
        let key = Key::new("bench", format!("{thread}/{i}").as_bytes())?;
        let draft = Draft {
            write_id: WriteId(rand::random()),
            value: Some(value.clone()),
            ..Draft::default()
        };
        let place = Place::Home(Tree { partition: key.partition(PARTITIONS), n: 3 });
        let mint = |blocking| store.mint(place, &key, &draft, WallTime(1), &LIMITS, blocking);
        mint(Blocking::Never).or_else(|_| mint(Blocking::Allowed))??;
        waiting.push_back(store.durable());
        if waiting.len() >= window
            && let Some(durable) = waiting.pop_front()
        {
            runtime.block_on(durable)?;
        }
        minted.fetch_add(1, Ordering::Relaxed);
    }
    waiting.into_iter().try_for_each(|durable| runtime.block_on(durable))?;
    Ok(())
}
