//! Client operations, each driven by one task, and their replica side.
//!
//! A PUT: [`entry`] finds the coordinator, [`coordinator`] mints and waits for W, [`replica`]
//! stores. A GET: [`reader`] queries R replicas. All of them tell a [`recorder`] what happens;
//! [`explanations`] keeps the traces that are worth it. Operations that the [`sampler`] chooses
//! ([`sampled`], `sampled_work`) are handed to the host when they are over ([`finished`]).

pub mod coordinator;
pub mod entry;
pub mod explain;
pub mod explanations;
pub mod feed;
pub mod feed_watch;
pub mod finished;
pub mod forwards;
pub mod hedge_budget;
pub mod idempotency;
pub mod index;
pub mod inspect;
pub mod keys;
pub mod listing;
pub mod log;
pub mod reader;
pub mod recorder;
pub mod replica;
pub mod replication;
pub mod sampled;
pub(crate) mod sampled_work;
pub mod sampler;
pub mod watchers;
pub mod watches;
