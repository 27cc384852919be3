//! Drives one write at the node its client talks to: finds a coordinator, here or elsewhere.
//!
//! The write runs in a task of its own, which outlives a client that hangs up: a half-replicated write
//! must not stop there.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use quorate_protocol::message::{Message, Outcome, Reply, WithPayload, Write, WriteAnswer};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::put::Acks;
use quorate_protocol::route::{Effect, Plan, Route, Unrouted};
use quorate_protocol::terms::Terms;
use tokio::sync::oneshot;
use tracing::Instrument;

pub(crate) use crate::ops::coordinator::WriteOutcome;
pub(crate) use crate::ops::inspect::{ConflictPage, ReplicaView, conflicts, inspect};
pub(crate) use crate::ops::reader::{ReadFailure, ReadOptions, read};

use crate::node::Node;
use crate::ops::coordinator;
use crate::peer::mailbox::{Mailbox, PeerEvent, ReplyTo};

/// Carries out a client's write by the `terms` that it was just held against, and tells what became of it.
/// Goes on if the caller goes away.
pub(crate) async fn write(node: &Arc<Node>, write: Write, terms: Terms) -> WriteOutcome {
    let (told, answer) = oneshot::channel();
    let w = terms.needed;
    let tell = move |outcome| drop(told.send(outcome));
    // In the request's span: its log lines carry the request's id.
    node.operations.spawn(run(node.clone(), write, terms, tell).in_current_span());
    // The task tells before it ends, whatever happens; if it was cut off, nobody knows.
    answer.await.unwrap_or_else(|_| coordinator::unknown(w).into())
}

/// `terms` are those of this node: they say whom to ask and what the client is told if nobody answers. The
/// coordinator takes its own.
async fn run(node: Arc<Node>, write: Write, terms: Terms, tell: impl FnOnce(WriteOutcome) + Send) {
    let (w, me) = (terms.needed, node.me);
    let found = match start(&node, &write, &terms) {
        (route, Some(Effect::Mint(_))) => Found::Here(route),
        // Boxed because every write would keep room for it.
        (route, effect) => {
            Box::pin(Routing::new(&node, route, effect, w).find_coordinator(&write)).await
        }
    };
    match found {
        Found::Answered(outcome) => tell(outcome),
        Found::Here(mut route) => {
            // If others were asked before and stayed silent, a failure here says nothing of them.
            let tell = move |outcome: WriteOutcome| {
                let answer = route.on_written(me, outcome.answer, w);
                let answer = answer.unwrap_or_else(|| coordinator::unknown(w));
                tell(WriteOutcome { answer, object: outcome.object });
            };
            coordinator::mint(&node, write, Some(terms), tell).await;
        }
    }
}

/// How long a coordinator may take to bring a value to others over slow links, in milliseconds.
fn on_its_way_ms(write: &Write) -> u64 {
    const PACE_BYTES_PER_MS: usize = 256;
    let bytes = write.draft.value.as_ref().map_or(0, bytes::Bytes::len);
    (bytes / PACE_BYTES_PER_MS) as u64
}

/// Whom to ask first.
fn start(node: &Node, write: &Write, terms: &Terms) -> (Route, Option<Effect>) {
    let now = node.uptime();
    let homes = terms.asked_homes(write.asked_first(node.me));
    let mut avoided = node.peers.avoided();
    // This node as well, while its store is slow and another home replica is there.
    let has_other = || homes.iter().any(|home| *home != node.me && !avoided.contains(home));
    let is_slow = node.bounds.slow_stores.load(Relaxed) > 0 && has_other();
    if is_slow {
        Arc::make_mut(&mut avoided).insert(node.me);
    }
    let timeouts = &node.config.timeouts;
    let plan = Plan {
        me: node.me,
        homes,
        sloppy: terms.sloppy,
        at_first_home: is_slow || write.meets_others(),
        accept_timeout_ms: timeouts.replica_ms,
        // The coordinator replaces silent replicas after one timeout; two more are for their answers. What is
        // large takes its time on the way to them.
        answer_timeout_ms: timeouts
            .replica_ms
            .saturating_mul(3)
            .saturating_add(on_its_way_ms(write)),
        deadline: now.plus(u64::from(write.timeout_ms)),
    };
    Route::start(plan, &avoided, now)
}

enum Found {
    Here(Route),
    Answered(WriteOutcome),
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
}

impl<'a> Routing<'a> {
    fn new(node: &'a Arc<Node>, route: Route, effect: Option<Effect>, w: u16) -> Self {
        let (reply_to, mailbox) = ReplyTo::new();
        Self { node, operation: node.ticket(), route, effect, w, reply_to, mailbox }
    }

    async fn find_coordinator(mut self, write: &Write) -> Found {
        let node = self.node;
        let _waiting = node.forwards.register(self.operation, self.reply_to.clone());
        loop {
            match self.effect.take() {
                Some(Effect::Mint(_)) => return Found::Here(self.route),
                Some(Effect::Forward { to }) => self.forward(to, write),
                Some(Effect::Fail(unrouted)) => return Found::Answered(failed(self.w, unrouted)),
                None => {}
            }
            if let Some(outcome) = self.step().await {
                return Found::Answered(outcome);
            }
        }
    }

    fn forward(&self, to: NodeId, write: &Write) {
        let payload = write.draft.value.clone().unwrap_or_default();
        // A little less than what is left, so that the coordinator's own "no quorum" arrives in
        // time: it knows what was stored, this node would only know that nobody answered.
        let left_ms = self.route.deadline().since(self.node.uptime());
        let left_ms = left_ms - (left_ms / 10).min(50);
        let write = Box::new(Write { timeout_ms: left_ms as u32, ..write.clone() });
        let message = Message::Forward { operation: self.operation, write };
        self.node.peers.send(to, message, payload, self.reply_to.clone());
    }

    /// Waits for the next thing to happen. Returns the answer when there is one.
    async fn step(&mut self) -> Option<WriteOutcome> {
        let wake = self.node.instant(self.route.next_wake().unwrap_or(self.node.uptime()));
        let heard = tokio::select! {
            heard = self.mailbox.recv() => heard,
            () = tokio::time::sleep_until(wake) => None,
        };
        let now = self.node.uptime();
        self.effect = match heard {
            Some((from, PeerEvent::Written(told))) => {
                let object = Object::decode(told.payload).ok();
                let answer = self.route.on_written(from, told.head, self.w)?;
                return Some(WriteOutcome { answer, object });
            }
            Some((from, PeerEvent::Reply(WithPayload { head: Reply::Accepted, .. }))) => {
                self.route.on_accepted(from, now);
                None
            }
            Some((from, PeerEvent::Reply(_) | PeerEvent::NotSent)) => {
                self.route.on_refused(from, now)
            }
            Some((from, PeerEvent::Progress)) => {
                self.route.on_progress(from, now);
                None
            }
            Some((from, PeerEvent::Silent)) => self.route.on_silent(from, now),
            None => self.route.on_time(now),
        };
        None
    }
}

/// Nobody is known to have minted: unless somebody was silent, certainly nobody has.
fn failed(required: u16, unrouted: Unrouted) -> WriteOutcome {
    let silent = !unrouted.silent.is_empty();
    let outcome = if silent { Outcome::Unknown } else { Outcome::NotApplied };
    let Unrouted { refused, silent } = unrouted;
    let acks = Acks { refused, silent, ..Acks::default() };
    WriteAnswer::NoQuorum { required, acks, outcome }.into()
}
