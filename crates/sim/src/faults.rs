//! What breaks, and what mends it again: crashes, pauses, partitions, clocks, disks.

use std::collections::BTreeSet;

use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::row::Incarnation;

use crate::cluster::Cluster;
use crate::plants::Plant;
use crate::store::{Slot, Store};
use crate::world::{Event, Fault};

/// The longest pause, outage or partition, in milliseconds.
const OUTAGE_MS_MAX: u64 = 900;
/// How often a node with an empty disk looks whether it can be filled, in milliseconds.
const FILL_EVERY_MS: u64 = 100;

impl Cluster {
    /// Something breaks or gets well.
    pub(crate) fn on_fault(&mut self, fault: &Fault) {
        match fault {
            Fault::Restart(node) => self.restart(*node),
            Fault::Fill(node) => self.fill(*node),
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
            Some(_) | None => self.suspect_wrongly(node),
        }
    }

    /// One node loses power, now and then two or all at once.
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
        let node = &mut self.nodes.get_mut(&id).filter(|node| node.up);
        let Some(node) = node else { return };
        let lost = node.store.crash(&mut self.world.dice);
        self.world.note(format_args!("{id} crashes and forgets {lost} changes"));
        node.die(self.world.now);
        if !self.world.has(Plant::ActorSurvivesCrash) {
            node.incarnation = Incarnation(self.world.dice.nonzero());
        }
        self.restart_later(id);
    }

    /// A sync fails: nobody who waits for it gets an acknowledgement, and the store is reopened
    /// under a new incarnation with what the disk has (section 8).
    fn fail_sync(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        self.world.note(format_args!("{id}'s sync fails"));
        node.store.crash(&mut self.world.dice);
        node.incarnation = Incarnation(self.world.dice.nonzero());
        node.refuse_all_waiting(&mut self.world);
    }

    /// A clean stop: everything is synced, and the incarnation goes on.
    fn stop(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        self.world.note(format_args!("{id} stops cleanly"));
        node.store.sync(node.store.written());
        node.die(self.world.now);
        self.restart_later(id);
    }

    fn restart_later(&mut self, id: NodeId) {
        let delay_ms = self.world.dice.between(10, OUTAGE_MS_MAX);
        self.world.schedule(delay_ms, Event::Fault(Fault::Restart(id)));
    }

    fn restart(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|node| !node.up) {
            self.world.note(format_args!("{id} starts"));
            node.up = true;
            node.disturbed_at = self.world.now;
        }
    }

    fn pause(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        let until = self.world.now.plus(self.world.dice.between(10, OUTAGE_MS_MAX));
        self.world.note(format_args!("{id} stands still until {}", until.0));
        node.paused_until = until;
        node.disturbed_at = until;
    }

    /// Cuts some nodes off from the others, in one direction or both.
    fn partition(&mut self) {
        let nodes = self.world.setup.nodes.clone();
        let until = self.world.now.plus(self.world.dice.between(30, OUTAGE_MS_MAX));
        let (there, back) = *self.world.dice.pick(&[(true, true), (true, false), (false, true)]);
        let key = self.world.dice.pick(&self.world.setup.keys.clone()).clone();
        let (_, fallbacks) = self.world.setup.preference_list(&key);
        let fallbacks = fallbacks.to_vec();
        let dice = &mut self.world.dice;
        // Often just between home replicas and fallbacks, where hints are made.
        let side: BTreeSet<NodeId> = if dice.percent(45) {
            fallbacks.into_iter().collect()
        } else {
            nodes.iter().copied().filter(|_| dice.percent(35)).collect()
        };
        let others = || nodes.iter().filter(|node| !side.contains(*node));
        for near in &side {
            for far in others() {
                if there {
                    self.world.network.cut(*near, *far, until);
                }
                if back {
                    self.world.network.cut(*far, *near, until);
                }
            }
        }
        let until = until.0;
        self.world.note(format_args!("cut {side:?} out={there} in={back} until {until}"));
    }

    fn jump_clock(&mut self, id: NodeId) {
        let wild = self.world.dice.percent(15);
        let ahead_ms = self.world.dice.between(0, if wild { 120_000 } else { 20_000 }) as i64;
        let ahead_ms = if self.world.dice.percent(50) { ahead_ms } else { -ahead_ms };
        self.world.note(format_args!("{id}'s clock is {ahead_ms} ms ahead"));
        if let Some(node) = self.nodes.get_mut(&id) {
            node.clock_ahead_ms = ahead_ms;
        }
    }

    /// A node comes back with an empty disk. Only one at a time, until it is filled: if W holders
    /// lost their disks, an acknowledged write would be lost rightly (promise 1).
    fn lose_disk(&mut self, id: NodeId) {
        if self.nodes.values().any(|node| !node.ready) {
            return;
        }
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.up) else { return };
        self.world.note(format_args!("{id} loses its disk"));
        for row in node.store.durable().values() {
            self.world.gives_up(id, &row.object);
        }
        node.store = Store::default();
        node.ready = false;
        node.incarnation = Incarnation(self.world.dice.nonzero());
        node.die(self.world.now);
        let delay_ms = self.world.dice.between(10, 200);
        self.world.schedule(delay_ms, Event::Fault(Fault::Restart(id)));
        let delay_ms = self.world.dice.between(FILL_EVERY_MS, 2 * OUTAGE_MS_MAX);
        self.world.schedule(delay_ms, Event::Fault(Fault::Fill(id)));
    }

    /// Fills a node whose disk was lost, once everybody is there to give what it holds.
    fn fill(&mut self, id: NodeId) {
        let now = self.world.now;
        if self.nodes.values().any(|node| !node.up || now < node.paused_until) {
            return self.world.schedule(FILL_EVERY_MS, Event::Fault(Fault::Fill(id)));
        }
        self.repair_all();
        if let Some(node) = self.nodes.get_mut(&id) {
            self.world.note(format_args!("{id} is filled"));
            node.ready = true;
        }
    }

    /// What anti-entropy would reach in time: every home replica holds all that anybody knows.
    pub(crate) fn repair_all(&mut self) {
        for key in self.world.setup.keys.clone() {
            let mut all = Object::default();
            let rows = self.nodes.values().flat_map(|node| node.store.rows());
            rows.filter(|(slot, _)| slot.key == key).for_each(|(_, row)| all.merge(&row.object));
            let (homes, _) = self.world.setup.preference_list(&key);
            for node in homes.iter().filter(|_| !all.is_absent()) {
                let Some(node) = self.nodes.get_mut(node) else { continue };
                let slot = Slot::home(&key);
                let mut row = node.row(&slot, &self.world);
                row.merge(&all, self.world.now);
                node.store.put(slot, Some(row));
                node.store.sync(node.store.written());
            }
        }
    }

    /// A node thinks that another one is down, or that all are.
    fn suspect_wrongly(&mut self, id: NodeId) {
        let now = self.world.now;
        let all = self.world.setup.nodes.clone();
        let other = *self.world.dice.pick(&all);
        let suspects = if self.world.dice.percent(50) { all } else { vec![other] };
        self.world.note(format_args!("{id} thinks that {suspects:?} are down"));
        if let Some(node) = self.nodes.get_mut(&id) {
            suspects.iter().filter(|other| **other != id).for_each(|o| node.suspect(*o, now));
        }
    }

    /// Ends all faults: links are whole, everybody runs, clocks are right, disks are quick.
    pub(crate) fn heal(&mut self) {
        self.world.note(format_args!("all is healed"));
        self.world.setup.sync_ms_max = 2;
        self.world.network.heal();
        for id in self.world.setup.nodes.clone() {
            self.restart(id);
            if let Some(node) = self.nodes.get_mut(&id) {
                node.paused_until = self.world.now;
                node.clock_ahead_ms = 0;
            }
        }
    }
}
