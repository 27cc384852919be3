//! One simulated node: its disk, its clock, its place in the cluster, and how messages are
//! dispatched within it.
//!
//! It is as thin as possible: what a node *decides* is in `quorate-protocol`; this is the plumbing
//! that the real node has in `src`. Its work as a replica is in `replica.rs`, as an entry node in
//! `entry.rs`, its background work in `jobs.rs`.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_protocol::handshake::Versions;
use quorate_protocol::layout::Partition;
use quorate_protocol::message::head::Head;
use quorate_protocol::message::{
    Cluster, ClusterReply, Data, DataReply, Message, Query, Refusal, Repair, RepairReply, Reply,
    WithPayload,
};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::reassign::Pass;
use quorate_protocol::row::{Incarnation, Tenure};
use quorate_protocol::skew::Skew;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::tree::Tree;
use quorate_protocol::wire;

use crate::aside::HoldingsCheck;
use crate::buckets::Buckets;
use crate::entry::Operations;
use crate::fill::FillOperation;
use crate::replica::{Waiter, reading};
use crate::starts::{Generation, Starts};
use crate::store::{Slot, Store};
use crate::world::{Envelope, World};

/// How long a node that could not be reached is suspected, in milliseconds.
const SUSPICION_MS: u64 = 300;

/// A node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    /// Counts starts: what belongs to an earlier life is void.
    pub(crate) life: u64,
    pub(crate) incarnation: Incarnation,
    pub(crate) up: bool,
    /// Until when it is paused (SIGSTOP).
    pub(crate) paused_until: Uptime,
    /// Whether it has another disk than before, and no peer has judged its start yet.
    pub(crate) is_unverified: bool,
    /// When it last crashed or was paused.
    pub(crate) disturbed_at: Uptime,
    /// How far its wall clock is ahead, in milliseconds.
    pub(crate) clock_ahead_ms: i64,
    /// What its peers' clocks say about that.
    pub(crate) skew: Skew,
    pub(crate) store: Store,
    /// What its disk holds apart from the rows.
    pub(crate) records: Records,
    pub(crate) generation: Generation,
    /// The fill in progress, if something is missing.
    pub(crate) filling: Option<FillOperation>,
    /// What it has merged and may have fully received.
    pub(crate) holdings_check: HoldingsCheck,
    /// The pass over its rows that is in progress, and the last row scanned.
    pub(crate) passing: Option<(Pass, Option<Slot>)>,
    /// Since when it has dropped nothing that it held for others, by partition and by its uptime;
    /// without an entry, since it started.
    pub(crate) quiet_since: BTreeMap<Partition, Uptime>,
    pub(crate) started_at: Uptime,
    pub(crate) operations: Operations,
    /// Requests in flight.
    pub(crate) pending: BTreeMap<u64, Pending>,
    suspects: BTreeMap<NodeId, Uptime>,
    /// Acknowledgements that wait for a sync, by the change they wait for.
    pub(crate) waiting: Vec<(u64, Waiter)>,
    pub(crate) syncing: bool,
    /// Tenures of dropped hint rows; only a mutation uses them.
    pub(crate) dropped_tenures: BTreeMap<Slot, Tenure>,
}

/// Records apart from the rows, each durable before any other node learns of it.
#[derive(Clone, Default)]
pub(crate) struct Records {
    /// The number of the node's last start, and what it remembers of its peers' starts.
    pub(crate) starts: Starts,
    /// Partitions that it has not fully received.
    pub(crate) missing: BTreeSet<Partition>,
    /// Whether it started without rows of its own and has not received everything since.
    pub(crate) came_empty: bool,
    /// Rows and hints that were set aside.
    pub(crate) aside: BTreeMap<Slot, Object>,
    pub(crate) buckets: Buckets,
}

/// Which operation a peer's answer is for.
pub(crate) enum Pending {
    /// The PUT machine, from this node.
    Put { operation: u64, node: NodeId },
    /// The GET machine, from this node.
    Get { operation: u64, node: NodeId },
    /// The machine that looks for a coordinator, from this node.
    Forward { operation: u64, node: NodeId },
    /// The handoff of a hint row that held this object.
    Handoff { slot: Slot, sent: Object },
    /// An exchange of a Merkle tree.
    Exchange { operation: u64 },
    /// Trees whose roots were sent and that may now need an exchange.
    Roots { peer: NodeId, trees: Vec<Tree> },
    /// A page of a fill.
    Fetch { question: u64 },
    /// A peer's verdict on this node's start.
    Hello { peer: NodeId, asked_at: Uptime },
    /// What a peer holds of partitions that were merged with it.
    Holdings { question: u64, peer: NodeId },
    /// A peer's bucket table.
    Buckets,
    /// A round of the reaper, from this node.
    Confirm { operation: u64, node: NodeId },
    /// A home replica's answer about a row that this node no longer owns, as it was when sent.
    HandOver { key: Key, node: NodeId, version: Version },
}

