//! Simulates a whole cluster in one thread from one seed, with an oracle that judges the run.
//!
//! The simulator drives the *same* machines as the real node, over an in-memory disk and network
//! that lose, delay, duplicate, reorder, cut, crash and forget. Time is virtual and randomness is
//! seeded, so a seed is a scenario that can be read and repeated. The oracle knows nothing of the
//! simulator: tests of real processes use it too.
//!
//! # Reading order
//!
//! [`history`] and [`oracle`] define what is checked; `setup` what a seed decides; `world` what
//! surrounds the nodes (`network`, `store`, `dice`, `trace`). `node` is a node, mirrored from
//! `src/`: `replica`, `entry`, `coordinator`, `put_driver` and `answers` serve requests, `jobs`
//! runs the background work in `anti_entropy`, `fill`, `reaper`, `starts` and `buckets`. `client`
//! and `faults` drive the cluster; [`cluster`] is one run, `claims` what is judged during it,
//! `verdict` at its end. [`mutations`] are the bugs that must be found.

#![forbid(unsafe_code)]

mod answers;
mod anti_entropy;
mod aside;
mod buckets;
mod claims;
mod client;
pub mod cluster;
mod coordinator;
mod dice;
mod entry;
mod faults;
mod fill;
pub mod history;
pub mod hosted;
mod jobs;
pub mod mutations;
mod network;
mod node;
pub mod oracle;
mod put_driver;
mod reaper;
mod replica;
pub mod seeds;
mod setup;
mod starts;
mod store;
mod trace;
mod verdict;
mod world;
