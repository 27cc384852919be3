//! The decisions of a quorum store, and nothing else: no I/O, no tokio, no clock, no randomness, no
//! unordered iteration. What happened goes in as arguments, what to do comes out as effects, so that the
//! same code runs on a real cluster and under the simulator's hand.
//!
//! # Reading order
//! [`name`] and [`layout`] say where a key lives; [`clock`], [`object`] and [`row`] what is kept of it;
//! [`quorum`], [`terms`], [`route`], [`precondition`], [`put`] and [`get`] how a request is carried out;
//! [`view`] and [`context`] what a client gets to see; [`bucket`] what can be tuned, [`common`] what must
//! be alike, [`listing`] how keys are listed; [`tree`] and [`exchange`] how replicas are compared and
//! mended, [`sweep`] which tree counts which row, [`reap`] when a delete is forgotten, [`standing`] who
//! came back behind and [`received`] when it may answer again, [`skew`] whose clock is wrong; [`message`],
//! [`wire`] and [`envelope`] how nodes talk.
//!
//! # Glossary
//! The Dynamo paper's words (DeCandia et al., SOSP 2007), and no others:
//! * **node** — one process with one data directory. **ring** — the consistent-hash circle of all nodes.
//! * **partition** — one of a fixed number of slices of the key space. **preference list** — all nodes in
//!   the order in which they are responsible for a partition. **home replica** — one of its first N.
//!   **fallback** — any node after them.
//! * **coordinator** — the node that a client talks to. **minter** — the node that gives a write its dot.
//! * **dot** — the name of one write: an actor and a counter. **context** — what a client saw, to be sent
//!   back with its next write. **sibling** — a value that nobody has superseded yet; two of them are a
//!   conflict. **tombstone** — a sibling without a value: a delete.
//! * **hint** — an object kept on behalf of a home replica that is down. **handoff** — bringing it there.
//! * **read repair** — sending the merged object to replicas that a read saw behind. **anti-entropy** —
//!   comparing replicas in the background.

#![forbid(unsafe_code)]

mod append;
pub mod bucket;
pub mod clock;
pub mod common;
pub mod context;
pub mod envelope;
pub mod exchange;
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
pub mod standing;
pub mod sweep;
pub mod terms;
pub mod tree;
pub mod view;
pub mod wire;
