//! Begins and settles the trace of an operation (docs/decisions/0022-explained-requests.md).

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use quorate_protocol::message::Write;
use quorate_protocol::name::Key;
use quorate_protocol::time::WallTime;
use quorate_protocol::trace_context::TraceContext;

use crate::node::Node;
pub(crate) use crate::ops::ended::Ended;
use crate::ops::explanations::Subject;
pub(crate) use crate::ops::explanations::{Timeline, Trace};
use crate::ops::recorder::Log;
pub(crate) use crate::ops::recorder::{Facts, Reason, Recorder};
use crate::ops::sampled::Sampled;
use crate::ops::sampler::Sample;
use crate::ops::spans::{Operation, Role};

/// When a client's request arrived, and what is to become of its trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    /// When.
    pub(crate) at: Instant,
    /// Whether the client asks for the trace.
    pub(crate) is_asked: bool,
    /// Set if the request is sampled for the collector.
    pub(crate) sample: Option<Sample>,
}

/// The recorder of a client's request, and its trace if the client asks for one.
pub(crate) fn begin(
    node: &Node,
    key: &Key,
    facts: Facts,
    arrived: Arrived,
) -> (Recorder, Option<Arc<Trace>>) {
    let Arrived { at, is_asked, sample } = arrived;
    if !is_asked && sample.is_none() {
        return (Recorder::quiet(at), None);
    }
    let trace = is_asked.then(|| {
        let subject = subject(node, key, at.elapsed().as_millis() as u64);
        node.explanations.begin(facts, subject)
    });
    let log = trace.as_ref().map_or_else(Arc::default, |trace| trace.log());
    let recorder = match sample {
        Some(sample) => {
            let what = (Role::Entry, facts.method, key.clone());
            let sampled = sampled(node, sample, what, at, Arc::clone(&log));
            sampled.map(|sampled| Recorder::sampled(at, sampled, !is_asked))
        }
        None => None,
    };
    (recorder.unwrap_or_else(|| Recorder::kept(at, log)), trace)
}

/// The recorder of a write that another node has forwarded, and that is sampled if `by` says so. Its events
/// count from now.
pub(crate) fn begin_forwarded(node: &Node, write: &Write, by: Option<TraceContext>) -> Recorder {
    let (now, log) = (Instant::now(), Arc::<Log>::default());
    if let Some(sample) = by.and_then(|by| node.sampler.follow(by)) {
        let method = if write.has_value { "PUT" } else { "DELETE" };
        let what = (Role::Coordinator, method, write.key.clone());
        if let Some(sampled) = sampled(node, sample, what, now, Arc::clone(&log)) {
            return Recorder::sampled(now, sampled, false);
        }
    }
    match write.explain {
        Some(_) => Recorder::kept(now, log),
        None => Recorder::off(),
    }
}

/// An operation that is exported when it is over; `None` if nothing is.
fn sampled(
    node: &Node,
    sample: Sample,
    (role, method, key): (Role, &'static str, Key),
    at: Instant,
    log: Arc<Log>,
) -> Option<Arc<Sampled>> {
    let began = SystemTime::now().checked_sub(at.elapsed())?;
    let operation = Operation { sample, role, method, key, began };
    Some(Sampled::new(node.sampler.sink()?, operation, log))
}

/// The client is being answered: the trace, if it is kept because the operation was slow or has failed.
pub(crate) fn settle(
    node: &Node,
    recorder: &mut Recorder,
    key: &Key,
    facts: Facts,
    has_failed: bool,
) -> Option<Arc<Trace>> {
    let subject = |recorder: &Recorder| subject(node, key, recorder.age().as_millis() as u64);
    node.explanations.settle(recorder, has_failed, facts, subject)
}

fn subject(node: &Node, key: &Key, age_ms: u64) -> Subject {
    Subject {
        key: key.clone(),
        preference_list: node.preference_list(key).to_vec(),
        at: WallTime(node.now().0.saturating_sub(age_ms)),
    }
}
