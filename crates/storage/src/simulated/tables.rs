//! Columns as ordered maps, the changes that are applied to them, and how those are undone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::columns::Column;
use crate::error::Error;

/// All columns. A clone shares the maps until one of the two changes.
#[derive(Clone, Default)]
pub(super) struct Tables {
    /// The number of the last change.
    pub(super) sequence: u64,
    columns: [Arc<Map>; Column::ALL.len()],
}

/// Bytes that are shared: keys and values are stored once, whoever holds them.
pub(super) type Shared = Arc<[u8]>;

pub(super) type Map = BTreeMap<Shared, Value>;

/// A stored value.
#[derive(Clone)]
pub(super) struct Value {
    pub(super) bytes: Shared,
    /// Whether it cannot be read.
    pub(super) is_damaged: bool,
}

/// One change of a batch.
pub(super) enum Change {
    Put(Column, Shared, Shared),
    Delete(Column, Shared),
    Merge(Column, Shared, Shared),
    DeleteAll(Column),
}

/// What a change replaced.
#[derive(Clone)]
pub(super) enum Replaced {
    One(Column, Shared, Option<Value>),
    All(Column, Arc<Map>),
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

impl Value {
    fn new(bytes: Shared) -> Self {
        Self { bytes, is_damaged: false }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`]; `column` and `key` are for the message.
    pub(super) fn read(&self, column: Column, key: &[u8]) -> Result<&Shared, Error> {
        if !self.is_damaged {
            return Ok(&self.bytes);
        }
        Err(Error::Damaged {
            what: format!("the value of {:?} in {}", String::from_utf8_lossy(key), column.name()),
            reason: "the simulated disk says that its checksum is wrong".to_owned(),
        })
    }
}

impl Tables {
    /// Applies the changes of a batch, which are numbered one by one. Returns what undoes it.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Vec<Replaced> {
        self.sequence += changes.len() as u64;
        changes.into_iter().map(|change| self.apply_one(change)).collect()
    }

    fn apply_one(&mut self, change: Change) -> Replaced {
        match change {
            Change::Put(column, key, bytes) => {
                let before = self.map_mut(column).insert(Arc::clone(&key), Value::new(bytes));
                Replaced::One(column, key, before)
            }
            Change::Delete(column, key) => {
                let before = self.map_mut(column).remove(&key);
                Replaced::One(column, key, before)
            }
            Change::Merge(column, key, change) => {
                let before = self.map(column).get(&key).cloned();
                let base = before.as_ref().map(|value| &value.bytes[..]);
                let merged = column.merge(base.into_iter().chain([&change[..]]));
                // As in RocksDB, a value that does not merge shows when it is read.
                let is_damaged = merged.is_none() || before.as_ref().is_some_and(|v| v.is_damaged);
                let value = Value { bytes: merged.unwrap_or_default().into(), is_damaged };
                self.map_mut(column).insert(Arc::clone(&key), value);
                Replaced::One(column, key, before)
            }
            Change::DeleteAll(column) => {
                Replaced::All(column, std::mem::take(&mut self.columns[column as usize]))
            }
        }
    }

    /// Undoes the last batch that was applied and not undone.
    pub(super) fn undo(&mut self, batch: Vec<Replaced>) {
        self.sequence -= batch.len() as u64;
        for replaced in batch.into_iter().rev() {
            match replaced {
                Replaced::One(column, key, Some(value)) => {
                    self.map_mut(column).insert(key, value);
                }
                Replaced::One(column, key, None) => {
                    self.map_mut(column).remove(&key);
                }
                Replaced::All(column, map) => self.columns[column as usize] = map,
            }
        }
    }

    /// A value; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub(super) fn get(&self, column: Column, key: &[u8]) -> Result<Option<&Shared>, Error> {
        self.map(column).get(key).map(|value| value.read(column, key)).transpose()
    }

    /// Makes a value unreadable until it is replaced. Returns whether there is one.
    pub(super) fn damage(&mut self, column: Column, key: &[u8]) -> bool {
        let value = self.map_mut(column).get_mut(key);
        value.map(|value| value.is_damaged = true).is_some()
    }

    pub(super) fn map(&self, column: Column) -> &Map {
        &self.columns[column as usize]
    }

    fn map_mut(&mut self, column: Column) -> &mut Map {
        Arc::make_mut(&mut self.columns[column as usize])
    }
}
