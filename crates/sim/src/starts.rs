//! Starts of a simulated node: it announces its start, its peers judge it, and a node that came
//! back behind starts over. It drives `protocol::generation` as `cluster/generation.rs` does in the
//! real node.

use std::collections::BTreeMap;

use quorate_protocol::cluster_settings::ClusterSettings;
use quorate_protocol::generation::{Remembered, Start, Verdict, judge, may_keep_rows};
use quorate_protocol::message::{Cluster, ClusterReply, Message, Refusal, Reply, Status};
use quorate_protocol::name::NodeId;
use quorate_protocol::row::Incarnation;
use quorate_protocol::time::{Uptime, WallTime};

use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::world::{Event, Fault, World};

/// What a node records about starts.
#[derive(Clone, Default)]
pub(crate) struct Starts {
    /// The number of its own last start.
    number: u64,
    /// The number of the last start that filled. Earlier sequence numbers belong to another disk.
    filled_at: u64,
    /// Whether it must start over, and how.
    over: Option<StartOver>,
    /// The starts of its peers.
    remembered: BTreeMap<NodeId, Remembered>,
    /// What of that is on disk.
    recorded: BTreeMap<NodeId, Remembered>,
    /// When all of it was last recorded.
    recorded_at: Uptime,
    /// Since when, by its wall clock, it has remembered them without a gap.
    remembers_since: WallTime,
}

#[derive(Clone, Copy)]
struct StartOver {
    number: u64,
    keeps_rows: bool,
}

/// What a node knows about its current start.
#[derive(Default)]
pub(crate) struct Generation {
    start: Start,
    /// When it last ran before this start, by its own clock; `None` on a new disk.
    alive_at: Option<WallTime>,
    /// Whether its rows are recent enough to be kept if it is behind.
    keeps_rows: bool,
    /// Whether it takes part in the cluster.
    is_admitted: bool,
    /// Starts of peers, by nonce, that continue an earlier one that this node remembers.
    attested: BTreeMap<NodeId, u64>,
}

impl Starts {
    /// A peer's start is recorded when first heard of; how far it was durable, periodically.
    fn remember(&mut self, peer: NodeId, next: Remembered) {
        let known = self.remembered.insert(peer, next);
        if known.is_none_or(|known| (known.number, known.nonce) != (next.number, next.nonce)) {
            self.recorded.insert(peer, next);
        }
    }

    /// Records what it remembers, if that is due.
    fn record(&mut self, world: &World) {
        if world.now.since(self.recorded_at) >= world.setup.remember_ms() {
            self.recorded = self.remembered.clone();
            self.recorded_at = world.now;
        }
    }

    /// Power fails: some of what was not recorded is lost.
    pub(crate) fn crash(&mut self, world: &mut World) {
        self.record(world);
        for (peer, known) in &mut self.remembered {
            let recorded = self.recorded.get(peer).map_or(0, |recorded| recorded.durable_at);
            known.durable_at = if world.has(Mutation::PeersForgotten) {
                0
            } else {
                world.dice.between(recorded.min(known.durable_at), known.durable_at)
            };
        }
    }
}

impl Node {
    /// The process starts: its start is recorded and announced to all peers.
    pub(crate) fn start(&mut self, world: &mut World) {
        self.up = true;
        self.started_at = world.now;
        self.disturbed_at = world.now;
        let (alive_at, now) = (self.store.alive_at(), self.wall(world.now));
        // A disk without this record is new and holds nothing old.
        let alive_at = (alive_at != WallTime(0)).then_some(alive_at);
        let keeps_rows = alive_at.is_none_or(|at| may_keep_rows(at, now, world.setup.grace_ms));
        let starts = &mut self.records.starts;
        let over = starts.over.take();
        if over.is_some() || starts.number == 0 {
            starts.remembered.clear();
            starts.recorded.clear();
            starts.remembers_since = now;
        }
        let fills = over.is_some() || starts.number == 0;
        starts.number = over.map_or(starts.number + 1, |over| over.number.max(starts.number + 1));
        let number = starts.number;
        if fills {
            starts.filled_at = number;
        }
        let filled_at = starts.filled_at;
        if let Some(over) = over {
            self.miss_everything(world);
            self.is_unverified = false;
            // It was recent when recorded, which need not hold now: this may be a copy of that
            // disk.
            if !over.keeps_rows || !keeps_rows {
                world.note(format_args!("{} sets its rows aside", self.id));
                self.store.durable().values().for_each(|row| world.gives_up(self.id, &row.object));
                let durable = self.store.durable().iter();
                let aside = durable.map(|(slot, row)| (slot.clone(), row.object.clone()));
                self.records.aside.extend(aside);
                self.store.discard_rows();
                self.records.came_empty = true;
            }
        }
        let opened_at = self.store.written();
        let nonce = world.dice.nonzero();
        let start = Start { number, nonce, opened_at, durable_at: opened_at, filled_at };
        let (is_admitted, attested) = (over.is_some(), BTreeMap::new());
        self.generation = Generation { start, alive_at, keeps_rows, is_admitted, attested };
        world.note(format_args!("{} starts: {start:?} {:?}", self.id, self.incarnation));
        self.mark_alive(world);
        self.greet_all(world);
    }

