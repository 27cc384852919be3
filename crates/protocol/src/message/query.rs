//! The messages that look at what other nodes hold, for an operator or a listing.

use super::head::family;
use crate::feed::{self, Position};
use crate::index::{Hit, IndexPage, IndexRange};
use crate::listing::KeyPage;
use crate::name::{Bucket, Key, NodeId};

family! {
    /// A look at what another node holds.
    3 Query {
        /// Return everything held for a key, as home replica and as hints:
        /// [`QueryReply::Inspection`].
        0x60 Inspect {
            /// The key.
            key: Key,
        },
        /// List keys in conflict from the receiver's index: [`QueryReply::Conflicts`].
        0x61 Conflicts {
            /// Only this bucket; all if `None`.
            bucket: Option<Bucket>,
            /// After this key.
            after: Option<Key>,
            /// The most entries to return.
            limit: u16,
        },
        /// List live keys of a bucket from the receiver's index: [`QueryReply::Keys`].
        0x62 Keys {
            /// The bucket.
            bucket: Bucket,
            /// Only keys with this prefix.
            prefix: String,
            /// After this key.
            after: Option<Key>,
            /// The most entries to return.
            limit: u16,
        },
        /// Read the receiver's log of a bucket's changes: [`QueryReply::Feed`].
        0x63 Feed {
            /// The bucket.
            bucket: Bucket,
            /// Only changes of keys with this prefix.
            prefix: String,
            /// Where to begin.
            position: Position,
            /// The most entries to return.
            limit: u16,
        },
        /// Where the receiver's logs of these buckets end: [`QueryReply::FeedEnds`].
        0x64 FeedEnds {
            /// The buckets.
            buckets: Vec<Bucket>,
        },
        /// List entries of a secondary index from the receiver's own: [`QueryReply::Index`].
        0x65 Index {
            /// The bucket.
            bucket: Bucket,
            /// Which entries.
            range: IndexRange,
            /// After this one.
            after: Option<Hit>,
            /// The most entries to return.
            limit: u16,
        },
    }
}

family! {
    /// The replies to [`Query`].
    3 QueryReply {
        /// What is held for a key; the objects are concatenated in the payload.
        0x60 Inspection {
            /// Length of the home row's object in the payload; `None` if there is none.
            own: Option<u32>,
            /// Whether the partition has been received.
            ready: bool,
            /// For each hint its target and the length of its object in the payload.
            hints: Vec<(NodeId, u32)>,
        },
        /// Keys in conflict with their number of siblings, in order.
        0x61 Conflicts {
            /// The keys.
            keys: Vec<(Key, u32)>,
        },
        /// Live keys in order.
        0x62 Keys(page: KeyPage),
        /// A part of a log; `None` if the receiver keeps none of this bucket.
        0x63 Feed(page: Option<feed::Page>),
        /// The number of the last entry of each log; 0 for one that there is not.
        0x64 FeedEnds(ends: Vec<u64>),
        /// Entries of an index in order.
        0x65 Index(page: IndexPage),
    }
}
