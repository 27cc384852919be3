//! Drives one write at its entry node: finds a coordinator, this node or another.
//!
//! The write runs in its own task, which outlives a client that disconnects: a half-replicated
//! write must not stop there.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use quorate_protocol::explain::{Kind, Note, Why};
use quorate_protocol::lifetime::Lifetime;
use quorate_protocol::message::{
    Data, DataReply, Message, Outcome, Reply, WithPayload, Write, WriteAnswer,
};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::put::{Acks, Role};
use quorate_protocol::route::{Effect, Plan, Route, Unrouted};
use quorate_protocol::terms::{Purpose, Terms};
use quorate_protocol::time::Uptime;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument;

pub use crate::ops::coordinator::WriteOutcome;
pub use crate::ops::inspect::{ConflictPage, ReplicaView, conflicts, inspect};
pub use crate::ops::reader::{ReadFailure, ReadOptions, read};

use crate::cluster::moved::RESTARTS_MAX;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::coordinator;
use crate::ops::explain::{self, Facts, Recorder};
use crate::peer::mailbox::{Mailbox, PeerEvent, ReplyTo};

/// Executes a client's write under the view with which it was admitted and the terms that this
/// gave, and returns the outcome. Goes on if the caller is dropped.
pub async fn write(
    node: &Arc<Node>,
    write: Write,
    admitted: (ClusterView, Terms),
    recorder: Recorder,
) -> WriteOutcome {
    let (told, answer) = oneshot::channel();
    let w = admitted.1.needed();
    let tell = move |outcome| drop(told.send(outcome));
    // Runs in the request's span, so that its log lines carry the request id.
    node.operations.spawn(run(node.clone(), write, admitted, recorder, tell).in_current_span());
    // The task always reports before it ends; if it was aborted, the outcome is unknown.
    answer.await.unwrap_or_else(|_| coordinator::unknown(w).into())
}

/// View and terms are this node's: they decide which nodes to try and what the client is told if
/// none answers. Another node that coordinates takes its own.
async fn run(
    node: Arc<Node>,
    write: Write,
    (view, terms): (ClusterView, Terms),
    mut recorder: Recorder,
    tell: impl FnOnce(WriteOutcome) + Send,
) {
    let (view, terms, found) = find(&node, &write, (view, terms), &mut recorder).await;
    let (w, me) = (terms.needed(), node.me);
    let (key, facts) = (write.key.clone(), Facts::of_write(&write, &terms));
    let (at, seen) = (&node, &view);
    let answer_with = move |mut outcome: WriteOutcome, recorder: &mut Recorder| {
        outcome.trace =
            explain::settle((at, seen), recorder, &key, facts, has_failed(&outcome.answer));
        tell(outcome);
    };
    match found {
        Found::Answered(outcome) => {
            answer_with(outcome, &mut recorder);
            recorder.saw(Kind::Done, me, Note::Nothing);
        }
        Found::Told(outcome) => {
            answer_with(outcome, &mut recorder);
            if write.explain.is_none() {
                recorder.saw(Kind::Done, me, Note::Nothing); // else the coordinator says when
            }
        }
        Found::Here(mut route, role) => {
            let why = if role == Role::Home { Why::HomeReplica } else { Why::AsFallback };
            recorder.saw(Kind::Routed, me, Note::Why(why));
            // If another node was tried before and was silent, a failure here is not conclusive.
            let tell = move |outcome: WriteOutcome, recorder: &mut Recorder| {
                let answer = route.on_written(me, outcome.answer, w);
                let answer = answer.unwrap_or_else(|| coordinator::unknown(w));
                answer_with(WriteOutcome { answer, ..outcome }, recorder);
            };
            coordinator::mint(&node, (view.clone(), Some(terms)), write, &mut recorder, tell).await;
        }
    }
}

/// Finds a coordinator, in the view in which the write was admitted, or a later one: if every home replica
/// has refused it, another record may be in force by which it has others.
async fn find(
    node: &Arc<Node>,
    write: &Write,
    (mut view, mut terms): (ClusterView, Terms),
    recorder: &mut Recorder,
) -> (ClusterView, Terms, Found) {
    let deadline = node.uptime().plus(u64::from(write.timeout_ms));
    for _ in 0..RESTARTS_MAX {
        let found = match start(node, write, &terms, recorder) {
            (route, Some(Effect::Mint(role))) => Found::Here(route, role),
            // Boxed: otherwise every write's future would reserve space for it.
            begun => {
                let (w, why) = (terms.needed(), why_forward(node, write, &terms));
                let routing = Routing::new(node, begun, w, why, recorder);
                Box::pin(routing.find_coordinator(write)).await
            }
        };
        if !found.is_certain_failure() || node.uptime() >= deadline {
            return (view, terms, found);
        }
        let Some(newer) = node.moved(&view, Some(deadline)).await else {
            return (view, terms, found);
        };
        match newer.renewed_terms(&write.key, Purpose::Write, &terms.asked) {
            Ok(renewed) => (view, terms) = (newer, renewed),
            Err(_) => return (view, terms, found),
        }
    }
    let unrouted = Unrouted { refused: Vec::new(), silent: Vec::new() };
    let found = Found::Answered(failed(terms.needed(), unrouted));
    (view, terms, found)
}

