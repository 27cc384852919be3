//! The messages by which nodes know each other: greetings, bucket properties, the cluster's formation.

use serde::{Deserialize, Serialize};

use super::head::family;
use crate::bucket_table::Table;
use crate::cluster_settings::ClusterSettings;
use crate::generation::{Remembered, Start};
use crate::received::Holdings;
use crate::time::WallTime;

family! {
    /// What nodes tell each other of themselves and of the cluster.
    2 Cluster {
        /// Exchange states, which also serves as a liveness probe: [`ClusterReply::Status`], or
        /// [`ClusterReply::Behind`].
        0x40 Hello {
            /// The sender's state.
            status: Box<Status>,
        },
        /// Merge these bucket records: [`ClusterReply::Buckets`].
        0x41 Buckets {
            /// Records that changed, or all of the sender's.
            table: Table,
            /// Whether the reply carries all of the receiver's records (otherwise none).
            want_all: bool,
        },
        /// Record that the cluster was formed: [`ClusterReply::Status`] with the formation now
        /// recorded.
        0x42 Form {
            /// The formation.
            formation: Formation,
        },
    }
}

family! {
    /// The replies to [`Cluster`].
    2 ClusterReply {
        /// The sender's state.
        0x40 Status(status: Box<Status>),
        /// The sender of the Hello came back behind what is remembered of it (see
        /// [`crate::generation`]).
        0x41 Behind(known: Remembered),
        /// Bucket records after the merge.
        0x42 Buckets {
            /// All of them if requested, otherwise none.
            table: Table,
        },
    }
}

/// A random number drawn when a cluster is formed; all nodes of one cluster record the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation(pub [u8; 16]);

/// A node's state as it reports it to its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's formation, if the node has recorded one.
    pub formation: Option<Formation>,
    /// Whether it has received all its partitions.
    pub ready: bool,
    /// What it holds of each partition.
    pub holdings: Holdings,
    /// Whether it takes writes.
    pub writable: bool,
    /// The hash of its bucket table.
    pub buckets_hash: u64,
    /// Its release.
    pub release: String,
    /// Its start.
    pub start: Start,
    /// The settings that must be equal on all nodes.
    pub common: ClusterSettings,
    /// Since when, by its wall clock, its record of its peers' starts has had no gap.
    pub remembers_since: WallTime,
    /// Its wall clock, uncorrected (see [`crate::skew`]).
    pub clock: WallTime,
    /// Whether it waits for an operator's decision about data that it does not trust by itself.
    pub waits: bool,
    /// In a reply: it remembered an earlier start of the sender, and the sender resumes from there.
    pub attests: bool,
    /// The longest frame it accepts, in bytes: an object that would not fit is not written, since
    /// it could not be replicated to this node.
    pub frame_bytes_max: u64,
    /// Where clients reach it, host and port; empty if it does not know.
    pub client_addr: String,
}
