//! Bucket properties: how many replicas, how many answers, and what to do about conflicts.
//!
//! Every node keeps the whole table. A change is a [`Record`] with a hybrid-logical time; of two records
//! for one bucket the one with the greater (time, node) stands, so tables merge like objects do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{Bucket, NodeId};
use crate::quorum::Count;
use crate::stamp::Stamp;

/// The most buckets with properties of their own.
pub const BUCKETS_MAX: usize = 10_000;

/// What a client gets to see when writes conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflicts {
    /// All siblings; the client resolves them.
    #[default]
    Siblings,
    /// The last write by hybrid-logical time. Applied when answering; merge still keeps siblings.
    Lww,
}

/// The properties of a bucket, complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    /// Replicas of each key.
    pub n: u16,
    /// Answers that a read needs.
    pub r: Count,
    /// Acknowledgements that a write needs.
    pub w: Count,
    /// What happens to conflicting writes.
    pub conflicts: Conflicts,
    /// Whether fallbacks count when home replicas are down.
    pub sloppy: bool,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            n: 3,
            r: Count::Quorum,
            w: Count::Quorum,
            conflicts: Conflicts::Siblings,
            sloppy: true,
        }
    }
}

/// What somebody set for a bucket; what is `None` follows the node's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Replicas of each key.
    pub n: Option<u16>,
    /// Answers that a read needs.
    pub r: Option<Count>,
    /// Acknowledgements that a write needs.
    pub w: Option<Count>,
    /// What happens to conflicting writes.
    pub conflicts: Option<Conflicts>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
}

/// Why properties cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// `n` is zero or above the number of nodes.
    #[error("n must be from 1 to the number of nodes ({nodes}), not {n}")]
    Replicas {
        /// The n asked for.
        n: u16,
        /// Nodes in the layout.
        nodes: u16,
    },
    /// `r` or `w` is above n.
    #[error("{name} must be from 1 to n ({n}), not {count}")]
    Count {
        /// Which of the two.
        name: &'static str,
        /// The count asked for.
        count: u16,
        /// The bucket's n.
        n: u16,
    },
}

impl Settings {
    /// The complete properties on a cluster of `nodes` nodes. A *default* is capped at what the cluster
    /// can do, so that one node alone works; what was set for the bucket was checked when it was set.
    pub fn over(&self, defaults: &Properties, nodes: u16) -> Properties {
        let n = self.n.unwrap_or(defaults.n).clamp(1, nodes.max(1));
        let cap = |count: Count| if count.of(n) > n { Count::All } else { count };
        Properties {
            n,
            r: cap(self.r.unwrap_or(defaults.r)),
            w: cap(self.w.unwrap_or(defaults.w)),
            conflicts: self.conflicts.unwrap_or(defaults.conflicts),
            sloppy: self.sloppy.unwrap_or(defaults.sloppy),
        }
    }

    /// Checks what somebody wants to set.
    ///
    /// # Errors
    /// [`PropertiesError`] that names the property and its range.
    pub fn check(&self, defaults: &Properties, nodes: u16) -> Result<(), PropertiesError> {
        if let Some(n) = self.n
            && (n == 0 || n > nodes)
        {
            return Err(PropertiesError::Replicas { n, nodes });
        }
        let n = self.over(defaults, nodes).n;
        for (name, count) in [("r", self.r), ("w", self.w)] {
            if let Some(count) = count.map(|count| count.of(n))
                && count > n
            {
                return Err(PropertiesError::Count { name, count, n });
            }
        }
        Ok(())
    }
}

/// One change of a bucket's properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What was set; all `None` after a reset.
    pub settings: Settings,
    /// When.
    pub stamp: Stamp,
    /// On which node; breaks ties.
    pub node: NodeId,
}

/// The properties of all buckets that have their own. Merges to the same table everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    records: BTreeMap<Bucket, Record>,
}

impl Table {
    /// Takes a record over if it is newer than the one known. Returns whether it was, which is also
    /// `false` when the table is full ([`BUCKETS_MAX`]).
    pub fn merge(&mut self, bucket: &Bucket, record: Record) -> bool {
        match self.records.get(bucket) {
            Some(known) if (known.stamp, known.node) >= (record.stamp, record.node) => false,
            None if self.records.len() >= BUCKETS_MAX => false,
            Some(_) | None => {
                self.records.insert(bucket.clone(), record);
                true
            }
        }
    }

    /// What was set for a bucket; the empty settings if nothing was.
    pub fn settings(&self, bucket: &str) -> Settings {
        match Bucket::parse(bucket) {
            Ok(bucket) => self.records.get(&bucket).map(|r| r.settings).unwrap_or_default(),
            Err(_) => Settings::default(),
        }
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
        self.records.values().map(|r| r.stamp).max().unwrap_or_default()
    }

    /// Equal tables have equal hashes; peers compare them to see whether they must exchange records.
    pub fn hash(&self) -> u64 {
        let bytes = postcard::to_stdvec(self).unwrap_or_default(); // writing to a Vec cannot fail
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::stamp::Millis;

    fn record(n: u16, at: u64, node: &str) -> Record {
        Record {
            settings: Settings { n: Some(n), ..Settings::default() },
            stamp: Stamp::at(Millis(at)),
            node: NodeId::parse(node).unwrap(),
        }
    }

    #[test]
    fn defaults_are_capped_by_the_cluster_but_settings_are_checked() {
        let defaults = Properties::default();
        let alone = Settings::default().over(&defaults, 1);
        assert_eq!((alone.n, alone.r.of(alone.n), alone.w.of(alone.n)), (1, 1, 1));
        let n4 = Settings { n: Some(4), ..Settings::default() };
        let error = n4.check(&defaults, 3);
        assert_eq!(error, Err(PropertiesError::Replicas { n: 4, nodes: 3 }));
        let w4 = Settings { w: Some(Count::Exactly(4)), ..Settings::default() };
        let error = w4.check(&defaults, 5);
        assert_eq!(error, Err(PropertiesError::Count { name: "w", count: 4, n: 3 }));
    }

    #[test]
    fn tables_agree_whatever_the_order() {
        let bucket = Bucket::parse("carts").unwrap();
        let records = [record(1, 5, "n1"), record(2, 9, "n1"), record(3, 9, "n2")];
        let mut tables = [Table::default(), Table::default()];
        for i in [0, 1, 2] {
            tables[0].merge(&bucket, records[i]);
            tables[1].merge(&bucket, records[2 - i]);
        }
        assert_eq!(tables[0].hash(), tables[1].hash());
        assert_eq!(tables[1].settings("carts").n, Some(3));
        assert_eq!(tables[1].settings("other"), Settings::default());
    }
}
