//! The key-value engine as the rest of the crate sees it: reads, batches and syncs, and how far they
//! are durable.
//!
//! The first failed write or sync is recorded here and ends all writing. A failed `fsync` must not
//! be retried: the kernel may have marked the pages clean, so that a second one succeeds although
//! data was lost.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use quorate_protocol::mutation::{Mutation, mutated};

use crate::backend::{Backend, Batch, Entries, NotWritten, Range, Snapshot};
use crate::columns::Column;
use crate::durations::{DurationCounts, Durations};
use crate::error::Error;
use crate::fault_hook::FaultHook;
use crate::host::Host;
use crate::in_flight::InFlight;
use crate::options::Blocking;

pub(crate) struct Engine {
    pub(crate) backend: Backend,
    failure: OnceLock<String>,
    closed: AtomicBool,
    /// Batches written so far.
    written: AtomicU64,
    /// How far the log has been written to the operating system.
    logged: Progress,
    /// How far a successful sync has covered the log.
    synced: Progress,
    /// The number of the last change when the database was opened.
    opened_at: u64,
    background_errors_seen: AtomicU64,
    syncs: AtomicU64,
    stalls: AtomicU64,
    write_times: Durations,
    sync_times: Durations,
    pub(crate) fault_hook: FaultHook,
    pub(crate) in_flight: InFlight,
    host: Host,
}

/// How far the log has got.
struct Progress {
    /// Number of batches written.
    batches: AtomicU64,
    /// The number of the last change.
    sequence: AtomicU64,
}

impl Progress {
    fn new(opened_at: u64) -> Self {
        Self { batches: AtomicU64::new(0), sequence: AtomicU64::new(opened_at) }
    }

    fn raise(&self, (batches, sequence): (u64, u64)) {
        self.batches.fetch_max(batches, Ordering::SeqCst);
        self.sequence.fetch_max(sequence, Ordering::SeqCst);
    }
}

impl Engine {
    /// `backend` was just opened, and nothing has been written since.
    pub(crate) fn new(backend: Backend, host: Host) -> Self {
        let opened_at = backend.sequence();
        Self {
            backend,
            opened_at,
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
            written: AtomicU64::new(0),
            // Opening moves everything in the log to synced tables.
            logged: Progress::new(opened_at),
            synced: Progress::new(opened_at),
            background_errors_seen: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            stalls: AtomicU64::new(0),
            write_times: Durations::default(),
            sync_times: Durations::default(),
            fault_hook: FaultHook::default(),
            in_flight: InFlight::new(host.clone()),
            host,
        }
    }

    /// Reads one value.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if it is not in memory, the call may not block and disk reads are
    /// being offloaded, [`Error::Damaged`] if its bytes fail their checksum, [`Error::Io`].
    pub(crate) fn get(
        &self,
        column: Column,
        key: &[u8],
        blocking: Blocking,
    ) -> Result<Option<Bytes>, Error> {
        self.get_with(column, key, blocking, Bytes::copy_from_slice)
    }

    /// As [`Engine::get`], but returns what `take` extracts instead of a copy.
    pub(crate) fn get_with<T>(
        &self,
        column: Column,
        key: &[u8],
        blocking: Blocking,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, Error> {
        self.fault_hook.before_read(blocking, &self.host)?;
        self.backend.get_with(column, key, blocking, take)
    }

    /// An empty batch.
    pub(crate) fn batch(&self) -> Batch<'_> {
        self.backend.batch(0)
    }

