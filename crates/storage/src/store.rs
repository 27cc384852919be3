//! The store: reading, minting and merging one row.
//!
//! A change is read, decided by [`Row`] and written back as one batch, all under the row's stripe.
//! Reads take no lock: a row is replaced whole.

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use quorate_protocol::clock::Actor;
use quorate_protocol::name::Key;
use quorate_protocol::object::{DecodeError, Object, Version};
use quorate_protocol::row::{Coordinator, Draft, Incarnation, Limits, MintError, Minted, Row};
use quorate_protocol::time::WallTime;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use crate::data_dir::DataDir;
use crate::disk::{DiskWatch, Need};
use crate::engine::Engine;
use crate::error::Error;
use crate::feeds::{Feeds, News};
use crate::hints::HintAccounting;
use crate::host::Host;
use crate::options::{Blocking, Options, Place, Recovery};
use crate::rows::RowCache;
use crate::status::CallCounters;
use crate::stripes::Stripes;
use crate::sync::GroupSync;
use crate::trees::Trees;

/// One node's rows, indexes and records on its disk. Shared behind an `Arc`; every call may be made
/// from any thread.
pub struct Store {
    // The threads come first: they are stopped before what they use is dropped.
    pub(crate) disk: DiskWatch,
    /// `None` if acknowledgements do not wait for a sync.
    pub(crate) group_sync: Option<GroupSync>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) stripes: Stripes,
    pub(crate) rows: RowCache,
    pub(crate) hint_accounting: HintAccounting,
    pub(crate) trees: Trees,
    pub(crate) feeds: Feeds,
    pub(crate) scrubbing: Mutex<()>,
    pub(crate) incarnation: Incarnation,
    pub(crate) recovery: Recovery,
    pub(crate) dir: DataDir,
    pub(crate) host: Host,
    pub(crate) options: Options,
    pub(crate) call_counters: CallCounters,
    /// Whether the directory says that there may be typed rows ([`Store::raise_format`]).
    pub(crate) is_raised: AtomicBool,
    /// How to look up the n of a bucket, once set ([`Store::assign_trees_by`]).
    pub(crate) n_of: OnceLock<ReplicaCountOf>,
    /// Whom to tell that a home row has changed.
    pub(crate) on_change: OnceLock<OnChange>,
}

/// Returns the current n of a bucket. Called under a row's stripe: it must not call the store.
pub type ReplicaCountOf = Box<dyn Fn(&str) -> u16 + Send + Sync>;

/// What [`Store::mint`] did.
#[derive(Clone, Debug)]
pub struct MintedRow {
    /// The new dot, or the one this request already has.
    pub minted: Minted,
    /// The whole merged object, as it is stored now.
    pub object: Object,
    /// Its encoding, as it is sent to the other replicas.
    pub encoded: Bytes,
}

/// What [`Store::merge`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Whether the row changed.
    pub changed: bool,
    /// The version of the row now.
    pub version: Version,
}

/// Is told the key of each home row that has changed, under the row's stripe: it must not take long.
pub type OnChange = Box<dyn Fn(&Key) + Send + Sync>;

impl Store {
    /// From now on tells of every home row that has changed, once it is written. Call it once, before the
    /// store is shared.
    pub fn tell_changes_to(&self, on_change: OnChange) {
        drop(self.on_change.set(on_change));
    }

    /// What opening found in the log.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Reads an encoded row (see [`Row::decode`], [`Row::encoded_version`],
    /// [`Row::encoded_object`]); `None` if there is none. Its object may be of a kind that this
    /// release does not know: a peer may.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], [`Error::Damaged`], [`Error::Newer`], [`Error::Io`].
    pub fn read(
        &self,
        place: Place,
        key: &Key,
        blocking: Blocking,
    ) -> Result<Option<Bytes>, Error> {
        let row = match self.cached(place, key) {
            Some(row) => Ok(Some(row)),
            None => self.read_stored(place, key, blocking),
        };
        self.call_counters.count(blocking, &row);
        row
    }

