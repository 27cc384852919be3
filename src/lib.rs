//! A Quorate node: its sockets, tasks and clock.
//!
//! `quorate-protocol` decides, `quorate-storage` stores; this crate connects both to the network. A
//! PUT: `api` parses it, `ops::entry` finds its coordinator, `ops::coordinator` mints and drives
//! `protocol::put`, `peer` carries the object to other nodes, where `ops::replica` merges it into
//! the store. A GET: `api`, `ops::reader`, `peer`, `ops::replica`.

#![forbid(unsafe_code)]

mod api;
mod background;
pub mod cli;
mod cluster;
pub mod config;
mod http;
mod limits;
mod liveness;
pub mod log;
mod metrics;
mod node;
mod ops;
mod peer;
mod peer_port;
mod repair;
pub mod server;
mod service_manager;
