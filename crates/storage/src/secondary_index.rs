//! The secondary index of each bucket: which keys have a value with which index entry.
//!
//! Its entries are derived from the rows, and change in the batch of their row (`index`). One of a small row
//! says only that it is there: whoever lists it reads the row. One of a large row has the row's version, so
//! that listing need not read it.

use std::sync::atomic::Ordering::SeqCst;

use bytes::Bytes;
use quorate_protocol::index::{Hit, IndexName, IndexRange, IndexValue};
use quorate_protocol::layout::Partition;
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::Key;
use quorate_protocol::object::Version;
use quorate_protocol::row::Row;
use quorate_protocol::tree::Tree;

use crate::backend::{Batch, Range};
use crate::columns::Column;
use crate::disk::Need;
use crate::engine::Engine;
use crate::error::Error;
use crate::index::{Entries, Listing, is_plain};
use crate::options::{Blocking, Place};
use crate::store::{Store, undecodable};
use crate::walk::next_of;

/// The sign of an integer in an entry's key: flipped, so that negative ones come first.
const SIGN: u64 = 1 << 63;
/// Entries that one call of [`Store::scrub_index_some`] removes at the most.
const STRAYS_MAX: usize = 10_000;

/// The record that the indexes have the entries of all rows: a store that an earlier release has written may
/// have rows with entries, and no indexes.
const WHOLE: &[u8] = b"store:index";
/// Rows that [`Store::build_index_some`] reads at a time, and their bytes.
const BUILD_ROWS_MAX: usize = 256;
const BUILD_BYTES_MAX: usize = 1 << 20;

/// Where a check of the index goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexCursor(Vec<u8>);

/// Whether the indexes have the entries of all rows.
pub(crate) fn is_whole(engine: &Engine) -> Result<bool, Error> {
    Ok(engine.get(Column::Meta, WHOLE, Blocking::Allowed)?.is_some())
}

/// Records that they have.
pub(crate) fn record_whole(batch: &mut Batch<'_>) -> Result<(), Error> {
    batch.put(Column::Meta, WHOLE, b"")
}

/// Adds the changes of a row's index entries to the row's batch.
pub(crate) fn stage(
    batch: &mut Batch<'_>,
    key: &Key,
    old: &Entries,
    new: &Entries,
) -> Result<(), Error> {
    let is_same_row = old.key == new.key; // what the entries say of it
    if is_same_row && old.index == new.index {
        return Ok(());
    }
    for (index, value) in old.index.iter().filter(|entry| !new.index.contains(entry)) {
        if !mutated(Mutation::IndexOfCovered) {
            batch.delete(Column::Index, entry_key(key, index, value))?;
        }
    }
    let Some(listing) = new.key else { return Ok(()) };
    for entry in &new.index {
        if !is_same_row || !old.index.contains(entry) {
            batch.put(Column::Index, entry_key(key, &entry.0, &entry.1), listing.encode())?;
        }
    }
    Ok(())
}

/// The entries that a row must have: their keys and the value of each.
pub(crate) fn wanted(key: &Key, entries: &Entries) -> Vec<(Vec<u8>, Vec<u8>)> {
    let Some(listing) = entries.key else { return Vec::new() };
    let of =
        |(index, value): &(IndexName, IndexValue)| (entry_key(key, index, value), listing.encode());
    entries.index.iter().map(of).collect()
}

