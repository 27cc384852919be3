//! Faults and their repair: crashes, pauses, partitions, clocks, disks, operators.

use std::collections::BTreeSet;

use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::row::Incarnation;

use crate::cluster::Cluster;
use crate::mutations::Mutation;
use crate::node::{Node, Records};
use crate::setup::Setup;
use crate::store::{Backup, Store};
use crate::world::{Event, Fault};

/// A copy of a node's disk, with all its records.
pub(crate) struct DiskCopy {
    backup: Backup,
    records: Records,
    incarnation: Incarnation,
}

impl Cluster {
    /// A fault begins or ends.
    pub(crate) fn on_fault(&mut self, fault: &Fault) {
        match fault {
            Fault::Restart(node) => self.restart(*node),
            Fault::Restore(node) => self.restore(*node),
            Fault::Reopen(node) => self.reopen(*node),
            Fault::ChangeN(node, n) => self.change_n(*node, *n),
            Fault::Next => {
                self.draw_fault();
                let mean_ms = self.world.setup.faults.every_ms;
                let delay_ms = self.world.dice.between(1, 2 * mean_ms);
                self.world.schedule(delay_ms, Event::Fault(Fault::Next));
            }
        }
    }

    fn draw_fault(&mut self) {
        let weights = self.world.setup.faults.weights;
        let total: u64 = weights.iter().sum();
        if total == 0 {
            return;
        }
        let mut roll = self.world.dice.between(0, total - 1);
        let kind = weights.iter().position(|weight| {
            let hit = roll < *weight;
            roll = roll.saturating_sub(*weight);
            hit
        });
        let node = *self.world.dice.pick(&self.world.setup.nodes.clone());
        match kind {
            Some(0) => self.crash_some(node),
            Some(1) => self.stop(node),
            Some(2) => self.pause(node),
            Some(3) => self.partition(),
            Some(4) => self.jump_clock(node),
            Some(5) => self.lose_disk(node),
            Some(6) => self.fail_sync(node),
            Some(7) => self.suspect_wrongly(node),
            Some(8) => self.copy(node),
            Some(_) | None => self.change_n_for_a_while(node),
        }
    }

    /// An operator changes the bucket's n, often back again while rows are still being moved.
    fn change_n_for_a_while(&mut self, id: NodeId) {
        let (low, high) = (self.world.setup.n_min, self.world.setup.n_max);
        let n = self.world.dice.between(low.into(), high.into()) as u16;
        let before = self.nodes.get(&id).map_or(n, Node::n);
        if n != before && self.world.dice.percent(50) {
            let delay_ms = self.world.dice.between(1, 2 * self.world.setup.jobs_every_ms);
            self.world.schedule(delay_ms, Event::Fault(Fault::ChangeN(id, before)));
        }
        self.change_n(id, n);
    }

    fn outage_ms(&mut self, at_least_ms: u64) -> u64 {
        let mut longest_ms = self.world.setup.faults.outage_ms_max;
        // Most are short, so that there is quiet between those that outlast a grace.
        if self.world.setup.reaps() && self.world.dice.percent(50) {
            longest_ms = longest_ms.min(self.world.setup.grace_ms / 4);
        }
        self.world.dice.between(at_least_ms, longest_ms.max(at_least_ms))
    }

    /// One node loses power, now and then several or all at once.
    fn crash_some(&mut self, node: NodeId) {
        let roll = self.world.dice.between(0, 9);
        for other in self.world.setup.nodes.clone() {
            let also = roll == 0 || (roll < 3 && self.world.dice.percent(30));
            if other == node || also {
                self.crash(other);
            }
        }
    }

    fn crash(&mut self, id: NodeId) {
        if self.nodes.get(&id).is_some_and(|node| node.up) {
            self.end(id);
            self.restart_later(id, 10);
        }
    }

    /// The process ends; changes that were not durable are lost.
    fn end(&mut self, id: NodeId) {
        let node = &mut self.nodes.get_mut(&id).filter(|node| node.up);
        let Some(node) = node else { return };
        let lost = node.store.crash(&mut self.world.dice);
        node.records.starts.crash(&mut self.world);
        self.world.note(format_args!("{id} crashes and forgets {lost} changes"));
        node.die(self.world.now);
        if !self.world.has(Mutation::ActorSurvivesCrash) {
            node.incarnation = Incarnation(self.world.dice.nonzero());
        }
    }

    /// A sync fails: no write that waits for it is acknowledged, and writes stop. Reads continue
    /// until the disk works again and the process is replaced by a fresh one, which opens the store
    /// with what is on the disk under a new incarnation (docs/design.md, "Durability";
    /// `background/reopen.rs`).
    fn fail_sync(&mut self, id: NodeId) {
        let is_sound = |node: &&mut crate::node::Node| node.up && !node.store.has_failed();
        let Some(node) = self.nodes.get_mut(&id).filter(is_sound) else { return };
        self.world.note(format_args!("{id}'s sync fails"));
        node.store.fail();
        node.refuse_all_waiting(&mut self.world);
        let delay_ms = self.outage_ms(10);
        self.world.schedule(delay_ms, Event::Fault(Fault::Reopen(id)));
    }

