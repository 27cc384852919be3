//! Begins and settles the trace of an operation (docs/decisions/0022-explained-requests.md).

use std::sync::Arc;

use quorate_protocol::message::Write;
use quorate_protocol::name::Key;
use quorate_protocol::time::WallTime;
use quorate_protocol::trace_context::TraceContext;
use tokio::time::Instant;

use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::explanations::Subject;
pub use crate::ops::explanations::{Timeline, Trace};
use crate::ops::finished::{Operation, Role, Sample};
pub use crate::ops::log::Ended;
use crate::ops::log::Log;
pub use crate::ops::recorder::{Facts, Reason, Recorder};
use crate::ops::sampled::Sampled;

/// When a client's request arrived, and what is to become of its trace.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// When.
    pub at: Instant,
    /// Whether the client asks for the trace.
    pub is_asked: bool,
    /// Set if the request is sampled for a collector.
    pub sample: Option<Sample>,
}

/// The recorder of a client's request, and its trace if the client asks for one.
pub fn begin(
    (node, view): (&Node, &ClusterView),
    key: &Key,
    facts: Facts,
    arrived: Arrived,
) -> (Recorder, Option<Arc<Trace>>) {
    let Arrived { at, is_asked, sample } = arrived;
    if !is_asked && sample.is_none() {
        return (Recorder::quiet(at), None);
    }
    let trace = is_asked.then(|| {
        let subject = subject((node, view), key, at.elapsed().as_millis() as u64);
        node.explanations.begin(facts, subject)
    });
    let log = trace.as_ref().map_or_else(Arc::default, |trace| trace.log());
    let sampled = sample.and_then(|sample| {
        let (role, method, key) = (Role::Entry, facts.method, key.clone());
        let operation = Operation { sample, role, method, key, arrived: at };
        sampled(node, operation, &log)
    });
    let recorder = match sampled {
        Some(sampled) => Recorder::sampled(at, sampled, !is_asked),
        None => Recorder::kept(at, log),
    };
    (recorder, trace)
}

/// The recorder of a write that another node has forwarded, and that is sampled if `by` says so. Its events
/// count from now.
pub(crate) fn begin_forwarded(node: &Node, write: &Write, by: Option<TraceContext>) -> Recorder {
    let (arrived, log) = (Instant::now(), Arc::<Log>::default());
    let sampled = by.and_then(|by| node.sampler.follow(by)).and_then(|sample| {
        let method = if write.has_value { "PUT" } else { "DELETE" };
        let (role, key) = (Role::Coordinator, write.key.clone());
        sampled(node, Operation { sample, role, method, key, arrived }, &log)
    });
    match (sampled, write.explain) {
        (Some(sampled), _) => Recorder::sampled(arrived, sampled, false),
        (None, Some(_)) => Recorder::kept(arrived, log),
        (None, None) => Recorder::off(),
    }
}

fn sampled(node: &Node, operation: Operation, log: &Arc<Log>) -> Option<Arc<Sampled>> {
    Some(Sampled::new(node.sampler.sink()?, operation, Arc::clone(log)))
}

/// The client is being answered: the trace, if it is kept because the operation was slow or has failed.
pub fn settle(
    (node, view): (&Node, &ClusterView),
    recorder: &mut Recorder,
    key: &Key,
    facts: Facts,
    has_failed: bool,
) -> Option<Arc<Trace>> {
    let subject =
        |recorder: &Recorder| subject((node, view), key, recorder.age().as_millis() as u64);
    node.explanations.settle(recorder, has_failed, facts, subject)
}

fn subject((node, view): (&Node, &ClusterView), key: &Key, age_ms: u64) -> Subject {
    Subject {
        key: key.clone(),
        preference_list: view.preference_list(key).to_vec(),
        at: WallTime(node.now().0.saturating_sub(age_ms)),
    }
}
