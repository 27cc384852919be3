//! Limits on a node's work: operations, bytes, slots.

pub(crate) mod admission;
pub(crate) mod bounds;
pub(crate) mod cold_reads;
pub(crate) mod room;
pub(crate) mod sizes;
pub(crate) mod upload_pace;
