//! Records what one operation goes through, for its trace.
//!
//! Every operation records, because it is not known beforehand which one will be slow or fail. So an event
//! is a few numbers in a list, its time is the one that the step has read anyway, and once the client is
//! answered and the trace is not kept, recording stops. A recorder is small, because it is part of every
//! operation's future.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use quorate_protocol::explain::{Event, Events, Kind, Note};
use quorate_protocol::message::Write;
use quorate_protocol::name::NodeId;
use quorate_protocol::terms::Terms;
use quorate_protocol::trace_context::TraceContext;

use crate::ops::log::Log;
use crate::ops::sampled::Sampled;

/// What a trace says of its request as a whole.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The HTTP method.
    pub method: &'static str,
    /// How many home replicas are asked.
    pub n: u16,
    /// R or W.
    pub needed: u16,
    /// Whether fallbacks count.
    pub sloppy: bool,
    /// How long the request may take, in milliseconds.
    pub timeout_ms: u64,
}

impl Facts {
    /// The facts of a read that runs under these terms.
    pub fn of_read(terms: &Terms, timeout_ms: u64) -> Self {
        Self::of("GET", terms, timeout_ms)
    }

    /// The facts of a write that runs under these terms. A resolution counts as what it writes.
    pub fn of_write(write: &Write, terms: &Terms) -> Self {
        let method = if write.has_value { "PUT" } else { "DELETE" };
        Self::of(method, terms, u64::from(write.timeout_ms))
    }

    fn of(method: &'static str, terms: &Terms, timeout_ms: u64) -> Self {
        Self { method, n: terms.n, needed: terms.needed(), sloppy: terms.sloppy, timeout_ms }
    }
}

/// Why a trace is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client asked for it.
    Asked,
    /// The operation took longer than `explain.slow_ms`.
    Slow,
    /// Too few replicas answered, or this node could not carry it out.
    Failed,
}

/// The recorder of one operation.
#[derive(Debug)]
pub struct Recorder {
    /// When the request arrived at this node: events count from here.
    arrived: Instant,
    /// When the operation began, after the body had arrived, in microseconds: slowness counts from here.
    began_us: u32,
    /// The time of the step in progress, in microseconds.
    now_us: u32,
    /// Whether a node was given up or replaced: an acknowledgement may then mean more than usual.
    has_detour: bool,
    /// Whether it is still to be decided if the trace is kept as that of a slow or failed operation.
    is_unsettled: bool,
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// Records nothing.
    Off,
    /// Records for the case that the operation turns out to be slow or to fail.
    Quiet(Events),
    /// Records into a trace that is kept, exported or both.
    Kept(Kept),
    /// Records what a part of a larger operation sees. That part's quorum and end are not the operation's.
    Part(Kept),
}

#[derive(Clone, Debug)]
struct Kept {
    log: Arc<Log>,
    /// The operation, if it is exported when it is over.
    sampled: Option<Arc<Sampled>>,
}

impl Recorder {
    /// Records nothing.
    pub fn off() -> Self {
        Self::new(Instant::now(), Mode::Off)
    }

    /// Records an operation whose trace is kept only if it is slow or fails (see [`Recorder::settle`]).
    pub fn quiet(arrived: Instant) -> Self {
        Self { is_unsettled: true, ..Self::new(arrived, Mode::Quiet(Events::with_room())) }
    }

    /// Records into a trace that is kept whatever happens.
    pub fn kept(arrived: Instant, log: Arc<Log>) -> Self {
        Self::new(arrived, Mode::Kept(Kept { log, sampled: None }))
    }

    /// Records an operation that is sampled. If `is_quiet`, its trace is kept here, too, in case that it is
    /// slow or fails.
    pub(crate) fn sampled(arrived: Instant, sampled: Arc<Sampled>, is_quiet: bool) -> Self {
        let (log, sampled) = (sampled.log(), Some(sampled));
        let mode = Mode::Kept(Kept { log, sampled });
        Self { is_unsettled: is_quiet, ..Self::new(arrived, mode) }
    }

    /// A recorder for a part of this operation, such as the read before a conditional write. Records
    /// nothing unless the trace is kept whatever happens.
    pub fn of_part(&self) -> Self {
        match &self.mode {
            Mode::Kept(kept) | Mode::Part(kept) => {
                Self { mode: Mode::Part(kept.clone()), is_unsettled: false, ..*self }
            }
            Mode::Off | Mode::Quiet(_) => Self { mode: Mode::Off, is_unsettled: false, ..*self },
        }
    }