    /// It must fill as if its disk were new.
    pub(crate) fn miss_everything(&mut self, world: &World) {
        if !world.has(Mutation::DiskLossReadyAtOnce) {
            self.records.missing = world.setup.partitions().collect();
        }
    }

    /// Records that the node runs, which tells how old its rows are if they come back as a backup.
    /// Only once it is admitted: otherwise an old backup would look recent at its second start.
    pub(crate) fn mark_alive(&mut self, world: &mut World) {
        if self.is_admitted() && !self.store.has_failed() {
            self.store.mark_alive(self.wall(world.now));
            self.begin_sync(world);
        }
    }

    /// Whether this node takes part: tells others what its rows and hints hold, takes writes,
    /// confirms tombstones. Only once a peer has accepted its start: until then it might have to
    /// start over, and forget.
    pub(crate) fn is_admitted(&self) -> bool {
        self.generation.is_admitted
    }

    /// No peer could judge. After a while the node takes part without a verdict, unless its rows
    /// are old; in the simulator only with its own disk, so that only nodes that may do so.
    pub(crate) fn admit_alone(&mut self, world: &World) {
        let patience_ms = 3 * world.setup.request_timeout_ms;
        let is_patient = world.now.since(self.started_at) < patience_ms;
        if !is_patient && self.generation.keeps_rows && !self.is_unverified {
            self.generation.is_admitted = true;
        }
    }

    /// An operator declares that the node's disk is its own and that it may take part.
    pub(crate) fn admit_by_force(&mut self) {
        self.generation.is_admitted |= !self.is_unverified;
    }

    pub(crate) fn greet_all(&mut self, world: &mut World) {
        let me = self.id;
        for peer in world.setup.nodes.clone().into_iter().filter(|peer| *peer != me) {
            self.greet(peer, world);
        }
    }

    /// Announces this start to a peer.
    pub(crate) fn greet(&mut self, peer: NodeId, world: &mut World) {
        let message = Message::Cluster(Cluster::Hello { status: Box::new(self.status(world)) });
        let pending = Pending::Hello { peer, asked_at: world.now };
        self.request(peer, &message, &[], pending, world);
    }

    pub(crate) fn status(&self, world: &World) -> Status {
        Status {
            formation: None,
            ready: self.records.missing.is_empty(),
            holdings: self.holdings(world),
            writable: !self.store.has_failed(),
            buckets_hash: self.records.buckets.hash(),
            release: String::new(),
            start: Start { durable_at: self.store.durable_at(), ..self.generation.start },
            common: ClusterSettings {
                grace_ms: world.setup.grace_ms,
                ..ClusterSettings::default()
            },
            attests: false,
            clock: self.machine_clock(world.now),
            waits: false,
            frame_bytes_max: 0,
            client_addr: String::new(),
            hint_bytes: None,
            remembers_since: self.records.starts.remembers_since,
        }
    }