impl Node {
    pub(crate) fn new(id: NodeId, incarnation: Incarnation, world: &World) -> Self {
        Self {
            id,
            life: 1,
            incarnation,
            up: true,
            paused_until: Uptime(0),
            is_unverified: false,
            disturbed_at: Uptime(0),
            clock_ahead_ms: 0,
            skew: Skew::default(),
            store: Store::new(world.mutation),
            records: Records::new(world),
            generation: Generation::default(),
            filling: None,
            holdings_check: HoldingsCheck::default(),
            passing: None,
            quiet_since: BTreeMap::new(),
            started_at: world.now,
            operations: Operations::default(),
            pending: BTreeMap::new(),
            suspects: BTreeMap::new(),
            waiting: Vec::new(),
            syncing: false,
            dropped_tenures: BTreeMap::new(),
        }
    }

    /// Its wall clock: the cluster's, if its machine's is clearly wrong.
    pub(crate) fn wall(&self, now: Uptime) -> WallTime {
        let correction_ms = self.skew.correction_ms();
        WallTime(self.machine_clock(now).0.saturating_add_signed(correction_ms))
    }

    /// Its machine's clock, uncorrected.
    pub(crate) fn machine_clock(&self, now: Uptime) -> WallTime {
        WallTime(now.0.saturating_add_signed(self.clock_ahead_ms))
    }

    /// The nodes that it suspects of being down.
    pub(crate) fn down(&self, now: Uptime) -> BTreeSet<NodeId> {
        self.suspects.iter().filter(|(_, until)| now < **until).map(|(node, _)| *node).collect()
    }

    /// It suspects a node of being down, rightly or not.
    pub(crate) fn suspect(&mut self, node: NodeId, now: Uptime) {
        self.suspects.insert(node, now.plus(SUSPICION_MS));
    }

    /// Sends a request whose answer goes to `pending`.
    pub(crate) fn request(
        &mut self,
        to: NodeId,
        message: &Message,
        payload: &[u8],
        pending: Pending,
        world: &mut World,
    ) {
        let request = world.send((self.id, self.life), to, message, payload);
        self.pending.insert(request, pending);
    }

    /// A frame arrived: a peer's request, or the answer to one of ours.
    pub(crate) fn on_frame(&mut self, envelope: Envelope, world: &mut World) {
        let Envelope { from, request, is_reply, frame, .. } = envelope;
        self.suspects.remove(&from);
        if is_reply {
            for reply in self.open(from, frame, world) {
                self.on_reply(from, request, reply, world);
            }
        } else {
            for message in self.open(from, frame, world) {
                self.on_message(from, request, message, world);
            }
        }
    }

    fn open<T: Head>(&self, from: NodeId, frame: Bytes, world: &World) -> Vec<WithPayload<T>> {
        let mine = world.header(self.id, from);
        let (header, messages) = match wire::decode(frame, Versions::ALL) {
            Ok(opened) => opened,
            Err(error) => unreachable!("the simulated network damages nothing: {error}"),
        };
        let known = |node| world.setup.layout.contains(node);
        if let Err(error) = header.check(&mine, &[mine.token], known) {
            unreachable!("all nodes are of one cluster: {error}");
        }
        messages
    }

    fn on_message(
        &mut self,
        from: NodeId,
        request: u64,
        message: WithPayload<Message>,
        world: &mut World,
    ) {
        let WithPayload { head, payload } = message;
        let back = (from, request);
        match head {
            Message::Unknown(tag) => unreachable!("all nodes are of one release: {tag}"),
            Message::Data(Data::Store { key, role, read_at }) => {
                self.on_store(back, (&key, role, read_at), payload, world);
            }
            Message::Data(Data::Read { key, what, place, bytes_max: _ }) => {
                self.on_read(back, &key, what, place, world);
            }
            Message::Data(Data::Forward { operation, write }) => {
                world.note(format_args!("{from} -> {} forward {}", self.id, write.key));
                if !self.is_admitted() || self.store.has_failed() {
                    let refused = Reply::Refused(Refusal::Failed);
                    return world.reply(self.id, back, &refused, &[]);
                }
                world.reply(self.id, back, &Reply::Data(DataReply::Accepted), &[]);
                self.on_forwarded(from, operation, *write, payload, world);
            }
            Message::Data(Data::Written { operation, answer }) => {
                world.reply(self.id, back, &Reply::Data(DataReply::Accepted), &[]);
                self.on_written(from, operation, answer, payload, world);
            }
            Message::Repair(Repair::Roots { roots }) => self.on_roots(back, &roots, world),
            Message::Repair(Repair::Leaves { tree, to_fill }) => {
                self.on_leaves(back, (tree, to_fill), &payload, world);
            }
            Message::Repair(Repair::List { tree, leaves, after, to_fill }) => {
                self.on_list(back, (tree, to_fill), leaves, after.as_ref(), world);
            }
            Message::Repair(Repair::Versions { keys }) => self.on_versions(back, &keys, world),
            Message::Repair(Repair::Fetch { rows, after }) => {
                self.on_fetch(back, rows, after.as_ref(), world)
            }
            Message::Cluster(Cluster::Hello { status }) => self.on_hello(back, &status, world),
            Message::Cluster(Cluster::Buckets { table, want_all }) => {
                self.on_buckets(back, &table, want_all, world);
            }
            Message::Repair(Repair::Confirm { tombstones }) => {
                self.on_confirm(back, &tombstones, world);
            }
            Message::Repair(Repair::Reap { tombstones }) => {
                let rows = self.reap(&tombstones, world);
                world.reply(self.id, back, &Reply::Repair(RepairReply::Reaped { rows }), &[]);
            }
            Message::Query(Query::Inspect { key }) => self.on_inspect(back, &key, world),
            Message::Query(Query::Conflicts { .. })
            | Message::Cluster(Cluster::Form { .. })
            | Message::Repair(Repair::Room)
            | Message::Repair(Repair::Deliver { .. })
            | Message::Repair(Repair::Distrusted { .. })
            | Message::Data(Data::Explained { .. })
            | Message::Repair(Repair::SyncPoint)
            | Message::Repair(Repair::Undelivered { .. })
            | Message::Query(Query::Keys { .. }) => {
                world.reply(self.id, back, &Reply::Refused(Refusal::Malformed), &[]);
            }
        }
    }

