//! Begins and settles the trace of an operation (docs/decisions/0022-explained-requests.md).

use std::sync::Arc;
use std::time::Instant;

use quorate_protocol::name::Key;
use quorate_protocol::time::WallTime;

use crate::node::Node;
use crate::ops::explanations::Subject;
pub use crate::ops::explanations::{Ended, Timeline, Trace};
pub use crate::ops::recorder::{Facts, Reason, Recorder};

/// The recorder of a client's request that arrived at `arrived`, and its trace if the client asks for
/// one.
pub fn begin(
    node: &Node,
    key: &Key,
    facts: Facts,
    arrived: Instant,
    is_asked: bool,
) -> (Recorder, Option<Arc<Trace>>) {
    if !is_asked {
        return (Recorder::quiet(arrived), None);
    }
    let subject = subject(node, key, arrived.elapsed().as_millis() as u64);
    let trace = node.explanations.begin(facts, subject);
    (Recorder::kept(arrived, trace.log()), Some(trace))
}

/// The client is being answered: the trace, if it is kept because the operation was slow or has failed.
pub fn settle(
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
