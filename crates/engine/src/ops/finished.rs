//! What was recorded of sampled operations, once they are over, for whoever exports it: the host makes spans
//! of it.

use std::sync::Arc;

use quorate_protocol::message::Refusal;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::trace_context::TraceContext;
use tokio::time::Instant;

use crate::ops::log::{Ended, Log};

/// An operation, or a part of one, that is sampled.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The trace, and the span of the operation in it.
    pub context: TraceContext,
    /// The span that asked for it; `None` if nothing outside is recorded.
    pub parent: Option<[u8; 8]>,
}

impl Sample {
    /// The span of what this operation asks of a node. The node is told it, and its own span is below it.
    pub fn ask(&self, node: NodeId) -> TraceContext {
        self.context.child(node.as_str().as_bytes())
    }
}

/// The part that a node plays in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It took the request, and coordinates it unless another node does.
    Entry,
    /// It coordinates a write that was forwarded to it.
    Coordinator,
}

/// A sampled operation.
#[derive(Debug)]
pub struct Operation {
    /// Its span, and the one that asked for it.
    pub sample: Sample,
    /// What this node is in it.
    pub role: Role,
    /// The HTTP method.
    pub method: &'static str,
    /// The key.
    pub key: Key,
    /// When it arrived: events count from here.
    pub arrived: Instant,
}

/// What a replica did for an operation of another node.
#[derive(Debug)]
pub struct Work {
    /// Its span, and the one that asked for it.
    pub sample: Sample,
    /// `STORE` or `READ`.
    pub method: &'static str,
    /// The key.
    pub key: Key,
    /// When it began.
    pub began: Instant,
    /// When it could be answered.
    pub ended: Instant,
    /// Why the replica did nothing, if so.
    pub refused: Option<Refusal>,
}

/// What is over.
#[derive(Debug)]
pub enum Finished {
    /// An operation.
    Operation {
        /// What it was.
        operation: Arc<Operation>,
        /// Its events.
        log: Arc<Log>,
        /// How its request ended; `None` for a coordinator, and if the client hung up.
        ended: Option<Ended>,
    },
    /// A replica's part of one.
    Work(Work),
}
