//! Which partitions this node has received (see `crate::repair::fill`).

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_protocol::layout::Partition;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::placement::Placement;
use quorate_storage::{Error, Store};
use serde::{Deserialize, Serialize};

use crate::node::errors::StartError;
use crate::node::record;
use crate::repair::doubtful::Doubtful;

const READY_RECORD: &str = "ready";
const MOVING_RECORD: &str = "moving";

/// What this node receives because the layout changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Moving {
    /// In which epoch.
    epoch: u64,
    /// The partitions of which it becomes a home replica, for some n.
    wanted: BTreeSet<Partition>,
    /// Those of them that it has received.
    received: BTreeSet<Partition>,
    /// How many of these are recorded.
    #[serde(skip)]
    recorded: usize,
}

/// Which partitions were received. Recorded in the store.
pub struct FillState {
    ready: Vec<AtomicBool>,
    complete: AtomicBool,
    recording: Mutex<()>,
    moving: Mutex<Moving>,
    pub(super) doubtful: Doubtful,
}

/// All partitions, in order.
fn partitions_of(placement: &Placement) -> impl Iterator<Item = Partition> + use<> {
    (0..placement.partitions()).map(|p| Partition(p as u16))
}

impl FillState {
    /// Loads what this node has recorded; without a record nothing is ready.
    ///
    /// # Errors
    /// [`StartError`] if the record cannot be read.
    pub fn load(store: &Store, partitions: u32) -> Result<Self, StartError> {
        let recorded = store.meta(READY_RECORD)?.unwrap_or_default();
        if !recorded.is_empty() && recorded.len() != partitions as usize {
            return Err(StartError::Record(READY_RECORD));
        }
        let is_ready = |p: usize| recorded.get(p) == Some(&1);
        let ready: Vec<bool> = (0..partitions as usize).map(is_ready).collect();
        let complete = AtomicBool::new(ready.iter().all(|ready| *ready));
        let ready = ready.into_iter().map(AtomicBool::new).collect();
        let doubtful = Doubtful::load(store)?;
        let mut moving: Moving = record::load(store, MOVING_RECORD)?.unwrap_or_default();
        moving.recorded = moving.received.len();
        let moving = Mutex::new(moving);
        Ok(Self { ready, complete, recording: Mutex::new(()), moving, doubtful })
    }