    /// A peer announces its start.
    pub(crate) fn on_hello(&mut self, back: (NodeId, u64), status: &Status, world: &mut World) {
        if self.store.has_failed() {
            let refused = Reply::Refused(Refusal::ReadOnly); // it could not record the start
            return world.reply(self.id, back, &refused, &[]);
        }
        let starts = &mut self.records.starts;
        starts.record(world);
        let known = starts.remembered.get(&back.0).copied();
        let reply = match judge(known, status.start, false) {
            Verdict::GoesOn(next) => {
                starts.remember(back.0, next);
                let attested = &mut self.generation.attested;
                if known.is_some_and(|known| known.number < next.number) {
                    attested.insert(back.0, next.nonce);
                }
                let attests = attested.get(&back.0) == Some(&next.nonce);
                Reply::Cluster(ClusterReply::Status(Box::new(Status {
                    attests,
                    ..self.status(world)
                })))
            }
            Verdict::Behind(known) => Reply::Cluster(ClusterReply::Behind(known)),
            Verdict::Taken => Reply::Refused(Refusal::NameTaken), // no two run at once here
        };
        world.reply(self.id, back, &reply, &[]);
    }

    /// A peer's verdict on this node's start.
    pub(crate) fn on_judged(
        &mut self,
        peer: NodeId,
        asked_at: Uptime,
        reply: &Reply,
        world: &mut World,
    ) {
        if let Reply::Cluster(ClusterReply::Behind(known)) = reply {
            self.fall_behind(*known, world);
        } else if let Reply::Cluster(ClusterReply::Status(status)) = reply {
            let mine = self.machine_clock(world.now);
            self.skew.observe(peer, status.clock, mine, world.now.since(asked_at));
            self.on_admitted_by(peer, status, world);
            if status.buckets_hash != self.records.buckets.hash() {
                self.agree_on_buckets(peer, world);
            }
        }
    }

    /// A peer, which has remembered starts since some time, accepted this start. That counts if the
    /// peer remembers an earlier start, or would have known of a later one, allowing a quarter of
    /// the grace for clocks that disagree.
    fn on_admitted_by(&mut self, peer: NodeId, status: &Status, world: &mut World) {
        let known = self.records.starts.remembered.get(&peer).copied();
        if !matches!(judge(known, status.start, false), Verdict::GoesOn(_)) {
            return; // the peer itself is behind what this node remembers
        }
        let remembers_since = status.remembers_since;
        let quarter_ms = world.setup.grace_ms / 4;
        let keeps_rows = self.generation.keeps_rows;
        let could_know = |alive_at: WallTime| {
            if keeps_rows {
                remembers_since <= alive_at.plus(quarter_ms)
            } else {
                remembers_since.plus(quarter_ms) <= alive_at
            }
        };
        let counts = status.attests || self.generation.alive_at.is_none_or(could_know);
        if counts && !self.is_admitted() {
            self.generation.is_admitted = true;
            self.is_unverified = false;
            self.mark_alive(world);
        }
    }

    /// A peer remembers more of this node than it has: it starts over.
    fn fall_behind(&mut self, known: Remembered, world: &mut World) {
        let Generation { start, keeps_rows, .. } = &self.generation;
        let (start, keeps_rows) = (*start, *keeps_rows);
        if world.has(Mutation::BehindIgnored) {
            self.generation.is_admitted = true;
            return;
        }
        if self.store.has_failed() {
            return; // it cannot be recorded; the peer repeats it at the next start
        }
        if known.number < start.number && start.fills() {
            return; // an answer to an announcement from before it started over
        }
        let number = known.number.max(start.number) + 1;
        world.note(format_args!("{} is behind {known:?} and starts over", self.id));
        if keeps_rows {
            // It took part until now: its rows are not an old copy.
            self.store.mark_alive(self.wall(world.now));
        }
        self.records.starts.over = Some(StartOver { number, keeps_rows });
        self.store.sync(self.store.written());
        if !world.has(Mutation::CloneKeepsIncarnation) {
            self.incarnation = Incarnation(world.dice.nonzero());
        }
        self.die(world.now);
        world.schedule(1, Event::Fault(Fault::Restart(self.id)));
    }

    /// Whether a peer remembers more of a node than a copy of its disk would have.
    pub(crate) fn would_notice(&self, node: NodeId, copy: &Starts, sequence: u64) -> bool {
        let start = Start {
            number: copy.number + 1,
            opened_at: sequence,
            durable_at: sequence,
            filled_at: copy.filled_at,
            ..Start::default()
        };
        let known = self.records.starts.remembered.get(&node).copied();
        matches!(judge(known, start, false), Verdict::Behind(_))
    }
}
