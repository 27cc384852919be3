//! The peer port: each connection becomes a stream of batches, which are executed here.

pub(crate) mod batch;
pub(crate) mod listener;
pub(crate) mod stream;
