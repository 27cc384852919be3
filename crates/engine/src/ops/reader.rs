//! Drives one GET: queries replicas, waits, answers, and repairs stale replicas.
//!
//! It runs in the caller's task until the answer is known; what remains (slow replicas, read
//! repair) continues in a task of its own.

mod own_row;
mod replies;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::explain::{Kind, Note};
use quorate_protocol::get::{Answer, Effect, Get, Plan, ReadKind, Reply, RowKind};
use quorate_protocol::message::{Data, Message};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::put::Role;
use quorate_protocol::terms::Terms;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_storage::Blocking;
use tokio::time::Instant;
use tracing::Instrument;

pub use self::replies::parse_reply;

use crate::cluster::moved::RESTARTS_MAX;
use crate::cluster::view::ClusterView;
use crate::limits::admission::{Charge, Overload};
use crate::limits::sizes::LARGE_BYTES;
use crate::node::Node;
use crate::ops::explain::{self, Facts, Recorder, Trace};
use crate::ops::replica;
use crate::peer::mailbox::{Mailbox, PeerEvent, ReplyTo};

/// The parameters of one read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// With which the read was admitted.
    pub view: ClusterView,
    /// Quorum and nodes to query, by that view.
    pub terms: Terms,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

/// Fewer than R replicas could answer.
#[derive(Clone, Debug)]
pub struct ReadFailure {
    /// R.
    pub required: u16,
    /// How many could.
    pub counted: u16,
    /// Nodes that refused, are not ready, or hold no hint.
    pub refused: Vec<NodeId>,
    /// Nodes that did not answer.
    pub silent: Vec<NodeId>,
    /// Set if this node had no memory for the object; no replica is to blame then.
    pub overload: Option<Overload>,
}

impl ReadFailure {
    /// No replica's answer counts.
    fn of_nobody(required: u16) -> Self {
        Self { required, counted: 0, refused: Vec::new(), silent: Vec::new(), overload: None }
    }
}

/// One GET in progress.
struct Reading {
    node: Arc<Node>,
    view: ClusterView,
    key: Key,
    get: Get,
    reply_to: ReplyTo,
    mailbox: Mailbox,
    /// Wall-clock time at the start: no replica read its object earlier.
    read_at: WallTime,
    /// Memory reserved for large objects that were requested, by sender.
    room: Vec<(NodeId, Charge)>,
    /// The reservation that failed, if the read cannot succeed without it.
    overload: Option<Overload>,
    /// Whether the answer was given.
    is_answered: bool,
    recorder: Recorder,
    /// Whether the next home replica to be asked is the hedge.
    hedges: bool,
}

/// Reads a key from R replicas. A large object stays charged against the memory limit until its
/// last value is dropped. Beside the result: the trace, if it is kept because the read was slow or has
/// failed. Begins again if the layout changes meanwhile ([`crate::cluster::moved`]).
///
/// # Errors
/// [`ReadFailure`] if fewer than R could answer in time, or this node has no room for the object.
pub async fn read(
    node: &Arc<Node>,
    key: &Key,
    mut options: ReadOptions,
    mut recorder: Recorder,
) -> (Result<Arc<Object>, ReadFailure>, Option<Arc<Trace>>) {
    let deadline = node.uptime().plus(options.timeout_ms);
    let mut restarts = 0;
    loop {
        let (view, again) = (options.view.clone(), recorder.of_part());
        let Terms { purpose, asked, .. } = options.terms;
        let required = options.terms.needed();
        let (found, trace) = read_once(node, key, options, recorder).await;
        let failed = found.is_err().then_some(deadline);
        let Some(view) = node.moved(&view, failed).await else { return (found, trace) };
        restarts += 1;
        let timeout_ms = deadline.since(node.uptime());
        match view.renewed_terms(key, purpose, &asked) {
            Ok(terms) if timeout_ms > 0 && restarts <= RESTARTS_MAX => {
                options = ReadOptions { view, terms, timeout_ms };
                recorder = again;
            }
            Ok(_) | Err(_) => return (Err(ReadFailure::of_nobody(required)), trace),
        }
    }
}

