//! What a node's actions claim about other nodes' disks, beyond what its answers to clients claim:
//! that what it drops is held by its owners, that it has received all that a peer held, that
//! nothing it dropped can come back.

use std::collections::BTreeMap;

use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::store::Slot;
use crate::values::write_of;
use quorate_oracle::{Verdict, a_filled_node_has_everything, what_is_dropped_is_held};

/// A comparison that fills a node, from its start.
pub(crate) struct Fill {
    node: NodeId,
    from: NodeId,
    /// What the peer held of the partition at that time.
    rows: BTreeMap<Key, Object>,
    /// The last change of n that the node knew at that time.
    changed: u64,
}

impl Fill {
    /// Whether it fills this node.
    pub(crate) fn is_of(&self, node: NodeId) -> bool {
        self.node == node
    }
}

impl Cluster {
    /// A node drops a row that it handed over to these home replicas.
    pub(crate) fn check_dropped(
        &self,
        node: NodeId,
        key: &Key,
        object: &Object,
        homes: &[NodeId],
    ) -> Verdict {
        let writes = || object.siblings.iter().map(|sibling| write_of(sibling.write_id));
        let holds_all = |home: &NodeId| {
            let home = self.nodes.get(home);
            home.is_some_and(|home| writes().all(|write| self.holds_durably(home, key, write)))
        };
        let lacking = homes.iter().find(|home| !holds_all(home));
        let lacking = lacking.map(|home| format!("{node} dropped it, and {home} lacks it"));
        let is_owned = self.nodes.get(&node).is_some_and(|node| node.is_home(key, &self.world));
        let owned = is_owned.then(|| format!("{node} dropped it, and is a home replica of it"));
        what_is_dropped_is_held(&key.to_string(), lacking.or(owned))
    }

    /// A node starts to compare a partition with a peer in order to fill.
    pub(crate) fn begin_fill(
        &mut self,
        operation: u64,
        (node, from): (NodeId, NodeId),
        partition: Partition,
    ) {
        let partitions = self.world.setup.layout.partitions();
        let Some(peer) = self.nodes.get(&from) else { return };
        let rows = peer.store.rows().iter().filter(|(slot, row)| {
            let is_of_it = slot.key.partition(partitions) == partition;
            slot.target.is_none() && is_of_it && !row.object.is_deleted()
        });
        let rows = rows.map(|(slot, row)| (slot.key.clone(), row.object.clone())).collect();
        let changed = self.nodes.get(&node).map_or(0, |node| node.records.buckets.changed());
        self.fills.insert(operation, Fill { node, from, rows, changed });
    }

    /// The comparison has ended; whether the node believes that it has everything. If n has not
    /// changed since, it must have.
    pub(crate) fn end_fill(&mut self, operation: u64, has_all: bool) -> Verdict {
        let Some(fill) = self.fills.get(&operation) else { return Ok(()) };
        if !has_all {
            self.fills.remove(&operation);
            return Ok(());
        }
        let Some(node) = self.nodes.get(&fill.node) else { return Ok(()) };
        let is_due = |key: &Key| {
            node.is_home(key, &self.world) && node.records.buckets.changed() == fill.changed
        };
        a_filled_node_has_everything(self.missing(fill, is_due))
    }

    /// A node considers itself filled: it must have everything that it answers for now.
    pub(crate) fn check_filled(&mut self, id: NodeId) -> Verdict {
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        let is_due = |key: &Key| node.is_ready_for(key, &self.world);
        let mut fills = self.fills.values().filter(|fill| fill.is_of(id));
        let missing = fills.find_map(|fill| self.missing(fill, is_due));
        self.fills.retain(|_, fill| !fill.is_of(id));
        a_filled_node_has_everything(missing)
    }

    /// What a node lacks of what a peer held when the comparison started, and still holds.
    fn missing(&self, fill: &Fill, is_due: impl Fn(&Key) -> bool) -> Option<String> {
        let covers = |node: &Node, key: &Key, object: &Object| {
            let row = node.store.get(&Slot::home(key));
            row.is_some_and(|row| row.object.clock.covers_all(&object.clock))
        };
        let (node, from) = (self.nodes.get(&fill.node)?, self.nodes.get(&fill.from)?);
        let lacks = |(key, object): &(&Key, &Object)| {
            is_due(key) && covers(from, key, object) && !covers(node, key, object)
        };
        let (key, _) = fill.rows.iter().find(lacks)?;
        let (node, from) = (fill.node, fill.from);
        Some(format!("{node} has received all that {from} held, but not {key}"))
    }

    /// A node that dropped something older than a tombstone less than a grace ago: a copy of it may
    /// be in flight.
    pub(crate) fn dropped_lately(&self, key: &Key, tombstone: &Object) -> Option<String> {
        let (now, grace_ms) = (self.world.now, self.world.setup.grace_ms);
        let is_older = |object: &Object| {
            let mut siblings = object.siblings.iter();
            siblings.any(|s| tombstone.clock.covers(s.dot) && !tombstone.has(s.dot))
        };
        let mut drops = self.world.drops.iter();
        let lately = drops.find(|drop| {
            drop.key == *key && now.since(drop.at) < grace_ms && is_older(&drop.object)
        })?;
        let ago_ms = now.since(lately.at);
        Some(format!("{} dropped something older {ago_ms} ms ago", lately.node))
    }
}
