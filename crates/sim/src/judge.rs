//! The end of a run: a healed cluster converges by itself, has kept what it acknowledged, and serves.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_engine::node::Node;
use quorate_engine::repair::distrusted;
use quorate_oracle::{Sight, a_healed_cluster_serves, converges, trees_are_right};
use quorate_protocol::message::Decision;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::record::Phase;
use quorate_storage::{ScrubFrom, Scrubbed};
use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::values::own_row;

/// How long the healed cluster may take to converge.
const CONVERGES_WITHIN: Duration = Duration::from_secs(900);
/// How often it is checked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a node waits for an operator before there is one.
const OPERATOR_AFTER: Duration = Duration::from_secs(60);

impl Cluster {
    /// Waits until the cluster has converged, and judges what is left of every key; the same once more
    /// after all machines have crashed at once.
    pub(crate) async fn judge(&self) {
        self.converge().await;
        self.audit().await;
        if self.setup.crashes_at_end {
            self.crash_everywhere();
            self.converge().await;
        }
    }

    /// Nothing but what was acknowledged as durable survives.
    fn crash_everywhere(&self) {
        self.world.note(format_args!("crashes everywhere"));
        for machine in self.machines.iter() {
            machine.crash(self.setup.fsync);
        }
        self.machines.iter().for_each(|machine| machine.start());
    }

    pub(crate) async fn converge(&self) {
        let mut left = None;
        for look in 0..CONVERGES_WITHIN.as_millis() / LOOK_EVERY.as_millis() {
            if self.world.is_broken() {
                return;
            }
            sleep(LOOK_EVERY).await;
            left = self.differs();
            if left.is_none() {
                break;
            }
            if look == OPERATOR_AFTER.as_millis() / LOOK_EVERY.as_millis() {
                self.decide().await;
            }
        }
        self.monitor.look();
        self.world.judge(converges(left));
        for key in &self.setup.keys() {
            let replicas = self.replicas(key);
            self.world.note(format_args!("left of {key}: {replicas:?}"));
            let (name, now) = (key.to_string(), self.world.wall());
            let mut held: BTreeMap<NodeId, Vec<Sight>> = BTreeMap::new();
            for (node, object) in replicas {
                let object = object.unwrap_or_default();
                let verdict = self.world.record().lifetimes.one_end_for_each_dot(&name, &object);
                self.world.judge(verdict);
                held.insert(node, self.world.record().held(&name, &object, now));
            }
            let verdict = self.world.record().check_final(&name, &held);
            self.world.judge(verdict);
        }
        for key in &self.setup.typed_keys() {
            let replicas = self.replicas(key);
            self.world.note(format_args!("left of {key}: {replicas:?}"));
            for object in replicas.into_values() {
                let verdict = self.typed.check_final(key, &object.unwrap_or_default());
                self.world.judge(verdict);
            }
        }
        let wrong = self.nodes().iter().find_map(|node| wrong_leaves(node));
        self.world.judge(trees_are_right(wrong));
    }

    /// An operator decides about data that nodes distrust: it is accepted where nothing else is known,
    /// and what the cluster does not have of the rest was most likely deleted.
    async fn decide(&self) {
        for node in self.nodes() {
            if distrusted::waits(&node).is_some() {
                self.world.note(format_args!("the operator accepts what {} has", node.me));
                distrusted::answer(&node, Some(Decision::Accept)).await;
                sleep(LOOK_EVERY).await;
            }
            if !node.distrusted.is_empty() {
                self.world.note(format_args!("the operator discards what {} distrusts", node.me));
                distrusted::answer(&node, Some(Decision::Discard)).await;
            }
        }
    }

    /// *A healed cluster takes every request* (promise 5), through any node.
    async fn audit(&self) {
        for node in self.nodes() {
            for key in self.setup.keys() {
                self.serves(node.me, self.auditor().read_from(&node, &key).await);
            }
        }
        let mut auditor = self.auditor();
        for key in self.setup.keys() {
            // One that is down has kept the cluster from converging, which is judged already.
            let members: Vec<_> =
                self.machines.iter().filter(|machine| !machine.waits()).cloned().collect();
            let Some(process) = self.world.pick(&members).process() else { continue };
            self.serves(process.node.me, auditor.overwrite(&process.node, &key).await);
        }
        for node in self.nodes() {
            self.serves(node.me, auditor.list_from(&node).await);
            if self.setup.is_indexed {
                self.serves(node.me, auditor.find_from(&node).await);
            }
        }
    }

