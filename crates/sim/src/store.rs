//! One node's disk in memory: rows, and a log whose unsynced tail a crash cuts off.
//!
//! A write changes the rows at once (reads may show what is not yet durable) and appends to the
//! log. A sync makes durable what was written *before it began*. A crash keeps some prefix of the
//! rest, as a write-ahead log does: the order is kept, the end is not.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::row::Row;

use crate::dice::Dice;

/// Where a row lies: among the node's own rows, or among its hints for a target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) key: Key,
    /// For whom the hint is kept; `None` for an own row.
    pub(crate) target: Option<NodeId>,
}

impl Slot {
    pub(crate) fn home(key: &Key) -> Self {
        Self { key: key.clone(), target: None }
    }
}

/// Rows by place.
pub(crate) type Rows = BTreeMap<Slot, Row>;

/// The store of one node.
#[derive(Default)]
pub(crate) struct Store {
    rows: Rows,
    durable: Rows,
    /// Changes not yet durable, oldest first; `None` drops the row.
    tail: VecDeque<(Slot, Option<Row>)>,
    /// How many changes were ever written.
    written: u64,
}

impl Store {
    /// The row, as it was last written.
    pub(crate) fn get(&self, slot: &Slot) -> Option<&Row> {
        self.rows.get(slot)
    }

    /// All rows as they were last written.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The rows that no crash can take.
    pub(crate) fn durable(&self) -> &Rows {
        &self.durable
    }

    /// Writes a row, or drops it.
    pub(crate) fn put(&mut self, slot: Slot, row: Option<Row>) {
        apply(&mut self.rows, slot.clone(), row.clone());
        self.tail.push_back((slot, row));
        self.written += 1;
    }

    /// The number of the last change: durable once [`Store::sync`] was called with it.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the change with this number is durable.
    pub(crate) fn is_durable(&self, change: u64) -> bool {
        change + self.tail.len() as u64 <= self.written
    }

    /// Makes every change up to this number durable.
    pub(crate) fn sync(&mut self, upto: u64) {
        while !self.is_durable(upto) {
            let Some((slot, row)) = self.tail.pop_front() else { return };
            apply(&mut self.durable, slot, row);
        }
    }

    /// Loses power: some of the unsynced changes are gone, the newest first. Returns how many.
    pub(crate) fn crash(&mut self, dice: &mut Dice) -> u64 {
        let lost = dice.between(0, self.tail.len() as u64);
        self.sync(self.written - lost);
        self.tail.clear();
        self.written -= lost;
        self.rows = self.durable.iter().map(|(slot, row)| (slot.clone(), reread(row))).collect();
        lost
    }
}

fn apply(rows: &mut Rows, slot: Slot, row: Option<Row>) {
    match row {
        Some(row) => rows.insert(slot, row),
        None => rows.remove(&slot),
    };
}

/// A row as a restarted node reads it from its disk.
fn reread(row: &Row) -> Row {
    let mut bytes = BytesMut::new();
    row.encode(&mut bytes);
    match Row::decode(bytes.freeze()) {
        Ok(again) => {
            assert!(again == *row, "a row comes back from the disk as it was written");
            again
        }
        Err(error) => unreachable!("a row that was encoded does not decode: {error}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn slot(key: &str) -> Slot {
        Slot::home(&Key::new("b", key.as_bytes()).unwrap())
    }

    #[test]
    fn a_crash_takes_only_what_was_written_after_the_sync_began() {
        let mut dice = Dice::new(1);
        for _ in 0..50 {
            let mut store = Store::default();
            store.put(slot("a"), Some(Row::default()));
            let upto = store.written();
            store.put(slot("b"), Some(Row::default()));
            store.put(slot("c"), Some(Row::default()));
            store.sync(upto);
            store.crash(&mut dice);
            assert!(store.get(&slot("a")).is_some());
            // The log keeps its order: what came later is not there without what came before.
            assert!(store.get(&slot("b")).is_some() || store.get(&slot("c")).is_none());
            assert!(store.is_durable(store.written()));
        }
    }
}
