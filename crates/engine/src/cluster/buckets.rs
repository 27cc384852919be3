//! Bucket properties on this node: kept in the store, sent to every peer when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use quorate_protocol::bucket::{Properties, PropertiesError, Settings};
use quorate_protocol::bucket_table::{BUCKETS_MAX, Table};
use quorate_protocol::data_type::DataType;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Bucket, NodeId};
use quorate_protocol::placement::{Epoch, Placement};
use quorate_protocol::reassign::{Assignment, Pass, ReplicaCounts};
use quorate_protocol::time::WallTime;
use quorate_storage::Store;
use tokio::sync::Semaphore;

use crate::cluster::view::ClusterView;
use crate::node::errors::StartError;
use crate::node::record;

/// The table, the placement beside it, and the defaults that apply where the table has no setting.
pub struct Buckets {
    pub(super) defaults: Properties,
    /// The table and the placement as they are now.
    current: Arc<RwLock<ClusterView>>,
    /// Whether rows are in the trees of their buckets' n.
    assignment: RwLock<Assignment>,
    /// Buckets whose n was raised, with the n before (or the lowest that this node may have
    /// missed). Nodes that became home replicas by that hold nothing yet: until they have fetched
    /// all of it, they may not answer for these keys.
    raised: RwLock<BTreeMap<Bucket, u16>>,
    /// Serialises changes, so that `current` is not locked while one is made durable.
    changing: Mutex<()>,
    /// Earlier placements that operations may still be carrying out.
    older: Mutex<Vec<Weak<Placement>>>,
    /// Limits how many tasks ask all peers for their tables at a time.
    pub(super) asking: Semaphore,
}

/// Why properties were not set. Nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum BucketsError {
    /// They are invalid.
    #[error(transparent)]
    Properties(#[from] PropertiesError),
    /// Too many buckets have properties of their own.
    #[error(
        "{BUCKETS_MAX} buckets have properties of their own already, the limit; reset some that are not used \
         any more (DELETE /buckets/{{bucket}}). A reset is forgotten, and makes room, once every node has \
         received it"
    )]
    Full,
    /// The layout is changing.
    #[error("n cannot change while the cluster's layout does; wait for that to end, or abort it")]
    Moving,
    /// The bucket has another type.
    #[error("the bucket's type is {has}, and stays that")]
    Typed {
        /// Its type.
        has: DataType,
    },
    /// A type was to be set on a bucket with keys.
    #[error("the bucket has keys, and a type is set before there are any: take another bucket")]
    NotEmpty,
    /// Whether it has keys is not known.
    #[error("whether the bucket has keys is not known, as too few nodes answer; try again")]
    Unlisted,
    /// The store did not take them.
    #[error("could not store them: {0}")]
    Store(#[from] quorate_storage::Error),
}

const TABLE_RECORD: &str = "buckets";
const RAISED_RECORD: &str = "raised";
/// The record keeps its name on disk.
const ASSIGNMENT_RECORD: &str = "placement";
/// With more resets than this they are folded, which changes the table on every node.
const RESETS_MAX: usize = 256;
const DEFAULT_N_RECORD: &str = "default_n";

/// Checks that the default n is the one with which this store was filled, if it belongs to a formed
/// cluster of `nodes` nodes: with another n, rows would be looked for on the wrong nodes. Earlier releases
/// recorded no more than the number of nodes, which is where they kept rows too.
///
/// # Errors
/// [`StartError::DefaultN`]; the store's.
pub fn check_default_n(
    store: &Store,
    (n, nodes): (u16, u16),
    is_formed: bool,
) -> Result<(), StartError> {
    match store.meta(DEFAULT_N_RECORD)? {
        Some(bytes) => {
            let recorded = <[u8; 2]>::try_from(&bytes[..]);
            let recorded = recorded.map_err(|_| StartError::Record(DEFAULT_N_RECORD))?;
            match u16::from_le_bytes(recorded) {
                recorded if recorded == n => Ok(()),
                recorded if recorded == n.min(nodes) => Ok(record_default_n(store, n)?),
                recorded => Err(StartError::DefaultN { recorded, configured: n }),
            }
        }
        None if is_formed => Ok(record_default_n(store, n)?), // written by a release that did not record it
        None => Ok(()),
    }
}

