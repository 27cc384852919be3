//! What one operation knows of the cluster: taken once, and carried through it.
//!
//! Bucket properties change while operations run, and one day the layout will. An operation that
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

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use quorate_protocol::bucket::{Properties, Settings};
use quorate_protocol::bucket_table::Table;
use quorate_protocol::layout::{Layout, Partition};
use quorate_protocol::listing::HomeSet;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::quorum::QuorumError;
use quorate_protocol::terms::{QuorumOptions, Terms};
use quorate_protocol::tree::Tree;
use quorate_storage::Place;

/// The layout and the properties of all buckets at one moment.
#[derive(Clone)]
pub struct ClusterView(Arc<Known>);

struct Known {
    layout: Arc<Layout>,
    table: Table,
    /// For what a bucket has no setting for.
    defaults: Properties,
}

impl fmt::Debug for ClusterView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { layout, table, .. } = &*self.0;
        write!(f, "{layout:?}, {} bucket records", table.len())
    }
}

impl ClusterView {
    pub(super) fn new(layout: Arc<Layout>, table: Table, defaults: Properties) -> Self {
        Self(Arc::new(Known { layout, table, defaults }))
    }

    /// The same layout with another table.
    pub(super) fn with_table(&self, table: Table) -> Self {
        let Known { layout, defaults, .. } = &*self.0;
        Self::new(Arc::clone(layout), table, *defaults)
    }

    pub(super) fn table(&self) -> &Table {
        &self.0.table
    }

    /// The members of the cluster and the placement of keys.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// The effective properties of a bucket.
    pub fn properties(&self, bucket: &str) -> Properties {
        let Known { layout, table, defaults } = &*self.0;
        let settings = if table.is_empty() { Settings::default() } else { table.settings(bucket) };
        settings.over(defaults, layout.node_count())
    }

    /// How many home replicas the keys of a bucket have.
    pub fn n(&self, bucket: &str) -> u16 {
        self.properties(bucket).n
    }

    /// The distinct values of n of all buckets.
    pub fn ns(&self) -> BTreeSet<u16> {
        let Known { layout, table, defaults } = &*self.0;
        let n_of = |settings: Settings| settings.over(defaults, layout.node_count()).n;
        let set = table.records().map(|(_, record)| n_of(record.settings));
        set.chain([n_of(Settings::default())]).collect()
    }

    /// The largest n of any bucket.
    pub fn n_max(&self) -> u16 {
        self.ns().last().copied().unwrap_or_default()
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = Partition> + use<> {
        (0..self.layout().partitions()).map(|p| Partition(p as u16))
    }

    /// All nodes, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.layout().members().iter().map(|member| member.node)
    }

    /// The partition of a key.
    pub fn partition(&self, key: &Key) -> Partition {
        key.partition(self.layout().partitions())
    }

    /// All nodes in the order of preference for a key.
    pub fn preference_list(&self, key: &Key) -> &[NodeId] {
        self.layout().preference_list(self.partition(key))
    }

    /// The home replicas of a key, in order of preference.
    pub fn homes(&self, key: &Key) -> &[NodeId] {
        self.layout().homes(self.partition(key), self.n(key.bucket()))
    }

    /// The home replicas of all keys of a bucket, and R: what a listing needs.
    pub fn home_set(&self, bucket: &str) -> HomeSet<'_> {
        let Properties { n, r, .. } = self.properties(bucket);
        HomeSet { layout: self.layout(), n, r: r.of(n) }
    }

    /// Whether a node is a home replica of the rows of a tree.
    pub fn is_home(&self, node: NodeId, tree: Tree) -> bool {
        self.layout().homes(tree.partition, tree.n).contains(&node)
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
        Terms::of_read(asked, &self.properties(key.bucket()), self.preference_list(key))
    }

    /// The quorum and nodes for a write of a key.
    ///
    /// # Errors
    /// [`QuorumError`] if the request does not fit the key's bucket.
    pub fn write_terms(&self, key: &Key, asked: &QuorumOptions) -> Result<Terms, QuorumError> {
        Terms::of_write(asked, &self.properties(key.bucket()), self.preference_list(key))
    }

    /// Whether a write of a key fits the properties of its bucket.
    ///
    /// # Errors
    /// [`QuorumError`] if it does not.
    pub fn check_write(&self, key: &Key, asked: &QuorumOptions) -> Result<(), QuorumError> {
        let nodes = self.preference_list(key).len();
        Terms::check_write(asked, &self.properties(key.bucket()), nodes)
    }
}
