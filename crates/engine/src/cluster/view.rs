//! What one operation knows of the cluster: taken once, and carried through it.
//!
//! Bucket properties and the layout change while operations run. An operation that
//! looked at them twice could count the quorum of one list of home replicas among the nodes of
//! another. So all that follows from them (the partition of a key, its n, home replicas and
//! fallbacks, R and W) comes from a [`ClusterView`]. A client's operation takes one when it is
//! admitted, a batch of a peer's messages when it arrives, a background job for each round.
//!
//! Three things are not part of it, because they are about the moment in which they are asked: which
//! peers are up (to hedge a read, or to choose a fallback), whether this node has received what it
//! must answer for (`Node::is_ready_for`), and in which tree the store counts a row that it writes.
//!
//! A view is a counted reference to data that never changes: cheap to take, to clone and to hold.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use quorate_protocol::bucket::{Properties, Settings};
use quorate_protocol::bucket_table::Table;
use quorate_protocol::layout::{Layout, Partition};
use quorate_protocol::listing::HomeSet;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::placement::{Epoch, Placement};
use quorate_protocol::quorum::QuorumError;
use quorate_protocol::terms::{Lists, Purpose, QuorumOptions, Terms};
use quorate_protocol::tree::Tree;
use quorate_storage::Place;

/// The placement and the properties of all buckets at one moment.
#[derive(Clone)]
pub struct ClusterView(Arc<Known>);

struct Known {
    placement: Arc<Placement>,
    table: Table,
    /// For what a bucket has no setting for.
    defaults: Properties,
}

impl fmt::Debug for ClusterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { placement, table, .. } = &*self.0;
        write!(f, "{placement:?}, {} bucket records", table.len())
    }
}

impl ClusterView {
    pub(super) fn new(placement: Arc<Placement>, table: Table, defaults: Properties) -> Self {
        Self(Arc::new(Known { placement, table, defaults }))
    }

    /// The same placement with another table.
    pub(super) fn with_table(&self, table: Table) -> Self {
        let Known { placement, defaults, .. } = &*self.0;
        Self::new(Arc::clone(placement), table, *defaults)
    }

    /// The same table with another placement.
    pub(super) fn with_placement(&self, placement: Arc<Placement>) -> Self {
        let Known { table, defaults, .. } = &*self.0;
        Self::new(placement, table.clone(), *defaults)
    }

    pub(super) fn table(&self) -> &Table {
        &self.0.table
    }

    /// The members of the cluster and the placement of keys.
    pub fn placement(&self) -> &Arc<Placement> {
        &self.0.placement
    }

    /// The epoch of the placement.
    pub fn epoch(&self) -> Epoch {
        self.0.placement.epoch()
    }

    /// The effective properties of a bucket.
    pub fn properties(&self, bucket: &str) -> Properties {
        let Known { table, defaults, .. } = &*self.0;
        let settings = if table.is_empty() { Settings::default() } else { table.settings(bucket) };
        settings.over(defaults)
    }

    /// How many home replicas the keys of a bucket have, if there are as many nodes.
    pub fn n(&self, bucket: &str) -> u16 {
        self.properties(bucket).n
    }

    /// The distinct values of n of all buckets.
    pub fn ns(&self) -> BTreeSet<u16> {
        let Known { table, defaults, .. } = &*self.0;
        let n_of = |settings: Settings| settings.over(defaults).n;
        let set = table.records().map(|(_, record)| n_of(record.settings));
        set.chain([n_of(Settings::default())]).collect()
    }

