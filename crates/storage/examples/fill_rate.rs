//! How fast the store merges what a filling node receives: pages of 1 KiB objects, merged one by
//! one and by [`Store::merge_page`].
//!
//! `cargo run --release -p quorate-storage --example fill_rate [DIRECTORY]`
#![allow(clippy::print_stdout, reason = "prints its results")]

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use quorate_protocol::clock::{Actor, Dot};
use quorate_protocol::data_type::Part;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Metadata, Object, Sibling, WriteId};
use quorate_protocol::stamp::Stamp;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Blocking, Durability, Options, Place, Source, Store};

const PARTITIONS: u32 = 1024;
const ROWS: u64 = 100_000;
const PAGE_ROWS: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let parent = env::args_os().nth(1).map_or_else(env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(parent)?;
    println!("durability  merge    rows/s  us/row");
    for durability in [Durability::Buffered, Durability::Fsync] {
        for by_page in [false, true] {
            let path = dir.path().join(format!("{durability:?}-{by_page}"));
            let us = measure(&path, durability, by_page)?;
            let merge = if by_page { "page" } else { "one" };
            println!("{:<10}  {merge:<5}  {:>8.0}  {us:>6.1}", format!("{durability:?}"), 1e6 / us);
        }
    }
    Ok(())
}

/// Microseconds per row.
fn measure(dir: &Path, durability: Durability, by_page: bool) -> Result<f64, Box<dyn Error>> {
    let options = Options::new(NodeId::parse("bench")?, "bench", PARTITIONS);
    let store = Store::open(dir, Options { durability, disk_free_bytes_min: 0, ..options })?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let rows: Vec<_> = (0..ROWS).map(row).collect::<Result<_, _>>()?;
    let began = Instant::now();
    for page in rows.chunks(PAGE_ROWS) {
        if by_page {
            store.merge_page(page.to_vec(), Source::Fill, WallTime(1))?;
        } else {
            for (place, key, object) in page {
                let object = Object::decode(object.clone())?;
                store.merge(*place, key, &object, WallTime(1), Blocking::Allowed)?;
            }
        }
        runtime.block_on(store.durable())?;
    }
    let took = began.elapsed();
    store.close()?;
    Ok(took.as_secs_f64() * 1e6 / ROWS as f64)
}

fn row(i: u64) -> Result<(Place, Key, Bytes), Box<dyn Error>> {
    let key = Key::new("bench", format!("key-{i}").as_bytes())?;
    let dot = Dot { actor: Actor(i + 1), counter: 1 };
    let mut object = Object::default();
    object.clock.advance(dot);
    object.siblings.push(Sibling {
        dot,
        part: Part::Value,
        value: Some(Bytes::from(vec![7; 1024])),
        metadata: Metadata::default(),
        stamp: Stamp::default(),
        expires: None,
        writer: NodeId::parse("bench")?,
        write_id: WriteId(u128::from(i).to_le_bytes()),
    });
    let tree = Tree { partition: key.partition(PARTITIONS), n: 3 };
    Ok((Place::Home(tree), key, object.to_bytes()))
}
