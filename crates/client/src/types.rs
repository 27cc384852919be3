//! Typed values: keys of buckets that have a type. Concurrent changes of them are merged by the cluster, so
//! that there are no siblings.

mod change;
mod operation;
mod read;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

pub use self::change::{MapChange, SetChange};
pub use self::operation::{Applied, Operation};
pub use self::read::{Typed, TypedGet};
pub use self::value::{AnyValue, Field, Fields, TypedValue};
use crate::bucket::{At, Bucket};
use crate::read::Context;
use crate::write::Delete;

impl Bucket {
    /// A counter, of a bucket of type `counter`.
    ///
    /// ```
    /// # use quorate_client::{BucketProperties, DataType, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// // Once, while the bucket has no keys.
    /// client.admin().set_bucket("visits", &BucketProperties::of_type(DataType::Counter)).await?;
    ///
    /// let visits = client.bucket("visits").counter("home");
    /// visits.increment(5).await?;
    /// visits.increment(-2).w(3).await?;
    /// assert_eq!(*visits.get().await?.value(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn counter(&self, key: impl Into<String>) -> Counter {
        Counter { at: self.at(key) }
    }

    /// A set of strings, of a bucket of type `set`.
    ///
    /// ```
    /// # use quorate_client::{BucketProperties, DataType, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// # client.admin().set_bucket("carts", &BucketProperties::of_type(DataType::Set)).await?;
    /// let cart = client.bucket("carts").set("alice");
    /// cart.add(["book", "pen"]).await?;
    ///
    /// // A remove takes away what was read: it is asked of a read.
    /// let seen = cart.get().await?;
    /// if seen.value().contains("pen") {
    ///     seen.remove(["pen"]).w(3).await?;
    /// }
    /// assert!(cart.get().await?.value().iter().eq(["book"]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set(&self, key: impl Into<String>) -> Set {
        Set { at: self.at(key) }
    }

    /// A flag, of a bucket of type `flag`.
    ///
    /// ```
    /// # use quorate_client::{BucketProperties, DataType, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// # client.admin().set_bucket("flags", &BucketProperties::of_type(DataType::Flag)).await?;
    /// let dark_mode = client.bucket("flags").flag("dark-mode");
    /// dark_mode.enable().w(3).await?;
    /// let seen = dark_mode.get().await?;
    /// assert!(*seen.value());
    /// seen.disable().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn flag(&self, key: impl Into<String>) -> Flag {
        Flag { at: self.at(key) }
    }

    /// A map, of a bucket of type `map`: named fields, each a register, a flag or a set.
    ///
    /// ```
    /// # use quorate_client::{BucketProperties, DataType, MapChange, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// # client.admin().set_bucket("users", &BucketProperties::of_type(DataType::Map)).await?;
    /// let ann = client.bucket("users").map("ann");
    /// ann.update(MapChange::new().assign("name", "Ann").add("roles", ["admin", "ops"])).await?;
    ///
    /// let seen = ann.get().await?;
    /// assert_eq!(seen.value()["name"].register.as_deref(), Some("Ann"));
    /// seen.update(MapChange::new().remove_from("roles", ["ops"]).enable("away")).w(3).await?;
    /// assert!(ann.get().await?.value()["away"].flag);
    /// # Ok(())
    /// # }
    /// ```
    pub fn map(&self, key: impl Into<String>) -> Map {
        Map { at: self.at(key) }
    }

    /// A register, of a bucket of type `register_lww`: a string, of concurrent ones the last.
    ///
    /// ```
    /// # use quorate_client::{BucketProperties, DataType, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// # client.admin().set_bucket("titles", &BucketProperties::of_type(DataType::RegisterLww)).await?;
    /// let title = client.bucket("titles").register("page/1");
    /// title.assign("Welcome").w(3).await?;
    /// assert_eq!(title.get().await?.value().as_deref(), Some("Welcome"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn register(&self, key: impl Into<String>) -> Register {
        Register { at: self.at(key) }
    }

    /// An estimate of how many different strings were added, of a bucket of type `hll`.
    ///
    /// ```
    /// # use quorate_client::{BucketProperties, DataType, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// # client.admin().set_bucket("visitors", &BucketProperties::of_type(DataType::Hll)).await?;
    /// let visitors = client.bucket("visitors").estimate("today");
    /// visitors.add(["ann", "bob", "ann"]).w(3).await?;
    /// assert_eq!(*visitors.get().await?.value(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn estimate(&self, key: impl Into<String>) -> Estimate {
        Estimate { at: self.at(key) }
    }
}

impl Bucket {
    /// A key of a bucket of any type, for programs that show or change whatever is there.
    pub fn typed(&self, key: impl Into<String>) -> AnyTyped {
        AnyTyped { at: self.at(key) }
    }
}

