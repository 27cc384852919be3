//! The store's state and its metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::columns::Column;
use crate::disk::Need;
use crate::error::Error;
use crate::options::{Blocking, Condition, InjectedFaults, Stats};
use crate::store::Store;

/// Counts the outcomes of calls that may not block.
#[derive(Default)]
pub(crate) struct CallCounters {
    inline: AtomicU64,
    would_block: AtomicU64,
}

impl CallCounters {
    /// Counts the outcome of a call.
    pub(crate) fn count<T>(&self, blocking: Blocking, result: &Result<T, Error>) {
        let counter = match (blocking, result) {
            (Blocking::Allowed, _) => return,
            (Blocking::Never, Err(Error::WouldBlock)) => &self.would_block,
            (Blocking::Never, Ok(_) | Err(_)) => &self.inline,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Store {
    /// The store's state.
    pub fn condition(&self) -> Condition {
        if let Some(reason) = self.engine.failure() {
            return Condition::Failed(reason.to_owned());
        }
        match self.disk.check(Need::Growth) {
            Err(Error::DiskLow { free_bytes, min }) => {
                let takes_deletes = self.disk.check(Need::Release).is_ok();
                Condition::DiskLow { free_bytes, min, takes_deletes }
            }
            Err(_) | Ok(()) => Condition::Healthy,
        }
    }

    /// For how long syncs of the log have been in flight without one completing.
    pub fn stuck_for(&self) -> Duration {
        self.engine.in_flight.stuck_for()
    }

    /// Injects faults, for tests, until called again. In a simulation nothing is delayed: a sync takes
    /// as long as its turn is late ([`crate::Later::Sync`]).
    pub fn inject_faults(&self, faults: InjectedFaults) {
        self.engine.fault_hook.set(faults);
    }

    /// Numbers for `/metrics`.
    pub fn stats(&self) -> Stats {
        let (trees, tree_bytes) = self.trees.size();
        let (syncs, writes, synced_writes, stalls) = self.engine.counts();
        let (hints_queued, hints_refused) = self.hint_accounting.counts();
        Stats {
            keys_estimate: self.engine.backend.entries_estimate(Column::Objects),
            hint_keys: self.hint_accounting.keys(),
            hint_bytes: self.hint_accounting.bytes(),
            hints_queued,
            hints_refused,
            tombstones: self.trees.tombstones(),
            trees,
            tree_bytes,
            syncs,
            writes,
            synced_writes,
            inline: self.call_counters.inline.load(Ordering::Relaxed),
            would_block: self.call_counters.would_block.load(Ordering::Relaxed),
            stalls,
            reads_in_place: self.engine.backend.reads_in_place(),
            block_cache_bytes: self.engine.backend.cache_bytes(),
            row_cache_bytes: self.rows.bytes(),
            disk_free_bytes: self.disk.free_bytes(),
            background_errors: self.engine.background_errors(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{HOME, NOW, key, mint, node, object, open, open_as, options, try_mint};
    use crate::{Durability, Options, Place};

    #[test]
    fn a_low_disk_refuses_writes_and_serves_reads() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let kept = mint(&store, HOME, "k", b"v").object;
        store.close().unwrap();
        drop(store);
        let low = Options { disk_free_bytes_min: u64::MAX, ..options(Durability::Fsync) };
        let store = open_as(dir.path(), low).unwrap();
        for blocking in [Blocking::Never, Blocking::Allowed] {
            let minted = try_mint(&store, HOME, "k", b"w", blocking).err();
            let merged =
                store.merge(Place::Hint(node("n2")), &key("k"), &kept, NOW, blocking).err();
            for error in [minted, merged] {
                assert!(matches!(error, Some(Error::DiskLow { .. })), "{error:?}");
            }
        }
        assert!(matches!(store.condition(), Condition::DiskLow { .. }));
        assert_eq!(object(&store, HOME, "k"), Some(kept));
    }

    crate::testing::also_on_simulated_disks! {
        a_low_disk_refuses_writes_and_serves_reads,
    }
}