    /// The largest n of any bucket.
    pub fn n_max(&self) -> u16 {
        self.ns().last().copied().unwrap_or_default()
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.0.placement.partitions()).map(|p| Partition(p as u16))
    }

    /// All nodes that take part, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.0.placement.nodes()
    }

    /// The partition of a key.
    pub fn partition(&self, key: &Key) -> Partition {
        key.partition(self.0.placement.partitions())
    }

    /// All nodes in the order of preference for a key.
    pub fn preference_list(&self, key: &Key) -> Cow<'_, [NodeId]> {
        self.0.placement.preference_list(self.partition(key))
    }

    /// The home replicas of a key, in order of preference.
    pub fn homes(&self, key: &Key) -> Cow<'_, [NodeId]> {
        self.homes_of(self.tree(key))
    }

    /// The home replicas of the rows of a tree, in order of preference.
    pub fn homes_of(&self, tree: Tree) -> Cow<'_, [NodeId]> {
        self.0.placement.homes(tree.partition, tree.n)
    }

    /// Those that no operator has declared dead.
    pub fn living_homes_of(&self, tree: Tree) -> Vec<NodeId> {
        let homes = self.homes_of(tree);
        homes.iter().filter(|home| !self.0.placement.is_gone(**home)).copied().collect()
    }

    /// The first home replica of a partition: the one that does what one must do.
    pub fn first_home(&self, partition: Partition) -> Option<NodeId> {
        self.0.placement.layout().preference_list(partition).first().copied()
    }

    /// The home replicas of all keys of a bucket, and R: what a listing needs. The first set, and while the
    /// layout changes that of the next one.
    pub fn home_sets(&self, bucket: &str) -> (HomeSet<'_>, Option<HomeSet<'_>>) {
        let Properties { n, r, .. } = self.properties(bucket);
        let r_of = |layout: &Layout| {
            let homes = n.min(layout.node_count());
            r.of(homes).min(homes)
        };
        let placement = &self.0.placement;
        let layout = placement.layout();
        let first = HomeSet { layout, n, r: r_of(layout), takes_witnesses: false };
        let next = placement.next();
        (first, next.map(|layout| HomeSet { layout, n, r: r_of(layout), takes_witnesses: true }))
    }

    /// The same, with N − W + 1 in place of R: of so many home replicas one has each write that W have
    /// acknowledged.
    pub fn intersecting_sets(&self, bucket: &str) -> Vec<HomeSet<'_>> {
        let Properties { n, w, .. } = self.properties(bucket);
        let (first, next) = self.home_sets(bucket);
        let mut sets: Vec<HomeSet<'_>> = [Some(first), next].into_iter().flatten().collect();
        for set in &mut sets {
            set.r = w.intersecting(n.min(set.layout.node_count()));
        }
        sets
    }

    /// Whether a node is a home replica of the rows of a tree.
    pub fn is_home(&self, node: NodeId, tree: Tree) -> bool {
        self.0.placement.is_home(node, tree.partition, tree.n)
    }

    /// Whether it is one that must have all rows of the tree: a new one, while the layout changes, has not
    /// received what was written before.
    pub fn is_old_home(&self, node: NodeId, tree: Tree) -> bool {
        self.0.placement.is_old_home(node, tree.partition, tree.n)
    }

    /// The home replicas that have all rows of a tree: of which one that lacks them receives them. Without
    /// those that an operator has declared dead.
    pub fn sources(&self, tree: Tree) -> Vec<NodeId> {
        let homes = self.0.placement.layout().homes(tree.partition, tree.n).iter();
        let sources = homes.filter(|home| !self.0.placement.is_gone(**home)).copied();
        sources.take(if mutated(Mutation::FillFromOneHome) { 1 } else { usize::MAX }).collect()
    }

    /// The Merkle tree that counts a key's row.
    pub fn tree(&self, key: &Key) -> Tree {
        Tree { partition: self.partition(key), n: self.n(key.bucket()) }
    }

    /// The place of a key's home row on this node.
    pub fn home(&self, key: &Key) -> Place {
        Place::Home(self.tree(key))
    }

    /// The quorum and nodes for a read of a key.
    ///
    /// # Errors
    /// [`QuorumError`] if the request does not fit the key's bucket.
    pub fn read_terms(&self, key: &Key, asked: &QuorumOptions) -> Result<Terms, QuorumError> {
        Terms::of_read(asked, &self.properties(key.bucket()), self.lists(key))
    }

    /// The quorum and nodes for a write of a key.
    ///
    /// # Errors
    /// [`QuorumError`] if the request does not fit the key's bucket.
    pub fn write_terms(&self, key: &Key, asked: &QuorumOptions) -> Result<Terms, QuorumError> {
        Terms::of_write(asked, &self.properties(key.bucket()), self.lists(key))
    }

    /// Whether a write of a key fits the properties of its bucket.
    ///
    /// # Errors
    /// [`QuorumError`] if it does not.
    pub fn check_write(&self, key: &Key, asked: &QuorumOptions) -> Result<(), QuorumError> {
        let nodes = usize::from(self.0.placement.layout().node_count());
        Terms::check_write(asked, &self.properties(key.bucket()), nodes)
    }

    /// The terms of an operation on a key that begins again in this view.
    ///
    /// # Errors
    /// [`QuorumError`] if what was asked does not fit the key's bucket any more.
    pub fn renewed_terms(
        &self,
        key: &Key,
        purpose: Purpose,
        asked: &QuorumOptions,
    ) -> Result<Terms, QuorumError> {
        Terms::renewed(purpose, asked, &self.properties(key.bucket()), self.lists(key))
    }

    fn lists(&self, key: &Key) -> Lists<'_> {
        self.0.placement.lists(self.partition(key))
    }
}
