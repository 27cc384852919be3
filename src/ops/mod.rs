//! Client operations, each driven by one task, and their replica side.
//!
//! A PUT: [`entry`] finds the coordinator, [`coordinator`] mints and waits for W, [`replica`]
//! stores. A GET: [`reader`] queries R replicas. All of them tell a [`recorder`] what happens;
//! [`explanations`] keeps the traces that are worth it. Of those that the [`sampler`] has chosen
//! ([`sampled`], [`sampled_work`]) it goes to a collector, as [`spans`].

pub(crate) mod coordinator;
pub(crate) mod ended;
pub(crate) mod entry;
pub(crate) mod explain;
pub(crate) mod explanations;
pub(crate) mod forwards;
pub(crate) mod hedge_budget;
pub(crate) mod idempotency;
pub(crate) mod inspect;
pub(crate) mod keys;
pub(crate) mod reader;
pub(crate) mod recorder;
pub(crate) mod replica;
pub(crate) mod sampled;
pub(crate) mod sampled_work;
pub(crate) mod sampler;
pub(crate) mod spans;
