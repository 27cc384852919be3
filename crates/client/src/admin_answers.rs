//! What administrative calls return, where programs rely on its shape.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::data_type::DataType;

/// Where a key is: the answer of `GET /ring/{bucket}/{key}`.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Location {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// Its partition.
    pub partition: usize,
    /// How many of the list are home replicas.
    pub n: usize,
    /// All nodes: home replicas, then fallbacks in order.
    pub preference_list: Vec<String>,
}

/// The properties of a bucket. What is `None` follows the cluster's defaults.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct BucketProperties {
    /// How many copies are kept (N).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u16>,
    /// How many replicas must answer a read: a number, or `one`, `quorum`, `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r: Option<Json>,
    /// How many nodes must acknowledge a write, as `r`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub w: Option<Json>,
    /// The type of the bucket's values; set while it has no keys, it stays.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<DataType>,
    /// `siblings`, or `lww`: the last writer wins. `merged` if the bucket has a type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conflicts: Option<String>,
    /// Whether hints of fallbacks count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    /// How long values live whose write does not say it, in seconds, 1 to 3,162,240,000. None: until they
    /// are overwritten or deleted. Buckets with a type refuse it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_s: Option<u64>,
    /// For how long changes are kept for the bucket's feed ([`Bucket::feed`](crate::Bucket::feed)), in
    /// seconds, 60 to 2,592,000. None: it has no feed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feed_retention_s: Option<u64>,
}

impl BucketProperties {
    /// Those of a bucket with this type that otherwise follows the defaults.
    pub fn of_type(data_type: DataType) -> Self {
        Self { data_type: Some(data_type), ..Self::default() }
    }
}

/// A page of the keys in conflict.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Conflicts {
    /// The keys, in order.
    pub keys: Vec<KeyInConflict>,
    /// Where the next page begins. None: this was the last.
    pub cursor: Option<String>,
    /// Nodes that did not answer: keys may be missing.
    pub unreachable: Vec<String>,
}

/// A key in conflict.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct KeyInConflict {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// How many siblings it has.
    pub siblings: u64,
}

/// A sync point: all hints that nodes kept when it was made.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct SyncPoint {
    /// Its name.
    pub id: String,
    /// Nodes that could not be asked, so that their hints are not covered.
    pub unreachable: Vec<String>,
}

/// Whether the hints of a sync point have been delivered.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Delivery {
    /// Whether all have.
    pub delivered: bool,
    /// Who still keeps hints for whom: `holder` and `target`.
    pub pending: Vec<Json>,
    /// Nodes that did not answer.
    pub unreachable: Vec<String>,
}

/// What `/livez` or `/readyz` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether the status was 200.
    pub ok: bool,
    /// The node's text or JSON.
    pub text: String,
}
