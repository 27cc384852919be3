//! The end of a run: a healed cluster converges by itself, and is judged.

use std::collections::BTreeSet;

use quorate_protocol::message::Write;
use quorate_protocol::name::Key;
use quorate_protocol::name::NodeId;
use quorate_protocol::object::{Metadata, Object};
use quorate_protocol::quorum::Count;
use quorate_protocol::row::Draft;
use quorate_protocol::terms::QuorumOptions;

use crate::client::Response;
use crate::cluster::{AUDITOR, Cluster};
use crate::mutations::Mutation;
use crate::node::Node;
use crate::store::{Rows, Slot, tree_of};
use crate::values::{sight, value_of, write_id, write_of};
use crate::world::{Body, Request};
use quorate_oracle::history::Saw;
use quorate_oracle::{
    Verdict, a_healed_cluster_serves, converges, every_operation_ends, no_hints_are_left,
    reaped_for_good, rest_writes_nothing, trees_are_right,
};

/// How long a healed cluster is left alone until clocks that ran far ahead no longer matter, in
/// milliseconds.
const SETTLE_MS: u64 = 600_000;
/// The most rounds of all background jobs that a healed cluster may need.
const ROUNDS_MAX: usize = 20;
/// The most rounds of the reaper, each a grace apart.
const REAPER_ROUNDS_MAX: usize = 6;

impl Cluster {
    /// Lets everything in flight end.
    fn drain(&mut self) {
        while self.step() {}
    }

    fn pass(&mut self, ms: u64) {
        self.world.now = self.world.now.plus(ms);
    }

    fn run_all_jobs(&mut self) {
        for id in self.world.setup.nodes.clone() {
            self.on_node(id, Node::run_all_jobs);
        }
        self.drain();
    }

    /// After healing: everything in flight ends, and background jobs run until nothing is left to
    /// do.
    pub(crate) fn converge(&mut self) {
        self.drain();
        if !self.world.setup.reaps() {
            self.pass(SETTLE_MS);
        }
        for round in 0..ROUNDS_MAX {
            // First every node must have heard from every other.
            let is_whole = round >= 2 && self.left_to_do().is_none();
            if self.world.violation.is_some() || is_whole {
                break;
            }
            // A request that got no answer is retried.
            self.pass(self.world.setup.request_timeout_ms);
            self.run_all_jobs();
            if round == 2 {
                self.nodes.values_mut().for_each(Node::admit_by_force);
                for id in self.world.setup.nodes.clone() {
                    self.on_node(id, Node::accept_aside);
                }
            }
        }
        // These objects never compare equal.
        if !self.world.has(Mutation::MergeKeepsCovered) {
            let left = self.left_to_do();
            self.world.judge(converges(left));
        }
    }

    /// Work that a converged cluster would have finished.
    fn left_to_do(&self) -> Option<String> {
        let mut ns = BTreeSet::new();
        for node in self.nodes.values() {
            ns.insert(node.n());
            let unowned = node.unowned(&self.world).len();
            let missing = node.records.missing.len();
            let raised = node.records.buckets.raised_from();
            let (up, hints) = (node.up && node.is_admitted(), node.hint_count());
            let fits = node.records.buckets.assignment.is_settled();
            if unowned + missing + hints > 0 || raised.is_some() || !up || !fits {
                return Some(format!(
                    "{}: up={up}, {hints} hints, {missing} partitions missing, {unowned} rows not \
                     its own, n raised from {raised:?}, trees fit={fits}",
                    node.id
                ));
            }
        }
        if ns.len() > 1 {
            return Some(format!("nodes disagree on n: {ns:?}"));
        }
        self.world.setup.keys.iter().find_map(|key| self.differing_roots(key))
    }

    fn differing_roots(&self, key: &Key) -> Option<String> {
        let homes = self.homes(key);
        let root = |node: &Node| node.store.leaves(tree_of(key, node.n())).root();
        let of = |id: &NodeId| self.nodes.get(id).map(root);
        let first = of(homes.first()?);
        let other = homes.iter().find(|home| of(home) != first)?;
        Some(format!("the Merkle roots of {key} differ on {other}"))
    }

    /// The home replicas of a key, as the nodes know them.
    fn homes(&self, key: &Key) -> Vec<NodeId> {
        let n = self.nodes.values().next().map_or(self.world.setup.n, Node::n);
        self.world.setup.preference_list(key, n).0.to_vec()
    }

    /// Checks that replicas are identical row by row, and that the trees match the rows.
    pub(crate) fn judge_what_is_left(&mut self) {
        let hints = self.nodes.values().map(Node::hint_count).sum();
        self.world.judge(no_hints_are_left(hints));
        let busy = self.nodes.values().map(|node| node.operations.len()).sum::<usize>();
        let what = format!("{busy} operations never ended");
        self.world.judge(every_operation_ends(busy == 0, &what));
        let wrong = self.nodes.values().find_map(|node| {
            let (tree, leaf) = node.store.wrong_leaf()?;
            Some(format!("leaf {leaf} of {tree:?} on {} is not what its rows say", node.id))
        });
        self.world.judge(trees_are_right(wrong));
        for key in self.world.setup.keys.clone() {
            let replica = |home: &NodeId| {
                let row = self.nodes.get(home)?.store.get(&Slot::home(&key));
                let siblings = row.map(|row| row.object.siblings.iter().map(sight).collect());
                Some((*home, siblings.unwrap_or_default()))
            };
            let replicas = self.homes(&key).iter().filter_map(replica).collect();
            self.world.note(format_args!("left of {key}: {replicas:?}"));
            let verdict = self.world.oracle.check_final(&key.to_string(), &replicas);
            self.world.judge(verdict);
        }
    }

