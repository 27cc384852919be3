//! A Quorate node: the only sockets, tasks and clock.
//!
//! Decisions are made in `quorate-protocol`, bytes are kept in `quorate-storage`; here they meet the
//! world. A reader follows one PUT downwards: [`api`] parses it, [`entry`] finds its coordinator,
//! [`coordinator`] mints and drives `protocol::put`, [`peers`] carries the object to other nodes, where
//! [`replica`] merges it into the store. A GET goes [`api`] → [`reader`] → [`peers`] → [`replica`].

#![forbid(unsafe_code)]

pub mod admission;
pub mod anti_entropy;
pub mod api;
pub mod background;
pub mod batch;
pub mod bounds;
pub mod buckets;
pub mod chores;
pub mod cold;
pub mod config;
pub mod coordinator;
mod crowd;
pub mod delivery;
pub mod descriptors;
pub mod distrusted;
mod doubtful;
pub mod entry;
mod environment;
pub mod faults;
pub mod fill;
pub mod form;
pub mod forwards;
pub mod framing;
pub mod generation;
pub mod gossip;
pub mod handoff;
pub mod heads;
pub mod health;
pub mod hints;
pub mod idempotency;
pub mod inspect;
pub mod keys;
mod lanes;
mod link;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod node;
pub mod operator;
mod pace;
pub mod peer_port;
mod peer_stream;
pub mod peers;
mod placed;
mod pulse;
pub mod queue;
pub mod reader;
pub mod reaper;
pub mod received;
pub mod reopen;
pub mod replica;
pub mod room;
pub mod serve;
pub mod server;
pub mod sizes;
mod stream;
pub mod sweep;
mod unowned;
pub mod wall_clock;
pub mod word;
