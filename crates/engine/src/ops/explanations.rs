//! The traces that a node keeps: of requests that asked to be explained, and of the last slow or failed
//! ones. In memory, bounded in number and, as each trace is bounded, in bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quorate_protocol::explain::{Event, Events, Kind};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::time::WallTime;

use crate::ops::recorder::{Facts, Log, Reason, Recorder};

/// How many traces are kept that were asked for, and how many of slow or failed requests.
pub const KEPT_MAX: usize = 256;
/// The most coordinators whose events one trace takes: one, and a few that were silent for too long.
const PARTS_MAX: usize = 4;

/// What a request is about.
#[derive(Debug)]
pub struct Subject {
    /// The key.
    pub key: Key,
    /// All nodes in the order of preference for it.
    pub preference_list: Vec<NodeId>,
    /// When it arrived, by the wall clock.
    pub at: WallTime,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The HTTP status.
    pub status: u16,
    /// The name of the problem, if it was one.
    pub problem: Option<&'static str>,
    /// What a failed write left behind.
    pub outcome: Option<String>,
    /// From arrival to answer, in microseconds.
    pub took_us: u64,
}

/// The trace of one request.
#[derive(Debug)]
pub struct Trace {
    /// Its number, random.
    pub id: u64,
    /// Why it is kept.
    pub reason: Reason,
    /// Facts about the request.
    pub facts: Facts,
    /// What it is about.
    pub subject: Subject,
    log: Arc<Log>,
    parts: Mutex<Vec<Part>>,
    ended: OnceLock<Ended>,
}

/// What a coordinator told of a write that was forwarded to it.
#[derive(Debug)]
struct Part {
    from: NodeId,
    /// When the write was forwarded, in microseconds since the request arrived.
    since_us: u32,
    events: Events,
}

/// All events of a trace, on the entry node's scale.
pub struct Timeline {
    /// In order of time.
    pub events: Vec<Event>,
    /// Whether nothing more will come.
    pub is_done: bool,
    /// Whether some were dropped.
    pub is_truncated: bool,
}

impl Trace {
    fn new(reason: Reason, facts: Facts, subject: Subject, log: Arc<Log>) -> Arc<Self> {
        let (id, parts, ended) = (rand::random(), Mutex::default(), OnceLock::new());
        Arc::new(Self { id, reason, facts, subject, log, parts, ended })
    }

    /// A recorder whose events belong to this trace.
    pub fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// The client is answered. The first call counts.
    pub fn end(&self, ended: Ended) {
        self.ended.get_or_init(|| ended);
    }

    /// How the request ended; `None` while it runs, and if the client hung up before it was answered.
    pub fn ended(&self) -> Option<&Ended> {
        self.ended.get()
    }

    /// The events seen here and by coordinators, as far as they are known.
    pub fn timeline(&self) -> Timeline {
        let own = self.log.events();
        let parts = self.parts();
        let all = || parts.iter().map(|part| &part.events).chain([&own]);
        let is_done = all().any(Events::are_complete);
        let is_truncated = all().any(Events::is_truncated);
        let shifted = parts.iter().flat_map(|part| {
            let shift =
                |event: &Event| Event { us: part.since_us.saturating_add(event.us), ..*event };
            part.events.list().iter().map(shift)
        });
        let mut events: Vec<Event> = own.list().iter().copied().chain(shifted).collect();
        events.sort_by_key(|event| (event.us, event.kind == Kind::Done));
        Timeline { events, is_done, is_truncated }
    }