    /// An empty batch with room for this many bytes.
    pub(crate) fn batch_with_room(&self, bytes: usize) -> Batch<'_> {
        self.backend.batch(bytes)
    }

    /// Entries in key order. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Failed`] if there is no such column.
    pub(crate) fn entries(&self, column: Column, range: Range) -> Result<Entries<'_>, Error> {
        self.backend.entries(column, range)
    }

    /// The state of all columns now, unchanged by later writes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn snapshot(&self) -> Result<Snapshot<'_>, Error> {
        self.backend.snapshot()
    }

    /// Applies a batch atomically.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] if writes are stalled and the call may not block; [`Error::Failed`],
    /// for this and all later writes, if the write failed.
    pub(crate) fn write(&self, batch: Batch<'_>, blocking: Blocking) -> Result<(), Error> {
        self.check()?;
        let began = self.host.now();
        match self.backend.write(batch, blocking) {
            Ok(()) => {
                self.write_times.record(self.host.now().saturating_sub(began));
                self.written.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
            Err(NotWritten::WouldBlock) => {
                self.stalls.fetch_add(1, Ordering::Relaxed);
                Err(Error::WouldBlock)
            }
            Err(NotWritten::Failed(why)) => Err(self.fail(format!("a write failed: {why}"))),
        }
    }

    /// Makes every batch that was written before this call durable.
    ///
    /// # Errors
    /// [`Error::Failed`] if this or an earlier sync or write failed. A failed sync is never
    /// retried.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.check_failure()?;
        let covered = self.position();
        let (_in_flight, began) = (self.in_flight.begin(), self.host.now());
        if let Err(error) = self.fault_hook.apply(&self.host).and_then(|()| self.backend.sync_log())
        {
            if mutated(Mutation::FailedSyncAcked) {
                self.synced.raise(covered);
                return Ok(());
            }
            return Err(self.fail(format!("a sync of the log failed: {error}")));
        }
        self.sync_times.record(self.host.now().saturating_sub(began));
        // A concurrent sync may have failed; then this one must not be reported as successful.
        self.check_failure()?;
        self.logged.raise(covered);
        self.synced.raise((covered.0 + u64::from(mutated(Mutation::SyncCoversLater)), covered.1));
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the log's buffer to the operating system, unless the first `batches` are there
    /// already.
    ///
    /// # Errors
    /// [`Error::Failed`] if this or an earlier sync or write failed.
    pub(crate) fn flush_log(&self, batches: u64) -> Result<(), Error> {
        self.check_failure()?;
        if self.logged.batches.load(Ordering::SeqCst) >= batches {
            return Ok(());
        }
        let covered = self.position();
        if let Err(error) =
            self.fault_hook.apply(&self.host).and_then(|()| self.backend.flush_log())
        {
            return Err(self.fail(format!("a write of the log failed: {error}")));
        }
        self.check_failure()?;
        self.logged.raise(covered);
        Ok(())
    }

    /// The position of the last completed write. Read before a sync begins: those writes have
    /// returned, so they are in the log.
    fn position(&self) -> (u64, u64) {
        (self.written(), self.sequence())
    }

    /// The number of the last change.
    pub(crate) fn sequence(&self) -> u64 {
        self.backend.sequence()
    }

    /// Batches written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::SeqCst)
    }

    /// Whether every batch written so far is covered by a successful sync.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced.batches.load(Ordering::SeqCst) >= self.written()
    }

    /// The number of the last change when the database was opened.
    pub(crate) fn opened_at(&self) -> u64 {
        self.opened_at
    }

    /// The sequence number up to which a successful sync covered everything.
    pub(crate) fn synced_to(&self) -> u64 {
        self.synced.sequence.load(Ordering::SeqCst)
    }

    /// The sequence number up to which everything is written to the operating system.
    pub(crate) fn logged_to(&self) -> u64 {
        self.logged.sequence.load(Ordering::SeqCst)
    }

    /// Ends all writing. Only the first reason is kept.
    pub(crate) fn fail(&self, reason: String) -> Error {
        let kept = self.failure.get_or_init(|| {
            tracing::error!(%reason, "the store failed; it takes no writes until it is reopened");
            reason
        });
        Error::Failed(kept.clone())
    }

    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Whether a flush or compaction failed since the last call. The store has not failed then:
    /// RocksDB retries what it can, such as a flush that found no space, and otherwise refuses the
    /// next write.
    pub(crate) fn has_failed_in_background(&self) -> bool {
        let errors = self.background_errors();
        let before = self.background_errors_seen.fetch_max(errors, Ordering::Relaxed);
        if errors > before {
            let count = errors - before;
            tracing::error!(
                count,
                "RocksDB failed in the background and will retry; see its LOG file"
            );
        }
        errors > before
    }

    /// Flushes and compactions that failed since the store was opened.
    pub(crate) fn background_errors(&self) -> u64 {
        self.backend.background_errors()
    }

    /// Whether writes are taken: not closed, not failed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        self.check_failure()
    }

    pub(crate) fn check_failure(&self) -> Result<(), Error> {
        match self.failure() {
            None => Ok(()),
            Some(reason) => Err(Error::Failed(reason.to_owned())),
        }
    }

    /// Refuses writes from now on. Returns whether this call closed the store.
    pub(crate) fn close(&self) -> bool {
        !self.closed.swap(true, Ordering::SeqCst)
    }

    /// How long batches took to be written, and the log to be synced.
    pub(crate) fn durations(&self) -> (DurationCounts, DurationCounts) {
        (self.write_times.counts(), self.sync_times.counts())
    }

    /// Syncs, batches written, batches synced, stalled writes.
    pub(crate) fn counts(&self) -> (u64, u64, u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.syncs), load(&self.written), load(&self.synced.batches), load(&self.stalls))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::rocks::SyncLog;
    use crate::testing::{HOME, NOW, key, mint, object, open, options, try_mint, wait};
    use crate::{Condition, Durability, Store};

    #[test]
    fn buffered_writes_reach_the_operating_system_together_and_before_they_count() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let in_files = || {
            let logs = std::fs::read_dir(dir.path().join("rocksdb")).unwrap().map(Result::unwrap);
            let logs = logs.filter(|file| file.path().extension().is_some_and(|e| e == "log"));
            logs.map(|log| log.metadata().unwrap().len()).sum::<u64>()
        };
        let before = (in_files(), store.engine.logged_to());
        for i in 0..3 {
            mint(&store, HOME, &format!("k{i}"), &[7; 1000]);
        }
        let (early, late) = (store.durable(), store.durable());
        assert_eq!((in_files(), store.engine.logged_to()), before);
        assert_eq!(wait(early), Ok(()));
        let after = in_files();
        assert!(after > before.0 + 3000, "{after}");
        assert_eq!(store.engine.logged_to(), store.engine.sequence());
        assert_eq!((wait(late), in_files()), (Ok(()), after));
    }

    #[test]
    fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_is_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let broken = Arc::new(AtomicBool::new(false));
        let calls = Arc::new(AtomicU64::new(0));
        let (is_broken, counter) = (Arc::clone(&broken), Arc::clone(&calls));
        let sync_log: SyncLog = Box::new(move |db| {
            counter.fetch_add(1, Ordering::SeqCst);
            if is_broken.load(Ordering::SeqCst) {
                return Err("injected".to_owned());
            }
            db.flush_wal(true).map_err(|error| error.to_string())
        });
        let store = Store::open_with(dir.path(), options(Durability::Fsync), sync_log).unwrap();
        let incarnation = store.incarnation();
        let kept = mint(&store, HOME, "kept", b"v").object;
        assert_eq!(wait(store.durable()), Ok(()));

        mint(&store, HOME, "lost", b"v");
        broken.store(true, Ordering::SeqCst);
        let failed = wait(store.durable());
        assert!(matches!(&failed, Err(Error::Failed(why)) if why.contains("injected")));
        let tried = calls.load(Ordering::SeqCst);
        broken.store(false, Ordering::SeqCst); // a retry would succeed although data was lost

        let after = || {
            [
                wait(store.durable()).err(),
                try_mint(&store, HOME, "late", b"v", Blocking::Allowed).err(),
                store.merge(HOME, &key("late"), &kept, NOW, Blocking::Never).err(),
                store.put_meta("late", b"v").err(),
            ]
        };
        assert_eq!(after(), [const { None::<()> }; 4].map(|_| failed.clone().err()));
        assert!(matches!(store.condition(), Condition::Failed(_)));
        assert_eq!(object(&store, HOME, "kept"), Some(kept.clone()), "reads still work");
        assert_eq!(store.close(), failed, "and there is no proof of a clean stop");
        assert_eq!(calls.load(Ordering::SeqCst), tried, "a failed sync is not retried");
        drop(store);

        let store = open(dir.path(), Durability::Fsync);
        assert_ne!(store.incarnation(), incarnation);
        assert_eq!(object(&store, HOME, "kept"), Some(kept));
        mint(&store, HOME, "late", b"v");
        assert_eq!(wait(store.durable()), Ok(()));
    }

    #[test]
    fn writers_share_a_sync_and_need_none_if_nothing_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let before = store.stats().syncs;
        assert_eq!(wait(store.durable()), Ok(()));
        assert_eq!(store.stats().syncs, before, "nothing was written");
        let waits: Vec<_> = (0..500)
            .map(|i| {
                mint(&store, HOME, &format!("k{i}"), b"v");
                store.durable()
            })
            .collect();
        for (i, durable) in waits.into_iter().enumerate() {
            if i % 3 == 0 {
                drop(durable);
            } else {
                assert_eq!(wait(durable), Ok(()));
            }
        }
        let stats = store.stats();
        assert!(stats.syncs - before < 500, "{stats:?}");
        assert_eq!(stats.synced_writes, stats.writes);
    }

    #[test]
    fn buffered_writes_wait_for_no_sync() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        let before = store.stats().syncs;
        mint(&store, HOME, "k", b"v");
        assert_eq!(wait(store.durable()), Ok(()));
        assert_eq!(store.stats().syncs, before);
    }
}