/// Records the default n of the cluster that this node joins.
///
/// # Errors
/// The store's.
pub fn record_default_n(store: &Store, n: u16) -> Result<(), quorate_storage::Error> {
    store.put_meta(DEFAULT_N_RECORD, &n.to_le_bytes())
}

/// The buckets that have a feed, and for how many seconds their changes are kept.
fn feeds_in(table: &Table) -> BTreeMap<String, u32> {
    let feeds = table.records().filter_map(|(bucket, record)| {
        Some((bucket.as_str().to_owned(), record.settings.feed_retention_s?))
    });
    feeds.collect()
}

impl Buckets {
    /// Reads the recorded table, and makes the store keep rows in the trees of their bucket's n.
    ///
    /// # Errors
    /// [`StartError`] if it cannot be read.
    pub fn load(
        store: &Store,
        defaults: Properties,
        placement: Arc<Placement>,
    ) -> Result<Self, StartError> {
        let table = match store.meta(TABLE_RECORD)? {
            Some(bytes) => Table::decode(&bytes).map_err(|_| StartError::Record(TABLE_RECORD))?,
            None => Table::default(),
        };
        let raised = record::load(store, RAISED_RECORD)?.unwrap_or_default();
        let mut assignment: Assignment =
            record::load(store, ASSIGNMENT_RECORD)?.unwrap_or_else(Assignment::unknown);
        // The default n, which applies to buckets without a record, may have been changed since.
        if assignment.change(&ReplicaCounts::of(&table, &defaults)) {
            record::put(store, ASSIGNMENT_RECORD, &assignment)?;
        }
        let current = Arc::new(RwLock::new(ClusterView::new(placement, table, defaults)));
        let known = current.clone();
        store.assign_trees_by(Box::new(move |bucket| {
            known.read().unwrap_or_else(PoisonError::into_inner).n(bucket)
        }));
        let (assignment, raised) = (RwLock::new(assignment), RwLock::new(raised));
        let (changing, older, asking) = (Mutex::new(()), Mutex::default(), Semaphore::new(1));
        Ok(Self { defaults, current, assignment, raised, changing, older, asking })
    }

    /// Has the store keep logs of the changes of buckets that have a feed, and of no others.
    ///
    /// # Errors
    /// The store's.
    pub fn keep_feeds(&self, store: &Store, now: WallTime) -> Result<(), quorate_storage::Error> {
        let _changing = self.lock();
        store.keep_feeds(&feeds_in(&self.table()), now)
    }