/// Whether the service failed the client, rather than refused what it asked.
fn has_failed(answer: &WriteAnswer) -> bool {
    match answer {
        WriteAnswer::NoQuorum { .. }
        | WriteAnswer::NoReadQuorum { .. }
        | WriteAnswer::Unavailable(_) => true,
        WriteAnswer::Written(_)
        | WriteAnswer::ConditionFailed
        | WriteAnswer::IdempotencyKeyReused
        | WriteAnswer::Refused(_)
        | WriteAnswer::InvalidQuorum(_) => false,
    }
}

/// Extra time that a coordinator may need to send a large value over slow links, in milliseconds.
fn on_its_way_ms(write: &Write) -> u64 {
    const PACE_BYTES_PER_MS: usize = 256;
    let bytes = write.draft.value.as_ref().map_or(0, bytes::Bytes::len);
    (bytes / PACE_BYTES_PER_MS) as u64
}

/// Chooses the first coordinator to try.
fn start(
    node: &Node,
    write: &Write,
    terms: &Terms,
    recorder: &mut Recorder,
) -> (Route, Option<Effect>) {
    let began = Instant::now();
    recorder.begin(began);
    let now = node.uptime_at(began);
    let homes = terms.asked_sets(write.preferred_home(node.me)).into_homes();
    let mut avoided = node.peers.avoided();
    // Avoid this node too while its store is slow and another home replica is available.
    let has_other = || homes.iter().any(|home| *home != node.me && !avoided.contains(home));
    let is_slow = node.bounds.slow_stores.load(Relaxed) > 0 && has_other();
    if is_slow {
        Arc::make_mut(&mut avoided).insert(node.me);
    }
    // A node that leaves may be let go at any moment, and is not told first: what it kept for others would
    // go with it. A home replica that refuses it may know that already.
    let may_keep = terms.lists(node.me) || mutated(Mutation::LeavingKeepsHints);
    let timeouts = &node.config.timeouts;
    let plan = Plan {
        me: node.me,
        homes,
        sloppy: terms.sloppy && may_keep,
        at_first_home: is_slow || write.needs_first_home(),
        mints_once: write.draft.counts() && !mutated(Mutation::IncrementRetried),
        accept_timeout_ms: timeouts.replica_ms,
        // The coordinator replaces silent replicas after one timeout; two more leave time for the
        // replacements to answer. Large values get extra transfer time.
        answer_timeout_ms: timeouts
            .replica_ms
            .saturating_mul(3)
            .saturating_add(on_its_way_ms(write)),
        deadline: now.plus(u64::from(write.timeout_ms)),
    };
    if plan.at_first_home || !plan.homes.contains(&node.me) {
        for home in plan.homes.iter().filter(|home| avoided.contains(home)) {
            let note =
                if *home == node.me { Note::Why(Why::SlowStore) } else { Note::DownOrSuspected };
            recorder.saw(Kind::Avoided, *home, note);
        }
    }
    Route::start(plan, &avoided, now)
}

/// Why this is the first node that a write is forwarded to.
fn why_forward(node: &Node, write: &Write, terms: &Terms) -> Why {
    if write.needs_first_home() {
        Why::Meeting
    } else if terms.sets.homes().contains(&node.me) {
        Why::SlowStore // a home replica keeps its other writes to itself
    } else {
        Why::FirstHealthy
    }
}

enum Found {
    /// This node coordinates, in this role.
    Here(Route, Role),
    /// A coordinator has answered.
    Told(WriteOutcome),
    /// There is none.
    Answered(WriteOutcome),
}

impl Found {
    /// Whether no node was found that coordinates, and none may have minted.
    fn is_certain_failure(&self) -> bool {
        match self {
            Self::Answered(outcome) => {
                matches!(outcome.answer, WriteAnswer::NoQuorum { outcome: Outcome::NotApplied, .. })
            }
            Self::Here(..) | Self::Told(_) => false,
        }
    }
}

/// The search for a coordinator.
struct Routing<'a> {
    node: &'a Arc<Node>,
    operation: u64,
    route: Route,
    effect: Option<Effect>,
    w: u16,
    reply_to: ReplyTo,
    mailbox: Mailbox,
    recorder: &'a mut Recorder,
    /// Why the next node is tried.
    why: Why,
    /// The node that was tried last.
    trying: Option<NodeId>,
}

impl<'a> Routing<'a> {
    fn new(
        node: &'a Arc<Node>,
        (route, effect): (Route, Option<Effect>),
        w: u16,
        why: Why,
        recorder: &'a mut Recorder,
    ) -> Self {
        let (reply_to, mailbox) = ReplyTo::new();
        let (operation, trying) = (node.ticket(), None);
        Self { node, operation, route, effect, w, reply_to, mailbox, recorder, why, trying }
    }

