//! Drives one GET: asks, waits, answers, and repairs who was behind.
//!
//! The reading runs in its caller's task until the answer is known; what is left then (slow replicas,
//! repair) goes on in a task of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use quorate_protocol::get::{Answer, Effect, Get, Plan, Reply, What, Where};
use quorate_protocol::message::{self, Message, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::put::Role;
use quorate_protocol::stamp::Millis;
use quorate_protocol::terms::Terms;
use tracing::Instrument;

use crate::mailbox::{Heard, Mailbox, ReplyTo};
use crate::node::Node;
use crate::replica;

/// What one read needs.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Its numbers and the nodes it may ask, from one snapshot of bucket and layout.
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
    /// Nodes that said no, are not ready, or hold no hint.
    pub refused: Vec<NodeId>,
    /// Nodes that said nothing.
    pub silent: Vec<NodeId>,
}

/// How many reads may be hedged: one in ten over time, so that company for slow replicas does not double
/// the load when all of them are slow because there is too much of it.
#[derive(Debug, Default)]
pub struct HedgeBudget(AtomicU64);

/// What one hedge costs, in reads.
const READS_PER_HEDGE: u64 = 10;
/// The most that can be saved up, in reads.
const READS_SAVED_MAX: u64 = 1000;

impl HedgeBudget {
    /// A read begins. Returns whether it may hedge.
    fn earn(&self) -> bool {
        let saved = self.0.load(Relaxed);
        if saved < READS_SAVED_MAX {
            self.0.fetch_add(1, Relaxed);
        }
        saved >= READS_PER_HEDGE
    }

    /// A read has hedged.
    fn spend(&self) {
        let less = |saved: u64| Some(saved.saturating_sub(READS_PER_HEDGE));
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Relaxed, Relaxed, less);
    }
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
}

/// Reads a key from R replicas.
///
/// # Errors
/// [`ReadFailure`] if fewer than R could answer in time.
pub async fn read(
    node: &Arc<Node>,
    key: &Key,
    options: ReadOptions,
) -> Result<Arc<Object>, ReadFailure> {
    let (reply_to, mailbox) = ReplyTo::new();
    let read_at = node.now();
    let required = options.terms.needed;
    let (get, effects) = Get::start(plan(node, options), &node.peers.avoided(), node.uptime());
    let mut reading =
        Reading { node: node.clone(), key: key.clone(), get, reply_to, mailbox, read_at };
    let mut answer = reading.carry_out(effects).await;
    while answer.is_none() {
        let effects = reading.step().await;
        answer = reading.carry_out(effects).await;
    }
    if reading.get.is_hedged() {
        node.hedges.spend();
    }
    if !reading.get.is_done() {
        node.operations.spawn(reading.finish().in_current_span());
    }
    match answer {
        Some(Answer::Read(object)) => Ok(object),
        Some(Answer::NoQuorum { counted, refused, silent }) => {
            Err(ReadFailure { required, counted, refused, silent })
        }
        None => unreachable!("the loop ends with an answer"),
    }
}

fn plan(node: &Node, options: ReadOptions) -> Plan {
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
        deadline: node.uptime().plus(options.timeout_ms),
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
            heard = self.mailbox.recv() => {
                let now = self.node.uptime();
                match heard {
                    Some((from, Heard::Reply(reply))) => {
                        self.get.on_reply(from, understand(reply), now)
                    }
                    Some((from, Heard::NotSent(_))) => {
                        self.get.on_reply(from, Reply::Refused, now)
                    }
                    Some((from, Heard::Silent(_) | Heard::Written(_))) => {
                        self.get.on_silent(from, now)
                    }
                    None => self.get.on_time(now),
                }
            }
            () = tokio::time::sleep_until(wake) => self.get.on_time(self.node.uptime()),
        }
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
            match effect {
                Effect::Ask { to, what, place } if to == self.node.me => {
                    let reply = understand(replica::read(&self.node, &self.key, what, place).await);
                    todo.extend(self.get.on_reply(to, reply, self.node.uptime()));
                }
                Effect::Ask { to, what, place } => self.ask(to, what, place),
                Effect::Answer(given) => answer = Some(given),
                // Boxed because it is rare: every read would keep room for it.
                Effect::Repair(behind) => Box::pin(self.repair(behind)).await,
            }
        }
        answer
    }

    fn ask(&self, to: NodeId, what: What, place: Where) {
        let message = Message::Read { key: self.key.clone(), what, place };
        self.node.peers.send(to, message, Bytes::new(), self.reply_to.clone());
    }

    /// Sends the merged object to replicas seen behind; nobody waits for them.
    async fn repair(&self, behind: Vec<NodeId>) {
        let object = self.get.merged();
        let bytes = object.to_bytes();
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
pub fn understand(reply: WithPayload<message::Reply>) -> Reply {
    match reply.head {
        message::Reply::Object => match Object::decode(reply.payload) {
            Ok(object) => Reply::Object(object),
            Err(_) => Reply::Refused,
        },
        message::Reply::Digest(version) => Reply::Digest(version),
        message::Reply::NoHint => Reply::NoHint,
        message::Reply::NotReady => Reply::NotReady,
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
        | message::Reply::Keys(_) => Reply::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_in_ten_may_hedge() {
        let budget = HedgeBudget::default();
        let mut hedged = 0;
        for _ in 0..1000 {
            if budget.earn() {
                budget.spend();
                hedged += 1;
            }
        }
        assert!((80..=100).contains(&hedged), "{hedged}");
    }
}
