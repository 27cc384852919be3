//! The table of all buckets' properties, and how the tables of all nodes converge.
//!
//! Every node keeps the whole table. A change is a [`Record`] with a hybrid-logical time; of two
//! records for one bucket the one with the greater (time, node) wins, so tables converge as objects
//! do.
//!
//! A node that missed changes cannot know for which keys it stopped being a home replica in
//! between: n may have been lowered and raised again. So a record names its predecessor and the
//! lowest n its bucket ever had: [`Table::learn`].
//!
//! A reset must outlive the settings it removed: a node that has not seen it would bring them back.
//! Once all nodes have the same table, resets are folded into one stamp, the table's `floor`
//! ([`Table::fold`]): a record missing from the table was reset if its stamp is not above the
//! floor. At that point every node knew all of them, and anything set later is newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bucket::{Properties, Settings};
use crate::name::{Bucket, NodeId};
use crate::stamp::Stamp;
use crate::time::WallTime;

/// The most buckets that may have a record before this node refuses to set properties on another.
/// Records from other nodes are accepted beyond it: after a network partition neither side may
/// refuse what the other has promised.
pub const BUCKETS_MAX: usize = 10_000;

/// Identifies one change: when it was made, and on which node, which breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub stamp: Stamp,
    /// On which node.
    pub node: NodeId,
}

/// One change of a bucket's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was set; all `None` after a reset.
    pub settings: Settings,
    /// Which change this is.
    pub change: Change,
    /// The change before it, as known to the node that made this one.
    pub previous: Option<Change>,
    /// The lowest n that the bucket ever had, as known to the node that made this change.
    pub n_lowest: u16,
}

impl Record {
    /// This record after another one of the same bucket became known: it keeps the lower `n_lowest` of
    /// both, and the bucket's type, which no later change takes away.
    fn joined_with(self, other: &Self) -> Self {
        let conflicts = match (self.settings.conflicts, other.settings.conflicts) {
            (newer, None) => newer,
            (None, Some(other)) => other.data_type().map(|_| other),
            (Some(newer), Some(other)) => Some(newer.unless_typed(other)),
        };
        let settings = Settings { conflicts, ..self.settings };
        Self { settings, n_lowest: self.n_lowest.min(other.n_lowest), ..self }
    }

    /// Whether this record only removes settings.
    fn is_reset(&self) -> bool {
        self.settings == Settings::default()
    }

    /// Whether a node whose record is `known` has seen every change that this record follows, or
    /// has this one already. `n` is the bucket's n under this record, `n_lowest` the lowest n that
    /// the node has seen.
    ///
    /// After concurrent changes on both sides of a network partition, a change of the losing side
    /// is recognised as concurrent (rather than as an ancestor of the known one) only if it is
    /// newer than the known record's predecessor or lowered n further.
    fn misses_nothing(&self, known: Option<&Self>, n: u16, n_lowest: u16) -> bool {
        match known {
            None => self.previous.is_none() && self.n_lowest >= n_lowest.min(n),
            Some(known) if known.change < self.change => {
                self.previous == Some(known.change) && self.n_lowest >= n_lowest.min(n)
            }
            Some(known) => {
                let led_to_it = Some(self.change) <= known.previous;
                (known.change == self.change || led_to_it) && self.n_lowest >= n_lowest
            }
        }
    }
}

/// The properties of all buckets that have their own. Tables converge under merge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    records: BTreeMap<Bucket, Record>,
    /// A bucket without a record whose change is not newer than this was reset, and every node has
    /// seen the reset.
    floor: Stamp,
}

/// A table as it was encoded before it had a floor.
#[derive(Deserialize)]
struct WithoutFloor {
    records: BTreeMap<Bucket, Record>,
}

impl Table {
    /// Adopts a record if it is newer than the known one; keeps the lower `n_lowest` of both, and a type.
    /// Returns whether anything changed: not if the bucket was reset since and every node knows it.
    pub fn merge(&mut self, bucket: &Bucket, record: Record) -> bool {
        let known = self.records.get(bucket).copied();
        if known.is_none() && record.change.stamp <= self.floor {
            return false;
        }
        let next = match known {
            None => record,
            Some(known) if known.change >= record.change => known.joined_with(&record),
            Some(known) => record.joined_with(&known),
        };
        if known == Some(next) {
            return false;
        }
        self.records.insert(bucket.clone(), next);
        true
    }

