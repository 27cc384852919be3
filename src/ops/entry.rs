//! Drives one write at its entry node: finds a coordinator, this node or another.
//!
//! The write runs in its own task, which outlives a client that disconnects: a half-replicated
//! write must not stop there.

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

/// Executes a client's write under the `terms` it was validated against, and returns the outcome.
/// Goes on if the caller is dropped.
pub(crate) async fn write(node: &Arc<Node>, write: Write, terms: Terms) -> WriteOutcome {
    let (told, answer) = oneshot::channel();
    let w = terms.needed;
    let tell = move |outcome| drop(told.send(outcome));
    // Runs in the request's span, so that its log lines carry the request id.
    node.operations.spawn(run(node.clone(), write, terms, tell).in_current_span());
    // The task always reports before it ends; if it was aborted, the outcome is unknown.
    answer.await.unwrap_or_else(|_| coordinator::unknown(w).into())
}

/// `terms` are this node's: they decide which nodes to try and what the client is told if none
/// answers. The coordinator takes its own.
async fn run(node: Arc<Node>, write: Write, terms: Terms, tell: impl FnOnce(WriteOutcome) + Send) {
    let (w, me) = (terms.needed, node.me);
    let found = match start(&node, &write, &terms) {
        (route, Some(Effect::Mint(_))) => Found::Here(route),
        // Boxed: otherwise every write's future would reserve space for it.
        (route, effect) => {
            Box::pin(Routing::new(&node, route, effect, w).find_coordinator(&write)).await
        }
    };
    match found {
        Found::Answered(outcome) => tell(outcome),
        Found::Here(mut route) => {
            // If another node was tried before and was silent, a failure here is not conclusive.
            let tell = move |outcome: WriteOutcome| {
                let answer = route.on_written(me, outcome.answer, w);
                let answer = answer.unwrap_or_else(|| coordinator::unknown(w));
                tell(WriteOutcome { answer, object: outcome.object });
            };
            coordinator::mint(&node, write, Some(terms), tell).await;
        }
    }
}

/// Extra time that a coordinator may need to send a large value over slow links, in milliseconds.
fn on_its_way_ms(write: &Write) -> u64 {
    const PACE_BYTES_PER_MS: usize = 256;
    let bytes = write.draft.value.as_ref().map_or(0, bytes::Bytes::len);
    (bytes / PACE_BYTES_PER_MS) as u64
}

/// Chooses the first coordinator to try.
fn start(node: &Node, write: &Write, terms: &Terms) -> (Route, Option<Effect>) {
    let now = node.uptime();
    let homes = terms.asked_homes(write.preferred_home(node.me));
    let mut avoided = node.peers.avoided();
    // Avoid this node too while its store is slow and another home replica is available.
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
        at_first_home: is_slow || write.needs_first_home(),
        accept_timeout_ms: timeouts.replica_ms,
        // The coordinator replaces silent replicas after one timeout; two more leave time for the
        // replacements to answer. Large values get extra transfer time.
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
        // A little less than the time left, so that the coordinator's own "no quorum" arrives in
        // time: it knows what was stored, whereas this node would know only that no answer came.
        let left_ms = self.route.deadline().since(self.node.uptime());
        let left_ms = left_ms - (left_ms / 10).min(50);
        let write = Box::new(Write { timeout_ms: left_ms as u32, ..write.clone() });
        let message = Message::Forward { operation: self.operation, write };
        self.node.peers.send(to, message, payload, self.reply_to.clone());
    }

    /// Waits for the next event. Returns the outcome once there is one.
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

/// The answer when no coordinator is known to have minted: `unknown` if any node tried was silent,
/// else nothing was stored.
fn failed(required: u16, unrouted: Unrouted) -> WriteOutcome {
    let silent = !unrouted.silent.is_empty();
    let outcome = if silent { Outcome::Unknown } else { Outcome::NotApplied };
    let Unrouted { refused, silent } = unrouted;
    let acks = Acks { refused, silent, ..Acks::default() };
    WriteAnswer::NoQuorum { required, acks, outcome }.into()
}
