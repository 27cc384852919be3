//! The upper bound on writes: bare RocksDB with the same values, buffered and synced, without a
//! node around it; and the disk's own flush. `scripts/bench.sh` shows these figures next to the
//! cluster's.
//!
//! `cargo run --release -p quorate-storage --example ceiling DIRECTORY [SECONDS [VALUE_BYTES]]`
//!
//! As in a cluster of three nodes with N=3, each operation is a write to three databases, a thread
//! each; as with 64 connections, 64 writes share a sync. One line of JSON per measurement, in the
//! format that `quorate-bench table` reads.
#![allow(clippy::print_stdout, reason = "prints its results")]

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, thread};

use rocksdb::{DB, DBCompressionType, Options};

const STORES: usize = 3;
const CONNECTIONS: usize = 64;
const KEYS: u64 = 100_000;

/// An error type that can be sent between threads.
type Failed = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let mut args = env::args_os().skip(1);
    let parent = args.next().map_or_else(env::temp_dir, Into::into);
    let mut number = |default: f64| match args.next() {
        Some(word) => word.to_string_lossy().parse().map_err(|_| format!("no number: {word:?}")),
        None => Ok(default),
    };
    let run = Duration::try_from_secs_f64(number(5.0)?)?;
    let value = vec![0xa5; (number(1024.0)? as usize).clamp(1, 8 << 20)];
    let value = value.as_slice();
    let dir = tempfile::tempdir_in(parent)?;
    for (name, window, sync) in [
        ("rocksdb buffered", CONNECTIONS, false),
        ("rocksdb synced", CONNECTIONS, true),
        ("rocksdb synced", 1, true),
    ] {
        let before = Used::now();
        let stores: Vec<_> = (0..STORES).map(|store| dir.path().join(format!("{store}"))).collect();
        let latencies = thread::scope(|scope| {
            let mut threads = Vec::new();
            for path in &stores {
                threads.push(scope.spawn(move || write_store(path, run, value, window, sync)));
            }
            let join = |t: thread::ScopedJoinHandle<'_, Result<Vec<u32>, Failed>>| {
                t.join().unwrap_or_else(|_| Err("a thread died".into()))
            };
            threads.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        let used = Used::now().since(before);
        report(name, window, run, value.len(), STORES, latencies.concat(), Some(used));
        stores.iter().try_for_each(fs::remove_dir_all)?;
    }
    let latencies = flush(&dir.path().join("file"), run.min(Duration::from_secs(2)), value)?;
    let took = latencies.iter().map(|us| Duration::from_micros(u64::from(*us))).sum();
    report("disk flush", 1, took, value.len(), 1, latencies, None);
    Ok(())
}

/// Writes to one store for the given time, and returns how long each write took, in microseconds,
/// sync included: `window` writes begin together, and one sync completes them.
fn write_store(
    path: &Path,
    run: Duration,
    value: &[u8],
    window: usize,
    sync: bool,
) -> Result<Vec<u32>, Failed> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_manual_wal_flush(sync);
    let db = DB::open(&options, path)?;
    let (began, mut latencies, mut number) = (Instant::now(), Vec::new(), 0_u64);
    while began.elapsed() < run {
        let start = Instant::now();
        for _ in 0..window {
            // Visits the keys in a pseudo-random order: an odd factor walks all residues.
            number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let one = Instant::now();
            db.put(format!("bench/k{:09}", (number >> 20) % KEYS), value)?;
            if !sync {
                latencies.push(one.elapsed().as_micros() as u32);
            }
        }
        if sync {
            db.flush_wal(true)?;
            let us = start.elapsed().as_micros() as u32;
            latencies.extend(std::iter::repeat_n(us, window));
        }
    }
    Ok(latencies)
}

/// Appends and flushes, one after the other, without any database.
fn flush(path: &Path, run: Duration, value: &[u8]) -> Result<Vec<u32>, Failed> {
    let (mut file, began, mut latencies) = (File::create(path)?, Instant::now(), Vec::new());
    while began.elapsed() < run {
        let start = Instant::now();
        file.write_all(value)?;
        file.sync_data()?;
        latencies.push(start.elapsed().as_micros() as u32);
    }
    Ok(latencies)
}

fn report(
    name: &str,
    connections: usize,
    run: Duration,
    value_bytes: usize,
    stores: usize,
    mut latencies: Vec<u32>,
    used: Option<Used>,
) {
    latencies.sort_unstable();
    let count = latencies.len();
    let at = |part: f64| {
        latencies
            .get(((count as f64 * part) as usize).min(count.saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    let operations = (count / stores).max(1) as f64;
    let rate = operations / run.as_secs_f64().max(1e-6);
    let quoted = |word: &str| format!("\"{word}\"");
    let mut fields = vec![
        ("name", quoted(name)),
        ("op", quoted("put")),
        ("connections", connections.to_string()),
        ("nodes", STORES.to_string()),
        ("value_bytes", quoted(&value_bytes.to_string())),
        ("keys", KEYS.to_string()),
        ("order", quoted("uniform")),
        ("operations", count.to_string()),
        ("seconds", run.as_secs_f64().to_string()),
        ("operations_per_second", rate.to_string()),
        ("bytes_per_second", (rate * value_bytes as f64).to_string()),
        (
            "latency",
            format!(
                r#"{{"p50_us":{},"p90_us":{},"p99_us":{},"p99_9_us":{},"p99_99_us":{},"max_us":{}}}"#,
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                at(0.9999),
                at(1.0),
            ),
        ),
    ];
    if let Some(used) = used {
        let per_byte = used.written_bytes as f64 / (operations * value_bytes as f64);
        fields.push(("cpu_us_per_operation", (used.cpu_us as f64 / operations).to_string()));
        fields.push(("disk_bytes_per_value_byte", per_byte.to_string()));
    }
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    println!("{{{}}}", fields.join(","));
}

/// The CPU time of this process, and the bytes it has written to disk. Zero without `/proc`.
#[derive(Clone, Copy)]
struct Used {
    cpu_us: u64,
    written_bytes: u64,
}

impl Used {
    fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum();
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes:"));
        Used {
            cpu_us: ticks * 10_000,
            written_bytes: written.and_then(|it| it.trim().parse().ok()).unwrap_or(0),
        }
    }

    fn since(self, before: Used) -> Used {
        Used {
            cpu_us: self.cpu_us - before.cpu_us,
            written_bytes: self.written_bytes - before.written_bytes,
        }
    }
}
