//! Client operations, each driven by one task, and their replica side.
//!
//! A PUT: [`entry`] finds the coordinator, [`coordinator`] mints and waits for W, [`replica`]
//! stores. A GET: [`reader`] queries R replicas. All of them tell a [`recorder`] what happens;
//! [`explanations`] keeps the traces that are worth it.

pub mod coordinator;
pub mod entry;
pub mod explain;
pub mod explanations;
pub mod forwards;
pub mod hedge_budget;
pub mod idempotency;
pub mod inspect;
pub mod keys;
pub mod reader;
pub mod recorder;
pub mod replica;
