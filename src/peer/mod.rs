//! How this node talks to its peers: connections with a queue each, and the frames on them.

pub(crate) mod client_stream;
pub(crate) mod connection;
pub(crate) mod fault_hook;
pub(crate) mod framed;
pub(crate) mod mailbox;
pub(crate) mod peers;
pub(crate) mod queue;
pub(crate) mod traffic;