    /// The row from the row cache, if it is there.
    pub(crate) fn cached(&self, place: Place, key: &Key) -> Option<Bytes> {
        matches!(place, Place::Home(_)).then(|| self.rows.get(key)).flatten()
    }

    /// Reads a row from the engine, and caches it.
    fn read_stored(
        &self,
        place: Place,
        key: &Key,
        blocking: Blocking,
    ) -> Result<Option<Bytes>, Error> {
        let row_key = place.row_key(key);
        // Without the stripe the row is still read, but not cached.
        let stripe = self.stripes.lock(&row_key, Blocking::Never).ok();
        let row = self.engine.get(place.column(), &row_key, blocking)?;
        if let Some(row) = row.as_ref().filter(|row| Row::encoded_object(row).is_none()) {
            return Err(undecodable(place, key, why_unreadable(row)));
        }
        if let (Some(_), Place::Home(_), Some(row)) = (&stripe, place, &row) {
            self.rows.put(key, row);
        }
        Ok(row)
    }

    /// Mints a client's write on a row; durable once [`Store::durable`] says so.
    ///
    /// # Errors
    /// [`Error`], or [`MintError`] if the row may not take this write. Nothing changed then, except
    /// that after [`Error::Failed`] the write may be found at the next start.
    pub fn mint(
        &self,
        place: Place,
        key: &Key,
        draft: &Draft,
        now: WallTime,
        limits: &Limits,
        blocking: Blocking,
    ) -> Result<Result<MintedRow, MintError>, Error> {
        let coordinator = Coordinator {
            node: self.options.node,
            incarnation: self.incarnation,
            fresh_actor: Actor(self.host.random_nonzero()),
            now,
        };
        let need = if draft.value.is_some() { Need::Growth } else { Need::Release };
        let result = self.change(place, key, blocking, |mut update| {
            self.disk.check(need)?;
            update.news = News::Change(now);
            let minted = match update.row.mint(draft, &coordinator, limits) {
                Ok(minted) => minted,
                Err(error) => return Ok(Err(error)),
            };
            let row = match (minted, update.stored.take()) {
                (Minted::Already(_), Some(stored)) => stored,
                (Minted::New(_) | Minted::Already(_), _) => self.save(&update, blocking)?,
            };
            let encoded = Row::encoded_object(&row)
                .ok_or_else(|| undecodable(place, key, why_unreadable(&row)))?;
            Ok(Ok(MintedRow { minted, object: update.row.object, encoded }))
        });
        self.call_counters.count(blocking, &result);
        result
    }

    /// Merges another replica's object into a row, at `now` by the wall clock. Writes nothing if
    /// the row already includes it.
    ///
    /// # Errors
    /// [`Error`]; nothing changed then, except that after [`Error::Failed`] the change may be found
    /// at the next start.
    pub fn merge(
        &self,
        place: Place,
        key: &Key,
        object: &Object,
        now: WallTime,
        blocking: Blocking,
    ) -> Result<Merged, Error> {
        let result = self.change(place, key, blocking, |mut update| {
            self.check_room(&update.row, object)?;
            update.news = News::Change(now);
            let changed = update.row.merge(object, now);
            if changed {
                self.save(&update, blocking)?;
            }
            Ok(Merged { changed, version: update.row.object.version() })
        });
        self.call_counters.count(blocking, &result);
        result
    }

    /// Syncs every write that returned before this call to the disk, whatever durability is
    /// configured. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`] if a sync or write failed.
    pub fn sync(&self) -> Result<(), Error> {
        if self.engine.is_synced() { self.engine.check_failure() } else { self.engine.sync() }
    }

