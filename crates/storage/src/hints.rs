//! Hints: rows kept for other nodes, and the accounting of their total size.
//!
//! The totals of each target change in the batch that changes the row, by merge operands, so they
//! are exact after any crash, and loading them at a start reads a few rows. The sum over all
//! targets is also kept in memory, and growth is reserved there *before* a write, so that the bound
//! holds under concurrent writes. It never understates: zero means there are no hints.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Version;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;

use crate::backend::{Batch, Range};
use crate::columns::{Column, Totals, target_of};
use crate::disk::Need;
use crate::engine::Engine;
use crate::error::Error;
use crate::options::{Blocking, Place};
use crate::store::Store;

/// Keys and bytes of all hints, including writes in flight.
pub(crate) struct HintAccounting {
    keys: AtomicU64,
    bytes: AtomicU64,
    /// Keys for which a hint was stored where there was none, since the store was opened.
    queued: AtomicU64,
    /// Hints refused because there was no room.
    refused: AtomicU64,
}

impl HintAccounting {
    /// Sums up the totals of all targets.
    pub(crate) fn load(engine: &Engine) -> Result<Self, Error> {
        let (mut keys, mut bytes) = (0, 0);
        for (_, target_keys, target_bytes) in totals(engine)? {
            keys += target_keys;
            bytes += target_bytes;
        }
        let (keys, bytes) = (AtomicU64::new(keys), AtomicU64::new(bytes));
        Ok(Self { keys, bytes, queued: AtomicU64::new(0), refused: AtomicU64::new(0) })
    }

    /// Acquire: a caller that sees a hint dropped also sees what the node recorded before dropping
    /// it.
    pub(crate) fn keys(&self) -> u64 {
        self.keys.load(Ordering::Acquire)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Hints queued and hints refused for lack of room, since the store was opened.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.queued.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Reserves a change that is about to be written. Growth counts from now on, shrinking only
    /// once it is written; a change that shrinks is never refused.
    ///
    /// # Errors
    /// [`Error::HintsFull`] if the hints would hold more than `max` bytes.
    pub(crate) fn reserve(&self, change: Totals, max: u64) -> Result<Reservation<'_>, Error> {
        let (keys, growth) = (change.keys.max(0) as u64, change.bytes.max(0) as u64);
        let room = |bytes: u64| {
            let after = bytes.saturating_add(growth);
            (growth == 0 || after <= max).then_some(after)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).map_err(|bytes| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Error::HintsFull { bytes: bytes.saturating_add(growth), max }
        })?;
        self.keys.fetch_add(keys, Ordering::Relaxed);
        Ok(Reservation { hint_accounting: self, change, is_written: false })
    }

    /// Resets to no hints.
    pub(crate) fn clear(&self) {
        self.keys.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// A change that is being written; dropped before it is written, it is rolled back.
pub(crate) struct Reservation<'a> {
    hint_accounting: &'a HintAccounting,
    change: Totals,
    is_written: bool,
}

