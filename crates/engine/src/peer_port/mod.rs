//! What a node does for its peers: streams of batches, and the messages in them.

pub mod batch;
pub mod receive;
pub mod stream;
