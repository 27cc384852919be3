//! A Quorate server: sockets, HTTP, configuration, command line, metrics.
//!
//! `quorate-engine` is the node; this crate hosts it on a machine. `api` parses a client's request
//! and hands it to the engine, `peer_port` connects nodes.

#![forbid(unsafe_code)]

mod api;
mod audit;
pub mod cli;
pub mod config;
#[cfg(any(test, fuzzing))]
pub mod fuzzed;
mod gossip;
mod host;
mod http;
mod joining;
mod jwt;
pub mod log;
mod metrics;
mod otlp;
mod peer_port;
pub mod server;
mod service_manager;
mod threads;
mod tls;

// A node that ships has no deliberate bugs in it, whatever it was built together with.
const _: () = assert!(
    !quorate_protocol::mutation::COMPILED_IN,
    "build the node without the feature `mutations`: it is for the simulator (-p quorate-sim) alone"
);