    fn serves(&self, node: NodeId, done: Result<(), String>) {
        let why = done.err().map(|why| format!("{node}: {why}"));
        let verdict = a_healed_cluster_serves(why.is_none(), &why.unwrap_or_default());
        self.world.judge(verdict);
    }

    /// What keeps the cluster from having converged.
    fn differs(&self) -> Option<String> {
        for machine in self.machines.iter().filter(|machine| !machine.waits()) {
            let Some(process) = machine.process() else {
                return Some(format!("{} is down", machine.name));
            };
            if let Some(why) = is_busy(&process.node) {
                return Some(format!("{}: {why}", machine.name));
            }
        }
        for key in self.setup.keys().iter().chain(&self.setup.typed_keys()) {
            let replicas = self.replicas(key);
            let first = replicas.values().next();
            if replicas.values().any(|object| Some(object) != first) {
                return Some(format!("{key} differs: {replicas:?}"));
            }
            let expires = |object: &Object| object.next_expiry().is_some();
            if replicas.values().flatten().any(expires) {
                return Some(format!("what expires of {key} is never removed"));
            }
            let is_tombstone =
                |object: &Option<Object>| object.as_ref().is_some_and(|object| object.is_deleted());
            if self.setup.grace_ms.is_some() && first.is_some_and(is_tombstone) {
                return Some(format!("a tombstone of {key} is never reaped"));
            }
        }
        None
    }

    /// What is left of each key, the same on all replicas.
    pub(crate) fn left(&self) -> BTreeMap<Key, Option<Object>> {
        let left = |key: Key| {
            let object = self.replicas(&key).into_values().next().flatten();
            (key, object)
        };
        self.setup.keys().into_iter().map(left).collect()
    }

    /// What each home replica holds of a key.
    fn replicas(&self, key: &Key) -> BTreeMap<NodeId, Option<Object>> {
        let mut replicas = BTreeMap::new();
        for node in self.nodes() {
            if node.view().homes(key).contains(&node.me) {
                replicas.insert(node.me, own_row(&node, key).ok().flatten());
            }
        }
        replicas
    }
}

/// What a node still has to do.
fn is_busy(node: &Node) -> Option<String> {
    if let Err(why) = node.accepts_requests() {
        return Some(why.to_string());
    }
    let record = node.membership.record();
    if record.phase() != Phase::Stable {
        return Some(format!("is in {record:?}"));
    }
    let down = node.peers.down();
    if !down.is_empty() {
        return Some(format!("takes {down:?} for down"));
    }
    if !node.buckets.assignment().is_settled() {
        return Some("moves rows".to_owned());
    }
    if !node.buckets.raised().is_empty() {
        return Some("lacks rows of a bucket whose n was raised".to_owned());
    }
    if !node.distrusted.is_empty() {
        return Some("distrusts rows".to_owned());
    }
    if !node.filled.is_complete() {
        return Some("is not filled".to_owned());
    }
    match node.store.hint_targets() {
        Ok(targets) if targets.is_empty() => None,
        Ok(targets) => Some(format!("keeps hints: {targets:?}")),
        Err(error) => Some(error.to_string()),
    }
}

/// Leaves and index entries that are not what the rows say.
fn wrong_leaves(node: &Node) -> Option<String> {
    let mut found = Scrubbed::default();
    for partition in node.view().partitions() {
        let mut from = Some(ScrubFrom::Leaf(0));
        while let Some(at) = from {
            match node.store.scrub_some(partition, at, || false) {
                Ok((some, next)) => {
                    found.add(some);
                    from = next;
                }
                Err(error) => return Some(format!("{}: {error}", node.me)),
            }
        }
    }
    let strays = match node.store.scrub_index_some(None, || false) {
        Ok((strays, _)) => strays,
        Err(error) => return Some(format!("{}: {error}", node.me)),
    };
    let wrong = found.repaired() - found.moved_rows + strays;
    (wrong > 0).then(|| format!("{} leaves or index entries on {}", wrong, node.me))
}
