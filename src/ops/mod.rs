//! Client operations, each driven by one task, and their replica side.
//!
//! A PUT: [`entry`] finds the coordinator, [`coordinator`] mints and waits for W, [`replica`]
//! stores. A GET: [`reader`] queries R replicas.

pub(crate) mod coordinator;
pub(crate) mod entry;
pub(crate) mod forwards;
pub(crate) mod hedge_budget;
pub(crate) mod idempotency;
pub(crate) mod inspect;
pub(crate) mod keys;
pub(crate) mod reader;
pub(crate) mod replica;