    /// A peer answered.
    fn on_reply(
        &mut self,
        from: NodeId,
        request: u64,
        reply: WithPayload<Reply>,
        world: &mut World,
    ) {
        let Some(pending) = self.pending.remove(&request) else { return };
        match pending {
            Pending::Put { operation, node } if reply.head == Reply::Data(DataReply::Stored) => {
                self.on_put_acked(operation, node, world);
            }
            Pending::Put { operation, node } => self.on_put_refused(operation, node, world),
            Pending::Get { operation, node } => {
                self.on_get_reply(operation, node, reading(reply), world);
            }
            Pending::Forward { operation, node }
                if reply.head == Reply::Data(DataReply::Accepted) =>
            {
                self.on_forward_accepted(operation, node, world);
            }
            Pending::Forward { operation, node } => {
                self.on_forward_refused(operation, node, world);
            }
            Pending::Handoff { slot, sent } => {
                if reply.head == Reply::Data(DataReply::Stored) {
                    world.note(format_args!("{from} holds {}'s hint of {}", self.id, slot.key));
                    self.drop_hint(&slot, &sent, world);
                }
            }
            Pending::Exchange { operation } => self.on_exchange_reply(operation, reply, world),
            Pending::Roots { peer, trees } => {
                if let Reply::Repair(RepairReply::Differing { trees: places }) = reply.head {
                    self.on_differing(peer, &trees, &places, world);
                }
            }
            Pending::Fetch { question } => self.on_fetched(question, reply, world),
            Pending::Hello { peer, asked_at } => {
                self.on_judged(peer, asked_at, &reply.head, world);
            }
            Pending::Holdings { question, peer } => {
                self.on_holdings(question, peer, Some(&reply.head), world);
            }
            Pending::Buckets => {
                if let Reply::Cluster(ClusterReply::Buckets { table }) = reply.head {
                    self.merge_buckets(&table, world);
                }
            }
            Pending::Confirm { operation, node } => {
                self.on_confirmed(operation, node, &reply.head, world);
            }
            Pending::HandOver { key, node, version } => {
                let is_stored = reply.head == Reply::Data(DataReply::Stored);
                self.on_handed_over(&key, (node, version), is_stored, world);
            }
        }
    }

    /// A request will get no answer.
    pub(crate) fn on_unreachable(&mut self, request: u64, world: &mut World) {
        let Some(pending) = self.pending.remove(&request) else { return };
        match pending {
            Pending::Put { operation, node } => {
                self.suspect(node, world.now);
                self.on_put_silent(operation, node, world);
            }
            Pending::Get { operation, node } => {
                self.suspect(node, world.now);
                self.on_get_silent(operation, node, world);
            }
            Pending::Forward { operation, node } => {
                self.suspect(node, world.now);
                self.on_forward_silent(operation, node, world);
            }
            Pending::Exchange { operation } => self.abort_exchange(operation, world),
            Pending::HandOver { key, .. } => self.abort_hand_over(&key),
            Pending::Holdings { question, peer } => self.on_holdings(question, peer, None, world),
            Pending::Handoff { .. }
            | Pending::Fetch { .. }
            | Pending::Roots { .. }
            | Pending::Hello { .. }
            | Pending::Buckets
            | Pending::Confirm { .. } => {}
        }
    }

    /// The process ends; everything that was only in memory is lost.
    pub(crate) fn die(&mut self, now: Uptime) {
        self.up = false;
        self.life += 1;
        self.disturbed_at = now;
        self.paused_until = Uptime(0);
        self.operations = Operations::default();
        self.pending.clear();
        self.suspects.clear();
        self.waiting.clear();
        self.syncing = false;
        self.filling = None;
        self.holdings_check = HoldingsCheck::default();
        self.passing = None;
        self.quiet_since.clear();
        self.generation = Generation::default();
        self.skew = Skew::default();
    }
}

impl Records {
    /// Those of a node that was present when the cluster was formed.
    pub(crate) fn new(world: &World) -> Self {
        Self { buckets: Buckets::new(world), ..Self::default() }
    }
}