    /// Takes what a coordinator tells, if the write was forwarded to it. Each message of a coordinator
    /// holds all that the ones before it did, and they may overtake each other.
    fn heard(&self, from: NodeId, events: Events) {
        let own = self.log.events();
        let Some(since_us) = own.first(Kind::Forwarded, from).map(|event| event.us) else { return };
        let mut parts = self.parts();
        if let Some(part) = parts.iter_mut().find(|part| part.from == from) {
            if events.list().len() > part.events.list().len() {
                part.events = events;
            }
        } else if parts.len() < PARTS_MAX {
            parts.push(Part { from, since_us, events });
        }
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kept traces of a node.
pub struct Explanations {
    /// An operation that takes as long is slow, in microseconds.
    slow_us: u32,
    kept: Mutex<Kept>,
}

/// Oldest first. A flood of one kind does not push out the other.
#[derive(Default)]
struct Kept {
    asked: VecDeque<Arc<Trace>>,
    slow_or_failed: VecDeque<Arc<Trace>>,
}

impl Explanations {
    /// None yet; operations that take `slow_ms` milliseconds or more are slow.
    pub fn new(slow_ms: u64) -> Self {
        let slow_us = u32::try_from(slow_ms.saturating_mul(1000)).unwrap_or(u32::MAX);
        Self { slow_us, kept: Mutex::default() }
    }

    /// Keeps the trace of a request that asks for it. It fills while the request runs.
    pub fn begin(&self, facts: Facts, subject: Subject) -> Arc<Trace> {
        let trace = Trace::new(Reason::Asked, facts, subject, Arc::default());
        push(&mut self.lock().asked, &trace);
        trace
    }

    /// The client is being answered: keeps the trace if the operation was slow or has failed.
    pub fn settle(
        &self,
        recorder: &mut Recorder,
        has_failed: bool,
        facts: Facts,
        subject: impl FnOnce(&Recorder) -> Subject,
    ) -> Option<Arc<Trace>> {
        let (reason, log) = recorder.settle(has_failed, self.slow_us)?;
        let trace = Trace::new(reason, facts, subject(recorder), log);
        push(&mut self.lock().slow_or_failed, &trace);
        Some(trace)
    }

    /// A coordinator tells what it saw of a forwarded write. Dropped if that is not known here (any
    /// more), or was not forwarded to this node.
    pub fn heard(&self, from: NodeId, id: u64, events: Events) {
        let trace = self.lock().asked.iter().rfind(|trace| trace.id == id).map(Arc::clone);
        if let Some(trace) = trace {
            trace.heard(from, events);
        }
    }

    /// The trace of a request, if it is kept.
    pub fn find(&self, id: u64) -> Option<Arc<Trace>> {
        let kept = self.lock();
        let mut all = kept.asked.iter().chain(&kept.slow_or_failed);
        all.find(|trace| trace.id == id).map(Arc::clone)
    }

    /// The kept traces, newest first, at most `limit`; only those of slow and failed requests if `is_tail`.
    pub fn newest(&self, is_tail: bool, limit: usize) -> Vec<Arc<Trace>> {
        let mut all: Vec<Arc<Trace>> = {
            let kept = self.lock();
            let asked = kept.asked.iter().filter(|_| !is_tail);
            asked.chain(&kept.slow_or_failed).map(Arc::clone).collect()
        };
        all.sort_by_key(|trace| std::cmp::Reverse(trace.subject.at));
        all.truncate(limit);
        all
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(traces: &mut VecDeque<Arc<Trace>>, trace: &Arc<Trace>) {
    if traces.len() == KEPT_MAX {
        traces.pop_front();
    }
    traces.push_back(Arc::clone(trace));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::{Duration, Instant};

    use quorate_protocol::explain::Note;

    use super::*;

    const FACTS: Facts = Facts { method: "PUT", n: 3, needed: 2, sloppy: true, timeout_ms: 1000 };

    fn node(number: u8) -> NodeId {
        NodeId::parse(&format!("n{number}")).unwrap()
    }

    fn subject(at: u64) -> Subject {
        Subject { key: Key::new("b", b"k").unwrap(), preference_list: Vec::new(), at: WallTime(at) }
    }

    fn ended() -> Ended {
        Ended { status: 204, problem: None, outcome: None, took_us: 1 }
    }

    fn events(kinds: &[Kind]) -> Events {
        let mut events = Events::default();
        for (us, kind) in (1..).zip(kinds) {
            events.push(Event { us, kind: *kind, node: node(2), note: Note::Nothing });
        }
        events
    }

    #[test]
    fn a_flood_of_asked_ones_neither_grows_nor_pushes_out_slow_ones() {
        let kept = Explanations::new(100);
        let mut recorder = Recorder::quiet(Instant::now());
        let failed = kept.settle(&mut recorder, true, FACTS, |_| subject(0)).unwrap();
        failed.end(ended());
        let first = kept.begin(FACTS, subject(1));
        assert!(kept.find(first.id).is_some_and(|trace| trace.ended().is_none()), "it still runs");
        first.end(ended());
        assert_eq!(kept.find(first.id).unwrap().ended().unwrap().status, 204);
        for at in 0..KEPT_MAX as u64 {
            kept.begin(FACTS, subject(2 + at)).end(ended());
        }
        assert!(kept.find(first.id).is_none(), "no longer kept");
        assert!(kept.find(failed.id).is_some());
        assert_eq!(kept.newest(false, usize::MAX).len(), KEPT_MAX + 1);
        let newest = kept.newest(false, 2);
        assert_eq!(newest.iter().map(|trace| trace.subject.at.0).collect::<Vec<_>>(), [257, 256]);
        let tail = kept.newest(true, 10);
        assert_eq!(tail.iter().map(|trace| trace.id).collect::<Vec<_>>(), [failed.id]);
    }

    #[test]
    fn what_a_coordinator_tells_counts_from_when_the_write_was_forwarded() {
        let kept = Explanations::new(100);
        let trace = kept.begin(FACTS, subject(0));
        let arrived = Instant::now();
        let mut recorder = Recorder::kept(arrived, trace.log());
        recorder.at(arrived + Duration::from_micros(50));
        recorder.saw(Kind::Forwarded, node(2), Note::Nothing);
        recorder.at(arrived + Duration::from_micros(52));
        recorder.saw(Kind::Accepted, node(2), Note::Nothing);
        let told = events(&[Kind::Minted, Kind::Quorum, Kind::Done]);
        kept.heard(node(3), trace.id, told.clone());
        assert_eq!(trace.timeline().events.len(), 2, "a node that was not asked is not believed");
        kept.heard(node(2), trace.id ^ 1, told.clone());
        assert_eq!(trace.timeline().events.len(), 2, "another trace");
        kept.heard(node(2), trace.id, told);
        kept.heard(node(2), trace.id, events(&[Kind::Minted]));
        let timeline = trace.timeline();
        assert!(timeline.is_done, "the earlier message came last and took nothing back");
        let seen: Vec<_> = timeline.events.iter().map(|event| (event.us, event.kind)).collect();
        let expected = [
            (50, Kind::Forwarded),
            (51, Kind::Minted),
            (52, Kind::Accepted),
            (52, Kind::Quorum),
            (53, Kind::Done),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn only_a_few_coordinators_are_listened_to() {
        let kept = Explanations::new(100);
        let trace = kept.begin(FACTS, subject(0));
        let mut recorder = Recorder::kept(Instant::now(), trace.log());
        for number in 0..10 {
            recorder.saw(Kind::Forwarded, node(number), Note::Nothing);
        }
        for number in 0..10 {
            kept.heard(node(number), trace.id, events(&[Kind::Minted]));
        }
        assert_eq!(trace.timeline().events.len(), 10 + PARTS_MAX);
    }
}
