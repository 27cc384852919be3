//! Walking over a column of a simulated disk.

use std::ops::Bound;

use bytes::Bytes;

use super::tables::{Tables, damaged};
use crate::backend::Range;
use crate::columns::Column;
use crate::error::Error;

/// A position in the entries of a range.
pub(crate) struct Entries {
    tables: Tables,
    column: Column,
    range: Range,
    here: Option<(Bytes, Bytes)>,
    /// What could not be read: it ends there.
    failed: Option<Error>,
}

impl Entries {
    pub(super) fn new(tables: Tables, column: Column, range: Range) -> Self {
        Self { tables, column, range, here: None, failed: None }
    }

    pub(crate) fn seek_to_first(&mut self) {
        self.go(Bound::Included(&self.range.start.clone()));
    }

    pub(crate) fn seek(&mut self, key: &[u8]) {
        let start = key.max(&self.range.start).to_vec();
        self.go(Bound::Included(&start));
    }

    pub(crate) fn next(&mut self) {
        if let Some((key, _)) = self.here.take() {
            self.go(Bound::Excluded(&key));
        }
    }

    pub(crate) fn item(&self) -> Option<(&[u8], &[u8])> {
        self.here.as_ref().map(|(key, value)| (&key[..], &value[..]))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn go(&mut self, from: Bound<&[u8]>) {
        let column = self.tables.column(self.column);
        let found = column.range::<[u8], _>((from, Bound::Unbounded)).next();
        let found = found.filter(|(key, _)| self.range.end.as_ref().is_none_or(|end| key < &end));
        self.here = found.map(|(key, value)| (key.clone(), value.clone()));
        self.failed = None;
        if let Some((key, _)) =
            self.here.take_if(|(key, _)| self.tables.is_damaged(self.column, key))
        {
            self.failed = Some(damaged(self.column, &key));
        }
    }
}
