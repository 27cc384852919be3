//! Watches all disks while a run goes on, for what clients cannot see: that what a node drops is held
//! by others, that a reaped tombstone leaves nothing behind, that a node which answers for a key has
//! received what it lacked.
//!
//! It looks now and then, and compares with what it saw before: what happens in between counts as one
//! step. A process that was replaced in between tells nothing.

mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_engine::cluster::view::ClusterView;
use quorate_engine::node::Node;
use quorate_oracle::history::WriteNo;
use quorate_oracle::{
    Verdict, a_filled_node_has_everything, reaped_for_good, what_is_dropped_is_held,
};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::tree::Tree;
use tokio::time::timeout;

use self::seen::{Dropped, Gone, Lacking, SeenHint, SeenRow, is_same_set, losses_of};
use crate::machine::Machine;
use crate::records::Records;
use crate::setup::Setup;
use crate::values::{changes, decoded, own_row};
use crate::world::World;

/// How often it looks, if something was written since.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The observer of one run.
pub(crate) struct Monitor {
    world: Arc<World>,
    setup: Arc<Setup>,
    machines: Arc<Vec<Arc<Machine>>>,
    records: Records,
    seen: Mutex<Seen>,
}

/// What was seen at the last look.
#[derive(Default)]
struct Seen {
    /// How far each disk was.
    positions: BTreeMap<NodeId, (u64, u64)>,
    /// What each may have lost ([`Machine::losses`]), and those that lost nothing since the look before.
    losses: BTreeMap<NodeId, (u64, u64)>,
    whole: BTreeSet<NodeId>,
    rows: BTreeMap<(NodeId, Key), SeenRow>,
    /// By holder, key and target.
    hints: BTreeMap<(NodeId, Key, NodeId), SeenHint>,
    dropped: Vec<Dropped>,
    /// What a node may have to receive of a key before it answers for it.
    lacking: BTreeMap<(NodeId, Key), Lacking>,
}

impl Monitor {
    /// Has seen nothing yet.
    pub(crate) fn new(
        world: Arc<World>,
        setup: Arc<Setup>,
        machines: Arc<Vec<Arc<Machine>>>,
    ) -> Self {
        Self { world, setup, machines, records: Records::default(), seen: Mutex::default() }
    }