    async fn find_coordinator(mut self, write: &Write) -> Found {
        let node = self.node;
        let _waiting = node.forwards.register(self.operation, self.reply_to.clone());
        loop {
            match self.effect.take() {
                Some(Effect::Mint(role)) => return Found::Here(self.route, role),
                Some(Effect::Forward { to }) => self.forward(to, write),
                Some(Effect::Fail(unrouted)) => return Found::Answered(failed(self.w, unrouted)),
                None => {}
            }
            if let Some(outcome) = self.step().await {
                return Found::Told(outcome);
            }
        }
    }

    fn forward(&mut self, to: NodeId, write: &Write) {
        let why = std::mem::replace(&mut self.why, Why::NextHome);
        self.recorder.saw(Kind::Routed, to, Note::Why(why));
        self.recorder.saw(Kind::Forwarded, to, Note::Nothing);
        self.trying = Some(to);
        let (value, change) = (&write.draft.value, &write.draft.operation);
        let payload = change.as_ref().map(|change| change.encode()).or_else(|| value.clone());
        let payload = payload.unwrap_or_default();
        let (operation, is_change) = (self.operation, change.is_some());
        let lifetime = write.draft.lifetime;
        // A little less than the time left, so that the coordinator's own "no quorum" arrives in
        // time: it knows what was stored, whereas this node would know only that no answer came.
        let left_ms = self.route.deadline().since(self.node.uptime());
        let left_ms = left_ms - (left_ms / 10).min(50);
        let mut write = Box::new(Write { timeout_ms: left_ms as u32, ..write.clone() });
        if mutated(Mutation::WriteIdForgotten) {
            write.draft.write_id.0[8..]
                .copy_from_slice(&self.node.host.chance.draw().to_le_bytes());
        }
        let message = Message::Data(match (is_change, lifetime) {
            (true, _) => Data::Change { operation, write },
            (false, Lifetime::OfBucket) => Data::Forward { operation, write },
            (false, lifetime) => Data::ForwardExpiring { operation, lifetime, write },
        });
        self.node.metrics.operations.forwarded.add(1);
        let by = self.recorder.context_for(to);
        self.node.peers.send_traced(to, by, message, payload, self.reply_to.clone());
    }

    /// Waits for the next event. Returns the outcome once there is one.
    async fn step(&mut self) -> Option<WriteOutcome> {
        let wake = self.node.instant(self.route.next_wake().unwrap_or(self.node.uptime()));
        let heard = tokio::select! {
            biased;
            heard = self.mailbox.recv() => heard,
            () = tokio::time::sleep_until(wake) => None,
        };
        let at = Instant::now();
        self.recorder.at(at);
        let now = self.node.uptime_at(at);
        self.effect = match heard {
            Some((from, PeerEvent::Written(told))) => {
                self.recorder.heard(Kind::Replied, from, Note::Nothing);
                let object = Object::decode(told.payload).ok();
                let answer = self.route.on_written(from, told.head, self.w)?;
                return Some(WriteOutcome { answer, object, trace: None });
            }
            Some((
                from,
                PeerEvent::Reply(WithPayload { head: Reply::Data(DataReply::Accepted), .. }),
            )) => {
                self.recorder.heard(Kind::Accepted, from, Note::Nothing);
                self.route.on_accepted(from, now);
                None
            }
            Some((from, PeerEvent::Reply(WithPayload { head, .. }))) => {
                let refusal = if let Reply::Refused(refusal) = head {
                    Note::Refusal(refusal)
                } else {
                    Note::Nothing
                };
                self.recorder.saw(Kind::Refused, from, refusal);
                self.route.on_refused(from, now)
            }
            Some((from, PeerEvent::NotSent)) => {
                self.recorder.saw(Kind::NotSent, from, Note::Nothing);
                self.route.on_refused(from, now)
            }
            Some((from, PeerEvent::Progress)) => {
                self.route.on_progress(from, now);
                None
            }
            Some((from, PeerEvent::Silent)) => {
                self.recorder.gave_up(from);
                self.route.on_silent(from, now)
            }
            None => self.on_time(now),
        };
        None
    }

    fn on_time(&mut self, now: Uptime) -> Option<Effect> {
        let effect = self.route.on_time(now);
        if effect.is_some()
            && let Some(node) = self.trying
        {
            self.recorder.gave_up(node);
        }
        effect
    }
}

/// The answer when no coordinator is known to have minted: `unknown` if any node tried was silent,
/// else nothing was stored.
fn failed(required: u16, unrouted: Unrouted) -> WriteOutcome {
    let silent = !unrouted.silent.is_empty() && !mutated(Mutation::NotAppliedLie);
    let outcome = if silent { Outcome::Unknown } else { Outcome::NotApplied };
    let Unrouted { refused, silent } = unrouted;
    let acks = Acks { refused, silent, ..Acks::default() };
    WriteAnswer::NoQuorum { required, acks, outcome }.into()
}
