//! One sampled operation at one node. It is recorded as an explained one is, and exported when nobody refers
//! to it any more: then the client is answered or has hung up, and what was left to do is done.

use std::sync::{Arc, OnceLock};

use quorate_protocol::name::NodeId;
use quorate_protocol::trace_context::TraceContext;

use crate::host::TraceSink;
use crate::ops::finished::{Finished, Operation};
use crate::ops::log::{Ended, Log};

/// The operation, shared by all who record it or know how it ended.
pub struct Sampled {
    sink: Arc<dyn TraceSink>,
    operation: Arc<Operation>,
    log: Arc<Log>,
    ended: OnceLock<Ended>,
}

impl Sampled {
    /// What is recorded into `log` goes to `sink` in the end.
    pub(crate) fn new(sink: &Arc<dyn TraceSink>, operation: Operation, log: Arc<Log>) -> Arc<Self> {
        let (operation, ended) = (Arc::new(operation), OnceLock::new());
        Arc::new(Self { sink: Arc::clone(sink), operation, log, ended })
    }

    /// Where its events go.
    pub(crate) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// The client is answered. The first call counts.
    pub fn end(&self, ended: Ended) {
        self.ended.get_or_init(|| ended);
    }

    /// The span of what this operation asks of a node.
    pub(crate) fn context_for(&self, node: NodeId) -> TraceContext {
        self.operation.sample.ask(node)
    }
}

impl std::fmt::Debug for Sampled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Sampled").field(&self.operation).finish()
    }
}

impl Drop for Sampled {
    fn drop(&mut self) {
        let (operation, log) = (Arc::clone(&self.operation), Arc::clone(&self.log));
        self.sink.take(Finished::Operation { operation, log, ended: self.ended.take() });
    }
}
