//! Backups of this node: a copy of its store ([`quorate_storage::Store::checkpoint`]), with what
//! [`manifest`] says of it, kept until somebody has fetched it.
//!
//! [`state`] is what the node remembers, [`make`] the job that makes one and hashes its files, [`hold`] keeps
//! rows from leaving a node while the copies of all nodes are made. The copies are no cut through the
//! cluster: what was acknowledged before the first one is in W of them, what came later may be in some.

pub mod hold;
pub mod make;
pub mod manifest;
pub mod state;
