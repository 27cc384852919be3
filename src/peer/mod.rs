//! How nodes talk: connections to peers with a queue each, the frames on them, and the port where peers
//! are served.

pub(crate) mod batch;
pub(crate) mod client_stream;
pub(crate) mod connection;
pub(crate) mod fault_hook;
pub(crate) mod framed;
pub(crate) mod listener;
pub(crate) mod mailbox;
pub(crate) mod peers;
pub(crate) mod queue;
pub(crate) mod server_stream;
