//! What surrounds the nodes: virtual time, randomness, the network, and the oracle's view.
//!
//! A node acts on the world by scheduling events and by sending frames. The oracle learns through
//! the world what happened, including what no client can see: dots, contexts, durable copies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use quorate_protocol::clock::Dot;
use quorate_protocol::context::{ContextKeys, peer_token};
use quorate_protocol::handshake::PROTOCOL_MAX;
use quorate_protocol::layout::Partition;
use quorate_protocol::message::head::Head;
use quorate_protocol::message::{Data, Message, Reply, Write};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Sibling, WriteId};
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::time::Uptime;
use quorate_protocol::wire::{FrameWriter, Header};

use crate::client::Response;
use crate::dice::Dice;
use crate::mutations::Mutation;
use crate::network::{Fate, Network};
use crate::setup::Setup;
use crate::trace::Trace;
use crate::values::{sight, write_of};
use quorate_oracle::history::{Moment, WriteNo};
use quorate_oracle::{Oracle, Verdict, Violation};

const CLUSTER_ID: &str = "simulated";
const SECRET: [u8; 32] = [42; 32];

/// A scheduled event.
pub(crate) enum Event {
    /// A frame reaches a node.
    Arrives { to: NodeId, envelope: Envelope },
    /// A node learns that one of its requests will not be answered.
    Unreachable { node: NodeId, life: u64, request: u64 },
    /// A timer of an operation fires.
    Wake { node: NodeId, life: u64, operation: u64 },
    /// A node's sync that began after this change of its store ends.
    Synced { node: NodeId, life: u64, upto: u64 },
    /// A client makes its next request.
    ClientActs { client: usize },
    /// A client's request reaches its entry node.
    ClientAsks { to: NodeId, request: Box<Request> },
    /// A client receives an answer.
    ClientHears { client: usize, number: u64, response: Box<Response> },
    /// A client times out.
    ClientGivesUp { client: usize, number: u64 },
    /// A fault begins or ends.
    Fault(Fault),
    /// A node runs some of its background jobs.
    Jobs { node: NodeId },
}

/// A change of the environment.
pub(crate) enum Fault {
    /// The next fault is drawn.
    Next,
    /// A node starts again.
    Restart(NodeId),
    /// A node comes back with a copy of its disk.
    Restore(NodeId),
    /// A node whose store failed is replaced by a fresh process.
    Reopen(NodeId),
    /// The bucket's n is changed to this.
    ChangeN(NodeId, u16),
}

/// A frame in flight.
#[derive(Clone)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    /// The sender's life in which it was sent.
    pub(crate) life: u64,
    /// Matches a reply to its request.
    pub(crate) request: u64,
    pub(crate) is_reply: bool,
    pub(crate) frame: Bytes,
}

/// A client's request to its entry node.
pub(crate) struct Request {
    pub(crate) client: usize,
    /// Unique in the run.
    pub(crate) number: u64,
    pub(crate) key: Key,
    pub(crate) begun: Moment,
    pub(crate) body: Body,
}

/// The part specific to the kind of request.
pub(crate) enum Body {
    /// GET.
    Read { asked: QuorumOptions, timeout_ms: u64 },
    /// PUT or DELETE, and the value.
    Write(Box<Write>, Option<Bytes>),
}

/// What an answer claims about copies, compared with the disks at once.
pub(crate) enum Claim {
    /// This many nodes hold the write durably.
    Acked { key: Key, write: WriteNo, w: u16, acks: u16, strict: bool },
    /// Some node holds the write.
    Partial { key: Key, write: WriteNo },
    /// No node holds anything that this tombstone supersedes.
    Reaped { key: Key, tombstone: Object },
    /// These home replicas hold what a node drops; the node is not one of them.
    Dropped { node: NodeId, key: Key, object: Object, homes: Vec<NodeId> },
    /// A node starts to fill what it is missing.
    Fills { node: NodeId },
    /// It considers that filled now.
    Filled { node: NodeId },
    /// A node starts to compare a partition with a peer in order to fill.
    FillBegins { operation: u64, node: NodeId, from: NodeId, partition: Partition },
    /// The comparison ended; whether the node has everything that the peer held.
    FillEnds { operation: u64, has_all: bool },
}

/// Something that a node held for others and dropped.
pub(crate) struct Drop {
    pub(crate) at: Uptime,
    pub(crate) node: NodeId,
    pub(crate) key: Key,
    pub(crate) object: Object,
}

/// The world of one run.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) now: Uptime,
    pub(crate) dice: Dice,
    pub(crate) network: Network,
    pub(crate) oracle: Oracle,
    pub(crate) keys: ContextKeys,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) trace: Trace,
    /// The first broken promise.
    pub(crate) violation: Option<Violation>,
    /// Writes that a node held durably and rightly gave up: handed off, or lost with its disk.
    pub(crate) gave_up: BTreeMap<NodeId, BTreeSet<WriteNo>>,
    /// What nodes held for others and dropped, as far as the reaper cares: within the last grace.
    pub(crate) drops: Vec<Drop>,
    /// What every frame carries to prove that its sender belongs to this cluster.
    token: [u8; 16],
    /// Claims made by the current event.
    pub(crate) claims: Vec<Claim>,
    /// The answers that the auditor received after healing.
    pub(crate) audit: Vec<Response>,
    queue: BTreeMap<(Uptime, u64), Event>,
    numbers: u64,
    /// Counts events; the oracle's clock.
    steps: u64,
}

