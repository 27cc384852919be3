//! The index of what expires: finding it costs what has expired, not what is stored.

use quorate_protocol::layout::Partition;
use quorate_protocol::name::Key;
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;

use crate::columns::{Column, EXPIRY_KEY_AT, expiry_key, key_of};
use crate::disk::Need;
use crate::error::Error;
use crate::options::{Blocking, Place};
use crate::store::Store;

impl Store {
    /// Up to `limit` keys of a partition of which a value has expired by `due`, those that expired first in
    /// front, after `after`: each with when it did. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn expired(
        &self,
        partition: Partition,
        after: Option<&(WallTime, Key)>,
        limit: usize,
        due: WallTime,
    ) -> Result<Vec<(WallTime, Key)>, Error> {
        let prefix = partition.0.to_be_bytes();
        let after = after.map(|(at, key)| expiry_key(partition, *at, key));
        let mut found = Vec::new();
        self.walk(Column::Expiries, &prefix, after.as_deref(), |entry_key, _| {
            let at = expires_at(entry_key)?;
            if found.len() == limit || at > due {
                return Ok(false);
            }
            found.push((at, key_of(Column::Expiries, entry_key, EXPIRY_KEY_AT)?));
            Ok(true)
        })?;
        Ok(found)
    }

    /// Drops an entry for which there is no such value: there should be none. Blocks on the disk.
    ///
    /// # Errors
    /// Those of a write.
    pub fn drop_stray_expiry(
        &self,
        partition: Partition,
        (at, key): &(WallTime, Key),
    ) -> Result<bool, Error> {
        let place = Place::Home(Tree { partition, n: 0 });
        self.change(place, key, Blocking::Allowed, |update| {
            let entry_key = expiry_key(partition, *at, key);
            let is_there =
                self.engine.get(Column::Expiries, &entry_key, Blocking::Allowed)?.is_some();
            if update.row.object.next_expiry() == Some(*at) || !is_there {
                return Ok(false);
            }
            tracing::error!(%key, "dropped an entry of the index of what expires");
            self.disk.check(Need::Record)?;
            let mut batch = self.engine.batch();
            batch.delete(Column::Expiries, entry_key)?;
            self.engine.write(batch, Blocking::Allowed)?;
            Ok(true)
        })
    }
}

/// When the value of an entry expires.
fn expires_at(entry_key: &[u8]) -> Result<WallTime, Error> {
    let at = entry_key.get(2..EXPIRY_KEY_AT).and_then(|at| at.try_into().ok());
    at.map(|at| WallTime(u64::from_be_bytes(at))).ok_or_else(|| Error::Damaged {
        what: format!("an entry of what expires ({entry_key:?})"),
        reason: "it is too short".to_owned(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::clock::Clock;
    use quorate_protocol::lifetime::Lifetime;
    use quorate_protocol::row::Draft;

    use super::*;
    use crate::Durability;
    use crate::testing::{HOME, LIMITS, NOW, TREE, draft, key, open};

    fn put(store: &Store, name: &str, context: Clock, seconds: Option<u32>) -> Clock {
        let lifetime = Lifetime::OfBucket.in_bucket(seconds);
        let draft = Draft { lifetime, ..draft(context, b"v") };
        let minted = store.mint(HOME, &key(name), &draft, NOW, &LIMITS, Blocking::Allowed);
        minted.unwrap().unwrap().object.clock
    }

    fn names(store: &Store, due: u64) -> Vec<String> {
        let due = WallTime(due);
        let mut found = Vec::new();
        let mut after = None;
        while let Some(next) = store.expired(TREE.partition, after.as_ref(), 1, due).unwrap().pop()
        {
            found.push(next.1.key().to_owned());
            after = Some(next);
        }
        assert_eq!(store.expired(TREE.partition, None, 99, due).unwrap().len(), found.len());
        found
    }

    /// At 1,000: a for 7 s, b for 3 s, and c without end.
    fn filled(store: &Store) -> Clock {
        let seen = put(store, "a", Clock::default(), Some(7));
        put(store, "b", Clock::default(), Some(3));
        put(store, "c", Clock::default(), None);
        seen
    }

    #[test]
    fn what_expires_is_found_in_order_once_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let seen = filled(&store);
        assert_eq!(names(&store, 3_999), [""; 0]);
        assert_eq!(names(&store, 4_000), ["b"]);
        assert_eq!(names(&store, 8_000), ["b", "a"]);
        put(&store, "a", seen, Some(2));
        assert_eq!(names(&store, 3_000), ["a"]);
        assert_eq!(names(&store, u64::MAX), ["a", "b"]);
        store.close().unwrap();
        drop(store);
        let store = open(dir.path(), Durability::Buffered);
        assert_eq!(names(&store, u64::MAX), ["a", "b"]);
        let removes = Draft { removes_expired: Some(WallTime(4_000)), ..Draft::default() };
        for name in ["a", "b"] {
            let minted = store.mint(HOME, &key(name), &removes, NOW, &LIMITS, Blocking::Allowed);
            assert!(minted.unwrap().unwrap().object.is_deleted());
        }
        assert_eq!(names(&store, u64::MAX), [""; 0]);
        assert_eq!(store.tombstone_count(TREE.partition), 2);
        assert_eq!(store.scrub(TREE.partition).unwrap().repaired(), 0);
    }

    #[test]
    fn an_entry_without_a_value_is_dropped_and_a_lost_one_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        filled(&store);
        let entry = |at, name| expiry_key(TREE.partition, WallTime(at), &key(name));
        store.tamper(|batch| {
            batch.put(Column::Expiries, entry(5, "c"), b"")?;
            batch.delete(Column::Expiries, entry(4_000, "b"))
        });
        assert_eq!(names(&store, u64::MAX), ["c", "a"]);
        for (entry, is_stray) in [((5, "c"), true), ((5, "c"), false), ((8_000, "a"), false)] {
            let entry = (WallTime(entry.0), key(entry.1));
            assert_eq!(store.drop_stray_expiry(TREE.partition, &entry), Ok(is_stray));
        }
        assert_eq!(store.scrub(TREE.partition).unwrap().differing_entries, 1);
        assert_eq!(names(&store, u64::MAX), ["b", "a"]);
    }

    crate::testing::also_on_simulated_disks! {
        what_expires_is_found_in_order_once_it_has,
        an_entry_without_a_value_is_dropped_and_a_lost_one_made_again,
    }
}