/// What every handle has.
macro_rules! handle {
    ($handle:ident, $value:ty) => {
        impl $handle {
            /// The key.
            pub fn key(&self) -> &str {
                &self.at.key
            }

            /// Reads the value. A key that was never written, or was deleted, has the empty one.
            pub fn get(&self) -> TypedGet<$value> {
                TypedGet::new(self.at.clone())
            }

            /// Deletes what a read of R shows now. What others change meanwhile stays.
            pub fn delete(&self) -> Delete {
                Delete::typed(self.at.clone(), None)
            }

            /// Deletes what this context saw, for programs that keep contexts elsewhere. With a read at
            /// hand, use [`Typed::delete`].
            pub fn delete_after(&self, context: &Context) -> Delete {
                Delete::typed(self.at.clone(), Some(context.clone()))
            }
        }
    };
}

handle!(Counter, i128);
handle!(Set, BTreeSet<String>);
handle!(Flag, bool);
handle!(Map, Fields);
handle!(Register, Option<String>);
handle!(Estimate, u64);

handle!(AnyTyped, AnyValue);

/// A key of a bucket of any type, made by [`Bucket::typed`].
#[derive(Clone, Debug)]
pub struct AnyTyped {
    at: At,
}

impl AnyTyped {
    /// Changes the value by an operation as the HTTP API has it, such as `{"increment": 5}`. What removes
    /// needs the context of a read.
    pub fn change(&self, context: Option<&Context>, operation: Json) -> Operation<AnyValue> {
        Operation::new(self.at.clone(), context.cloned(), operation)
    }
}

/// A counter, made by [`Bucket::counter`].
#[derive(Clone, Debug)]
pub struct Counter {
    at: At,
}

impl Counter {
    /// Adds a number; a negative one subtracts.
    ///
    /// A retry has the `Idempotency-Key` of the first attempt and counts once, through any node, while the
    /// cluster is whole. An attempt that was lost with the node that took it can still count beside its
    /// retry through another node; where that is worse than an increment that is missing, see
    /// [`Operation::at_most_once`].
    pub fn increment(&self, by: i64) -> Operation<i128> {
        Operation::new(self.at.clone(), None, json!({ "increment": by }))
    }
}

/// A set of strings, made by [`Bucket::set`]. To remove elements, read it: [`Typed::remove`].
#[derive(Clone, Debug)]
pub struct Set {
    at: At,
}

impl Set {
    /// Adds elements. A remove that did not see this leaves them.
    pub fn add<I>(&self, elements: I) -> Operation<BTreeSet<String>>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Operation::new(self.at.clone(), None, SetChange::new().with(elements).json())
    }

    /// Adds and removes, of what this context saw, for programs that keep contexts elsewhere. With a read
    /// at hand, use [`Typed::change`].
    pub fn change_after(
        &self,
        context: &Context,
        change: SetChange,
    ) -> Operation<BTreeSet<String>> {
        Operation::new(self.at.clone(), Some(context.clone()), change.json())
    }
}

/// A flag, made by [`Bucket::flag`]. To switch it off, read it: [`Typed::disable`].
#[derive(Clone, Debug)]
pub struct Flag {
    at: At,
}

impl Flag {
    /// Switches it on. A disabling that did not see this leaves it on.
    pub fn enable(&self) -> Operation<bool> {
        Operation::new(self.at.clone(), None, json!({ "enable": true }))
    }

    /// Switches off what this context saw, for programs that keep contexts elsewhere. With a read at hand,
    /// use [`Typed::disable`].
    pub fn disable_after(&self, context: &Context) -> Operation<bool> {
        Operation::new(self.at.clone(), Some(context.clone()), json!({ "enable": false }))
    }
}

/// A map, made by [`Bucket::map`]. What removes is asked of a read: [`Typed::update`].
#[derive(Clone, Debug)]
pub struct Map {
    at: At,
}

impl Map {
    /// Changes fields. A change that removes something is refused ([`crate::Error::Invalid`], nothing is
    /// sent): read the map, and update what was read.
    pub fn update(&self, change: MapChange) -> Operation<Fields> {
        let removes = change.removes();
        let operation = Operation::new(self.at.clone(), None, change.json());
        if removes {
            return operation.refused("it removes: read the map, and update what was read");
        }
        operation
    }

    /// Changes fields, and removes of what this context saw, for programs that keep contexts elsewhere.
    /// With a read at hand, use [`Typed::update`].
    pub fn update_after(&self, context: &Context, change: MapChange) -> Operation<Fields> {
        Operation::new(self.at.clone(), Some(context.clone()), change.json())
    }
}

/// A register, made by [`Bucket::register`].
#[derive(Clone, Debug)]
pub struct Register {
    at: At,
}

impl Register {
    /// Replaces the text, whatever it is. Of concurrent ones the last by the nodes' clocks stays.
    pub fn assign(&self, text: impl Into<String>) -> Operation<Option<String>> {
        Operation::new(self.at.clone(), None, json!({ "assign": text.into() }))
    }
}

/// An estimate of how many different strings were added (HyperLogLog), made by [`Bucket::estimate`].
#[derive(Clone, Debug)]
pub struct Estimate {
    at: At,
}

impl Estimate {
    /// Adds strings. One that was added before changes nothing.
    pub fn add<I>(&self, strings: I) -> Operation<u64>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let strings: Vec<String> = strings.into_iter().map(Into::into).collect();
        Operation::new(self.at.clone(), None, json!({ "add": strings }))
    }
}