impl Reservation<'_> {
    /// The change is written.
    pub(crate) fn keep(mut self) {
        self.is_written = true;
        let queued = self.change.keys.max(0) as u64;
        self.hint_accounting.queued.fetch_add(queued, Ordering::Relaxed);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let Totals { keys, bytes } = self.change;
        // A written change still has to count its shrinking; an unwritten one undoes its growth.
        let (keys, bytes) = if self.is_written {
            (keys.min(0).unsigned_abs(), bytes.min(0).unsigned_abs())
        } else {
            (keys.max(0) as u64, bytes.max(0) as u64)
        };
        self.hint_accounting.keys.fetch_sub(keys, Ordering::Release);
        self.hint_accounting.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Store {
    /// Up to `limit` hints for a target in key order, after `after`. Stops before their rows hold
    /// more than `bytes_max` bytes, but gives at least one if there is one. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry is not a hint, [`Error::Io`].
    pub fn hints(
        &self,
        target: NodeId,
        after: Option<&Key>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, Error> {
        self.rows(Place::Hint(target), after, limit, bytes_max)
    }

    /// The nodes that hints are kept for: target, keys, bytes (of row keys and rows). Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the totals cannot be read, [`Error::Io`].
    pub fn hint_targets(&self) -> Result<Vec<(NodeId, u64, u64)>, Error> {
        let mut targets = totals(&self.engine)?;
        targets.retain(|(_, keys, _)| *keys > 0);
        Ok(targets)
    }

    /// Bytes of all hints together (row keys and rows).
    pub fn hint_bytes(&self) -> u64 {
        self.hint_accounting.bytes()
    }

    /// Drops delivered hints in one batch, each if it still has the version that was sent. Returns
    /// how many were dropped: the others have changed or do not exist. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Failed`], [`Error::Io`], [`Error::Closed`]; all of the hints are
    /// then still there.
    pub fn drop_hints(&self, target: NodeId, hints: &[(Key, Version)]) -> Result<usize, Error> {
        self.engine.check()?;
        self.disk.check(Need::Record)?;
        let place = Place::Hint(target);
        let sent = hints.iter().map(|(key, version)| (place.row_key(key), (key, *version)));
        let sent: BTreeMap<Vec<u8>, (&Key, Version)> = sent.collect();
        let _stripes = self.stripes.lock_each(sent.keys().map(|row_key| &row_key[..]));
        let (mut batch, mut change) = (self.engine.batch(), Totals { keys: 0, bytes: 0 });
        for (row_key, (key, version)) in &sent {
            let Some(row) = self.read(place, key, Blocking::Allowed)? else { continue };
            let is_same = Row::encoded_version(&row) == Some(*version);
            if is_same || mutated(Mutation::HintDroppedThoughChanged) {
                batch.delete(Column::Hints, row_key)?;
                change.keys -= 1;
                change.bytes -= (row_key.len() + row.len()) as i64;
            }
        }
        if change.keys < 0 {
            let reservation = self.stage_totals(&mut batch, target, change)?;
            self.engine.write(batch, Blocking::Allowed)?;
            reservation.keep();
        }
        Ok(change.keys.unsigned_abs() as usize)
    }

    /// All hints kept for one key: the targets and the rows. Blocks on the disk, but is free while
    /// there are no hints.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn hints_of_key(&self, key: &Key) -> Result<Vec<(NodeId, Bytes)>, Error> {
        let mut found = Vec::new();
        if self.hint_accounting.keys() == 0 {
            return Ok(found);
        }
        for (target, ..) in self.hint_targets()? {
            if let Some(row) = self.read(Place::Hint(target), key, Blocking::Allowed)? {
                found.push((target, row));
            }
        }
        Ok(found)
    }

    /// Since when the oldest hint for a target has been kept, of the first [`OLDEST_HINT_KEYS_MAX`] in key
    /// order, and of no more than hold [`OLDEST_HINT_BYTES_MAX`]: reading all of them could take minutes.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn oldest_hint(&self, target: NodeId) -> Result<Option<WallTime>, Error> {
        let (mut oldest, mut left) =
            (None::<WallTime>, (OLDEST_HINT_KEYS_MAX, OLDEST_HINT_BYTES_MAX));
        self.walk(Column::Hints, &Place::Hint(target).prefix(), None, |_, row| {
            let since = Row::encoded_since(row);
            oldest = oldest.into_iter().chain(since).min();
            left = (left.0 - 1, left.1.saturating_sub(row.len()));
            Ok(left.0 > 0 && left.1 > 0)
        })?;
        Ok(oldest)
    }

    /// Adds the change of a target's totals to the batch that changes one of its hints.
    pub(crate) fn stage_totals(
        &self,
        batch: &mut Batch<'_>,
        target: NodeId,
        change: Totals,
    ) -> Result<Reservation<'_>, Error> {
        batch.merge(Column::HintTotals, target.as_str(), change.encode())?;
        self.hint_accounting.reserve(change, self.options.hint_bytes_max)
    }
}

/// The most hints of a target that [`Store::oldest_hint`] reads.
pub const OLDEST_HINT_KEYS_MAX: usize = 10_000;
/// The most bytes of hints that [`Store::oldest_hint`] reads.
pub const OLDEST_HINT_BYTES_MAX: usize = 8 << 20;

