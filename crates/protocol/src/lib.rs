//! The decisions of a quorum store, and nothing else: no I/O, no tokio, no clock, no randomness, no
//! unordered iteration. Events go in as arguments and effects come out, so the same code runs on a
//! real cluster and in the simulator.
//!
//! # Reading order
//! [`name`], [`layout`] and [`placement`] say where a key lives; [`clock`], [`object`] and [`row`] what is
//! stored for it; [`quorum`], [`terms`], [`route`], [`precondition`], [`put`] and [`get`] how a request
//! runs; [`data_type`] what a typed value is; [`view`] and [`context`] what a client is shown; [`access`]
//! and [`token`] who may do what, and [`token_table`] how nodes agree on it; [`bucket`] what can be tuned
//! and [`bucket_table`] how on that, [`cluster_settings`] which settings must match across nodes,
//! [`listing`] how keys are listed, and [`index`] how they are found by something else; [`tree`] and
//! [`exchange`] how replicas are compared and repaired, [`reassign`] which tree counts which row, [`reap`]
//! when a tombstone is garbage-collected, [`generation`] how a node that restarts behind is detected and
//! [`received`] when it may answer again, [`record`] who is a member, [`plan`] what a change of that would
//! move and [`synod`] how nodes agree on it, [`skew`] how a wrong clock is detected; [`time`] which clocks
//! there are; [`message`], [`wire`], [`envelope`] and [`handshake`] how nodes talk, [`explain`] what they
//! tell of one request, and [`trace_context`] which trace it belongs to. [`mutation`] has deliberate bugs
//! for the simulator to find.
//!
//! # Glossary
//! `docs/glossary.md` has all terms. The first ones to know:
//! * **home replica** — one of the first N nodes of a key's preference list. **fallback** — any
//!   node after them, which keeps a **hint** for a home replica that is down.
//! * **entry node** — the node that a client's request reached. **coordinator** — the node that
//!   gives a write its **dot** (its name: an actor and a counter) and sends it to the other
//!   replicas.
//! * **context** — what a client saw, sent back with its next write. **sibling** — a value that no
//!   later write has superseded; two of them are a conflict. **tombstone** — a sibling without a
//!   value: a delete.

#![forbid(unsafe_code)]

pub mod access;
mod append;
pub mod bucket;
pub mod bucket_table;
pub mod clock;
pub mod cluster_settings;
pub mod context;
pub mod data_type;
pub mod envelope;
pub mod exchange;
pub mod explain;
pub mod feed;
pub mod generation;
pub mod get;
pub mod handshake;
pub mod hex;
pub mod index;
pub mod kind;
pub mod layout;
pub mod lifetime;
pub mod listing;
pub mod message;
pub mod mutation;
pub mod name;
pub mod object;
pub mod packed;
pub mod placement;
pub mod plan;
pub mod precondition;
pub mod proof;
pub mod put;
pub mod quorum;
pub mod quorum_sets;
pub mod reap;
pub mod reassign;
pub mod received;
pub mod record;
pub mod route;
pub mod row;
pub mod skew;
pub mod stamp;
pub mod synod;
pub mod terms;
pub mod time;
pub mod token;
pub mod token_table;
pub mod trace_context;
pub mod tree;
pub mod view;
pub mod wire;