    /// A converged cluster compares its trees and writes nothing.
    pub(crate) fn judge_rest(&mut self) {
        let written =
            |cluster: &Self| cluster.nodes.values().map(|n| n.store.written()).sum::<u64>();
        let before = written(self);
        self.run_all_jobs();
        let changes = written(self) - before;
        if !self.world.has(Mutation::MergeKeepsCovered) {
            self.world.judge(rest_writes_nothing(changes));
        }
    }

    /// In runs that reap: after some graces of quiet, no tombstone is left on any node.
    pub(crate) fn reap_what_is_left(&mut self) {
        if !self.world.setup.reaps() {
            return;
        }
        for _ in 0..REAPER_ROUNDS_MAX {
            if self.world.violation.is_some() || self.tombstone_left().is_none() {
                break;
            }
            self.pass(self.world.setup.grace_ms);
            for id in self.world.setup.nodes.clone() {
                self.on_node(id, Node::begin_reaping);
            }
            self.drain();
            self.run_all_jobs();
        }
        let left = self.tombstone_left();
        self.world.judge(converges(left));
        self.judge_what_is_left();
    }

    fn tombstone_left(&self) -> Option<String> {
        self.nodes.values().find_map(|node| {
            let mut rows = node.store.rows().iter();
            let (slot, _) = rows.find(|(_, row)| row.object.is_deleted())?;
            Some(format!("{} never drops a tombstone of {}", node.id, slot.key))
        })
    }

    /// Checks that no node holds anything that a reaped tombstone supersedes.
    pub(crate) fn check_reaped(&mut self, key: &Key, tombstone: &Object) -> Verdict {
        let writes = tombstone.siblings.iter().map(|s| write_of(s.write_id));
        let moment = self.world.moment();
        self.world.oracle.history.reaped(writes, moment);
        let older = |rows: &Rows| {
            let of_key = rows.iter().filter(|(slot, _)| slot.key == *key);
            let mut siblings = of_key.flat_map(|(_, row)| &row.object.siblings);
            let is_older = |dot| tombstone.clock.covers(dot) && !tombstone.has(dot);
            siblings.any(|sibling| is_older(sibling.dot))
        };
        // Nodes that do not run tell nothing; what they come back with is judged later.
        let running = self.nodes.values().filter(|node| node.up && node.is_admitted());
        let mut holders =
            running.filter(|node| older(node.store.rows()) || older(node.store.durable()));
        let held = holders.next().map(|node| format!("{} holds something older", node.id));
        let held = held.or_else(|| self.dropped_lately(key, tombstone));
        reaped_for_good(&key.to_string(), held)
    }

    /// Writes and reads every key with all replicas: a healed cluster serves requests.
    pub(crate) fn audit(&mut self) {
        for key in self.world.setup.keys.clone() {
            let n = self.homes(&key).len() as u16;
            let read = Body::Read { asked: strict(n), timeout_ms: 1000 };
            let Some(Response::Shown { shown, context, .. }) = self.ask(&key, read) else {
                return self.fail_audit(&key, "read");
            };
            let moment = self.world.moment();
            let saw = Saw::These(shown);
            let number = self.world.oracle.begin_write(&key.to_string(), false, saw, moment);
            self.world.oracle.history.begin_attempt(number);
            let seen = context.and_then(|context| self.world.keys.verify(&key, &context).ok());
            let seen = seen.unwrap_or_default();
            let write = Write {
                key: key.clone(),
                draft: Draft {
                    context: seen.clock,
                    context_stamp: seen.stamp,
                    metadata: Metadata::default(),
                    write_id: write_id(number, 0),
                    supersede_all: false,
                    unless_overtaken: false,
                    value: None,
                },
                has_value: true,
                asked: strict(n),
                condition: None,
                delete_seen: false,
                idempotency: None,
                timeout_ms: 1000,
                return_body: false,
                explain: None,
            };
            let body = Body::Write(Box::new(write), Some(value_of(number)));
            let Some(Response::Shown { .. }) = self.ask(&key, body) else {
                return self.fail_audit(&key, "write");
            };
            let read = Body::Read { asked: strict(1), timeout_ms: 1000 };
            match self.ask(&key, read) {
                Some(Response::Shown { shown, .. }) if shown == BTreeSet::from([number]) => {}
                Some(_) | None => return self.fail_audit(&key, "second read"),
            }
        }
    }

    /// Sends a request to some node and waits for the answer.
    fn ask(&mut self, key: &Key, body: Body) -> Option<Response> {
        let number = self.world.fresh_number();
        let to = *self.world.dice.pick(&self.world.setup.nodes.clone());
        let (begun, key) = (self.world.moment(), key.clone());
        let request = Request { client: AUDITOR, number, key, begun, body };
        self.world.note(format_args!("the auditor asks {to}"));
        self.on_node(to, |node, world| node.on_request(request, world));
        self.drain();
        self.world.audit.pop()
    }

    fn fail_audit(&mut self, key: &Key, what: &str) {
        let what = format!("the {what} of {key} failed");
        self.world.judge(a_healed_cluster_serves(false, &what));
    }
}

/// This many home replicas, and no fallbacks.
fn strict(needed: u16) -> QuorumOptions {
    QuorumOptions { n: None, needed: Some(Count::Exactly(needed)), sloppy: Some(false) }
}
