//! Client of a Quorate cluster: async, typed, on reqwest.
//!
//! What was read carries its *context*, what the reader has seen, and writes with it: a context cannot be
//! forgotten. Concurrent writes are [`Siblings`], which have to be resolved. Every write has an
//! `Idempotency-Key`, so that it can be retried and never becomes a second sibling.
//!
//! ```
//! use quorate_client::{Client, Read};
//! # use quorate_client::testing::DevCluster;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cluster = DevCluster::start()?;
//! # let urls = cluster.urls();
//! let client = Client::connect(urls)?;
//! let flags = client.bucket("flags");
//! flags.insert("dark-mode", "on").await?;
//! let Read::Value(flag) = flags.get("dark-mode").await? else { panic!("it was just written") };
//! assert_eq!(flag.text(), Some("on"));
//! flag.delete().await?;
//! # assert!(matches!(flags.get("dark-mode").r(3).await?, Read::Absent(_)));
//! # Ok(())
//! # }
//! ```
//!
//! # Values that merge by themselves
//!
//! A bucket can have a type ([`DataType`]), which it gets while it has no keys. Its keys are counters
//! ([`Bucket::counter`]), sets ([`Bucket::set`]), flags, maps, registers or estimates: concurrent changes are
//! merged, and there are no siblings. What removes takes away what was read, so it is asked of a read
//! ([`Typed`]).
//!
//! # Values that expire
//!
//! A write can say how long its value lives ([`Put::expires_in`], [`Put::never_expires`],
//! [`Update::expires_in`]); else its bucket does ([`BucketProperties::expires_in_s`]). A read tells the end
//! ([`Versioned::expires_at`]), and afterwards that there was one ([`Absent::has_expired`]). The end belongs
//! to the value: one that replaces it has its own.
//!
//! # Finding keys by their values
//!
//! A value can have index entries ([`Put::index`], [`Value::index`]): texts and integers by which its key is
//! found, alone or in a range ([`Bucket::index`]). They belong to the value as its metadata does
//! ([`Metadata::index`](method@Metadata::index)): a write replaces them with it, a delete has none, and each
//! sibling has its own.
//!
//! # Many operations at once
//!
//! [`Client::batch`] sends reads and writes together. They are not atomic; each has the result, the errors
//! and the retries that it would have alone.
//!
//! # What changes
//!
//! [`Read::wait`] waits until a key has something that a read has not seen. [`Bucket::feed`] follows all that
//! changes in a bucket, page by page, through any node, and goes on where it was after a restart.
//!
//! # Which node is asked
//!
//! The client learns all nodes from those it was given ([`Client::discover`]), and where every key is. A
//! write goes to the first home replica of its key that answers, where its retries meet; reads take turns
//! among the home replicas. Nodes that do not answer are avoided and probed again, beside requests; a client
//! that is not used sends nothing.
//!
//! The client follows a cluster whose members change: every answer carries the epoch of the layout, and after
//! a later one than it knows, a refused connection, or an answer of a node that was removed (503 `removed`),
//! the client looks at the cluster again, once within one to two seconds. Nodes that were added are asked
//! like the others, those that were removed no more; those that it was given stay, and are asked if no
//! other answers.
//!
//! # Retries
//!
//! A request is sent again after a lost connection, a silent node, or a refusal that may pass (503, 408,
//! 429), on another node if there is one, after a jittered pause that doubles, and not before `Retry-After`
//! on the same node. It ends with its deadline ([`ClientBuilder::timeout`]); an error then tells what all
//! attempts may have left behind ([`Error::outcome`]).

/// The examples of the README are compiled and run as well.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod admin;
mod admin_answers;
mod answer;
mod batch;
mod body;
mod bucket;
mod call;
mod client;
mod data_type;
mod error;
mod expiry;
mod feed;
mod index;
mod keys;
mod nodes;
mod options;
mod path;
mod problem;
mod read;
mod retry;
mod ring;
mod settings;
mod shown;
mod siblings;
mod stream;
pub mod testing;
mod tls;
mod token;
mod topology;
mod types;
mod update;
mod upkeep;
mod value;
mod wait;
mod waiting;
mod write;

pub use admin::{Admin, FileStream};
pub use admin_answers::{
    BucketProperties, Conflicts, Delivery, Health, KeyInConflict, Location, SyncPoint,
};
pub use answer::Answered;
pub use batch::{Batch, BatchAnswer, BatchOperation};
pub use body::NewValue;
pub use bucket::{Bucket, Get};
pub use client::{Client, KnownNode};
pub use data_type::DataType;
pub use error::{Error, Outcome};
pub use expiry::Lifetime;
pub use feed::{Feed, FeedChange, FeedPage, KeyState, LeftOut};
pub use index::{IndexEntry, IndexPage, IndexQuery, IndexValue};
pub use keys::{Keys, KeysPage};
pub use options::{Count, Options};
pub use problem::Problem;
pub use read::{Absent, Context, Read, Versioned};
pub use retry::Retries;
pub use ring::{LayoutId, Partitions, partition_of};
pub use settings::{ClientBuilder, check_url};
pub use siblings::{Sibling, Siblings};
pub use stream::{ReadStream, ValueStream};
pub use types::{
    AnyTyped, AnyValue, Applied, Counter, Estimate, Field, Fields, Flag, Map, MapChange, Operation,
    Register, Set, SetChange, Typed, TypedGet, TypedValue,
};
pub use update::{Change, Update, Updated};
pub use value::{Metadata, Value};
pub use wait::Wait;
pub use write::{Delete, Put, Resolve, Written};
