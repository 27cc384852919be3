//! The facts that a start of the node is judged by ([`quorate_protocol::generation`]): the store's
//! sequence number when it was opened, how far it is durable, and when it was last in use.

use quorate_protocol::row::Incarnation;
use quorate_protocol::time::WallTime;

use crate::columns::Column;
use crate::error::Error;
use crate::options::{Blocking, Durability};
use crate::store::Store;

/// The record of when the store was last in use.
const ALIVE: &[u8] = b"store:alive";

impl Store {
    /// The incarnation under which this opening mints.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The sequence number of the last change in the store when it was opened, before this start
    /// wrote anything.
    pub fn opened_at(&self) -> u64 {
        self.engine.opened_at()
    }

    /// The sequence number of the last change known to be durable as configured.
    pub fn durable_at(&self) -> u64 {
        match self.options.durability {
            Durability::Fsync => self.engine.synced_to(),
            Durability::Buffered => self.engine.logged_to(),
        }
    }

    /// When the store was last in use, by the wall clock: the last record of [`Store::mark_alive`]
    /// that survived. `None` if there is none. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn alive_at(&self) -> Result<Option<WallTime>, Error> {
        let Some(bytes) = self.engine.get(Column::Meta, ALIVE, Blocking::Allowed)? else {
            return Ok(None);
        };
        let alive_at = bytes.as_ref().try_into().map(|bytes| WallTime(u64::from_le_bytes(bytes)));
        alive_at.map(Some).map_err(|_| Error::Damaged {
            what: "the record of when the store was last in use".to_owned(),
            reason: format!("{bytes:?} is not a time"),
        })
    }

    /// Records that the store is in use. The record goes through the log like every change and is
    /// not synced by itself: if it survives, so do all earlier writes.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`].
    pub fn mark_alive(&self, now: WallTime) -> Result<(), Error> {
        self.write_record(ALIVE, &now.0.to_le_bytes())
    }

    /// Discards all rows and hints and their derived data, durably: for a node that was away so
    /// long that its peers have reaped deletes it missed. The node's records stay. For use at a
    /// start, before anything is served. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`]; the next start finds either everything or nothing.
    pub(crate) fn discard_rows(&self) -> Result<(), Error> {
        let _everything = self.stripes.lock_all();
        let mut batch = self.engine.batch();
        let columns = || Column::ALL.into_iter().filter(|column| *column != Column::Meta);
        for column in columns() {
            batch.delete_all(column)?;
        }
        self.engine.write(batch, Blocking::Allowed)?;
        self.rows.clear();
        self.trees.clear();
        self.feeds.clear();
        self.hint_accounting.clear();
        self.engine.sync()?;
        // Files may be deleted only now: before the sync a crash could have undone the batch.
        for column in columns() {
            self.engine.backend.release_space(column)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::tree::Root;

    use super::*;
    use crate::testing::{HOME, NOW, TREE, key, mint, node, object, open, wait};
    use crate::{Durability, Place};

    #[test]
    fn a_start_finds_at_least_what_was_durable() {
        for durability in [Durability::Fsync, Durability::Buffered] {
            let dir = tempfile::tempdir().unwrap();
            let mut known = 0;
            for start in 0..4 {
                let store = open(dir.path(), durability);
                assert!(store.opened_at() >= known, "{durability:?}");
                assert!(store.durable_at() >= store.opened_at());
                if start == 0 {
                    assert_eq!(store.opened_at(), 0, "before this start wrote anything");
                }
                mint(&store, HOME, "k", b"v");
                let before = store.durable_at();
                wait(store.durable()).unwrap();
                known = store.durable_at();
                let number = store.engine.sequence();
                assert_eq!(known, number);
                assert!(before < known, "minted, and not yet flushed");
                if start % 2 == 0 {
                    store.close().unwrap();
                }
            }
        }
    }

    #[test]
    fn the_last_sign_of_life_survives_with_what_came_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(store.alive_at(), Ok(None));
        store.mark_alive(WallTime(7)).unwrap();
        store.mark_alive(NOW).unwrap();
        wait(store.durable()).unwrap();
        drop(store);
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(store.alive_at(), Ok(Some(NOW)));
    }

    #[test]
    fn discarded_rows_leave_nothing_but_the_nodes_records() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let hint = Place::Hint(node("n2"));
        store.put_meta("formed", b"yes").unwrap();
        for i in 0..200 {
            mint(&store, HOME, &format!("k{}", i % 50), &[7; 1000]);
            mint(&store, hint, &format!("k{i}"), &[7; 20_000]);
        }
        for column in Column::ALL {
            store.write_tables(column);
        }
        mint(&store, HOME, "unflushed", b"v");
        store.discard_rows().unwrap();
        let check = |store: &crate::Store| {
            assert_eq!(store.scan_partition(TREE.partition, None, 9, usize::MAX), Ok(vec![]));
            assert_eq!(store.hint_targets(), Ok(vec![]));
            assert_eq!((store.hint_bytes(), store.stats().hint_keys), (0, 0));
            assert_eq!((store.root(TREE), store.roots()), (Root::default(), vec![]));
            assert_eq!(store.keys("b", "", None, 9), Ok(vec![]));
            assert_eq!(store.conflicts(None, None, 9), Ok(vec![]));
            assert_eq!(store.tombstone_count(TREE.partition), 0);
            assert_eq!(store.meta("formed").unwrap().as_deref(), Some(&b"yes"[..]));
        };
        check(&store);
        drop(store);
        let store = open(dir.path(), Durability::Fsync);
        check(&store);
        mint(&store, HOME, "k1", b"v");
        mint(&store, hint, "k1", b"v");
        assert_eq!(store.scan_partition(TREE.partition, None, 9, usize::MAX).unwrap().len(), 1);
        assert_eq!(store.hints_of_key(&key("k1")).unwrap().len(), 1);
        assert!(object(&store, HOME, "k1").is_some());
    }

    crate::testing::also_on_simulated_disks! {
        a_start_finds_at_least_what_was_durable,
        the_last_sign_of_life_survives_with_what_came_before_it,
        discarded_rows_leave_nothing_but_the_nodes_records,
    }
}
