//! Client of a Quorate cluster: async, typed, on reqwest.
//!
//! What was read carries its *context*, what the reader has seen, and writes with it: a context cannot be
//! forgotten. Concurrent writes are [`Siblings`], which have to be resolved. Every write has an
//! `Idempotency-Key`, so that it can be retried and never becomes a second sibling.

mod admin;
mod answer;
mod body;
mod bucket;
mod call;
mod client;
mod error;
mod keys;
mod nodes;
mod options;
mod path;
mod problem;
mod read;
mod retry;
mod ring;
mod settings;
mod siblings;
mod stream;
mod topology;
mod update;
mod value;
mod write;

pub use admin::{
    Admin, BucketProperties, Conflicts, Delivery, Health, KeyInConflict, Location, SyncPoint,
};
pub use answer::Answered;
pub use body::NewValue;
pub use bucket::{Bucket, Get};
pub use client::{Client, KnownNode};
pub use error::{Error, Outcome};
pub use keys::{Keys, KeysPage};
pub use options::{Count, Options};
pub use problem::Problem;
pub use read::{Absent, Context, Read, Versioned};
pub use retry::Retries;
pub use ring::{LayoutId, Partitions, partition_of};
pub use settings::ClientBuilder;
pub use siblings::{Sibling, Siblings};
pub use stream::{ReadStream, ValueStream};
pub use update::{Change, Update, Updated};
pub use value::{Metadata, Value};
pub use write::{Delete, Put, Resolve, Written};