    /// A record of the cluster is about to come into force here: what `me` becomes a home replica of by it,
    /// for one of these n, is to be received, whatever was received in earlier epochs. Durable on return,
    /// and does nothing if it was done before. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn begin(
        &self,
        store: &Store,
        (me, placement): (NodeId, &Placement),
        ns: BTreeSet<u16>,
    ) -> Result<(), Error> {
        let epoch = placement.epoch().number;
        if placement.next().is_none() || self.lock().epoch == epoch {
            return Ok(());
        }
        let becomes = |p: &Partition| ns.iter().any(|n| placement.is_new_home(me, *p, *n));
        let was = |p: &Partition| ns.iter().any(|n| placement.is_old_home(me, *p, *n));
        let wanted: BTreeSet<Partition> = partitions_of(placement).filter(becomes).collect();
        // Rows that are left of an earlier time say nothing. Where it is a home replica already, for a larger
        // n, it goes on answering for that.
        let is_to_forget = |p: &&Partition| !was(p) && !mutated(Mutation::NewHomeReadyAtOnce);
        self.set_ready(wanted.iter().filter(is_to_forget), false);
        self.record(store)?;
        let received = match mutated(Mutation::NewHomeReadyAtOnce) {
            true => wanted.clone(),
            false => BTreeSet::new(),
        };
        let moving = Moving { epoch, wanted, recorded: received.len(), received };
        record::put(store, MOVING_RECORD, &moving)?;
        *self.lock() = moving;
        Ok(())
    }

    /// Buckets may be given these n while the layout changes: where `me` becomes a home replica for one of
    /// them it has to receive as well. Durable on return. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn extend(
        &self,
        store: &Store,
        (me, placement): (NodeId, &Placement),
        ns: &BTreeSet<u16>,
    ) -> Result<(), Error> {
        let becomes = |p: &Partition| ns.iter().any(|n| placement.is_new_home(me, *p, *n));
        let mut next = self.lock().clone();
        let known = next.wanted.len();
        next.wanted.extend(partitions_of(placement).filter(becomes));
        if next.epoch != placement.epoch().number || next.wanted.len() == known {
            return Ok(());
        }
        record::put(store, MOVING_RECORD, &next)?;
        let mut now = self.lock();
        if now.epoch == next.epoch {
            now.wanted = next.wanted;
        }
        Ok(())
    }

    /// A record is about to come into force without a change that ended: after a recovery this node may be
    /// a home replica where it was none, and what it has there is not all that was written. Durable on
    /// return. Returns of how many partitions that is so. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn forget_new_homes(
        &self,
        store: &Store,
        me: NodeId,
        (before, after): (&Placement, &Placement),
        ns: &BTreeSet<u16>,
    ) -> Result<usize, Error> {
        let is_home = |p: &Partition| ns.iter().any(|n| after.is_old_home(me, *p, *n));
        let was = |p: &Partition| {
            let was_or_became =
                |n: &u16| before.is_old_home(me, *p, *n) || before.is_new_home(me, *p, *n);
            ns.iter().any(was_or_became)
        };
        let new: Vec<Partition> = partitions_of(after).filter(|p| is_home(p) && !was(p)).collect();
        if new.is_empty() {
            return Ok(0);
        }
        self.set_ready(&new, false);
        self.record(store)?;
        Ok(new.len())
    }

    /// The change of the layout that was under way is none of this cluster's. Durable on return. Blocks.
    ///
    /// # Errors
    /// The store's.
    pub fn forget_move(&self, store: &Store) -> Result<(), Error> {
        record::put(store, MOVING_RECORD, &Moving::default())?;
        *self.lock() = Moving::default();
        Ok(())
    }

    /// How many partitions this node becomes a home replica of in the change under way, and how many of them
    /// it has not received durably: the change must not end because of what a crash takes back.
    pub fn move_progress(&self) -> (u32, u32) {
        let moving = self.lock();
        let (wanted, received) = (moving.wanted.len(), moving.recorded);
        (wanted as u32, wanted.saturating_sub(received) as u32)
    }

    /// All partitions that are to be received: after this node lost them, and because the layout changes.
    pub(super) fn to_receive(&self) -> Vec<Partition> {
        let moving = self.lock();
        let missing = if self.is_complete() { Vec::new() } else { self.missing() };
        let of_move = moving.wanted.difference(&moving.received).copied();
        missing.into_iter().chain(of_move).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Moving> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a partition was received.
    pub fn is_ready(&self, partition: Partition) -> bool {
        self.is_complete()
            || self.ready.get(usize::from(partition.0)).is_some_and(|ready| ready.load(Acquire))
    }

    /// Whether all partitions were received.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Acquire)
    }

    /// Whether a key is doubtful: another home replica holds something of it but could not give it.
    pub fn is_doubtful(&self, key: &Key) -> bool {
        self.doubtful.has(key)
    }

    /// All doubtful keys.
    pub fn doubtful(&self) -> Vec<Key> {
        self.doubtful.all()
    }

    /// Records that every partition is ready (when a cluster is formed) or none is (when this node
    /// joins one).
    ///
    /// # Errors
    /// The store's, if the record cannot be made durable.
    pub fn record_all(&self, store: &Store, ready: bool) -> Result<(), Error> {
        self.doubtful.change(store, &[], |_| true)?;
        for partition in &self.ready {
            partition.store(ready, Release);
        }
        if !ready {
            let mut moving = self.lock();
            moving.received.clear();
            moving.recorded = 0;
        }
        self.record(store)
    }

    /// A partition was received; [`FillState::record`] makes that durable.
    pub(super) fn mark(&self, partition: Partition) {
        self.set_ready([&partition], true);
        let mut moving = self.lock();
        if moving.wanted.contains(&partition) {
            moving.received.insert(partition);
        }
    }

    fn set_ready<'a>(&self, partitions: impl IntoIterator<Item = &'a Partition>, is_ready: bool) {
        for partition in partitions {
            if let Some(ready) = self.ready.get(usize::from(partition.0)) {
                ready.store(is_ready, Release);
            }
        }
    }

    pub(super) fn record(&self, store: &Store) -> Result<(), Error> {
        let _one_at_a_time = self.recording.lock().unwrap_or_else(PoisonError::into_inner);
        let record: Vec<u8> =
            self.ready.iter().map(|ready| u8::from(ready.load(Acquire))).collect();
        store.put_meta(READY_RECORD, &record)?;
        let moving = self.lock().clone();
        if !moving.wanted.is_empty() {
            record::put(store, MOVING_RECORD, &moving)?;
            let mut now = self.lock();
            if now.epoch == moving.epoch {
                now.recorded = moving.received.len().min(now.received.len());
            }
        }
        self.complete.store(record.iter().all(|ready| *ready == 1), Release);
        Ok(())
    }

    /// Whether all that was received is recorded: the disk may have been full.
    pub(super) fn is_recorded(&self) -> bool {
        let moving = self.lock();
        let is_complete = self.ready.iter().all(|ready| ready.load(Acquire));
        moving.recorded == moving.received.len() && self.is_complete() == is_complete
    }

    /// How many partitions have not been received yet.
    pub fn missing_count(&self) -> usize {
        if self.is_complete() { 0 } else { self.missing().len() }
    }

    /// The partitions that have not been received yet.
    pub fn missing(&self) -> Vec<Partition> {
        let partitions = (0..self.ready.len()).map(|p| Partition(p as u16));
        partitions.filter(|p| !self.is_ready(*p)).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::bucket::Settings;
    use quorate_protocol::bucket_table::Table;
    use quorate_protocol::message::Formation;
    use quorate_protocol::name::Bucket;
    use quorate_protocol::record::Reason;
    use quorate_protocol::time::WallTime;

    use super::*;
    use crate::cluster::bucket_change;
    use crate::testing;

    /// How many partitions n1 receives when `leaver` leaves a cluster of six with n = 3, and after a bucket
    /// was given n = 1 meanwhile; and how many have to be then.
    fn received(leaver: &str) -> (u32, u32, u32) {
        let dir = tempfile::tempdir().unwrap();
        let node = testing::node(dir.path(), "n1", &["n1", "n2", "n3", "n4", "n5", "n6"]);
        node.record_formation(Formation([9; 16]), false).unwrap();
        let (leaver, n2) = (NodeId::parse(leaver).unwrap(), NodeId::parse("n2").unwrap());
        let reason = Reason { by: n2, at: WallTime(1), note: String::new() };
        let first = node.membership.record();
        let mut stay = first.stable().to_vec();
        stay.retain(|member| member.node != leaver);
        node.learn(&first.begin(stay, &[], reason).unwrap()).unwrap();
        let (_, before) = node.filled.move_progress();

        let bucket = Bucket::parse("large").unwrap();
        let settings = Settings { n: Some(1), ..Settings::default() };
        let (table, defaults) = (node.buckets.table(), node.config.defaults.properties());
        let mut change = Table::default();
        change.merge(&bucket, table.next(&bucket, settings, (n2, WallTime(1)), &defaults));
        assert!(bucket_change::take_now(&node, &change).unwrap());
        let (_, after) = node.filled.move_progress();

        let placement = node.view().placement().clone();
        let again = FillState::load(&node.store, placement.partitions()).unwrap();
        assert_eq!(again.move_progress().1, after, "durable");
        let becomes = |p: &Partition| [1, 3].iter().any(|n| placement.is_new_home(node.me, *p, *n));
        (before, after, partitions_of(&placement).filter(becomes).count() as u32)
    }

    #[tokio::test]
    async fn another_n_during_a_change_of_the_layout_has_more_to_be_received() {
        let leavers = ["n2", "n3", "n4", "n5", "n6"].map(received);
        assert!(leavers.iter().all(|(_, after, due)| after == due), "{leavers:?}");
        assert!(leavers.iter().any(|(before, after, _)| after > before), "{leavers:?}");
    }
}
