//! One sampled operation at one node. It is recorded as an explained one is, and exported when nobody refers
//! to it any more: then the client is answered or has hung up, and what was left to do is done.

use std::sync::{Arc, OnceLock};

use quorate_protocol::name::NodeId;
use quorate_protocol::trace_context::TraceContext;

use crate::ops::ended::Ended;
use crate::ops::recorder::Log;
use crate::ops::sampler::Sink;
use crate::ops::spans::{self, Operation};

/// The operation, shared by all who record it or know how it ended.
#[derive(Debug)]
pub(crate) struct Sampled {
    sink: Arc<Sink>,
    operation: Arc<Operation>,
    log: Arc<Log>,
    ended: OnceLock<Ended>,
}

impl Sampled {
    /// What is recorded into `log` goes to `sink` in the end.
    pub(crate) fn new(sink: &Arc<Sink>, operation: Operation, log: Arc<Log>) -> Arc<Self> {
        let (operation, ended) = (Arc::new(operation), OnceLock::new());
        Arc::new(Self { sink: Arc::clone(sink), operation, log, ended })
    }

    /// Where its events go.
    pub(crate) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// The client is answered. The first call counts.
    pub(crate) fn end(&self, ended: Ended) {
        self.ended.get_or_init(|| ended);
    }

    /// The span of what this operation asks of a node.
    pub(crate) fn context_for(&self, node: NodeId) -> TraceContext {
        spans::of_ask(&self.operation.sample.context, node)
    }
}

impl Drop for Sampled {
    fn drop(&mut self) {
        let (operation, log) = (Arc::clone(&self.operation), Arc::clone(&self.log));
        let ended = self.ended.take();
        self.sink.offer(move |origin| {
            spans::of_operation(&operation, &log.events(), ended.as_ref(), origin)
        });
    }
}