/// The totals of every target that ever had hints.
fn totals(engine: &Engine) -> Result<Vec<(NodeId, u64, u64)>, Error> {
    let mut targets = Vec::new();
    engine.entries(Column::HintTotals, Range::all())?.visit(|name, value| {
        let target = target_of(name)?;
        let counts = Totals::decode(value)
            .and_then(|totals| Some((totals.keys.try_into().ok()?, totals.bytes.try_into().ok()?)));
        let Some((keys, bytes)) = counts else {
            return Err(Error::Damaged {
                what: format!("the hint totals of {target}"),
                reason: format!("{value:?} is not a pair of counts"),
            });
        };
        targets.push((target, keys, bytes));
        Ok(true)
    })?;
    Ok(targets)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use super::*;
    use crate::testing::{HOME, key, mint, node, object, open, open_as, options, try_mint, wait};
    use crate::{Durability, Options};

    /// Keys and bytes per target, counted by hand.
    fn counted(store: &Store, targets: &[&str]) -> Vec<(NodeId, u64, u64)> {
        let count = |name: &&str| {
            let rows = store.hints(node(name), None, usize::MAX, usize::MAX).unwrap();
            let entry = |(key, row): &(Key, Bytes)| {
                Place::Hint(node(name)).row_key(key).len() as u64 + row.len() as u64
            };
            (node(name), rows.len() as u64, rows.iter().map(entry).sum())
        };
        targets.iter().map(count).filter(|(_, keys, _)| *keys > 0).collect()
    }

    #[test]
    fn totals_are_exact_across_unclean_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let targets = ["n10", "n2", "n3"];
        for round in 0..3 {
            let store = open(dir.path(), Durability::Fsync);
            for i in 0..100 {
                let target = Place::Hint(node(targets[i % 2]));
                mint(&store, target, &format!("k{}", i % 30), &vec![7; i]);
            }
            mint(&store, HOME, "k0", b"not a hint");
            for (key, row) in store.hints(node("n2"), None, 7, usize::MAX).unwrap() {
                let version = Row::encoded_version(&row).unwrap();
                assert!(store.drop_hint(node("n2"), &key, version).unwrap());
            }
            wait(store.durable()).unwrap();
            let totals = store.hint_targets().unwrap();
            assert_eq!(totals, counted(&store, &targets), "round {round}");
            drop(store);
            let store = open(dir.path(), Durability::Fsync);
            assert_eq!(store.hint_targets().unwrap(), totals, "round {round}");
            assert_eq!(store.hint_bytes(), totals.iter().map(|(_, _, bytes)| bytes).sum::<u64>());
            assert_eq!(
                store.stats().hint_keys,
                totals.iter().map(|(_, keys, _)| keys).sum::<u64>()
            );
        }
    }

    #[test]
    fn hints_are_bounded_under_concurrent_writes() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { hint_bytes_max: 50_000, ..options(Durability::Buffered) };
        let store = open_as(dir.path(), options).unwrap();
        let writer = |writer: usize| {
            let target = Place::Hint(node(&format!("n{writer}")));
            let mint =
                |i: usize| try_mint(&store, target, &format!("k{i}"), &[7; 500], Blocking::Allowed);
            (0..100).filter_map(|i| mint(i).err()).collect::<Vec<_>>()
        };
        let errors: Vec<_> = thread::scope(|scope| {
            let writers: Vec<_> = (0..4).map(|w| scope.spawn(move || writer(w))).collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        assert!(errors.len() > 300);
        for error in errors {
            assert!(matches!(error, Error::HintsFull { max: 50_000, bytes } if bytes > 50_000));
        }
        assert!((49_000..=50_000).contains(&store.hint_bytes()), "{}", store.hint_bytes());
        assert_eq!(store.hint_targets().unwrap(), counted(&store, &["n0", "n1", "n2", "n3"]));
        assert_eq!(try_mint(&store, HOME, "k", &[7; 9999], Blocking::Allowed).err(), None);
    }

    #[test]
    fn a_full_store_takes_a_hint_that_shrinks() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { hint_bytes_max: 1_050, ..options(Durability::Buffered) };
        let store = open_as(dir.path(), options).unwrap();
        let place = Place::Hint(node("n2"));
        let big = mint(&store, place, "k", &[7; 900]).object;
        let other = tempfile::tempdir().unwrap();
        let peer = open(other.path(), Durability::Buffered);
        let now = crate::testing::NOW;
        peer.merge(HOME, &key("k"), &big, now, Blocking::Allowed).unwrap();
        let draft = crate::testing::draft(big.clock.clone(), b"small");
        let limits = &crate::testing::LIMITS;
        peer.mint(HOME, &key("k"), &draft, now, limits, Blocking::Allowed).unwrap().unwrap();
        let small = object(&peer, HOME, "k").unwrap();
        assert!(store.merge(place, &key("k"), &small, now, Blocking::Never).unwrap().changed);
        assert!(try_mint(&store, place, "l", &[7; 900], Blocking::Never).is_err());
    }

    #[test]
    fn a_hint_is_dropped_only_at_the_version_that_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let (target, place) = (node("n2"), Place::Hint(node("n2")));
        let sent = mint(&store, place, "k", b"v").object.version();
        let later = mint(&store, place, "k", b"w").object;
        assert_eq!(store.drop_hint(target, &key("k"), sent), Ok(false));
        assert_eq!(store.drop_hint(node("n3"), &key("k"), later.version()), Ok(false));
        assert_eq!(object(&store, place, "k").as_ref(), Some(&later));
        assert_eq!(store.drop_hint(target, &key("k"), later.version()), Ok(true));
        assert_eq!(store.drop_hint(target, &key("k"), later.version()), Ok(false));
        assert_eq!((object(&store, place, "k"), store.hint_bytes()), (None, 0));
        assert_eq!(store.hint_targets(), Ok(vec![]));
        let again = mint(&store, place, "k", b"x").object;
        let old_actors: Vec<_> = later.clock.entries().iter().map(|dot| dot.actor).collect();
        assert!(
            !old_actors.contains(&again.siblings[0].dot.actor),
            "a recreated row has a new actor"
        );
    }

    #[test]
    fn of_many_hints_those_that_changed_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let (target, place) = (node("n2"), Place::Hint(node("n2")));
        let keep = |name: &str| (key(name), mint(&store, place, name, b"v").object.version());
        let sent = ["a", "b", "c"].map(keep);
        mint(&store, place, "b", b"w");
        mint(&store, place, "d", b"v");
        let writes = store.stats().writes;
        let twice = [&sent[..], &sent[..]].concat();
        assert_eq!(store.drop_hints(target, &twice), Ok(2));
        assert_eq!(store.drop_hints(target, &twice), Ok(0));
        assert_eq!(store.stats().writes - writes, 1);
        let left: Vec<Key> =
            store.hints(target, None, 9, 9999).unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, [key("b"), key("d")]);
        let totals = store.hint_targets().unwrap();
        assert_eq!((totals[0].1, totals[0].2), (2, store.hint_bytes()));
    }

    #[test]
    fn hints_of_a_key_are_found_for_all_targets() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let of = |name: &str| {
            let hints = store.hints_of_key(&key(name)).unwrap();
            hints.into_iter().map(|(target, _)| target.to_string()).collect::<Vec<_>>()
        };
        mint(&store, HOME, "a", b"v");
        assert!(of("a").is_empty());
        for (target, name) in [("n2", "a"), ("n3", "b"), ("n4", "a")] {
            mint(&store, Place::Hint(node(target)), name, b"v");
        }
        assert_eq!([of("a"), of("b"), of("c")], [vec!["n2", "n4"], vec!["n3"], vec![]]);
    }

    #[test]
    fn the_oldest_hint_dates_from_when_it_was_first_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let (target, limits) = (node("n2"), &crate::testing::LIMITS);
        assert_eq!(store.oldest_hint(target), Ok(None));
        for (name, at) in [("b", 50), ("a", 70), ("b", 90), ("c", 60)] {
            let draft = crate::testing::draft(Default::default(), b"v");
            let place = Place::Hint(target);
            let minted =
                store.mint(place, &key(name), &draft, WallTime(at), limits, Blocking::Allowed);
            minted.unwrap().unwrap();
        }
        assert_eq!(store.oldest_hint(target), Ok(Some(WallTime(50))));
        let b = store.hints_of_key(&key("b")).unwrap().remove(0).1;
        store.drop_hint(target, &key("b"), Row::encoded_version(&b).unwrap()).unwrap();
        assert_eq!(store.oldest_hint(target), Ok(Some(WallTime(60))));
    }

    crate::testing::also_on_simulated_disks! {
        totals_are_exact_across_unclean_restarts,
        hints_are_bounded_under_concurrent_writes,
        a_full_store_takes_a_hint_that_shrinks,
        a_hint_is_dropped_only_at_the_version_that_was_sent,
        of_many_hints_those_that_changed_stay,
        hints_of_a_key_are_found_for_all_targets,
        the_oldest_hint_dates_from_when_it_was_first_kept,
    }
}
