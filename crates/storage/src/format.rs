//! The format of a store: which releases can read it.

use std::sync::atomic::Ordering::Relaxed;

use crate::columns::Column;
use crate::error::Error;
use crate::options::Blocking;
use crate::store::Store;

/// How rows and indexes are laid out ([`crate::columns`]). Format 1 had no Merkle trees.
pub(crate) const FORMAT: &str = "2";
/// The same with typed rows, which releases that know only format 2 cannot read. A store is of this format
/// from the first such row on.
pub(crate) const FORMAT_TYPED: &str = "3";
const FORMAT_RECORD: &[u8] = b"store:format";

impl Store {
    /// Records that there may be typed rows, before the first is written: the log keeps the order.
    pub(crate) fn raise_format(&self) -> Result<(), Error> {
        if !self.is_raised.load(Relaxed) {
            let mut batch = self.engine.batch();
            batch.put(Column::Meta, FORMAT_RECORD, FORMAT_TYPED)?;
            self.engine.write(batch, Blocking::Allowed)?;
            self.is_raised.store(true, Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::clock::Clock;
    use quorate_protocol::data_type::Operation;
    use quorate_protocol::row::Draft;

    use super::*;
    use crate::options::Durability;
    use crate::testing::{HOME, LIMITS, NOW, draft, key, mint, object, open};

    /// A release that cannot read typed rows refuses the whole store, by its format.
    #[test]
    fn the_format_is_raised_by_the_first_typed_row() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        let format = |store: &Store| {
            store.engine.get(Column::Meta, FORMAT_RECORD, Blocking::Allowed).unwrap().unwrap()
        };
        mint(&store, HOME, "k", b"v");
        assert_eq!(format(&store), FORMAT);
        let increment =
            Draft { operation: Some(Operation::Increment(7)), ..draft(Clock::default(), b"") };
        let key = key("counter");
        let count = |store: &Store| {
            store.mint(HOME, &key, &increment, NOW, &LIMITS, Blocking::Allowed).unwrap().unwrap()
        };
        let minted = count(&store).object;
        assert_eq!(format(&store), FORMAT_TYPED);
        store.close().unwrap();
        drop(store);
        let store = open(dir.path(), Durability::Fsync);
        assert_eq!(object(&store, HOME, "counter"), Some(minted.clone()));
        assert_eq!(count(&store).object, minted, "the same request");
    }
}
