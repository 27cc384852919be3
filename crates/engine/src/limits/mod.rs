//! Limits on a node's work: operations, bytes, slots.

pub mod admission;
pub mod bounds;
pub mod cold_reads;
pub mod pace;
pub mod room;
pub mod sizes;
pub mod upload_pace;
