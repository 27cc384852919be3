//! Columns as ordered maps, and the changes that are applied to them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::columns::Column;
use crate::error::Error;

/// All columns at one moment. A clone shares the maps until one of the two changes.
#[derive(Clone, Default)]
pub(super) struct Tables {
    /// The number of the last change.
    pub(super) sequence: u64,
    columns: [Arc<BTreeMap<Bytes, Bytes>>; Column::ALL.len()],
    /// Values that cannot be read.
    damaged: BTreeSet<(Column, Bytes)>,
}

/// One change of a batch.
#[derive(Clone)]
pub(super) enum Change {
    Put(Column, Bytes, Bytes),
    Delete(Column, Bytes),
    Merge(Column, Bytes, Bytes),
    DeleteAll(Column),
}

impl Change {
    /// About what it takes in a log, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Put(_, key, value) | Self::Merge(_, key, value) => key.len() + value.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteAll(_) => 0,
        };
        bytes as u64 + 8
    }
}

impl Tables {
    /// Applies the changes of a batch, which are numbered one by one.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.apply_one(change);
        }
        self.sequence += changes.len() as u64;
    }

    fn apply_one(&mut self, change: &Change) {
        match change {
            Change::Put(column, key, value) => {
                self.heal(*column, key);
                self.column_mut(*column).insert(key.clone(), value.clone());
            }
            Change::Delete(column, key) => {
                self.heal(*column, key);
                self.column_mut(*column).remove(key);
            }
            Change::Merge(column, key, change) => {
                let base = self.column(*column).get(key);
                let values = base.into_iter().chain([change]).map(|value| &value[..]);
                match column.merge(values) {
                    Some(merged) => {
                        self.column_mut(*column).insert(key.clone(), Bytes::from(merged));
                    }
                    None => self.damage(*column, key.clone()),
                }
            }
            Change::DeleteAll(column) => {
                self.damaged.retain(|(damaged, _)| damaged != column);
                self.columns[*column as usize] = Arc::default();
            }
        }
    }

    /// A value; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(super) fn get(&self, column: Column, key: &[u8]) -> Result<Option<&Bytes>, Error> {
        if self.is_damaged(column, key) {
            return Err(damaged(column, key));
        }
        Ok(self.column(column).get(key))
    }

    pub(super) fn len(&self, column: Column) -> usize {
        self.column(column).len()
    }

    /// Makes a value unreadable until it is replaced.
    pub(super) fn damage(&mut self, column: Column, key: Bytes) {
        self.damaged.insert((column, key));
    }

    fn heal(&mut self, column: Column, key: &Bytes) {
        if !self.damaged.is_empty() {
            self.damaged.remove(&(column, key.clone()));
        }
    }

    pub(super) fn is_damaged(&self, column: Column, key: &[u8]) -> bool {
        !self.damaged.is_empty() && self.damaged.contains(&(column, Bytes::copy_from_slice(key)))
    }

    pub(super) fn column(&self, column: Column) -> &BTreeMap<Bytes, Bytes> {
        &self.columns[column as usize]
    }

    fn column_mut(&mut self, column: Column) -> &mut BTreeMap<Bytes, Bytes> {
        Arc::make_mut(&mut self.columns[column as usize])
    }
}

pub(super) fn damaged(column: Column, key: &[u8]) -> Error {
    Error::Damaged {
        what: format!("the value of {:?} in {}", String::from_utf8_lossy(key), column.name()),
        reason: "the simulated disk says that its checksum is wrong".to_owned(),
    }
}