    /// Resolves when every write that returned before this call is durable as configured;
    /// immediately if there is nothing to sync. Cancel-safe: the future may be dropped.
    ///
    /// # Errors
    /// [`Error::Failed`] if a sync or write failed, [`Error::Closed`] if the store was closed in
    /// the meantime: the write must not be acknowledged.
    pub fn durable(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let wait = match (self.engine.check_failure(), &self.group_sync) {
            (Err(error), _) => Wait::Over(Err(error)),
            (Ok(()), Some(_)) if self.engine.is_synced() => Wait::Over(Ok(())),
            (Ok(()), Some(group_sync)) => Wait::Sync(group_sync.join()),
            (Ok(()), None) => Wait::Log(Arc::clone(&self.engine), self.engine.written()),
        };
        async move {
            match wait {
                Wait::Over(answer) => answer,
                Wait::Sync(answer) => answer.await.unwrap_or(Err(Error::Closed)),
                Wait::Log(engine, batches) => {
                    // Let other tasks write first, so that one flush of the log covers them all.
                    yield_now().await;
                    engine.flush_log(batches)
                }
            }
        }
    }
}

/// What a writer waits for.
enum Wait {
    Over(Result<(), Error>),
    /// The next group sync.
    Sync(oneshot::Receiver<Result<(), Error>>),
    /// Until this many batches are written to the operating system.
    Log(Arc<Engine>, u64),
}

pub(crate) fn undecodable(place: Place, key: &Key, error: DecodeError) -> Error {
    Error::undecodable(format!("{key} ({place})"), error)
}