/// One try, in one epoch.
async fn read_once(
    node: &Arc<Node>,
    key: &Key,
    options: ReadOptions,
    mut recorder: Recorder,
) -> (Result<Arc<Object>, ReadFailure>, Option<Arc<Trace>>) {
    let (reply_to, mailbox) = ReplyTo::new();
    let read_at = node.now();
    let facts = Facts::of_read(&options.terms, options.timeout_ms);
    let began = Instant::now();
    recorder.begin(began);
    let now = node.uptime_at(began);
    let ReadOptions { view, terms, timeout_ms } = options;
    let plan = plan(node, terms, now.plus(timeout_ms));
    let (get, effects) = Get::start(plan, &node.peers.avoided(), now);
    let mut reading = Reading {
        node: node.clone(),
        view,
        key: key.clone(),
        get,
        reply_to,
        mailbox,
        read_at,
        room: Vec::new(),
        overload: None,
        is_answered: false,
        recorder,
        hedges: false,
    };
    let mut answer = reading.carry_out(effects).await;
    while answer.is_none() && reading.overload.is_none() {
        let effects = reading.step().await;
        answer = reading.carry_out(effects).await;
    }
    node.metrics.operations.read(began.elapsed(), answer.as_ref());
    if reading.get.is_hedged() {
        node.metrics.operations.hedges.add(1);
        node.hedges.spend();
    }
    if mutated(Mutation::ContextOfOwnRow)
        && let Some(Answer::Read(object)) = &mut answer
    {
        join_own_clock(node, &reading.view, key, object);
    }
    let overload = reading.overload;
    let has_failed = !matches!(answer, Some(Answer::Read(_)));
    let trace =
        explain::settle((node, &reading.view), &mut reading.recorder, key, facts, has_failed);
    if !reading.get.is_done() && overload.is_none() {
        node.operations.spawn(reading.finish().in_current_span());
    } else {
        reading.recorder.saw(Kind::Done, node.me, Note::Nothing);
    }
    let required = facts.needed;
    let result = match answer {
        Some(Answer::Read(object)) => Ok(object),
        Some(Answer::NoQuorum { counted, refused, silent }) => {
            Err(ReadFailure { required, counted, refused, silent, overload })
        }
        None => Err(ReadFailure { overload, ..ReadFailure::of_nobody(required) }),
    };
    (result, trace)
}

/// [`Mutation::ContextOfOwnRow`].
fn join_own_clock(node: &Node, view: &ClusterView, key: &Key, object: &mut Arc<Object>) {
    let (what, place) = (ReadKind::Object, RowKind::Home);
    if let Ok(kept) = replica::read_now(node, view, key, what, place, Blocking::Allowed)
        && let Ok(own) = Object::decode(kept.payload)
    {
        Arc::make_mut(object).clock.join(&own.clock);
    }
}

fn plan(node: &Node, terms: Terms, deadline: Uptime) -> Plan {
    let Terms { mut sets, fallbacks, asked, sloppy, .. } = terms;
    sets.reorder(|homes| in_order_of_asking(node, homes));
    if let Some(n) = asked.n {
        sets.narrow(n);
    }
    Plan {
        sets,
        fallbacks,
        sloppy,
        hedge_ms: hedge_ms(node),
        replica_timeout_ms: node.config.timeouts.replica_ms,
        deadline,
    }
}

/// Orders homes: this node first, then peers by round trip, nodes that are still filling last.
/// Peers of similar speed rotate, so that over time every replica is read and a stale one is found.
fn in_order_of_asking(node: &Node, homes: &mut [NodeId]) {
    if homes.len() < 2 {
        return;
    }
    let turn = (node.ticket() as usize) % homes.len();
    homes.rotate_left(turn);
    let peers = node.peers.all();
    let slowness = |home: &NodeId| match peers.get(*home) {
        None => 0, // this node
        Some(peer) if peer.health.word().is_filling() => u32::MAX,
        Some(peer) => 1 + peer.health.round_trips().p50_us().max(1).ilog2() / 2,
    };
    homes.sort_by_key(slowness); // stable: keeps the rotation among equals
}

/// The hedge delay: just above the slowest p95 round trip among peers.
fn hedge_ms(node: &Node) -> Option<u64> {
    if !node.hedges.earn() {
        return None;
    }
    let peers = node.peers.all();
    let p95_us = peers.iter().map(|peer| peer.health.round_trips().p95_us());
    p95_us.max().filter(|us| *us > 0).map(|us| (us / 1000 + 1).max(5))
}

impl Reading {
    /// Waits for the next event and returns the resulting effects.
    async fn step(&mut self) -> Vec<Effect> {
        let wake = self.get.next_wake().unwrap_or(self.node.uptime());
        let wake = self.node.instant(wake);
        tokio::select! {
            biased; // drain replies before looking at the timer
            heard = self.mailbox.recv() => match heard {
                Some((from, heard)) => self.on_heard(from, heard),
                None => self.on_time(),
            },
            () = tokio::time::sleep_until(wake) => self.on_time(),
        }
    }