    /// Puts another placement in force.
    pub(crate) fn place(&self, placement: Arc<Placement>) {
        let _changing = self.lock();
        let next = self.read().with_placement(placement);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, next);
        drop(current);
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.push(Arc::downgrade(before.placement()));
    }

    /// Whether nothing is under way any more that began by an earlier placement. What this node tells a peer
    /// of its rows then holds all that was acknowledged in earlier epochs.
    pub fn is_drained(&self) -> bool {
        let mut older = self.older.lock().unwrap_or_else(PoisonError::into_inner);
        older.retain(|placement| placement.strong_count() > 0);
        older.is_empty()
    }

    /// The epoch in force.
    pub fn epoch(&self) -> Epoch {
        self.read().epoch()
    }

    /// The distinct values of n of all buckets now.
    pub fn ns(&self) -> BTreeSet<u16> {
        self.read().ns()
    }

    /// The placement and the properties of all buckets as they are now.
    pub fn view(&self) -> ClusterView {
        self.read().clone()
    }

    /// The effective properties of a bucket now. An operation has them from its view.
    pub fn properties(&self, bucket: &str) -> Properties {
        self.read().properties(bucket)
    }

    /// The buckets with settings of their own, in order.
    pub fn all(&self) -> Vec<(Bucket, Settings)> {
        let view = self.read();
        let set =
            view.table().records().filter(|(_, record)| record.settings != Settings::default());
        set.map(|(bucket, record)| (bucket.clone(), record.settings)).collect()
    }

    /// Whether there are enough resets to try folding them.
    pub fn has_many_resets(&self) -> bool {
        let view = self.read();
        let table = view.table();
        table.len() >= RESETS_MAX && table.resets() >= RESETS_MAX
    }

    /// Forgets resets, if there are many and every node has them: if all peers' tables, whose last
    /// reported hashes these are, equal this one.
    ///
    /// # Errors
    /// The store's; nothing changed then.
    pub fn fold(
        &self,
        store: &Store,
        hashes: impl IntoIterator<Item = Option<u64>>,
    ) -> Result<(), quorate_storage::Error> {
        let _changing = self.lock();
        let mut next = self.table();
        let hash = next.hash();
        let is_known_everywhere = || hashes.into_iter().all(|heard| heard == Some(hash));
        if next.resets() < RESETS_MAX || !is_known_everywhere() {
            return Ok(());
        }
        // Anything that a peer has set since it reported its hash is newer than everything in this
        // table.
        next.fold(next.stamp_max());
        self.keep(store, next)
    }

    fn keep(&self, store: &Store, next: Table) -> Result<(), quorate_storage::Error> {
        record::put(store, TABLE_RECORD, &next)?;
        if let forgotten @ 1.. = self.read().table().resets().saturating_sub(next.resets()) {
            tracing::info!(forgotten, "every node knows these resets of bucket properties");
        }
        let next = self.read().with_table(next);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *current, next);
        drop(current); // the table before may be large: nobody waits while it is freed
        drop(before);
        Ok(())
    }

    /// Sets a bucket's properties here, durably, and returns the change to send.
    pub(super) fn change(
        &self,
        store: &Store,
        bucket: &Bucket,
        settings: Settings,
        by: (NodeId, WallTime),
    ) -> Result<Table, BucketsError> {
        let (_changing, now) = (self.lock(), by.1);
        {
            let view = self.read();
            let table = view.table();
            if table.record(bucket).is_none() && table.len() >= BUCKETS_MAX {
                return Err(BucketsError::Full);
            }
        }
        let record = self.read().table().next(bucket, settings, by, &self.defaults);
        let mut change = Table::default();
        change.merge(bucket, record);
        self.learn(store, &change, now)?;
        Ok(change)
    }

    /// Merges newer records, durably. Returns whether there were any.
    ///
    /// # Errors
    /// The store's, if the table cannot be made durable; nothing changed then.
    pub fn merge(
        &self,
        store: &Store,
        other: &Table,
        now: WallTime,
    ) -> Result<bool, quorate_storage::Error> {
        let _changing = self.lock();
        self.learn(store, other, now)
    }

    /// The same for a caller that holds `changing`.
    fn learn(
        &self,
        store: &Store,
        other: &Table,
        now: WallTime,
    ) -> Result<bool, quorate_storage::Error> {
        let (mut next, mut raised) = (self.table(), self.raised());
        let changed = next.learn(other, &mut raised, &self.defaults);
        if changed {
            // Persist first: a crash in between leaves the node stricter than necessary, never
            // laxer.
            self.record_raised(store, raised)?;
            self.doubt(store, &next)?;
            store.keep_feeds(&feeds_in(&next), now)?;
            if let Err(error) = self.keep(store, next) {
                // The previous n stay in force, which is one more change for the rows marked as in
                // doubt.
                let before = ReplicaCounts::of(&self.table(), &self.defaults);
                self.write_assignment().change(&before);
                return Err(error);
            }
        }
        Ok(changed)
    }

    /// Marks rows of buckets whose n is about to change as in doubt, durably.
    fn doubt(&self, store: &Store, next: &Table) -> Result<(), quorate_storage::Error> {
        let mut assignment = self.assignment().clone();
        if assignment.change(&ReplicaCounts::of(next, &self.defaults)) {
            record::put(store, ASSIGNMENT_RECORD, &assignment)?;
            *self.write_assignment() = assignment;
        }
        Ok(())
    }

    /// Whether rows are in the trees of their buckets' n.
    pub fn assignment(&self) -> RwLockReadGuard<'_, Assignment> {
        self.assignment.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_assignment(&self) -> RwLockWriteGuard<'_, Assignment> {
        self.assignment.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pass over rows that is due. Every row written after this call goes into the tree of the
    /// n that the pass knows, or of a later change. Blocks while n is being changed.
    pub fn pass(&self, store: &Store) -> Option<Pass> {
        let changing = self.lock();
        let pass = self.assignment().next_pass();
        drop(changing);
        if pass.is_some() {
            store.wait_for_writers();
        }
        pass
    }

    /// Records that a pass has visited all its rows. Blocks.
    ///
    /// # Errors
    /// The store's, if that cannot be made durable; the pass is then due again.
    pub fn passed(&self, store: &Store, pass: &Pass) -> Result<(), quorate_storage::Error> {
        let _changing = self.lock();
        let mut assignment = self.assignment().clone();
        if assignment.finish_pass(pass) {
            record::put(store, ASSIGNMENT_RECORD, &assignment)?;
            *self.write_assignment() = assignment;
        }
        Ok(())
    }

    /// How many of a key's home replicas, counted from the first, held its bucket before n was
    /// raised; all of them once that is settled.
    pub fn trusted_n(&self, bucket: &str) -> u16 {
        let n = self.read().n(bucket);
        let raised = self.raised.read().unwrap_or_else(PoisonError::into_inner);
        if raised.is_empty() {
            return n;
        }
        if mutated(Mutation::RaiseForgotten) {
            return n;
        }
        let before = Bucket::parse(bucket).ok().and_then(|bucket| raised.get(&bucket).copied());
        before.map_or(n, |before| before.min(n))
    }

    /// Buckets whose n was raised and that this node has not fetched yet, with the n before.
    pub fn raised(&self) -> BTreeMap<Bucket, u16> {
        self.raised.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This node has fetched all that it must hold of a bucket, of which `before` replicas held it
    /// before, since `changed` ([`Assignment::last_change_of`]). Forgets that n was raised, unless n has
    /// changed in the meantime, even if it was changed back: rows may have been dropped in between.
    ///
    /// # Errors
    /// The store's, if that cannot be made durable; the bucket stays raised then.
    pub fn fetched(
        &self,
        store: &Store,
        bucket: &Bucket,
        before: u16,
        changed: u64,
    ) -> Result<(), quorate_storage::Error> {
        let _changing = self.lock();
        let mut raised = self.raised();
        let is_changed = self.assignment().last_change_of(bucket.as_str()) != changed;
        if raised.get(bucket) != Some(&before) || is_changed {
            return Ok(());
        }
        raised.remove(bucket);
        self.record_raised(store, raised)
    }

    fn record_raised(
        &self,
        store: &Store,
        raised: BTreeMap<Bucket, u16>,
    ) -> Result<(), quorate_storage::Error> {
        if raised != self.raised() {
            record::put(store, RAISED_RECORD, &raised)?;
            *self.raised.write().unwrap_or_else(PoisonError::into_inner) = raised;
        }
        Ok(())
    }

    /// The largest n of any bucket.
    pub fn n_max(&self) -> u16 {
        self.read().n_max()
    }

    /// The whole table.
    pub fn table(&self) -> Table {
        self.read().table().clone()
    }

    /// A hash of the table: equal on nodes whose tables are equal.
    pub fn hash(&self) -> u64 {
        self.read().table().hash()
    }

    /// How many nodes the cluster has: no bucket is given a larger n.
    pub(super) fn nodes(&self) -> u16 {
        self.read().placement().node_count()
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, ClusterView> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}