    fn reopen(&mut self, id: NodeId) {
        let has_failed = |node: &&mut crate::node::Node| node.up && node.store.has_failed();
        if self.nodes.get_mut(&id).filter(has_failed).is_some() {
            self.end(id);
            self.restart(id);
        }
    }

    /// A clean stop: everything is synced, and the incarnation is kept.
    fn stop(&mut self, id: NodeId) {
        if self.nodes.get(&id).is_some_and(|node| node.store.has_failed()) {
            return self.crash(id); // there is no clean stop of a store that failed
        }
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        self.world.note(format_args!("{id} stops cleanly"));
        node.store.sync(node.store.written());
        node.die(self.world.now);
        self.restart_later(id, 10);
    }

    fn restart_later(&mut self, id: NodeId, at_least_ms: u64) {
        let delay_ms = self.outage_ms(at_least_ms);
        self.world.schedule(delay_ms, Event::Fault(Fault::Restart(id)));
    }

    fn restart(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.up) {
            node.start(&mut self.world);
        }
    }

    fn pause(&mut self, id: NodeId) {
        let pause_ms = self.outage_ms(10);
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        let until = self.world.now.plus(pause_ms);
        self.world.note(format_args!("{id} is paused until {}", until.0));
        node.paused_until = until;
        node.disturbed_at = until;
    }

    /// Cuts some nodes off from the others, in one direction or both.
    fn partition(&mut self) {
        let nodes = self.world.setup.nodes.clone();
        let until = self.world.now.plus(self.outage_ms(30));
        let (there, back) = *self.world.dice.pick(&[(true, true), (true, false), (false, true)]);
        let key = self.world.dice.pick(&self.world.setup.keys.clone()).clone();
        let (_, fallbacks) = self.world.setup.preference_list(&key, self.world.setup.n);
        let fallbacks = fallbacks.to_vec();
        let dice = &mut self.world.dice;
        if dice.percent(45) {
            return self.cut_off_hints(&key);
        }
        // Often just between home replicas and fallbacks, where hints are made.
        let (side, others): (BTreeSet<NodeId>, BTreeSet<NodeId>) = match dice.between(0, 9) {
            0..=5 => nodes.iter().partition(|node| fallbacks.contains(node)),
            _ => nodes.iter().partition(|_| dice.percent(35)),
        };
        for near in &side {
            for far in &others {
                if there {
                    self.world.network.cut(*near, *far, until);
                }
                if back {
                    self.world.network.cut(*far, *near, until);
                }
            }
        }
        self.world.note(format_args!(
            "cut {side:?} from {others:?} out={there} in={back} until {}",
            until.0
        ));
    }

    /// A home replica is cut off, and hints are made for it; then only the links that its hints
    /// need stay cut.
    fn cut_off_hints(&mut self, key: &Key) {
        let Setup { n, faults, .. } = self.world.setup;
        let first_ms = self.world.dice.between(30, faults.outage_ms_max / 4);
        let then_ms = self.world.dice.between(first_ms, 3 * faults.outage_ms_max);
        let [first, until] = [first_ms, then_ms].map(|ms| self.world.now.plus(ms));
        let (homes, fallbacks) = self.world.setup.preference_list(key, n);
        let (one, homes, fallbacks) = (*self.world.dice.pick(homes), homes.to_vec(), fallbacks);
        fallbacks.iter().for_each(|near| self.world.network.cut(*near, one, until));
        homes.iter().for_each(|near| self.world.network.cut(*near, one, first));
        let (first, until) = (first.0, until.0);
        self.world.note(format_args!("{one} is cut off until {first}, from hints until {until}"));
    }

    fn jump_clock(&mut self, id: NodeId) {
        let wild = self.world.dice.percent(15);
        let longest_ms = match self.world.setup.grace_ms {
            // Working clocks: no two differ, and none jumps, by more than an eighth of the grace.
            grace_ms if self.world.setup.reaps() => grace_ms / 16,
            _ if wild => *self.world.dice.pick(&[120_000, 7_200_000]),
            _ => 20_000,
        };
        let ahead_ms = self.world.dice.between(0, longest_ms) as i64;
        let ahead_ms = if self.world.dice.percent(50) { ahead_ms } else { -ahead_ms };
        self.world.note(format_args!("{id}'s clock is {ahead_ms} ms ahead"));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.clock_ahead_ms = ahead_ms;
        }
    }

    /// Whether a node may lose its data. Only one node at a time, until it is filled, and only if
    /// everything it holds is durable elsewhere: otherwise all W holders of an acknowledged write
    /// might lose it before repair is done, and losing it would be legitimate (promise 1).
    fn may_lose(&self, id: NodeId) -> bool {
        let is_whole = |node: &Node| {
            let Records { missing, buckets, .. } = &node.records;
            missing.is_empty() && buckets.raised_from().is_none() && !node.is_unverified
        };
        let Some(node) = self.nodes.get(&id).filter(|node| node.up) else { return false };
        let is_elsewhere = |(slot, row): (&crate::store::Slot, &quorate_protocol::row::Row)| {
            row.object.siblings.iter().all(|sibling| {
                // A node that came back with another disk may have to drop what it holds.
                let others = self.nodes.values().filter(|o| o.id != id && !o.is_unverified);
                let mut rows = others.flat_map(|other| other.store.durable());
                rows.any(|(s, r)| s.key == slot.key && r.object.clock.covers(sibling.dot))
            })
        };
        self.nodes.values().all(is_whole) && node.store.durable().iter().all(is_elsewhere)
    }

    /// A node comes back with an empty disk.
    fn lose_disk(&mut self, first: NodeId) {
        let candidates = self.all_from(first);
        let Some(id) = candidates.into_iter().find(|id| self.may_lose(*id)) else { return };
        self.world.note(format_args!("{id} loses its disk"));
        self.lose_rows(id);
        let records = Records::new(&self.world);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.store = Store::new(self.world.mutation);
        node.records = Records { came_empty: true, ..records };
        node.miss_everything(&self.world);
        self.come_back_changed(id);
    }

    /// All nodes, starting with this one.
    fn all_from(&self, first: NodeId) -> Vec<NodeId> {
        let mut nodes = self.world.setup.nodes.clone();
        nodes.sort_by_key(|node| *node != first);
        nodes
    }

    fn lose_rows(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        for row in node.store.durable().values() {
            self.world.gives_up(id, &row.object);
        }
        let moment = self.world.moment();
        self.world.oracle.history.lost_disk(moment);
    }

    fn come_back_changed(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.incarnation = Incarnation(self.world.dice.nonzero());
        node.is_unverified = true;
        node.die(self.world.now);
        // A disk is not replaced while a request is waiting.
        self.restart_later(id, self.world.setup.request_timeout_ms + 100);
    }

    /// Whether a copy of the node's disk is old enough for all its peers to notice.
    fn may_restore(&self, id: NodeId) -> bool {
        let Some(copy) = self.copies.get(&id) else { return false };
        let (starts, sequence) = (&copy.records.starts, copy.backup.sequence());
        let mut peers = self.nodes.values().filter(|peer| peer.id != id);
        peers.all(|peer| peer.would_notice(id, starts, sequence)) && self.may_lose(id)
    }

    /// An operator copies a node's disk, and later restarts the node with the copy.
    fn copy(&mut self, id: NodeId) {
        if self.copies.contains_key(&id) {
            return;
        }
        let Some(node) = self.nodes.get(&id) else { return };
        let (backup, records) = (node.store.backup(), node.records.clone());
        let incarnation = node.incarnation;
        self.world.note(format_args!("{id}'s disk is copied"));
        self.copies.insert(id, DiskCopy { backup, records, incarnation });
        self.restore_later(id);
    }

    fn restore_later(&mut self, id: NodeId) {
        let longest_ms = self.world.setup.faults.outage_ms_max;
        let delay_ms = self.world.dice.between(50, longest_ms);
        self.world.schedule(delay_ms, Event::Fault(Fault::Restore(id)));
    }

    /// A node comes back with a copy of its disk: an old backup, or a clone that takes over the
    /// name. Only if all its peers remember enough to notice.
    fn restore(&mut self, id: NodeId) {
        if !self.may_restore(id) {
            return self.restore_later(id);
        }
        let Some(copy) = self.copies.remove(&id) else { return };
        self.world.note(format_args!("{id} comes back with a copy of its disk"));
        self.lose_rows(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.store.restore(copy.backup);
        node.records = copy.records;
        self.come_back_changed(id);
        if self.world.has(Mutation::CloneKeepsIncarnation)
            && let Some(node) = self.nodes.get_mut(&id)
        {
            node.incarnation = copy.incarnation;
        }
    }

    /// A client changes the bucket's n.
    fn change_n(&mut self, id: NodeId, n: u16) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        if self.world.now >= node.paused_until && n != node.n() {
            self.world.note(format_args!("{id} is told n={n}"));
            node.set_n(n, &mut self.world);
        }
    }

    /// A node suspects another one, or all, of being down.
    fn suspect_wrongly(&mut self, id: NodeId) {
        let now = self.world.now;
        let all = self.world.setup.nodes.clone();
        let other = *self.world.dice.pick(&all);
        let suspects = if self.world.dice.percent(50) { all } else { vec![other] };
        self.world.note(format_args!("{id} suspects {suspects:?}"));
        if let Some(node) = self.nodes.get_mut(&id) {
            suspects.iter().filter(|other| **other != id).for_each(|o| node.suspect(*o, now));
        }
    }

    /// Ends all faults: links work, all nodes run, clocks are right, disks are fast.
    pub(crate) fn heal(&mut self) {
        self.world.note(format_args!("all faults end"));
        self.world.setup.sync_ms_max = 2;
        self.world.network.heal();
        for id in self.world.setup.nodes.clone() {
            self.reopen(id);
            self.restart(id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.paused_until = self.world.now;
                node.clock_ahead_ms = 0;
            }
        }
    }
}