/// Why a row's head cannot be read, if it cannot.
pub(crate) fn why_unreadable(row: &[u8]) -> DecodeError {
    Row::encoded_kind(row).err().unwrap_or(DecodeError::Damaged)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::thread;
    use std::time::Duration;

    use quorate_protocol::clock::Clock;
    use quorate_protocol::tree::Tree;

    use super::*;
    use crate::backend::Backend;
    use crate::columns::Column;
    use crate::rocks::ReadOffload;
    use crate::testing::{
        HOME, LIMITS, NOW, TREE, draft, key, mint, object, open, open_as, options,
    };
    use crate::testing::{try_mint, wait};
    use crate::{Durability, Source, Store};

    #[test]
    fn a_minted_write_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(store.read(HOME, &key("k"), Blocking::Never), Ok(None));
        let big = vec![7; 100 << 10];
        for (name, value) in [("empty", &b""[..]), ("small", b"value"), ("blob", &big)] {
            let minted = mint(&store, HOME, name, value);
            assert_eq!(minted.object.siblings[0].value.as_deref(), Some(value));
            assert_eq!(Object::decode(minted.encoded).unwrap(), minted.object);
            assert_eq!(object(&store, HOME, name), Some(minted.object));
        }
        assert_eq!(wait(store.durable()), Ok(()));
        drop(store);
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(object(&store, HOME, "blob").unwrap().siblings[0].value.as_deref(), Some(&*big));
    }

    #[test]
    fn a_retried_request_mints_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let draft = draft(Clock::default(), b"v");
        let mint = || store.mint(HOME, &key("k"), &draft, NOW, &LIMITS, Blocking::Allowed);
        let (first, second) = (mint().unwrap().unwrap(), mint().unwrap().unwrap());
        let Minted::New(dot) = first.minted else { panic!("{first:?}") };
        assert_eq!(second.minted, Minted::Already(dot));
        assert_eq!((second.object, second.encoded), (first.object, first.encoded));
        assert_eq!(store.stats().writes - 2, 1, "two batches belong to opening");
    }

    #[test]
    fn a_merge_that_changes_nothing_writes_nothing() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [ours, theirs] = dirs.each_ref().map(|dir| open(dir.path(), Durability::Fsync));
        let minted = mint(&theirs, HOME, "k", b"v");
        let merge = || ours.merge(HOME, &key("k"), &minted.object, NOW, Blocking::Allowed).unwrap();
        let version = minted.object.version();
        assert_eq!(merge(), Merged { changed: true, version });
        let writes = ours.stats().writes;
        assert_eq!(merge(), Merged { changed: false, version });
        assert_eq!(ours.stats().writes, writes);
    }

    #[test]
    fn concurrent_mints_on_one_key_are_all_kept_under_distinct_dots() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let writer = || {
            let dots = (0..50).map(|_| match mint(&store, HOME, "k", b"v").minted {
                Minted::New(dot) => dot,
                Minted::Already(dot) => panic!("{dot}"),
            });
            dots.collect::<Vec<_>>()
        };
        let dots: Vec<_> = thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(writer)).collect();
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        let distinct: BTreeSet<_> = dots.iter().copied().collect();
        assert_eq!((dots.len(), distinct.len()), (400, 400));
        let kept = object(&store, HOME, "k").unwrap();
        assert_eq!(kept.siblings.iter().map(|s| s.dot).collect::<BTreeSet<_>>(), distinct);
        assert_eq!(store.conflicts(None, None, 10).unwrap(), [(key("k"), 400)]);
    }

    #[test]
    fn a_held_stripe_blocks_no_nonblocking_call() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let before = mint(&store, HOME, "k", b"v").object;
        let guard = store.stripes.lock(&HOME.row_key(&key("k")), Blocking::Allowed).unwrap();
        let refused = try_mint(&store, HOME, "k", b"w", Blocking::Never);
        assert_eq!(refused.err(), Some(Error::WouldBlock));
        let merged = store.merge(HOME, &key("k"), &before, NOW, Blocking::Never);
        assert_eq!(merged, Err(Error::WouldBlock));
        assert!(
            store.read(HOME, &key("k"), Blocking::Never).unwrap().is_some(),
            "reads take no lock"
        );
        drop(guard);
        assert_eq!(object(&store, HOME, "k"), Some(before));
        assert_eq!((store.stats().inline, store.stats().would_block), (1, 2));
    }

    fn offload(store: &Store) -> &ReadOffload {
        let Backend::Rocks(rocks) = &store.engine.backend else { panic!() };
        &rocks.read_offload
    }

    #[test]
    fn a_nonblocking_call_reads_the_disk_only_while_reads_do_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let (small, blob) =
            (mint(&store, HOME, "small", b"v"), mint(&store, HOME, "blob", &[7; 1 << 20]));
        store.write_tables(Column::Objects);
        store.close().unwrap();
        drop(store);
        let store = open(dir.path(), Durability::Buffered);
        for (name, was) in [("small", small), ("blob", blob)] {
            let read = || store.read(HOME, &key(name), Blocking::Never);
            offload(&store).record(Duration::from_micros(40), Duration::ZERO);
            assert_eq!(read(), Err(Error::WouldBlock), "{name}");
            let refused = try_mint(&store, HOME, name, b"w", Blocking::Never);
            assert_eq!(refused.err(), Some(Error::WouldBlock), "{name}");
            let row = Row::decode(read().unwrap().unwrap()).unwrap();
            assert_eq!(
                row.object, was.object,
                "{name}: two reads were offloaded for a wait of 40 us"
            );
            offload(&store).record(Duration::from_millis(1), Duration::ZERO);
            assert!(read().is_ok(), "{name} is in the cache now");
            while offload(&store).should_offload() {}
        }
        assert_eq!(store.stats().reads_in_place, 2);
    }

    #[test]
    fn a_stalled_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let small = Options { memtable_bytes: 64 << 10, ..options(Durability::Fsync) };
        let store = open_as(dir.path(), small.clone()).unwrap();
        // Tiny memtables fill up faster than they are flushed, and RocksDB stalls all writes.
        let mint = |i: u32| try_mint(&store, HOME, &format!("k{i}"), &[7; 1024], Blocking::Never);
        let (stalled, error) = (0..200_000).find_map(|i| Some((i, mint(i).err()?))).unwrap();
        assert_eq!((error, store.stats().stalls), (Error::WouldBlock, 1));
        assert_eq!(object(&store, HOME, &format!("k{stalled}")), None);
        drop(store);
        let store = open_as(dir.path(), small).unwrap();
        assert_eq!(object(&store, HOME, &format!("k{stalled}")), None);
        assert!(object(&store, HOME, "k0").is_some());
    }

    #[test]
    fn damaged_rows_are_named_and_never_absent() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let row = mint(&store, HOME, "k", b"v");
        let good = store.read(HOME, &key("k"), Blocking::Allowed).unwrap().unwrap();
        let stored = |bad: &[u8]| {
            store.tamper(|batch| batch.put(Column::Objects, HOME.row_key(&key("k")), bad));
        };
        for bad in [&b""[..], &good[..10], &good[..32], &good[..good.len() - 1], &[255; 64]] {
            stored(bad);
            let errors = [
                try_mint(&store, HOME, "k", b"w", Blocking::Allowed).err(),
                store.merge(HOME, &key("k"), &row.object, NOW, Blocking::Allowed).err(),
            ];
            for error in errors {
                let Some(Error::Damaged { what, .. }) = error else { panic!("{error:?}") };
                assert_eq!(what, "b/k (home row of partition 3)");
            }
        }
        stored(&[0; 32]);
        let read = store.read(HOME, &key("k"), Blocking::Never);
        assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
    }

    /// What a newer release wrote stays as it is, to the byte, whatever is done to it here.
    #[test]
    fn rows_of_a_newer_release_are_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let other = mint(&store, HOME, "other", b"w").object;
        let good = mint(&store, HOME, "k", b"v");
        let row = store.read(HOME, &key("k"), Blocking::Allowed).unwrap().unwrap();
        let (tree, version) = (TREE, good.object.version());
        let root = store.root(tree);
        for (at, byte, reason) in [
            (38, 7, "the row has format 7, which only a newer release can read"),
            (42, 0x31, "the object is of kind 3, which only a newer release can read"),
            (42, 0x02, "the object has format 2, which only a newer release can read"),
        ] {
            let mut newer = row.to_vec();
            newer[at] = byte;
            let row_key = HOME.row_key(&key("k"));
            store.tamper(|batch| batch.put(Column::Objects, &row_key, &newer));
            let read = store.read(HOME, &key("k"), Blocking::Allowed);
            let page = vec![(HOME, key("k"), good.encoded.clone())];
            let errors = [
                if at == 42 {
                    read.and_then(|_| store.drop_row(HOME, &key("k"), version)).err()
                } else {
                    read.err()
                },
                try_mint(&store, HOME, "k", b"w", Blocking::Allowed).err(),
                store.merge(HOME, &key("k"), &other, NOW, Blocking::Allowed).err(),
                store.merge_page(page, Source::Fill, NOW).err(),
                store.move_to_tree(&key("k"), Tree { n: 9, ..tree }).err(),
            ];
            for error in errors {
                let Some(Error::Newer { what, reason: why }) = error else { panic!("{error:?}") };
                assert_eq!((&*what, &*why), ("b/k (home row of partition 3)", reason));
            }
            assert!(store.drop_row(HOME, &key("k"), version).is_err());
            let versions = store.versions(&[(HOME, key("k"))]);
            assert_eq!(versions.is_ok(), at == 42, "{versions:?}");
            // Neither a scrub nor a move of rows touches it or its leaf.
            let found = store.scrub(tree.partition).unwrap();
            assert_eq!((found.newer_rows, found.damaged_rows, found.repaired()), (1, 0, 0));
            let moved = store.reassign(tree.partition, None, 9, |_| Some(3)).unwrap();
            assert_eq!(moved.unowned, [], "{moved:?}");
            assert_eq!(store.root(tree), root);
            let kept = store.engine.get(Column::Objects, &row_key, Blocking::Allowed);
            assert_eq!(kept.unwrap().as_deref(), Some(&newer[..]));
        }
    }

    crate::testing::also_on_simulated_disks! {
        a_minted_write_is_read_back,
        a_retried_request_mints_once,
        a_merge_that_changes_nothing_writes_nothing,
        concurrent_mints_on_one_key_are_all_kept_under_distinct_dots,
        a_held_stripe_blocks_no_nonblocking_call,
        damaged_rows_are_named_and_never_absent,
        rows_of_a_newer_release_are_named_and_left_alone,
    }
}
