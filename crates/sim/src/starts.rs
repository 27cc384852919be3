//! Starts of a simulated node: it tells its peers, they judge, and one that came back behind starts
//! over. It drives `protocol::standing` as `src/standing.rs` of the real node does.

use std::collections::BTreeMap;

use quorate_protocol::message::{Message, Reply, Status};
use quorate_protocol::name::NodeId;
use quorate_protocol::stamp::Millis;
use quorate_protocol::standing::{Remembered, Start, Verdict, judge, may_keep_rows};

use crate::node::{Node, Pending};
use crate::plants::Plant;
use crate::store::Store;
use crate::world::{Event, Fault, World};

/// What a node records about starts.
#[derive(Clone, Default)]
pub(crate) struct Starts {
    /// The number of its own last one.
    number: u64,
    /// The number of the last one that filled. Sequence numbers from before are another disk's.
    filled_at: u64,
    /// That it must start over, and how.
    over: Option<StartOver>,
    /// The starts of its peers.
    pub(crate) remembered: BTreeMap<NodeId, Remembered>,
}

#[derive(Clone, Copy)]
struct StartOver {
    number: u64,
    keeps_rows: bool,
}

/// What a node knows of its present start.
#[derive(Default)]
pub(crate) struct Standing {
    start: Start,
    /// Whether its rows are young enough to be kept if it is behind.
    keeps_rows: bool,
    /// Whether a peer found nothing wrong with it.
    is_judged: bool,
}

impl Node {
    /// The process starts: its start is recorded, and told to everybody.
    pub(crate) fn start(&mut self, world: &mut World) {
        self.up = true;
        self.started_at = world.now;
        self.disturbed_at = world.now;
        let starts = &mut self.records.starts;
        let over = starts.over.take();
        starts.number = over.map_or(starts.number + 1, |over| over.number.max(starts.number + 1));
        let number = starts.number;
        let (alive_at, now) = (self.store.alive_at(), self.wall(world.now));
        // A disk without the record is new: it holds nothing old.
        let keeps_rows =
            alive_at == Millis(0) || may_keep_rows(alive_at, now, world.setup.grace_ms);
        if let Some(over) = over {
            self.miss_everything(world);
            if !over.keeps_rows {
                world.note(format_args!("{} discards its rows", self.id));
                self.store.durable().values().for_each(|row| world.gives_up(self.id, &row.object));
                self.store.discard_rows();
            }
        }
        let opened_at = self.store.written();
        let fills = over.is_some() || self.is_missing_all(world);
        if fills {
            self.records.starts.filled_at = number;
        }
        let nonce = world.dice.nonzero();
        let filled_at = self.records.starts.filled_at;
        let start = Start { number, nonce, opened_at, durable_at: opened_at, filled_at };
        self.standing = Standing { start, keeps_rows, is_judged: false };
        self.store.mark_alive(self.wall(world.now));
        world.note(format_args!("{} starts: {start:?} {:?}", self.id, self.incarnation));
        self.greet_all(world);
    }

    fn is_missing_all(&self, world: &World) -> bool {
        let all = || world.setup.partitions();
        all().all(|partition| self.records.missing.contains(&partition))
    }

    /// It is to be filled as if its disk were new.
    pub(crate) fn miss_everything(&mut self, world: &World) {
        if !world.has(Plant::DiskLossReadyAtOnce) {
            self.records.missing = world.setup.partitions().collect();
        }
    }

    /// Whether this node may tell others what its rows hold, and take writes that it could lose by
    /// starting over: not if its rows may be an old backup's, until a peer has said that it is not
    /// behind.
    pub(crate) fn is_cleared(&self) -> bool {
        self.standing.keeps_rows || self.standing.start.fills() || self.standing.is_judged
    }

    /// Whether a peer has said that this node goes on where it stopped.
    pub(crate) fn is_judged(&self) -> bool {
        self.standing.is_judged
    }

    pub(crate) fn greet_all(&mut self, world: &mut World) {
        let me = self.id;
        for peer in world.setup.nodes.clone().into_iter().filter(|peer| *peer != me) {
            self.greet(peer, world);
        }
    }

    /// Tells a peer about this start.
    pub(crate) fn greet(&mut self, peer: NodeId, world: &mut World) {
        let message = Message::Hello { status: self.status(world) };
        self.request(peer, &message, &[], Pending::Hello { peer }, world);
    }

    fn status(&self, world: &World) -> Status {
        Status {
            formation: None,
            ready: self.records.missing.is_empty(),
            writable: true,
            buckets_hash: self.records.buckets.hash(),
            release: String::new(),
            start: Start { durable_at: durable_at(&self.store, world), ..self.standing.start },
            grace_ms: world.setup.grace_ms,
            remembers_since: Millis(0),
        }
    }

    /// A peer tells of its start.
    pub(crate) fn on_hello(&mut self, back: (NodeId, u64), status: &Status, world: &mut World) {
        let remembered = &mut self.records.starts.remembered;
        let known = remembered.get(&back.0).copied();
        let reply = match judge(known, status.start) {
            Verdict::GoesOn(next) => {
                remembered.insert(back.0, next);
                Reply::Status(self.status(world))
            }
            Verdict::Behind(known) => Reply::Behind(known),
        };
        world.reply(self.id, back, &reply, &[]);
    }

    /// A peer says what it makes of this node's start.
    pub(crate) fn on_judged(&mut self, peer: NodeId, reply: &Reply, world: &mut World) {
        if let Reply::Behind(known) = reply {
            self.fall_behind(*known, world);
        } else if let Reply::Status(status) = reply {
            self.standing.is_judged = true;
            self.is_on_trial = false;
            if status.buckets_hash != self.records.buckets.hash() {
                self.agree_on_buckets(peer, world);
            }
        }
    }

    /// A peer remembers more of this node than it brings: it starts over.
    fn fall_behind(&mut self, known: Remembered, world: &mut World) {
        let Standing { start, keeps_rows, .. } = self.standing;
        if world.has(Plant::BehindIgnored) {
            self.standing.is_judged = true;
            return;
        }
        if known.number < start.number && start.fills() {
            return; // an answer to what this node said before it started over
        }
        let number = known.number.max(start.number) + 1;
        world.note(format_args!("{} is behind {known:?} and starts over", self.id));
        self.records.starts.over = Some(StartOver { number, keeps_rows });
        self.store.sync(self.store.written());
        self.die(world.now);
        world.schedule(1, Event::Fault(Fault::Restart(self.id)));
    }

    /// Whether a peer remembers more of a node than a copy of its disk would bring.
    pub(crate) fn would_notice(&self, node: NodeId, copy: &Starts, sequence: u64) -> bool {
        let start = Start {
            number: copy.number + 1,
            opened_at: sequence,
            durable_at: sequence,
            ..Start::default()
        };
        let known = self.records.starts.remembered.get(&node).copied();
        matches!(judge(known, start), Verdict::Behind(_))
    }
}

/// How far the disk is durable as configured.
fn durable_at(store: &Store, world: &World) -> u64 {
    if world.setup.fsync { store.durable_at() } else { store.written() }
}
