//! Walking over a column of a simulated disk.

use std::ops::Bound;
use std::sync::Arc;

use super::tables::{Shared, Tables};
use crate::backend::Range;
use crate::columns::Column;
use crate::error::Error;

/// A position in the entries of a range.
pub(crate) struct Entries {
    tables: Tables,
    column: Column,
    range: Range,
    here: Option<(Shared, Shared)>,
    /// What could not be read: it ends there.
    failed: Option<Error>,
}

impl Entries {
    pub(super) fn new(tables: Tables, column: Column, range: Range) -> Self {
        Self { tables, column, range, here: None, failed: None }
    }

    pub(crate) fn seek_to_first(&mut self) {
        self.seek(&[]);
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

    /// Goes to the first entry from there on, if it is in the range.
    fn go(&mut self, from: Bound<&[u8]>) {
        (self.here, self.failed) = (None, None);
        let map = self.tables.map(self.column);
        let Some((key, value)) = map.range::<[u8], _>((from, Bound::Unbounded)).next() else {
            return;
        };
        if self.range.end.as_ref().is_some_and(|end| key[..] >= end[..]) {
            return;
        }
        match value.read(self.column, key) {
            Ok(bytes) => self.here = Some((Arc::clone(key), Arc::clone(bytes))),
            Err(error) => self.failed = Some(error),
        }
    }
}
