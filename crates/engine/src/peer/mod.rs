//! How this node talks to its peers: connections with a queue each, and the frames on them.

pub mod client_stream;
pub mod connection;
pub mod epochs;
pub mod fault_hook;
pub mod framed;
pub mod handshake;
pub mod mailbox;
pub mod member;
pub mod peer_set;
pub mod peers;
pub mod queue;
pub mod traffic;
