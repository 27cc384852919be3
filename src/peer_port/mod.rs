//! The peer port: peers connect to it, and this node to theirs.

pub(crate) mod connect;
pub(crate) mod dial;
pub(crate) mod join;
pub(crate) mod listener;
pub(crate) mod upgrade;

/// The protocol name in the HTTP upgrade that opens a stream.
pub(crate) const UPGRADE_NAME: &str = "quorate-peer";