    fn new(arrived: Instant, mode: Mode) -> Self {
        let (began_us, now_us) = (0, 0);
        Self { arrived, began_us, now_us, has_detour: false, is_unsettled: false, mode }
    }

    /// The operation, if it is sampled.
    pub fn sample(&self) -> Option<&Arc<Sampled>> {
        match &self.mode {
            Mode::Off | Mode::Quiet(_) => None,
            Mode::Kept(kept) | Mode::Part(kept) => kept.sampled.as_ref(),
        }
    }

    /// What to tell a node that is asked, if the operation is sampled.
    pub(crate) fn context_for(&self, node: NodeId) -> Option<TraceContext> {
        self.sample().map(|sampled| sampled.context_for(node))
    }

    /// The operation begins.
    pub fn begin(&mut self, now: Instant) {
        self.at(now);
        self.began_us = self.now_us;
    }

    /// The time of the next events.
    pub fn at(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.arrived);
        self.now_us = u32::try_from(age.as_micros()).unwrap_or(u32::MAX);
    }

    /// How long ago the request arrived, as of the step in progress.
    pub fn age(&self) -> Duration {
        Duration::from_micros(u64::from(self.now_us))
    }

    /// Something happened, now.
    pub fn saw(&mut self, kind: Kind, node: NodeId, note: Note) {
        if matches!(self.mode, Mode::Off) {
            return;
        }
        let event = Event { us: self.now_us, kind, node, note };
        self.has_detour |= matches!(kind, Kind::Silent | Kind::NotSent | Kind::Fallback);
        match &mut self.mode {
            Mode::Off => {}
            Mode::Quiet(events) => events.push(event),
            Mode::Kept(kept) => kept.log.lock().push(event),
            Mode::Part(_) if matches!(kind, Kind::Quorum | Kind::Done) => {}
            Mode::Part(kept) => kept.log.lock().push(event),
        }
    }

    /// A node is no longer waited for. Recorded once for each node.
    pub fn gave_up(&mut self, node: NodeId) {
        if self.note_of(Kind::Silent, node).is_none() {
            self.saw(Kind::Silent, node, Note::Nothing);
        }
    }

    /// A node answered, and well: `kind`, or [`Kind::Late`] if it was no longer waited for. A fallback
    /// that acknowledged keeps a hint.
    pub fn heard(&mut self, kind: Kind, node: NodeId, note: Note) {
        if !self.has_detour {
            return self.saw(kind, node, note);
        }
        let is_late = self.note_of(Kind::Silent, node).is_some();
        self.saw(if is_late { Kind::Late } else { kind }, node, note);
        if kind == Kind::Acked
            && let Some(target) = self.note_of(Kind::Fallback, node)
        {
            self.saw(Kind::Hinted, node, target);
        }
    }

    /// The note of the first event of a kind about a node, if there is one.
    fn note_of(&self, kind: Kind, node: NodeId) -> Option<Note> {
        match &self.mode {
            Mode::Off => None,
            Mode::Quiet(events) => events.first(kind, node).map(|event| event.note),
            Mode::Kept(kept) | Mode::Part(kept) => {
                kept.log.lock().first(kind, node).map(|event| event.note)
            }
        }
    }

    /// The client is being answered. If the operation was recorded quietly and turns out to be worth
    /// keeping, returns why and its log, and goes on recording into that; else stops recording, unless it
    /// is sampled.
    pub fn settle(&mut self, has_failed: bool, slow_us: u32) -> Option<(Reason, Arc<Log>)> {
        if !std::mem::take(&mut self.is_unsettled) {
            return None;
        }
        let is_slow = self.now_us.saturating_sub(self.began_us) >= slow_us;
        let is_worth_it = has_failed || is_slow;
        let log = match &mut self.mode {
            Mode::Quiet(events) if is_worth_it => {
                let log = Arc::new(Log::from(std::mem::take(events)));
                self.mode = Mode::Kept(Kept { log: Arc::clone(&log), sampled: None });
                log
            }
            Mode::Quiet(_) => {
                self.mode = Mode::Off;
                return None;
            }
            Mode::Kept(kept) if is_worth_it => Arc::clone(&kept.log),
            Mode::Off | Mode::Kept(_) | Mode::Part(_) => return None,
        };
        Some((if has_failed { Reason::Failed } else { Reason::Slow }, log))
    }

    /// All events of a trace that is kept.
    pub fn events(&self) -> Events {
        match &self.mode {
            Mode::Off | Mode::Quiet(_) => Events::default(),
            Mode::Kept(kept) | Mode::Part(kept) => kept.log.events(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SLOW_US: u32 = 100_000;
    const SLOW: Duration = Duration::from_millis(100);

    fn node(number: u8) -> NodeId {
        NodeId::parse(&format!("n{number}")).unwrap()
    }

    fn kinds(events: &Events) -> Vec<Kind> {
        events.list().iter().map(|event| event.kind).collect()
    }

    #[test]
    fn what_went_well_in_time_is_forgotten_and_recording_stops() {
        let arrived = Instant::now();
        let mut recorder = Recorder::quiet(arrived);
        recorder.begin(arrived + 10 * SLOW); // a slow upload is no slow operation
        recorder.saw(Kind::Asked, node(1), Note::Nothing);
        recorder.at(arrived + 10 * SLOW + SLOW / 2);
        assert!(recorder.settle(false, SLOW_US).is_none());
        recorder.saw(Kind::Acked, node(1), Note::Nothing);
        assert_eq!(recorder.events(), Events::default());
    }

    #[test]
    fn what_is_slow_or_fails_is_kept_and_goes_on() {
        for (has_failed, took, expected) in
            [(false, SLOW, Reason::Slow), (true, SLOW / 2, Reason::Failed)]
        {
            let arrived = Instant::now();
            let mut recorder = Recorder::quiet(arrived);
            recorder.begin(arrived);
            recorder.saw(Kind::Asked, node(1), Note::Nothing);
            recorder.at(arrived + took);
            let (reason, log) = recorder.settle(has_failed, SLOW_US).unwrap();
            assert_eq!(reason, expected);
            recorder.saw(Kind::Acked, node(1), Note::Nothing);
            recorder.saw(Kind::Done, node(1), Note::Nothing);
            assert_eq!(kinds(&log.events()), [Kind::Asked, Kind::Acked, Kind::Done]);
            assert_eq!(u128::from(log.events().list()[1].us), took.as_micros());
            assert!(recorder.settle(true, SLOW_US).is_none(), "kept once");
        }
    }

    #[test]
    fn answers_of_nodes_that_were_given_up_are_late_and_fallbacks_keep_hints() {
        let log = Arc::new(Log::default());
        let mut recorder = Recorder::kept(Instant::now(), Arc::clone(&log));
        recorder.saw(Kind::Asked, node(1), Note::Nothing);
        recorder.gave_up(node(1));
        recorder.gave_up(node(1));
        recorder.saw(Kind::Fallback, node(2), Note::For(node(1)));
        recorder.heard(Kind::Acked, node(2), Note::Nothing);
        recorder.heard(Kind::Acked, node(1), Note::Nothing);
        recorder.heard(Kind::Acked, node(3), Note::Nothing);
        let seen = log.events();
        let expected = [
            Kind::Asked,
            Kind::Silent,
            Kind::Fallback,
            Kind::Acked,
            Kind::Hinted,
            Kind::Late,
            Kind::Acked,
        ];
        assert_eq!(kinds(&seen), expected);
        assert_eq!(seen.list()[4].note, Note::For(node(1)));
    }

    #[test]
    fn the_quorum_of_a_part_is_not_that_of_the_operation() {
        let log = Arc::new(Log::default());
        let mut recorder = Recorder::kept(Instant::now(), Arc::clone(&log));
        let mut part = recorder.of_part();
        part.saw(Kind::Replied, node(1), Note::NotReady);
        part.saw(Kind::Quorum, node(1), Note::Nothing);
        part.saw(Kind::Done, node(1), Note::Nothing);
        assert!(part.settle(true, SLOW_US).is_none());
        recorder.saw(Kind::Quorum, node(1), Note::Nothing);
        assert_eq!(kinds(&log.events()), [Kind::Replied, Kind::Quorum]);
        let quiet = Recorder::quiet(Instant::now());
        assert!(matches!(quiet.of_part().mode, Mode::Off));
    }
}
