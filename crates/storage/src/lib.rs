//! A node's storage: rows, hints and indexes in RocksDB, and when they are durable.
//!
//! This crate stores bytes; [`quorate_protocol`] decides what they mean. A [`Store`] holds one
//! *row* per key and place ([`Place`]): the node's own as home replica, or one kept as a hint for
//! another node. Reading order:
//!
//! * `store`: read, mint, merge; `change`: the read-modify-write of one row under its lock stripe;
//!   `rows`: the cache of home rows;
//! * `index`, `trees`: data derived from a home row, on the disk and in memory;
//! * `hints`, `scan` (by `walk`), `meta`: hints, range scans, the node's records;
//! * `status`, `database_stats`, `durations`: the store's state and its numbers;
//! * `page`, `reassign`, `scrub`: work on many rows: filling, moving and dropping, repairing;
//! * `feeds`: logs of what changed; `expiries`: what expires, and when;
//!   `secondary_index`: which keys have which index entry;
//! * `starts`: the facts that a start of the node is judged by; `aside`: rows that are not trusted
//!   after a start; `backups`: copies for somebody to fetch;
//! * `sync`: the group commit that acknowledgements wait for;
//! * `incarnation`: when a node may keep minting as the incarnation it was;
//! * `open`: opening and closing; `directory`: what is checked before; `data_dir`: where a store is
//!   kept, and the files there; `host`: time, chance and turns;
//! * `engine` and `in_flight`: reads, batches and syncs, their errors and stuck syncs; `columns`: keys
//!   and values; `backend`: what the store needs of the key-value engine below, which is `rocks` or
//!   `simulated`;
//! * `disk` and `reserve`: free space; `fault_hook`: injected faults.
//!
//! A node's store is RocksDB in a directory ([`Store::open`]). A simulation opens the same store on a
//! [`SimulatedDisk`] ([`Store::open_simulated`]), which is in memory, deterministic, and fails when it
//! is told to: everything above `backend` and `data_dir` is one code.
//!
//! Guarantees to the rest of the node:
//!
//! * one update is one batch: the row, its Merkle leaf, its index entries and the hint totals
//!   cannot disagree;
//! * what [`Store::durable`] acknowledged survives as [`Durability`] says, and nothing is ever
//!   acknowledged after a failed sync (it is not retried: the kernel may have dropped the pages.
//!   Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020);
//! * a call with [`Blocking::Never`] never waits for a stalled write or another writer, and reads
//!   from the disk only while reads are fast; it changes nothing when it returns
//!   [`Error::WouldBlock`];
//! * bytes that do not decode are an [`Error::Damaged`], never an absent row.
//!
//! No other crate of the node uses RocksDB.

mod aside;
mod backend;
mod backups;
mod change;
mod columns;
mod data_dir;
mod database_stats;
mod directory;
mod disk;
mod durations;
mod engine;
mod error;
mod expiries;
mod fault_hook;
mod feeds;
mod format;
mod hints;
mod host;
mod in_flight;
mod incarnation;
mod index;
mod meta;
mod open;
mod options;
mod page;
mod reassign;
mod reserve;
mod rocks;
mod rows;
mod scan;
mod scrub;
mod secondary_index;
mod simulated;
mod starts;
mod status;
mod store;
mod stripes;
mod sync;
mod trees;
mod walk;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod full_disk;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;

pub use aside::{remove_set, sets_aside};
pub use backups::BackupFile;
pub use data_dir::DataDir;
pub use database_stats::{DatabaseStats, Level};
pub use durations::{DurationCounts, Durations};
pub use error::{Error, OpenError};
pub use feeds::TRIM_MAX;
pub use hints::{OLDEST_HINT_BYTES_MAX, OLDEST_HINT_KEYS_MAX};
pub use host::{Later, Simulation, Task};
pub use options::{
    Blocking, Condition, Durability, InjectedFaults, Options, Place, Recovery, Stats,
};
pub use page::{MERGE_BATCH_ROWS, Source};
pub use reassign::{KeyCursor, ReassignStep};
pub use scan::LIST_BYTES_MAX;
pub use scrub::{ScrubFrom, Scrubbed};
pub use secondary_index::IndexCursor;
pub use simulated::{Crash, LogPositions, SimulatedDisk};
pub use store::{Merged, MintedRow, OnChange, ReplicaCountOf, Store};
