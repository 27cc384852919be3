//! The messages by which nodes know each other: greetings, bucket properties, tokens, the cluster's
//! formation and its record.

use serde::{Deserialize, Serialize};

use super::head::family;
use super::status::Status;
use crate::bucket_table::Table;
use crate::generation::Remembered;
use crate::name::NodeId;
use crate::record::ClusterRecord;
use crate::synod;
use crate::token_table;

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
        /// Send the newest cluster record: [`ClusterReply::Record`].
        0x43 AskRecord,
        /// Learn a decided record: [`ClusterReply::Record`] with the newest that the receiver knows then.
        0x44 Learn {
            /// The record.
            record: Box<ClusterRecord>,
        },
        /// Vote on the next record: [`ClusterReply::Vote`].
        0x45 Vote {
            /// The question.
            request: Box<synod::Request>,
        },
        /// Say how far the change of the layout is: [`ClusterReply::Move`].
        0x46 AskMove,
        /// Say whether a node answers the receiver: [`ClusterReply::Hears`].
        0x47 AskHears {
            /// The node.
            node: NodeId,
        },
        /// Say what hash the receiver's token table has: [`ClusterReply::TokensHash`].
        0x50 CompareTokens {
            /// The hash of the sender's.
            hash: u64,
        },
        /// Merge these tokens, durably: [`ClusterReply::Tokens`].
        0x51 Tokens {
            /// Those that changed, or all of the sender's.
            table: token_table::Table,
            /// Whether the reply carries all of the receiver's (otherwise none).
            want_all: bool,
        },
    }
}

impl Cluster {
    /// Whether it is executed whatever the sender's epoch is: by these nodes come to the same one.
    pub fn is_of_any_epoch(&self) -> bool {
        match self {
            Self::AskRecord | Self::Learn { .. } | Self::Vote { .. } => true,
            Self::Hello { .. } | Self::Buckets { .. } | Self::Form { .. } => false,
            Self::AskMove | Self::AskHears { .. } => false,
            // Who may do what does not depend on where keys are, and a revocation must not wait.
            Self::CompareTokens { .. } | Self::Tokens { .. } => true,
        }
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
        /// The newest cluster record.
        0x43 Record {
            /// The record.
            record: Box<ClusterRecord>,
        },
        /// The sender's vote.
        0x44 Vote {
            /// The answer.
            response: Box<synod::Response>,
        },
        /// How far the sender is with the change of the layout.
        0x45 Move(progress: MoveProgress),
        /// Whether the node answers the sender.
        0x46 Hears {
            /// It does, as far as the sender can tell.
            hears: bool,
        },
        /// The hash of the sender's token table.
        0x50 TokensHash(hash: u64),
        /// Tokens after the merge, which is durable.
        0x51 Tokens {
            /// All of them if requested, otherwise none.
            table: token_table::Table,
        },
    }
}

/// How far a node is with a change of the layout, in the epoch of the frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// Partitions of which it becomes a home replica.
    pub partitions: u32,
    /// Those of them that it has not received yet.
    pub missing: u32,
    /// Whether it waits for other work that must be done before the change can end, such as a bucket whose
    /// n was raised.
    pub is_busy: bool,
    /// Rows that it holds and is no home replica of, as far as it has counted.
    pub unowned_rows: u64,
    /// Hints that it keeps for others.
    pub hints: u64,
}

/// A random number drawn when a cluster is formed; all nodes of one cluster record the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation(pub [u8; 16]);