impl Store {
    /// Up to `limit` entries of a bucket's index that this node has as home replica, in order, after
    /// `after`: each with the version of its key's row, and whether that is plain (one value and nothing
    /// else). The cost is proportional to the page. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn indexed(
        &self,
        bucket: &str,
        range: &IndexRange,
        after: Option<&Hit>,
        limit: usize,
    ) -> Result<Vec<(Hit, Version, bool)>, Error> {
        let prefix = prefix_of(bucket, &range.index);
        let from = match (after, &range.from) {
            (Some(hit), _) => next_of(&entry_key(&hit.key, &range.index, &hit.value)),
            (None, Some(from)) => [&prefix[..], &encode_value(from)].concat(),
            (None, None) => prefix.clone(),
        };
        let mut found = Vec::new();
        let entries = self.engine.entries(Column::Index, Range::from(from, &prefix))?;
        entries.visit(|entry_key, entry| {
            let (_, hit) = decode_key(entry_key)?;
            if found.len() == limit || !range.contains(&hit.value) {
                return Ok(false);
            }
            match Listing::decode(entry) {
                Some(Listing::Large(version, is_plain)) => found.push((hit, version, is_plain)),
                Some(Listing::Small) => {
                    // It may have changed since the scan began.
                    if let Some((version, is_plain)) = self.has_entry(&range.index, &hit)? {
                        found.push((hit, version, is_plain));
                    }
                }
                None => return Err(damaged(entry_key)),
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// The version of a key's row, and whether it is plain, if one of its values has this entry.
    fn has_entry(&self, index: &IndexName, hit: &Hit) -> Result<Option<(Version, bool)>, Error> {
        let place = self.home_of(&hit.key);
        let Some(bytes) = self.read(place, &hit.key, Blocking::Allowed)? else { return Ok(None) };
        let row = Row::decode(bytes).map_err(|error| undecodable(place, &hit.key, error))?;
        let has_it =
            row.object.index_entries().iter().any(|it| it.0 == *index && it.1 == hit.value);
        Ok(has_it.then(|| (row.object.version(), is_plain(&row.object))))
    }

    /// Where this node has the row of a key as a home replica, whatever tree counts it.
    pub(crate) fn home_of(&self, key: &Key) -> Place {
        Place::Home(Tree { partition: key.partition(self.options.partitions), n: 0 })
    }

    /// Whether the indexes have the entries of all rows: what they list is whole then.
    pub fn has_whole_index(&self) -> bool {
        self.has_index.load(SeqCst)
    }

    /// Adds the entries of rows of a partition that an earlier release has written, after `after`, until
    /// `is_time_over`. Returns where to go on; `None` at the end. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write.
    pub fn build_index_some(
        &self,
        partition: Partition,
        mut after: Option<Key>,
        is_time_over: impl Fn() -> bool,
    ) -> Result<Option<Key>, Error> {
        loop {
            let (rows_max, bytes_max) = (BUILD_ROWS_MAX, BUILD_BYTES_MAX);
            let rows = self.scan_partition(partition, after.as_ref(), rows_max, bytes_max)?;
            let Some((last, _)) = rows.last() else { return Ok(None) };
            after = Some(last.clone());
            for (key, bytes) in rows {
                // One that cannot be read is served by no one: its entries are not missed.
                let row = Row::decode(bytes).ok();
                if row.is_some_and(|row| !row.object.index_entries().is_empty()) {
                    self.rebuild_entries(partition, &key)?;
                }
            }
            if is_time_over() {
                return Ok(after);
            }
        }
    }

    /// Records that all partitions were gone through by [`Store::build_index_some`] to the end. Blocks.
    ///
    /// # Errors
    /// Those of a write.
    pub fn index_is_built(&self) -> Result<(), Error> {
        self.disk.check(Need::Record)?;
        let mut batch = self.engine.batch();
        record_whole(&mut batch)?;
        self.engine.write(batch, Blocking::Allowed)?;
        self.has_index.store(true, SeqCst);
        Ok(())
    }

    /// Removes entries that their key's row does not have, until `is_time_over`: there should be none, and
    /// the scrub of a partition finds only what is missing. Returns how many, and where to go on; `None` at
    /// the end. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and those of a write.
    pub fn scrub_index_some(
        &self,
        from: Option<IndexCursor>,
        is_time_over: impl Fn() -> bool,
    ) -> Result<(u64, Option<IndexCursor>), Error> {
        let (mut suspects, mut last, mut is_more) = (Vec::new(), None, false);
        let after = from.as_ref().map(|IndexCursor(last)| &last[..]);
        self.walk(Column::Index, &[], after, |entry_key, entry| {
            is_more = suspects.len() == STRAYS_MAX || (last.is_some() && is_time_over());
            if is_more {
                return Ok(false);
            }
            last = Some(entry_key.to_vec());
            let (_, hit) = decode_key(entry_key)?;
            if !self.is_of_row(entry_key, entry, &hit.key)? {
                suspects.push((entry_key.to_vec(), hit.key));
            }
            Ok(true)
        })?;
        let mut removed = 0;
        for (entry_key, key) in suspects {
            removed += u64::from(self.drop_stray(&entry_key, &key)?);
        }
        Ok((removed, last.filter(|_| is_more).map(IndexCursor)))
    }

    /// Whether a key's row has this entry. For a row that cannot be read that is unknown: the entry is kept.
    fn is_of_row(&self, entry_key: &[u8], entry: &[u8], key: &Key) -> Result<bool, Error> {
        let Ok(entries) = self.entries_of(self.home_of(key), key)? else { return Ok(true) };
        let mut wanted = wanted(key, &entries).into_iter();
        Ok(wanted.any(|(key, value)| key == entry_key && value == entry))
    }

    /// Removes an entry unless its key's row has it.
    fn drop_stray(&self, entry_key: &[u8], key: &Key) -> Result<bool, Error> {
        let _stripe = self.stripes.lock(&self.home_of(key).row_key(key), Blocking::Allowed)?;
        let Some(entry) = self.engine.get(Column::Index, entry_key, Blocking::Allowed)? else {
            return Ok(false);
        };
        if self.is_of_row(entry_key, &entry, key)? {
            return Ok(false);
        }
        tracing::error!(%key, "removed an entry of the secondary index");
        self.disk.check(Need::Record)?;
        let mut batch = self.engine.batch();
        batch.delete(Column::Index, entry_key)?;
        self.engine.write(batch, Blocking::Allowed)?;
        Ok(true)
    }
}

fn prefix_of(bucket: &str, index: &IndexName) -> Vec<u8> {
    [bucket.as_bytes(), &[0], index.as_str().as_bytes(), &[0]].concat()
}

/// The key of an entry: bucket NUL index NUL value key.
fn entry_key(key: &Key, index: &IndexName, value: &IndexValue) -> Vec<u8> {
    [&prefix_of(key.bucket(), index)[..], &encode_value(value), key.key().as_bytes()].concat()
}

/// A value in an entry's key: in the order of values, and none is the beginning of another.
fn encode_value(value: &IndexValue) -> Vec<u8> {
    match value {
        IndexValue::Text(text) => [text.as_bytes(), &[0]].concat(),
        IndexValue::Integer(number) => (number.cast_unsigned() ^ SIGN).to_be_bytes().to_vec(),
    }
}

fn decode_key(entry_key: &[u8]) -> Result<(IndexName, Hit), Error> {
    let decoded = || {
        let (bucket, rest) = split_at_nul(entry_key)?;
        let (index, rest) = split_at_nul(rest)?;
        let index = IndexName::parse(std::str::from_utf8(index).ok()?).ok()?;
        let (value, name) = if index.is_of_integers() {
            let (number, name) = rest.split_first_chunk()?;
            let number = (u64::from_be_bytes(*number) ^ SIGN).cast_signed();
            (IndexValue::Integer(number), name)
        } else {
            let (text, name) = split_at_nul(rest)?;
            (index.value(std::str::from_utf8(text).ok()?).ok()?, name)
        };
        let key = Key::from_bytes(Bytes::from([bucket, &[0], name].concat())).ok()?;
        Some((index, Hit { value, key }))
    };
    decoded().ok_or_else(|| damaged(entry_key))
}

fn split_at_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn damaged(entry_key: &[u8]) -> Error {
    Error::Damaged {
        what: format!("the index entry {:?}", String::from_utf8_lossy(entry_key)),
        reason: "it is none".to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
