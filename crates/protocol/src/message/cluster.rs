//! The messages by which nodes know each other: greetings, bucket properties, the cluster's formation.

use serde::{Deserialize, Serialize};

use super::head::family;
use super::status::Status;
use crate::bucket_table::Table;
use crate::generation::Remembered;

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
