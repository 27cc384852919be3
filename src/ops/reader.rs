//! Drives one GET: asks, waits, answers, and repairs who was behind.
//!
//! The reading runs in its caller's task until the answer is known; what is left then (slow replicas,
//! repair) goes on in a task of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::get::{Answer, Effect, Get, Plan, Reply, What, Where};
use quorate_protocol::message::{self, Message, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::put::Role;
use quorate_protocol::stamp::Millis;
use quorate_protocol::terms::Terms;
use quorate_storage::{Blocking, Error};
use tracing::Instrument;

use crate::limits::admission::{Charge, Overload};
use crate::limits::sizes::{IN_PLACE_BYTES_MAX, LARGE_BYTES};
use crate::node::Node;
use crate::ops::replica;
use crate::peer::mailbox::{Mailbox, PeerEvent, ReplyTo};

/// What one read needs.
#[derive(Clone, Debug)]
pub(crate) struct ReadOptions {
    /// Its numbers and the nodes it may ask, from one snapshot of bucket and layout.
    pub(crate) terms: Terms,
    /// How long it may take, in milliseconds.
    pub(crate) timeout_ms: u64,
}

/// Fewer than R replicas could answer.
#[derive(Clone, Debug)]
pub(crate) struct ReadFailure {
    /// R.
    pub(crate) required: u16,
    /// How many could.
    pub(crate) counted: u16,
    /// Nodes that said no, are not ready, or hold no hint.
    pub(crate) refused: Vec<NodeId>,
    /// Nodes that said nothing.
    pub(crate) silent: Vec<NodeId>,
    /// Set if this node has no room for the object, and nobody failed.
    pub(crate) overload: Option<Overload>,
}

/// One GET under way.
struct Reading {
    node: Arc<Node>,
    key: Key,
    get: Get,
    reply_to: ReplyTo,
    mailbox: Mailbox,
    /// When it began, by the wall clock: no replica read its object earlier.
    read_at: Millis,
    /// Room for large objects that were asked for, by who sends them.
    room: Vec<(NodeId, Charge)>,
    /// There was no room for one, and without it there is no answer.
    overload: Option<Overload>,
    /// The answer was given.
    is_answered: bool,
}

/// Reads a key from R replicas. A large object stays charged until its last value is dropped.
///
/// # Errors
/// [`ReadFailure`] if fewer than R could answer in time, or this node has no room for the object.
pub(crate) async fn read(
    node: &Arc<Node>,
    key: &Key,
    options: ReadOptions,
) -> Result<Arc<Object>, ReadFailure> {
    let (reply_to, mailbox) = ReplyTo::new();
    let read_at = node.now();
    let required = options.terms.needed;
    let now = node.uptime();
    let (get, effects) = Get::start(plan(node, options, now), &node.peers.avoided(), now);
    let mut reading = Reading {
        node: node.clone(),
        key: key.clone(),
        get,
        reply_to,
        mailbox,
        read_at,
        room: Vec::new(),
        overload: None,
        is_answered: false,
    };
    let mut answer = reading.carry_out(effects).await;
    while answer.is_none() && reading.overload.is_none() {
        let effects = reading.step().await;
        answer = reading.carry_out(effects).await;
    }
    if reading.get.is_hedged() {
        node.hedges.spend();
    }
    let overload = reading.overload;
    if !reading.get.is_done() && overload.is_none() {
        node.operations.spawn(reading.finish().in_current_span());
    }
    match answer {
        Some(Answer::Read(object)) => Ok(object),
        Some(Answer::NoQuorum { counted, refused, silent }) => {
            Err(ReadFailure { required, counted, refused, silent, overload })
        }
        None => {
            let (refused, silent) = (Vec::new(), Vec::new());
            Err(ReadFailure { required, counted: 0, refused, silent, overload })
        }
    }
}

fn plan(node: &Node, options: ReadOptions, now: Millis) -> Plan {
    let Terms { mut homes, fallbacks, n, needed, sloppy, .. } = options.terms;
    in_order_of_asking(node, &mut homes);
    homes.truncate(usize::from(n));
    Plan {
        homes,
        fallbacks,
        needed,
        sloppy,
        hedge_ms: hedge_ms(node),
        replica_timeout_ms: node.config.timeouts.replica_ms,
        deadline: now.plus(options.timeout_ms),
    }
}

/// This node first, then the others by how fast they answer, last who is still being filled; those of like
/// speed take turns, so that a stale replica is found by whoever reads.
fn in_order_of_asking(node: &Node, homes: &mut [NodeId]) {
    if homes.len() < 2 {
        return;
    }
    let turn = (node.ticket() as usize) % homes.len();
    homes.rotate_left(turn);
    let slowness = |home: &NodeId| match node.peers.health(*home) {
        None => 0, // this node
        Some(health) if health.word().is_filling() => u32::MAX,
        Some(health) => 1 + health.p50_us().max(1).ilog2() / 2,
    };
    homes.sort_by_key(slowness); // stable: keeps the turn among equals
}

/// Company for a slow replica after about the 95th percentile of round trips.
fn hedge_ms(node: &Node) -> Option<u64> {
    if !node.hedges.earn() {
        return None;
    }
    let p95_us = node.peers.nodes().filter_map(|peer| node.peers.health(peer)).map(|h| h.p95_us());
    p95_us.max().filter(|us| *us > 0).map(|us| (us / 1000 + 1).max(5))
}

impl Reading {
    /// Waits for the next thing to happen; what is to be done then.
    async fn step(&mut self) -> Vec<Effect> {
        let wake = self.get.next_wake().unwrap_or(self.node.uptime());
        let wake = self.node.instant(wake);
        tokio::select! {
            biased; // no timer for what is here already
            heard = self.mailbox.recv() => {
                let now = self.node.uptime();
                match heard {
                    Some((from, PeerEvent::Reply(reply))) => self.on_reply(from, reply, now),
                    Some((from, PeerEvent::NotSent)) => {
                        self.get.on_reply(from, Reply::Refused, now)
                    }
                    Some((from, PeerEvent::Progress)) => {
                        self.get.on_progress(from, now);
                        Vec::new()
                    }
                    Some((from, PeerEvent::Silent | PeerEvent::Written(_))) => {
                        self.get.on_silent(from, now)
                    }
                    None => self.get.on_time(now),
                }
            }
            () = tokio::time::sleep_until(wake) => self.get.on_time(self.node.uptime()),
        }
    }

    fn on_reply(
        &mut self,
        from: NodeId,
        mut reply: WithPayload<message::Reply>,
        now: Millis,
    ) -> Vec<Effect> {
        if let message::Reply::Large { bytes } = reply.head {
            let Some(place) = self.get.place_of(from) else { return Vec::new() };
            self.node.bounds.sizes.saw(&self.key, bytes as usize);
            if !self.make_room(from, bytes as usize) {
                return self.get.on_reply(from, Reply::Refused, now);
            }
            self.get.on_progress(from, now);
            if from == self.node.me {
                return self.read_own(What::Object, place);
            }
            self.send(from, What::Object, place, bytes);
            return Vec::new();
        }
        if matches!(reply.head, message::Reply::Object) && !self.charge(from, &mut reply.payload) {
            return self.get.on_reply(from, Reply::Refused, now);
        }
        self.get.on_reply(from, parse_reply(reply), now)
    }

    /// Makes room for a large object before a node is asked for it. Whether there is any.
    fn make_room(&mut self, from: NodeId, bytes: usize) -> bool {
        match self.node.admission.charge(bytes) {
            Ok(charge) => {
                self.room.push((from, charge));
                true
            }
            Err(overload) => {
                // If there is room for another replica's, this one was to hedge it or to be repaired.
                let is_needed = self.room.is_empty() && !self.is_answered;
                self.overload = is_needed.then_some(overload);
                false
            }
        }
    }

    /// Ties an object that has come to the room that was made for it. Whether there was any.
    fn charge(&mut self, from: NodeId, payload: &mut Bytes) -> bool {
        let made = self.room.iter().position(|(node, _)| *node == from);
        let mut charge = made.map(|at| self.room.swap_remove(at).1);
        if payload.len() <= LARGE_BYTES {
            return true;
        }
        self.node.bounds.sizes.saw(&self.key, payload.len());
        if charge.is_none() {
            // This one is here, so it takes what was made for another.
            charge = self.room.pop().map(|(_, charge)| charge);
        }
        if charge.is_none() && self.make_room(from, payload.len()) {
            charge = self.room.pop().map(|(_, charge)| charge);
        }
        let Some(mut charge) = charge else { return false };
        if charge.grow_to(payload.len()).is_err() {
            return false;
        }
        charge.shrink_to(payload.len());
        *payload = charge.hold(std::mem::take(payload));
        true
    }

    /// Goes on after the answer: slow replicas and repair.
    async fn finish(mut self) {
        while !self.get.is_done() {
            let effects = self.step().await;
            self.carry_out(effects).await;
        }
    }

    /// Does what the read decided; the answer, if that is among it.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> Option<Answer> {
        let mut answer = None;
        let mut todo = VecDeque::from(effects);
        while let Some(effect) = todo.pop_front() {
            if self.overload.is_some() {
                break; // the node has too much to do: no more of this
            }
            match effect {
                Effect::Ask { to, what, place } if to == self.node.me => {
                    todo.extend(self.read_here(what, place));
                }
                Effect::Ask { to, what, place } => todo.extend(self.ask(to, what, place)),
                Effect::Answer(given) => {
                    self.is_answered = true;
                    answer = Some(given);
                }
                // Boxed because it is rare: every read would keep room for it.
                Effect::Repair(behind) => Box::pin(self.repair(behind)).await,
            }
        }
        answer
    }

    /// Asks a node: for a large object once there is room for it.
    fn ask(&mut self, to: NodeId, what: What, place: Where) -> Vec<Effect> {
        let known = if what == What::Object { self.node.bounds.sizes.of(&self.key) } else { 0 };
        if known > 0 && !self.make_room(to, known) {
            return self.get.on_reply(to, Reply::Refused, self.node.uptime());
        }
        self.send(to, what, place, known.max(LARGE_BYTES) as u32);
        Vec::new()
    }

    fn send(&self, to: NodeId, what: What, place: Where, bytes_max: u32) {
        let message = Message::Read { key: self.key.clone(), what, place, bytes_max };
        self.node.peers.send(to, message, Bytes::new(), self.reply_to.clone());
    }

    /// Reads this node's own replica: in place if that need not wait, else beside all else that is asked, so
    /// that a slow disk is hedged and given up as any slow replica.
    fn read_here(&mut self, what: What, place: Where) -> Vec<Effect> {
        let me = self.node.me;
        let known = if what == What::Object { self.node.bounds.sizes.of(&self.key) } else { 0 };
        if known > 0 && !self.make_room(me, known) {
            return self.get.on_reply(me, Reply::Refused, self.node.uptime());
        }
        self.read_own(what, place)
    }

    /// The same, once there is room for it.
    fn read_own(&mut self, what: What, place: Where) -> Vec<Effect> {
        let me = self.node.me;
        if what == What::Object && self.node.bounds.sizes.of(&self.key) > IN_PLACE_BYTES_MAX {
            self.read_aside(what, place); // even in memory it would keep this thread for too long
            return Vec::new();
        }
        match replica::read_now(&self.node, &self.key, what, place, Blocking::Never) {
            Ok(reply) => self.on_reply(me, reply, self.node.uptime()),
            Err(Error::WouldBlock) => {
                self.read_aside(what, place);
                Vec::new()
            }
            Err(error) => {
                let refused = message::Reply::Refused(replica::refusal_of(&error));
                self.on_reply(me, WithPayload::bare(refused), self.node.uptime())
            }
        }
    }

    /// As [`Reading::read_here`] on a thread that may block; the mailbox hears the answer.
    fn read_aside(&self, what: What, place: Where) {
        let (node, key) = (self.node.clone(), self.key.clone());
        let reply_to = self.reply_to.clone();
        self.node.operations.spawn(async move {
            let was_known = node.bounds.sizes.of(&key) > 0;
            let _turn = node.bounds.cold_reads.turn(&node.bounds.sizes, &key).await;
            let known = node.bounds.sizes.of(&key);
            if what == What::Object && !was_known && known > 0 {
                // Somebody else has found it to be large meanwhile: room comes first.
                let large = message::Reply::Large { bytes: known as u32 };
                return reply_to.tell(node.me, PeerEvent::Reply(WithPayload::bare(large)));
            }
            let _large = node.bounds.turn_if(known > IN_PLACE_BYTES_MAX).await;
            let reading_key = key.clone();
            let reading = move |node: &Node| {
                replica::read_now(node, &reading_key, what, place, Blocking::Allowed)
            };
            let read = replica::on_blocking_pool(&node, reading).await;
            if let (What::Object, Ok(reply)) = (what, &read) {
                node.bounds.cold_reads.saw(reply.payload.len());
                node.bounds.sizes.saw(&key, reply.payload.len());
            }
            let refused =
                |error| WithPayload::bare(message::Reply::Refused(replica::refusal_of(&error)));
            reply_to.tell(node.me, PeerEvent::Reply(read.unwrap_or_else(refused)));
        });
    }

    /// Sends the merged object to replicas seen behind; nobody waits for them.
    async fn repair(&self, behind: Vec<NodeId>) {
        let object = self.get.merged();
        let bytes = self.node.admission.held(object.to_bytes());
        for to in behind {
            tracing::debug!(key = %self.key, peer = %to, "read repair");
            if to == self.node.me {
                replica::merge(&self.node, Role::Home, &self.key, object.clone(), self.read_at)
                    .await;
            } else {
                let message = Message::Store {
                    key: self.key.clone(),
                    role: Role::Home,
                    read_at: self.read_at,
                };
                self.node.peers.send(to, message, bytes.clone(), ReplyTo::nobody());
            }
        }
    }
}

