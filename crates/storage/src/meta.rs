//! Small records of the node itself: whether the cluster is formed, the number of its starts.

use bytes::Bytes;

use crate::columns::Column;
use crate::disk::Need;
use crate::error::Error;
use crate::options::Blocking;
use crate::store::Store;

impl Store {
    /// A small record of the node's own; `None` if it was never put. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn meta(&self, name: &str) -> Result<Option<Bytes>, Error> {
        self.engine.get(Column::Meta, &meta_key(name), Blocking::Allowed)
    }

    /// Writes a small record of the node's own. Synced before it returns, whatever durability is
    /// configured.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`], [`Error::DiskLow`] below 1/16 of the disk watermark.
    pub fn put_meta(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        self.write_meta(name, value)?;
        self.engine.sync()
    }

    /// As [`Store::put_meta`], but only as durable as rows are: await [`Store::durable`] to be
    /// sure.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`], [`Error::DiskLow`] below 1/16 of the disk watermark.
    pub fn write_meta(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        self.write_record(&meta_key(name), value)
    }

    /// Writes a record of the node or of this crate, as rows are written.
    pub(crate) fn write_record(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.disk.check(Need::Record)?;
        let stripe = self.stripes.lock(key, Blocking::Allowed)?;
        let mut batch = self.engine.batch();
        batch.put(Column::Meta, key, value)?;
        let written = self.engine.write(batch, Blocking::Allowed);
        drop(stripe);
        written
    }
}

/// The node's records have a prefix of their own, apart from this crate's (`store:`).
fn meta_key(name: &str) -> Vec<u8> {
    [b"node:", name.as_bytes()].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::Durability;
    use crate::testing::{open, wait};

    #[test]
    fn meta_records_survive_an_unclean_stop() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(store.meta("formed"), Ok(None));
        store.put_meta("formed", b"yes").unwrap();
        drop(store);
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(store.meta("formed").unwrap().as_deref(), Some(&b"yes"[..]));
    }

    #[test]
    fn a_written_record_is_synced_only_if_rows_are() {
        for (durability, syncs) in [(Durability::Fsync, 1), (Durability::Buffered, 0)] {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path(), durability);
            let syncs_before = store.stats().syncs;
            store.write_meta("seen", b"7").unwrap();
            assert_eq!(wait(store.durable()), Ok(()));
            assert_eq!(store.stats().syncs - syncs_before, syncs, "{durability:?}");
            assert_eq!((store.sync(), store.sync()), (Ok(()), Ok(())));
            assert_eq!(store.stats().syncs - syncs_before, 1, "{durability:?}, then synced, once");
            drop(store);
            let store = open(dir.path(), durability);
            assert_eq!(store.meta("seen").unwrap().as_deref(), Some(&b"7"[..]));
        }
    }

    crate::testing::also_on_simulated_disks! {
        meta_records_survive_an_unclean_stop,
        a_written_record_is_synced_only_if_rows_are,
    }
}