    /// Merges another node's table. `raised` holds the buckets whose n was raised and whose new
    /// home replicas have not yet received the earlier writes, each with the number of home
    /// replicas that have them. Entries are added here; the caller removes one once this node has
    /// fetched everything. `defaults` as in [`Settings::over`]. Returns whether anything changed.
    pub fn learn(
        &mut self,
        other: &Self,
        raised: &mut BTreeMap<Bucket, u16>,
        defaults: &Properties,
    ) -> bool {
        let n_of = |settings: Settings| settings.over(defaults).n;
        let mut changed = false;
        for (bucket, record) in self.reset_below(other) {
            // This table comes from a backup: the node may have missed any change since.
            let trusted = raised.get(&bucket).copied().unwrap_or(record.n_lowest);
            if trusted.min(record.n_lowest) < n_of(Settings::default()) {
                raised.insert(bucket.clone(), trusted.min(record.n_lowest));
            }
            self.records.remove(&bucket);
            changed = true;
        }
        for (bucket, record) in other.records() {
            let known = self.record(bucket).copied();
            let n_before = n_of(self.settings(bucket.as_str()));
            let before = raised.get(bucket).copied();
            let trusted = before.unwrap_or(n_before).min(n_before);
            changed |= self.merge(bucket, *record);
            if self.record(bucket).is_none() {
                continue; // every node knows that it was reset since
            }
            let n_lowest = known.map_or(n_before, |known| known.n_lowest);
            let n = n_of(record.settings);
            let misses_nothing = record.misses_nothing(known.as_ref(), n, n_lowest);
            let trusted = if misses_nothing { trusted } else { trusted.min(record.n_lowest) };
            if trusted < n_of(self.settings(bucket.as_str())) && before != Some(trusted) {
                raised.insert(bucket.clone(), trusted);
                changed = true;
            }
        }
        self.fold(other.floor) || changed
    }

    /// The records of this table whose buckets the other table knows to be reset.
    fn reset_below(&self, other: &Self) -> Vec<(Bucket, Record)> {
        let is_reset = |(bucket, record): &(&Bucket, &Record)| {
            record.change.stamp <= other.floor && other.record(bucket).is_none()
        };
        let reset = self.records().filter(is_reset);
        reset.map(|(bucket, record)| (bucket.clone(), *record)).collect()
    }

    /// Discards the resets up to a stamp. Only valid for a stamp up to which all nodes have the
    /// same records: the [`Table::stamp_max`] of this table while all others are equal, or the
    /// floor of one of them. Returns whether anything changed.
    pub fn fold(&mut self, upto: Stamp) -> bool {
        if upto <= self.floor {
            return false;
        }
        self.floor = upto;
        self.records.retain(|_, record| !record.is_reset() || record.change.stamp > upto);
        true
    }

    /// How many buckets have a record of a reset.
    pub fn resets(&self) -> usize {
        self.records.values().filter(|record| record.is_reset()).count()
    }

    /// Decodes a table, including the encoding from before there was a floor.
    ///
    /// # Errors
    /// [`postcard::Error`] if the bytes are neither encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, postcard::Error> {
        postcard::from_bytes(bytes).or_else(|error| {
            let WithoutFloor { records } = postcard::from_bytes(bytes).map_err(|_| error)?;
            Ok(Self { records, floor: Stamp::default() })
        })
    }

    /// The record that sets a bucket's properties, ordered after everything in this table.
    /// `defaults` as in [`Settings::over`].
    pub fn next(
        &self,
        bucket: &Bucket,
        settings: Settings,
        (node, now): (NodeId, WallTime),
        defaults: &Properties,
    ) -> Record {
        let known = self.record(bucket);
        let n_before = known.map(|known| known.settings).unwrap_or_default().over(defaults).n;
        let n_lowest = known.map_or(n_before, |known| known.n_lowest.min(n_before));
        Record {
            settings,
            change: Change { stamp: Stamp::after(self.stamp_max(), now), node },
            previous: known.map(|known| known.change),
            n_lowest: n_lowest.min(settings.over(defaults).n),
        }
    }

    /// The last change of a bucket.
    pub fn record(&self, bucket: &Bucket) -> Option<&Record> {
        self.records.get(bucket)
    }

    /// What was set for a bucket; the empty settings if nothing was.
    pub fn settings(&self, bucket: &str) -> Settings {
        self.records.get(bucket).map(|record| record.settings).unwrap_or_default()
    }

    /// All records, by bucket.
    pub fn records(&self) -> impl Iterator<Item = (&Bucket, &Record)> {
        self.records.iter()
    }

    /// How many buckets have a record.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no bucket has a record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The greatest stamp in the table.
    pub fn stamp_max(&self) -> Stamp {
        self.records.values().map(|r| r.change.stamp).fold(self.floor, Stamp::max)
    }

    /// Equal tables have equal hashes; peers compare them to see whether they must exchange
    /// records.
    pub fn hash(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).expect("postcard into a Vec does not fail");
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
