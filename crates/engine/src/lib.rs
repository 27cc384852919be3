//! The node: every operation, background job and peer service, written once.
//!
//! `quorate-protocol` decides, `quorate-storage` stores; this crate drives both. It has no socket and
//! reads no configuration file: what it needs from outside it gets through [`host`]. The server
//! (`src` of the workspace) hosts it on sockets and HTTP.
//!
//! A PUT: `ops::entry` finds its coordinator, `ops::coordinator` mints and drives `protocol::put`,
//! `peer` carries the object to other nodes, where `peer_port` hands it to `ops::replica`, which
//! merges it into the store. A GET: `ops::reader`, `peer`, `ops::replica`.

pub mod background;
pub mod backup;
pub mod cluster;
pub mod config;
pub mod host;
pub mod limits;
pub mod liveness;
pub mod membership;
pub mod metrics;
pub mod node;
pub mod ops;
pub mod peer;
pub mod peer_port;
pub mod repair;
pub mod seldom;
pub mod tasks;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
