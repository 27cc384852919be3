//! What a node does for its peers: streams of batches, and the messages in them, each executed by the
//! handler of its family.

pub mod batch;
mod cluster;
mod data;
mod query;
pub mod receive;
mod repair;
pub mod stream;
