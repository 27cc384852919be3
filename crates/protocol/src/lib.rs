//! The decisions of a quorum store, and nothing else: no I/O, no tokio, no clock, no randomness, no
//! unordered iteration. What happened goes in as arguments, what to do comes out as effects, so that the
//! same code runs on a real cluster and under the simulator's hand.
//!
//! # Reading order
//! [`name`] and [`layout`] say where a key lives; [`clock`], [`object`] and [`row`] what is kept of it;
//! [`quorum`], [`terms`], [`route`], [`precondition`], [`put`] and [`get`] how a request is carried out;
//! [`view`] and [`context`] what a client gets to see; [`bucket`] what can be tuned, [`common`] what must
//! be alike, [`listing`] how keys are listed; [`tree`] and [`exchange`] how replicas are compared and
//! mended, [`sweep`] which tree counts which row, [`reap`] when a delete is forgotten, [`generation`] who
//! came back behind and [`received`] when it may answer again, [`skew`] whose clock is wrong; [`message`],
//! [`wire`] and [`envelope`] how nodes talk.
//!
//! # Glossary
//! `docs/glossary.md` has all words. Those needed first:
//! * **home replica** — one of the first N nodes of a key's preference list. **fallback** — any node after
//!   them, which keeps a **hint** for a home replica that is down.
//! * **entry node** — the node that a client's request reached. **coordinator** — the node that gives a write
//!   its **dot** (its name: an actor and a counter) and sends it to the other replicas.
//! * **context** — what a client saw, sent back with its next write. **sibling** — a value that no
//!   later write has superseded; two of them are a conflict. **tombstone** — a sibling without a
//!   value: a delete.

#![forbid(unsafe_code)]

mod append;
pub mod bucket;
pub mod clock;
pub mod common;
pub mod context;
pub mod envelope;
pub mod exchange;
pub mod generation;
pub mod get;
pub mod layout;
pub mod listing;
pub mod message;
pub mod name;
pub mod object;
pub mod packed;
pub mod precondition;
pub mod put;
pub mod quorum;
pub mod reap;
pub mod received;
pub mod route;
pub mod row;
pub mod skew;
pub mod stamp;
pub mod sweep;
pub mod terms;
pub mod tree;
pub mod view;
pub mod wire;