/// What a replica's reply means to a read.
pub(crate) fn parse_reply(reply: WithPayload<message::Reply>) -> Reply {
    match reply.head {
        message::Reply::Object => match Object::decode(reply.payload) {
            Ok(object) => Reply::Object(object),
            Err(_) => Reply::Refused,
        },
        message::Reply::Digest(version) => Reply::Digest(version),
        message::Reply::NoHint => Reply::NoHint,
        message::Reply::NotFilled => Reply::NotFilled,
        message::Reply::Refused(_)
        | message::Reply::Stored
        | message::Reply::Accepted
        | message::Reply::Inspection { .. }
        | message::Reply::Conflicts { .. }
        | message::Reply::Status(_)
        | message::Reply::Buckets { .. }
        | message::Reply::Rows { .. }
        | message::Reply::Behind(_)
        | message::Reply::Differing { .. }
        | message::Reply::Leaves { .. }
        | message::Reply::Page(_)
        | message::Reply::Versions { .. }
        | message::Reply::Confirmed { .. }
        | message::Reply::Reaped { .. }
        | message::Reply::Room { .. }
        | message::Reply::SyncPoint { .. }
        | message::Reply::Undelivered { .. }
        | message::Reply::Delivered { .. }
        | message::Reply::Distrusted(_)
        | message::Reply::Large { .. }
        | message::Reply::Keys(_) => Reply::Refused,
    }
}