    /// Looks until the run ends.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            // What a fresh process reaps at once must have been seen before.
            drop(timeout(LOOK_EVERY, self.world.process_began.notified()).await);
            self.look();
        }
    }

    /// Compares what is there with what was there at the last look.
    pub(crate) fn look(&self) {
        self.world.judge(self.records.look(&self.machines));
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = &mut *seen;
        let position = |machine: &Arc<Machine>| (machine.name, machine.disk.position());
        let positions: BTreeMap<_, _> = self.machines.iter().map(position).collect();
        if positions == seen.positions {
            return;
        }
        let nodes = self.unchanged_processes(seen, positions);
        let rows = nodes.iter().flat_map(|node| self.gone_rows(node, seen)).collect::<Vec<_>>();
        // What was reaped may be dropped: that first.
        let (reaped, dropped): (Vec<_>, Vec<_>) = rows.into_iter().partition(Gone::is_reaped);
        reaped.iter().for_each(|gone| self.world.judge(self.is_reaped(gone, seen)));
        dropped.iter().for_each(|gone| self.world.judge(self.is_handed_over(gone, seen)));
        for node in &nodes {
            for key in self.setup.keys() {
                self.world.judge(self.look_at_hints(node, &key, seen));
                self.world.judge(self.look_whether_ready(node, &key, seen));
            }
        }
    }

    /// The nodes that have run since the last look.
    fn unchanged_processes(
        &self,
        seen: &mut Seen,
        positions: BTreeMap<NodeId, (u64, u64)>,
    ) -> Vec<Arc<Node>> {
        let before = std::mem::replace(&mut seen.positions, positions);
        let losses = self.machines.iter().map(|machine| (machine.name, machine.losses()));
        let losses_before = std::mem::replace(&mut seen.losses, losses.collect());
        let is_whole =
            |(name, losses): &(&NodeId, &(u64, u64))| losses_before.get(*name) == Some(*losses);
        seen.whole = seen.losses.iter().filter(is_whole).map(|(name, _)| *name).collect();
        let opened = |positions: &BTreeMap<NodeId, (u64, u64)>, name: &NodeId| {
            positions.get(name).map(|position| position.0)
        };
        let names = seen.positions.keys().copied();
        let open: BTreeSet<NodeId> =
            names.filter(|name| opened(&before, name) == opened(&seen.positions, name)).collect();
        let mut nodes = Vec::new();
        for machine in self.machines.iter() {
            match machine.process().filter(|_| open.contains(&machine.name)) {
                Some(process) => nodes.push(process.node),
                None => self.begin_process(machine, seen),
            }
        }
        nodes
    }

    /// A node has no process, or one that has started since the last look: what others had then, it may
    /// have to receive.
    fn begin_process(&self, machine: &Machine, seen: &mut Seen) {
        let (me, process) = (machine.name, machine.process());
        seen.forget(me);
        if let Some(process) = &process {
            self.gone_rows(&process.node, seen); // remembers what it has
        }
        let changes = process.map_or(0, |process| changes(&process.node));
        for key in self.setup.keys() {
            let of_key = seen.rows.iter().filter(|((_, other), _)| *other == key);
            let owned = of_key.filter(|((node, _), row)| row.homes.contains(node));
            let others = owned.map(|((node, _), row)| (*node, row.object.clone())).collect();
            seen.lacking.insert((me, key), Lacking { others, changes, is_certain: false });
        }
    }

    /// The rows that a node had at the last look, and has no more.
    fn gone_rows(&self, node: &Node, seen: &mut Seen) -> Vec<Gone> {
        let gone = self.setup.keys().into_iter().filter_map(|key| {
            let view = node.view();
            // If the store failed, a new process will tell.
            let now = own_row(node, &key).ok()?;
            let homes = view.homes(&key).to_vec();
            let place = (node.me, key.clone());
            let changes = changes(node) + homes.iter().map(|at| self.changes_at(*at)).sum::<u64>();
            let before = seen.rows.remove(&place);
            // Dropped, and perhaps written anew since.
            let is_gone = before.as_ref().is_some_and(|before| {
                let clock = &before.object.clock;
                now.as_ref().is_none_or(|object| !object.clock.covers_all(clock))
            });
            if let Some(before) = before.as_ref().filter(|_| is_gone) {
                self.note_reaped_everywhere(&key, &before.object);
                self.note_reaped_while_moving(node, &key, before, &homes);
            }
            // Weights may have changed in which order they are its home replicas.
            let before = before.filter(|before| is_same_set(&before.homes, &homes));
            if let Some(object) = now {
                let same = before.as_ref().filter(|before| before.object == object);
                let losses = same.map(|before| before.losses.clone());
                let losses = losses.unwrap_or_else(|| losses_of(&seen.losses, &homes));
                let reaped = node.reaped.load(Relaxed);
                let epoch = node.epoch().number;
                seen.rows.insert(place, SeenRow { object, homes, changes, losses, reaped, epoch });
            }
            let before = before.filter(|_| is_gone)?;
            let epoch = node.epoch().number;
            // If n or the layout was changed and changed back, others were home replicas in between.
            let is_settled = before.changes == changes && before.epoch == epoch;
            let has_reaped = node.reaped.load(Relaxed) > before.reaped;
            let SeenRow { object, homes, losses, .. } = before;
            Some(Gone { from: node.me, key, object, homes, losses, is_settled, has_reaped, epoch })
        });
        gone.collect()
    }

    /// A tombstone is gone from a disk. If it is from all, it was reaped, whoever its home replicas were.
    fn note_reaped_everywhere(&self, key: &Key, object: &Object) {
        let held = self.machines.iter().any(|machine| self.holds(machine.name, key, object));
        if object.is_deleted() && !held {
            let writes = self.writes(key, object);
            self.world.record().reaped(writes);
        }
    }

    /// A tombstone is gone from a home replica that has reaped something, while others became home replicas
    /// of its key: it cannot be judged who had to be asked then, and the oracle is only told.
    fn note_reaped_while_moving(&self, node: &Node, key: &Key, before: &SeenRow, homes: &[NodeId]) {
        let has_reaped = node.reaped.load(Relaxed) > before.reaped;
        let stays = [&before.homes[..], homes].iter().all(|homes| homes.contains(&node.me));
        let moves = !is_same_set(&before.homes, homes);
        if before.object.is_deleted() && has_reaped && stays && moves {
            let writes = self.writes(key, &before.object);
            self.world.record().reaped(writes);
        }
    }

    /// A node dropped a row that is not its own.
    fn is_handed_over(&self, gone: &Gone, seen: &Seen) -> Verdict {
        let Gone { from, key, object, homes, losses, is_settled, .. } = gone;
        // A tombstone that is reaped is dropped everywhere.
        if gone.may_be_reaped() {
            return Ok(());
        }
        // A home replica may have confirmed that it holds the row, and lost it since.
        if !is_settled || *losses != losses_of(&seen.losses, homes) {
            return Ok(());
        }
        let owned = gone.is_owned().then(|| format!("{from} dropped it, and is a home replica"));
        let view_at = |at| Some(self.machine(at)?.process()?.node.view());
        // Nobody waits for one that was sworn dead.
        let is_dead = |home| view_at(*from).is_some_and(|view| view.placement().is_gone(home));
        // A home replica that knows of another n may hand the row over in turn.
        let is_other = |home| view_at(home).is_some_and(|view| !view.homes(key).contains(&home));
        let is_whole =
            |home: &&NodeId| seen.whole.contains(home) && !is_dead(**home) && !is_other(**home);
        let lacks = |home: &&NodeId| !self.holds(**home, key, object);
        let lacking = homes.iter().filter(is_whole).find(lacks);
        let lacking = lacking.map(|home| format!("{from} dropped it, and {home} lacks it"));
        let wrong = owned.or(lacking).filter(|_| !self.is_known_reaped(key, object));
        what_is_dropped_is_held(&key.to_string(), wrong)
    }

    /// A node no longer has a tombstone: it is proven to be all that is left of its key.
    fn is_reaped(&self, gone: &Gone, seen: &Seen) -> Verdict {
        let Gone { from: by, key, object: tombstone, .. } = gone;
        let writes = self.writes(key, tombstone);
        if self.world.record().reaped(writes) {
            self.world.note(format_args!("{by} reaped {key}"));
        }
        let is_older = |object: &Object| {
            let mut siblings = object.siblings.iter();
            siblings.any(|s| tombstone.clock.covers(s.dot) && !tombstone.has(s.dot))
        };
        let reaper = self.machine(*by).and_then(|machine| machine.process());
        // A node that was sworn gone, or removed, and has not heard of it: no node believes it any more.
        let is_out = |name: NodeId| {
            reaper.as_ref().is_some_and(|reaper| {
                let is_member = reaper.node.membership.record().member(name).is_some();
                !is_member || reaper.node.view().placement().is_gone(name)
            })
        };
        let held =
            self.machines.iter().filter_map(|machine| machine.process()).find_map(|process| {
                let node = process.node;
                let hints = node.store.hints_of_key(key).ok()?;
                let hints = hints.into_iter().filter_map(|(_, row)| decoded(row));
                let older =
                    own_row(&node, key).ok()?.into_iter().chain(hints).any(|o| is_older(&o));
                let counts = older && node.generation.is_admitted() && !is_out(node.me);
                counts.then(|| format!("{} holds something older than what {by} reaped", node.me))
            });
        let dropped = seen.dropped.iter().find(|drop| {
            let is_of_key = drop.key == *key && drop.epoch == gone.epoch;
            is_of_key && is_older(&drop.object) && self.is_recent(drop.at)
        });
        let dropped = dropped.map(|drop| {
            format!(
                "{} dropped something older less than a grace ago: a copy may be on its way",
                drop.from
            )
        });
        reaped_for_good(&key.to_string(), held.or(dropped))
    }

    fn machine(&self, name: NodeId) -> Option<&Arc<Machine>> {
        self.machines.iter().find(|machine| machine.name == name)
    }

    /// How often any n has changed at a node; 0 while it does not run.
    fn changes_at(&self, at: NodeId) -> u64 {
        self.machine(at)
            .and_then(|machine| machine.process())
            .map_or(0, |process| changes(&process.node))
    }

    /// Whether something that was seen then certainly happened within the last grace.
    fn is_recent(&self, at: Duration) -> bool {
        let grace = self.setup.grace_ms.map(Duration::from_millis).unwrap_or_default();
        self.world.elapsed().saturating_sub(at) + 2 * LOOK_EVERY < grace
    }

    fn look_at_hints(&self, node: &Node, key: &Key, seen: &mut Seen) -> Verdict {
        let Ok(hints) = node.store.hints_of_key(key) else { return Ok(()) };
        let (mut gone, epoch) = (Vec::new(), node.epoch().number);
        for target in self.machines.iter().map(|machine| machine.name) {
            let place = (node.me, key.clone(), target);
            let row = hints.iter().find(|(of, _)| *of == target);
            match row.and_then(|(_, row)| decoded(row.clone())) {
                Some(object) => {
                    let known = seen.hints.remove(&place).filter(|known| known.object == object);
                    let losses = known.map_or_else(|| seen.losses.clone(), |known| known.losses);
                    let changes = (self.changes_at(target), changes(node));
                    seen.hints.insert(place, SeenHint { object, losses, epoch, changes });
                }
                None => gone.extend(seen.hints.remove(&place).map(|hint| (target, hint))),
            }
        }
        let view = node.view();
        // While the layout changes the next home replicas receive the key from these.
        let homes = sources(&view, key);
        for (target, SeenHint { object, losses, epoch: seen_in, changes }) in gone {
            let (from, at) = (node.me, self.world.elapsed());
            let (of, what) = (key.clone(), object.clone());
            // One that is a member no more has done it before it heard of that.
            let epoch_then = if node.membership.is_member() { epoch } else { seen_in };
            seen.dropped.push(Dropped { from, key: of, object: what, at, epoch: epoch_then });
            // A hint for a node that has left or is dead becomes a row of its holder. It may be a member
            // again by now.
            let may_have_left = seen_in != epoch || !view.placement().contains_living(target);
            let becomes_row = may_have_left && self.holds(from, key, &object);
            // If n has changed, its target may have received it without owning it, and handed it over; or its
            // holder, as a row, to those that were home replicas then.
            let has_changed = self.changes_at(target) != changes.0;
            let was_row = may_have_left && self::changes(node) != changes.1;
            // Whoever has acknowledged it may have lost it since.
            let has_lost = |node: &NodeId| seen.losses.get(node) != losses.get(node);
            let must_hold = |home: &&NodeId| (**home != target || !has_changed) && !has_lost(home);
            let holds = |home: &NodeId| self.holds(*home, key, &object);
            let is_held = becomes_row
                || holds(&target)
                || homes.iter().filter(must_hold).all(holds)
                || (was_row && homes.iter().any(holds));
            let is_excused = has_lost(&target) || self.is_known_reaped(key, &object);
            let lacking = || {
                let has = self.machine(target).and_then(|machine| machine.durable_row(key));
                let has = has.map(|row| row.clock);
                let lost = format!(
                    "{} dropped a hint of {:?}, and {target} lacks it",
                    node.me, object.clock
                );
                format!("{lost}: it has {has:?}; home replicas are {homes:?}")
            };
            let lacking = (!is_held && !is_excused).then(lacking);
            what_is_dropped_is_held(&key.to_string(), lacking)?;
        }
        Ok(())
    }

    /// A node that lacks a key's rows answers for the key only once it has what others had by then.
    fn look_whether_ready(&self, node: &Node, key: &Key, seen: &mut Seen) -> Verdict {
        if !node.generation.is_admitted() {
            return Ok(()); // it answers nothing: its peers may tell it to start over
        }
        let view = node.view();
        let partition = view.partition(key);
        let is_home = |n| view.is_old_home(node.me, Tree { partition, n });
        let is_home_now = view.homes(key).contains(&node.me);
        let is_ready = is_home(node.buckets.trusted_n(key.bucket()))
            && node.filled.is_ready(partition)
            && !node.filled.is_doubtful(key);
        let changes = changes(node);
        let place = (node.me, key.clone());
        if !is_home_now {
            let others = self.held_by_others(node.me, key);
            seen.lacking.insert(place, Lacking { others, changes, is_certain: true });
            return Ok(());
        }
        let Some(mut lacking) = seen.lacking.remove(&place) else { return Ok(()) };
        // While the layout changes it receives from those of the old one.
        lacking.keep_homes(&sources(&view, key), changes);
        if !is_ready {
            lacking.is_certain = true;
            seen.lacking.insert(place, lacking);
            return Ok(());
        }
        let Lacking { others, is_certain, .. } = lacking;
        if !is_certain {
            return Ok(());
        }
        let lacks = |(other, object): &(&NodeId, &Object)| {
            self.holds(**other, key, object) && !self.has_now(node, key, object)
        };
        let missing = others.iter().find(lacks);
        let missing = missing.filter(|(_, object)| !self.is_known_reaped(key, object));
        let missing = missing.map(|(other, _)| {
            format!("{} has received all that {other} held, but not {key}", node.me)
        });
        a_filled_node_has_everything(missing)
    }

    /// What home replicas other than a node hold durably.
    fn held_by_others(&self, me: NodeId, key: &Key) -> BTreeMap<NodeId, Object> {
        let others = self.machines.iter().filter(|machine| machine.name != me);
        let held = others.filter_map(|machine| {
            let node = machine.process()?.node;
            let view = node.view();
            let is_home = view.homes(key).contains(&node.me);
            let object = machine.durable_row(key).filter(|_| is_home)?;
            Some((machine.name, object))
        });
        held.collect()
    }

    fn has_now(&self, node: &Node, key: &Key, object: &Object) -> bool {
        let row = own_row(node, key).ok().flatten();
        row.is_some_and(|held| held.clock.covers_all(&object.clock))
    }

    /// Whether a home row on a node's disk has, durably, all that an object says.
    fn holds(&self, name: NodeId, key: &Key, object: &Object) -> bool {
        let row = self.machine(name).and_then(|machine| machine.durable_row(key));
        row.is_some_and(|held| held.clock.covers_all(&object.clock))
    }

    /// The writes that an object holds.
    fn writes(&self, key: &Key, object: &Object) -> Vec<WriteNo> {
        let held = self.world.record().held(&key.to_string(), object, self.world.wall());
        held.into_iter().map(|sight| sight.write).collect()
    }

    /// Whether everything of an object is, or was superseded by, a tombstone that was reaped.
    fn is_known_reaped(&self, key: &Key, object: &Object) -> bool {
        let writes = self.writes(key, object);
        let record = self.world.record();
        writes.into_iter().all(|write| record.is_gone(&key.to_string(), write))
    }
}

/// The home replicas from which a new one receives a key: all of the layout that are not sworn gone.
fn sources(view: &ClusterView, key: &Key) -> Vec<NodeId> {
    let placement = view.placement();
    let homes = placement.layout().homes(view.partition(key), view.n(key.bucket())).iter();
    homes.filter(|home| !placement.is_gone(**home)).copied().collect()
}

impl Seen {
    /// A process was replaced.
    fn forget(&mut self, name: NodeId) {
        self.rows.retain(|(node, _), _| *node != name);
        self.hints.retain(|(node, ..), _| *node != name);
        self.lacking.retain(|(node, _), _| *node != name);
    }
}
