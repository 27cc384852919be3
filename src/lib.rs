//! A Quorate server: sockets, HTTP, configuration, command line, metrics.
//!
//! `quorate-engine` is the node; this crate hosts it on a machine. `api` parses a client's request
//! and hands it to the engine, `peer_port` connects nodes.

#![forbid(unsafe_code)]

mod api;
pub mod cli;
pub mod config;
mod gossip;
mod host;
mod http;
pub mod log;
mod metrics;
mod peer_port;
pub mod server;
mod service_manager;
