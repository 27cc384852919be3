//! Simulates a whole cluster in one thread from one seed, with an oracle that judges the run.
//!
//! Two kinds of clusters run here. [`hosted`] is the node as it ships (`quorate-engine` on
//! `quorate-storage`), on disks and a network in memory that delay, lose, cut, fill up and fail. The
//! mirror ([`cluster`]) is the simulator's own, smaller reading of the node: it drives the same
//! machines of `quorate-protocol`, and holds the deliberate bugs. Time is virtual and randomness is
//! seeded, so a seed is a scenario that can be read and repeated. `quorate-oracle` judges each run.
//!
//! # Reading order
//!
//! `quorate-oracle` defines what is checked; [`run`] is one seed, [`seeds`] many. Then
//! [`hosted`], or of the mirror: `setup` what a seed decides; `world` what surrounds the nodes
//! (`network`, `store`, `dice`, `trace`). `node` is a node: `replica`, `entry`, `coordinator`,
//! `put_driver` and `answers` serve requests, `jobs` runs the background work in `anti_entropy`,
//! `fill`, `reaper`, `starts` and `buckets`. `client` and `faults` drive the cluster; [`cluster`] is
//! one run, `claims` what is judged during it, `verdict` at its end. [`mutations`] are the bugs that
//! must be found.

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
pub mod hosted;
mod jobs;
pub mod mutations;
mod network;
mod node;
mod put_driver;
mod reaper;
mod replica;
pub mod run;
pub mod seeds;
mod setup;
mod starts;
mod store;
mod trace;
mod values;
mod verdict;
mod world;