    /// The uptime, which is also the time of the events to record.
    fn now(&mut self) -> Uptime {
        let at = Instant::now();
        self.recorder.at(at);
        self.node.uptime_at(at)
    }

    fn on_time(&mut self) -> Vec<Effect> {
        let now = self.now();
        let was_hedged = self.get.is_hedged();
        let effects = self.get.on_time(now);
        self.hedges = self.get.is_hedged() && !was_hedged;
        self.get.silent().for_each(|node| self.recorder.gave_up(node));
        effects
    }

    fn on_heard(&mut self, from: NodeId, heard: PeerEvent) -> Vec<Effect> {
        let now = self.now();
        match heard {
            PeerEvent::Reply(reply) => self.on_reply(from, reply, now),
            PeerEvent::NotSent => {
                self.recorder.saw(Kind::NotSent, from, Note::Nothing);
                self.get.on_reply(from, Reply::Refused, now)
            }
            PeerEvent::Progress => {
                self.get.on_progress(from, now);
                Vec::new()
            }
            PeerEvent::Silent | PeerEvent::Written(_) => {
                self.recorder.gave_up(from);
                self.get.on_silent(from, now)
            }
        }
    }

    /// Continues after the answer: waits for slow replicas and repairs stale ones.
    async fn finish(mut self) {
        while !self.get.is_done() {
            let effects = self.step().await;
            self.carry_out(effects).await;
        }
        self.recorder.saw(Kind::Done, self.node.me, Note::Nothing);
    }

    /// Executes the read's effects; returns the answer if it is among them.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Option<Answer> {
        let mut answer = None;
        let mut todo = VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            if self.overload.is_some() {
                break; // overloaded: stop here
            }
            match effect {
                Effect::Ask { to, what, place } => {
                    self.record_ask(to, what, place);
                    todo.extend(match to == self.node.me {
                        true => self.read_here(what, place),
                        false => self.ask(to, what, place),
                    });
                }
                Effect::Answer(given) => {
                    if matches!(given, Answer::Read(_)) {
                        self.recorder.saw(Kind::Quorum, self.node.me, Note::Nothing);
                    }
                    self.is_answered = true;
                    answer = Some(given);
                }
                // Boxed: it is rare, and otherwise every read's future would reserve space for it.
                Effect::Repair(behind) => Box::pin(self.repair(behind)).await,
            }
        }
        answer
    }

    fn record_ask(&mut self, to: NodeId, what: ReadKind, place: RowKind) {
        let kind = match place {
            RowKind::Hints => Kind::Fallback,
            RowKind::Home if std::mem::take(&mut self.hedges) => Kind::Hedged,
            RowKind::Home => Kind::Asked,
        };
        self.recorder.saw(kind, to, Note::Ask(what, place));
    }

    /// Queries a peer; for a large object once memory is reserved.
    fn ask(&mut self, to: NodeId, what: ReadKind, place: RowKind) -> Vec<Effect> {
        let known = if what == ReadKind::Object { self.node.bounds.sizes.of(&self.key) } else { 0 };
        if known > 0 && !self.make_room(to, known) {
            let now = self.now();
            return self.no_room_for(to, now);
        }
        self.send(to, what, place, known.max(LARGE_BYTES) as u32);
        Vec::new()
    }

    fn send(&self, to: NodeId, what: ReadKind, place: RowKind, bytes_max: u32) {
        let message = Message::Data(Data::Read { key: self.key.clone(), what, place, bytes_max });
        let by = self.recorder.context_for(to);
        self.node.peers.send_traced(to, by, message, Bytes::new(), self.reply_to.clone());
    }

    /// Sends the merged object to stale replicas, without waiting for them.
    async fn repair(&mut self, behind: Vec<NodeId>) {
        self.node.metrics.operations.read_repairs.add(behind.len() as u64);
        let object = self.get.merged();
        let note = Note::Version(object.version());
        let bytes = self.node.admission.held(object.to_bytes());
        for to in behind {
            tracing::debug!(key = %self.key, peer = %to, "read repair");
            self.recorder.saw(Kind::Repaired, to, note);
            if to == self.node.me {
                let (node, view, read_at) = (&self.node, &self.view, self.read_at);
                replica::merge(node, view, Role::Home, &self.key, object.clone(), read_at).await;
            } else {
                let message = Message::Data(Data::Store {
                    key: self.key.clone(),
                    role: Role::Home,
                    read_at: self.read_at,
                });
                self.node.peers.send(to, message, bytes.clone(), ReplyTo::nobody());
            }
        }
    }
}
