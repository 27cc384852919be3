//! Simulates a whole cluster in one thread from one seed, with an oracle that judges the run.
//!
//! What runs here is the node as it ships, `quorate-engine` on `quorate-storage`, on disks and a
//! network in memory that delay, lose, cut, fill up and fail. Time is virtual (tokio's paused clock)
//! and randomness is seeded, so a seed is a scenario that can be read and repeated. `quorate-oracle`
//! judges what clients saw; what only an observer of all disks can know is judged here.
//!
//! # Reading order
//!
//! `quorate-oracle` defines what is checked. [`Case`] is one run, [`seeds`] are many. `setup` is what a seed
//! decides; `machine` hosts a node (`host`: clock, threads, chance), `network` carries the bytes between
//! them, `life` ends and holds up their tasks, and `world` has what all of them share. `cluster` is the
//! course of a run, `client` who asks, `follower` who is told of changes, `faults` what goes wrong, and
//! `operators` what they change meanwhile; `record` is what clients saw, `monitor` what happens on the disks,
//! `records` which layouts nodes follow,
//! and `judge` the end. [`histories`] are runs whose steps were written by hand; [`scale`] measures large
//! clusters.
//!
//! With the feature `mutations`, deliberate bugs are compiled into the node
//! ([`quorate_protocol::mutation`]): a run can switch one on, and must be found broken.

#![forbid(unsafe_code)]

mod case;
mod client;
mod cluster;
mod dice;
mod faults;
mod focus;
mod follower;
pub mod histories;
mod host;
mod judge;
mod life;
mod lifetimes;
mod listing;
mod machine;
mod monitor;
mod network;
mod operators;
mod record;
mod records;
pub mod run;
pub mod scale;
pub mod seeds;
mod setup;
mod trace;
mod typed;
mod values;
mod world;

pub use self::case::Case;
pub use self::setup::Focus;
