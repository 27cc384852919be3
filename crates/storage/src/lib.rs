//! What a node keeps: rows, hints and indexes in RocksDB, and when they are durable.
//!
//! This crate keeps bytes; [`quorate_protocol`] decides what they mean. A [`Store`] holds one *row*
//! per key and place ([`Place`]): the node's own as home replica, or one kept as a hint for another
//! node. Reading in order:
//!
//! * `store`: read, mint, merge; `change`: the read-modify-write of one row under its lock stripe;
//!   `rows`: home rows in memory;
//! * `index`, `trees`: what follows from a home row, on the disk and in memory;
//! * `hints`, `scan`, `meta`, `status`: what lies beside and across the rows;
//! * `page`, `sweep`, `scrub`: many rows at once: filling, moving and dropping, mending;
//! * `starts`: what a start of the node is judged by; `aside`: rows that are not believed after
//!   one;
//! * `sync`: the group sync that acknowledgements wait for;
//! * `incarnation`: when a node may go on under the name it minted with;
//! * `open`: opening and closing; `engine` and `columns`: RocksDB itself, its errors and its
//!   options; `detours`: which reads of the disk are done in place.
//!
//! What the rest of the node may rely on:
//!
//! * one update is one batch: the row, its Merkle leaf, its index entries and the hint totals
//!   cannot disagree;
//! * what [`Store::durable`] acknowledged survives as [`Durability`] says, and nothing is ever
//!   acknowledged after a failed sync (it is not retried: the kernel may have dropped the pages.
//!   Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020);
//! * [`Blocking::Never`] waits for no stalled write and no other writer, and for the disk only as
//!   long as that answers at once; it changes nothing when it answers [`Error::WouldBlock`];
//! * bytes that do not decode are an [`Error::Damaged`], never an absent row.
//!
//! Nothing else in the project knows RocksDB.

mod aside;
mod change;
mod columns;
mod detours;
mod disk;
mod engine;
mod error;
mod hints;
mod incarnation;
mod index;
mod meta;
mod open;
mod options;
mod page;
mod reserve;
mod rows;
mod scan;
mod scrub;
mod starts;
mod status;
mod store;
mod stripes;
mod sweep;
mod sync;
mod trees;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod full_disk;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;

pub use aside::{remove_set, sets_aside};
pub use error::{Error, OpenError};
pub use hints::{OLDEST_OF, OLDEST_OF_BYTES};
pub use options::{Ailment, Blocking, Condition, Durability, Options, Place, Recovery, Stats};
pub use page::MERGE_BATCH_ROWS;
pub use scan::LIST_BYTES_MAX;
pub use scrub::{ScrubFrom, Scrubbed};
pub use store::{Merged, MintedRow, NOf, Store};
pub use sweep::{Onward, Sweep};