impl World {
    pub(crate) fn new(setup: Setup, dice: Dice, mutation: Option<Mutation>, trace: Trace) -> Self {
        Self {
            oracle: Oracle::new(setup.n_max),
            setup,
            // Not zero: a clock may be set back.
            now: Uptime(1_000_000),
            dice,
            network: Network::default(),
            keys: ContextKeys::new(CLUSTER_ID, &[SECRET]),
            mutation,
            trace,
            violation: None,
            gave_up: BTreeMap::new(),
            drops: Vec::new(),
            token: peer_token(&SECRET),
            claims: Vec::new(),
            audit: Vec::new(),
            queue: BTreeMap::new(),
            numbers: 0,
            steps: 0,
        }
    }

    /// Whether this mutation is switched on.
    pub(crate) fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// A number that is unique in the run.
    pub(crate) fn fresh_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Records one event.
    pub(crate) fn note(&mut self, event: fmt::Arguments) {
        self.trace.note(self.now, event);
    }

    /// Schedules an event in `delay_ms`.
    pub(crate) fn schedule(&mut self, delay_ms: u64, event: Event) {
        let order = self.fresh_number();
        self.queue.insert((self.now.plus(delay_ms), order), event);
    }

    /// Advances time to the next event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        self.steps += 1;
        Some(event)
    }

    /// The oracle's time.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.steps)
    }

    /// Records a verdict; the first broken promise ends the run.
    pub(crate) fn judge(&mut self, verdict: Verdict) {
        if let Err(violation) = verdict
            && self.violation.is_none()
        {
            self.note(format_args!("VIOLATION {violation}"));
            self.violation = Some(violation);
        }
    }

    /// Sends a request to a peer. Returns its number.
    pub(crate) fn send(
        &mut self,
        (from, life): (NodeId, u64),
        to: NodeId,
        head: &Message,
        payload: &[u8],
    ) -> u64 {
        let request = self.fresh_number();
        let frame = self.frame(from, to, head, payload);
        // The transport does not duplicate a client's write: its retries are tested separately.
        let twice = !matches!(head, Message::Data(Data::Forward { .. }));
        let envelope = Envelope { from, life, request, is_reply: false, frame };
        if !self.post(to, envelope, twice) && self.dice.percent(50) {
            let delay_ms = self.dice.between(1, 20);
            self.schedule(delay_ms, Event::Unreachable { node: from, life, request });
        }
        request
    }

    /// Sends a reply.
    pub(crate) fn reply(
        &mut self,
        from: NodeId,
        (to, request): (NodeId, u64),
        head: &Reply,
        payload: &[u8],
    ) {
        let frame = self.frame(from, to, head, payload);
        self.post(to, Envelope { from, life: 0, request, is_reply: true, frame }, true);
    }

    /// The header of a node's frames.
    pub(crate) fn header(&self, from: NodeId, to: NodeId) -> Header {
        Header {
            cluster_id: CLUSTER_ID.to_owned(),
            token: self.token,
            from,
            to,
            layout_version: self.setup.layout.version(),
            layout_hash: self.setup.layout.hash(),
            partitions: self.setup.layout.partitions(),
            default_n: self.setup.n,
        }
    }

    fn frame<T: Head>(&self, from: NodeId, to: NodeId, head: &T, payload: &[u8]) -> Bytes {
        let mut frame = FrameWriter::new(PROTOCOL_MAX, &self.header(from, to));
        frame.push(head, payload);
        frame.finish()
    }

    /// Hands a frame to the network. Returns whether its link was up.
    fn post(&mut self, to: NodeId, envelope: Envelope, twice: bool) -> bool {
        let link = (envelope.from, to);
        let faults = self.setup.faults;
        match self.network.fate(&mut self.dice, &faults, link, self.now, twice) {
            Fate::Arrives(delays) => {
                for delay_ms in delays {
                    self.schedule(delay_ms, Event::Arrives { to, envelope: envelope.clone() });
                }
                true
            }
            Fate::Lost => {
                self.note(format_args!("{} x {to} #{} lost", link.0, envelope.request));
                true
            }
            Fate::Cut => {
                self.note(format_args!("{} | {to} #{} cut", link.0, envelope.request));
                false
            }
        }
    }

    /// A node minted a write, having seen these siblings for it.
    pub(crate) fn minted(&mut self, write_id: WriteId, dot: Dot, seen: &[Sibling]) {
        let seen = seen.iter().map(|s| sight(s).write).collect();
        let verdict = self.oracle.minted(write_of(write_id), dot, seen);
        self.judge(verdict);
    }

    /// Whether an object holds a write: itself, or one that saw it.
    pub(crate) fn holds(&self, object: &Object, write: WriteNo) -> bool {
        let present = object.siblings.iter().map(|s| sight(s).write).collect();
        self.oracle.history.is_in(write, &present)
    }

    /// A node drops what it held for others: a hint, or a row that it does not own.
    pub(crate) fn dropped(&mut self, node: NodeId, key: &Key, object: &Object) {
        self.gives_up(node, object);
        if self.setup.reaps() {
            let (now, grace_ms) = (self.now, self.setup.grace_ms);
            self.drops.retain(|drop| now.since(drop.at) < grace_ms);
            self.drops.push(Drop { at: now, node, key: key.clone(), object: object.clone() });
        }
    }

    /// A node gives up a row that it held durably: its copies still count as having existed.
    pub(crate) fn gives_up(&mut self, node: NodeId, object: &Object) {
        let writes = object.siblings.iter().map(|s| sight(s).write);
        self.gave_up.entry(node).or_default().extend(writes);
    }
}
