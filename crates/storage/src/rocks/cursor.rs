//! Iterators and snapshots of RocksDB.

use rocksdb::{DBRawIterator, ReadOptions};

use super::{Rocks, read_error};
use crate::backend::Range;
use crate::columns::Column;
use crate::error::Error;

/// An iterator over entries of one column.
pub(crate) struct Entries<'a> {
    column: Column,
    iterator: DBRawIterator<'a>,
}

/// A snapshot of the database.
pub(crate) struct Snapshot<'a> {
    rocks: &'a Rocks,
    snapshot: rocksdb::Snapshot<'a>,
}

impl Rocks {
    pub(crate) fn entries(&self, column: Column, range: Range) -> Result<Entries<'_>, Error> {
        let options = read_options(column, range);
        let iterator = self.db.raw_iterator_cf_opt(self.family(column)?, options);
        Ok(Entries { column, iterator })
    }

    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { rocks: self, snapshot: self.db.snapshot() }
    }
}

fn read_options(column: Column, range: Range) -> ReadOptions {
    let mut options = ReadOptions::default();
    // One scan of a partition would evict the working set. The totals are few, and read often.
    options.fill_cache(column == Column::HintTotals);
    options.set_iterate_lower_bound(range.start);
    if let Some(end) = range.end {
        options.set_iterate_upper_bound(end);
    }
    options
}

impl Entries<'_> {
    pub(crate) fn seek(&mut self, key: &[u8]) {
        self.iterator.seek(key);
    }

    pub(crate) fn seek_to_first(&mut self) {
        self.iterator.seek_to_first();
    }

    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        self.iterator.item()
    }

    pub(crate) fn next(&mut self) {
        self.iterator.next();
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let what = || format!("an entry in {}", self.column.name());
        self.iterator.status().map_err(|error| read_error(&error, what))
    }
}

impl Snapshot<'_> {
    pub(crate) fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let what =
            || format!("the value of {:?} in {}", String::from_utf8_lossy(key), column.name());
        let value = self.snapshot.get_cf(self.rocks.family(column)?, key);
        value.map_err(|error| read_error(&error, what))
    }

    pub(crate) fn entries(&self, column: Column, range: Range) -> Result<Entries<'_>, Error> {
        let family = self.rocks.family(column)?;
        let iterator = self.snapshot.raw_iterator_cf_opt(family, read_options(column, range));
        Ok(Entries { column, iterator })
    }
}
