//! The client against real clusters, and against what answers as no node does.

#![allow(clippy::unwrap_used)]

mod admin;
mod batches;
mod changes;
mod common;
mod expiry;
mod failures;
mod feeds;
mod index;
mod semantics;
mod streams;
mod topology;
mod typed;
mod updates;
mod waits;
