//! The port where peers are served: each connection becomes a stream of batches, which are carried out here.

pub(crate) mod batch;
pub(crate) mod listener;
pub(crate) mod stream;
