//! A fixed amount of work on one thread: for counting instructions before and after a change.
//!
//! `perf stat -e instructions:u target/release/examples/fixed_work MINTS READS [DIRECTORY]`
//!
//! Mints of 100 bytes on a thousand keys, then reads without a row cache. Run it with some mints or
//! reads more and less: the difference is what those cost, without what opening costs.
#![allow(clippy::print_stdout, reason = "prints its results")]

use std::env;
use std::error::Error;
use std::time::Instant;

use bytes::Bytes;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::WriteId;
use quorate_protocol::row::{Draft, Limits};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{Blocking, Durability, Options, Place, Store};

const PARTITIONS: u32 = 64;
const KEYS: u64 = 1000;
const LIMITS: Limits = Limits { siblings_max: 100, object_bytes_max: 1 << 20 };

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let mut number = || args.next().map_or(Ok(100_000), |word| word.parse::<u64>());
    let (mints, reads) = (number()?, number()?);
    let dir = tempfile::tempdir_in(args.next().map_or_else(env::temp_dir, Into::into))?;
    let options = Options {
        durability: Durability::Buffered,
        row_cache_bytes: 0,
        disk_free_bytes_min: 0,
        ..Options::new(NodeId::parse("n1")?, "bench", PARTITIONS)
    };
    let store = Store::open(dir.path(), options)?;
    let key = |i: u64| Key::new("bench", format!("{:04}", i * 7919 % KEYS).as_bytes());
    let place = |key: &Key| Place::Home(Tree { partition: key.partition(PARTITIONS), n: 3 });
    let value = Bytes::from(vec![7; 100]);
    let began = Instant::now();
    for i in 0..mints {
        let key = key(i)?;
        let draft = Draft {
            write_id: WriteId(u128::from(i).to_le_bytes()),
            supersede_all: true,
            value: Some(value.clone()),
            ..Draft::default()
        };
        store.mint(place(&key), &key, &draft, WallTime(1), &LIMITS, Blocking::Allowed)??;
    }
    let minted = began.elapsed();
    let began = Instant::now();
    let mut found = 0;
    for i in 0..reads {
        let key = key(i)?;
        found += u64::from(store.read(place(&key), &key, Blocking::Never)?.is_some());
    }
    let ns = |took: std::time::Duration, count: u64| took.as_nanos() as u64 / count.max(1);
    println!(
        "{} ns a mint, {} ns a read, {found} found",
        ns(minted, mints),
        ns(began.elapsed(), reads)
    );
    Ok(())
}
