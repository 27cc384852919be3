//! Rows that a simulated node sets aside because it came back too old to be trusted, and how it
//! knows that it has received what it lacks. `repair/distrusted.rs` and
//! `repair/received.rs` in the engine.

use std::collections::{BTreeMap, BTreeSet};

use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::received::{self, Holdings, Holds, Received, covers};

use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::store::Slot;
use crate::world::{Claim, World};

/// Partitions that were merged with all other home replicas, which are asked what they hold.
#[derive(Default)]
pub(crate) struct HoldingsCheck {
    question: u64,
    merged: Vec<Partition>,
    waiting: BTreeSet<NodeId>,
    heard: BTreeMap<NodeId, Holdings>,
}

impl Node {
    /// What it holds of each partition.
    pub(crate) fn holdings(&self, world: &World) -> Holdings {
        let instead = match (self.records.came_empty, self.records.aside.is_empty()) {
            (false, _) => Holds::Rows,
            (true, false) => Holds::Aside,
            (true, true) => Holds::Nothing,
        };
        let missing: Vec<Partition> = self.records.missing.iter().copied().collect();
        Holdings::new(&missing, world.setup.layout.partitions(), instead)
    }

    /// These partitions were merged: checks whether they are fully received.
    pub(crate) fn ask_holdings(&mut self, merged: Vec<Partition>, world: &mut World) {
        let (question, me) = (world.fresh_number(), self.id);
        let peers: Vec<NodeId> = world.setup.nodes.iter().copied().filter(|p| *p != me).collect();
        let waiting = peers.iter().copied().collect();
        self.holdings_check = HoldingsCheck { question, merged, waiting, heard: BTreeMap::new() };
        for peer in peers {
            let message = Message::Cluster(Cluster::Hello { status: Box::new(self.status(world)) });
            self.request(peer, &message, &[], Pending::Holdings { question, peer }, world);
        }
    }

    /// A peer reports what it holds, or nothing.
    pub(crate) fn on_holdings(
        &mut self,
        question: u64,
        peer: NodeId,
        reply: Option<&Reply>,
        world: &mut World,
    ) {
        if self.holdings_check.question != question || !self.holdings_check.waiting.remove(&peer) {
            return;
        }
        if let Some(Reply::Cluster(ClusterReply::Status(status))) = reply {
            self.holdings_check.heard.insert(peer, status.holdings.clone());
        }
        if !self.holdings_check.waiting.is_empty() {
            return;
        }
        let HoldingsCheck { merged, heard, .. } = std::mem::take(&mut self.holdings_check);
        let mine = self.holdings(world);
        for partition in merged {
            let homes = world.setup.layout.homes(partition, self.n());
            let verdict = received::judge((self.id, &mine), partition, homes, &heard);
            if verdict == Some(Received::Yes) {
                world.note(format_args!("{} has received {partition:?}", self.id));
                self.records.missing.remove(&partition);
            }
        }
        if self.records.missing.is_empty() {
            self.records.came_empty = false;
        }
        world.claims.push(Claim::Filled { node: self.id });
    }

    /// Drops rows set aside that this node, having merged with all other home replicas, now holds
    /// or covers.
    pub(crate) fn check_aside(&mut self, world: &mut World) {
        if self.store.has_failed() {
            return;
        }
        if world.has(Mutation::AsideTakenBack) && self.records.missing.is_empty() {
            return self.take_back(|_| true, world);
        }
        let partitions = world.setup.layout.partitions();
        let (store, missing) = (&self.store, &self.records.missing);
        self.records.aside.retain(|slot, object| {
            let held = store.durable().get(&Slot::home(&slot.key));
            let is_covered = held.is_some_and(|row| covers(&row.object, object));
            missing.contains(&slot.key.partition(partitions)) || !is_covered
        });
    }

    /// An operator accepts the rows that are set aside: few or none, they are the best copy there
    /// is. Keys that were received and that the cluster does not know stay aside.
    pub(crate) fn accept_aside(&mut self, world: &mut World) {
        let partitions = world.setup.layout.partitions();
        let missing = self.records.missing.clone();
        if missing.is_empty() || self.is_unverified || self.store.has_failed() {
            return;
        }
        self.take_back(|slot| missing.contains(&slot.key.partition(partitions)), world);
        world.note(format_args!("{}'s rows are accepted", self.id));
        self.records.came_empty = false;
    }

    /// Merges some of the rows that are set aside.
    fn take_back(&mut self, which: impl Fn(&Slot) -> bool, world: &mut World) {
        let now = self.wall(world.now);
        for (slot, object) in std::mem::take(&mut self.records.aside) {
            if !which(&slot) {
                self.records.aside.insert(slot, object);
                continue;
            }
            let mut row = self.row(&slot, world);
            if row.merge(&object, now) {
                self.store.put(slot, Some(row));
            }
        }
        self.begin_sync(world);
    }
}
