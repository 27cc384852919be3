//! Read, change, write back; again if another writer was faster.

use crate::body::NewValue;
use crate::bucket::{At, Bucket};
use crate::error::Error;
use crate::expiry::{Lifetime, lifetime_setters};
use crate::options::{Count, Options};
use crate::read::{Context, Read};
use crate::siblings::{Sibling, Siblings};
use crate::value::Value;
use crate::write::{Delete, Put, Written};

/// How often an update is begun again by default.
const ROUNDS: u32 = 8;

/// What an update makes of a value.
#[derive(Debug)]
pub enum Change {
    /// Another value.
    Put(NewValue),
    /// A delete.
    Delete,
    /// Nothing: it is left as it is.
    Keep,
}

impl<V: Into<NewValue>> From<V> for Change {
    fn from(value: V) -> Self {
        Self::Put(value.into())
    }
}

/// What became of an update.
#[derive(Clone, Debug)]
pub enum Updated {
    /// It was written.
    Written(Written),
    /// The closure wanted nothing changed.
    Kept,
}

type Merge = Box<dyn FnMut(&[Sibling]) -> Value + Send>;

/// A read-modify-write, made by [`Bucket::update`].
#[must_use = "nothing is sent until it is applied"]
pub struct Update {
    at: At,
    merge: Option<Merge>,
    rounds_max: u32,
    of_read: Options,
    of_write: Options,
    lifetime: Option<Lifetime>,
}

impl std::fmt::Debug for Update {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Update").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Bucket {
    /// Changes a key by what it holds: reads it, hands the value to a closure, writes the closure's
    /// value with the context and a condition; begins again if another writer was faster.
    ///
    /// The new value lives as long as the update says ([`Update::expires_in`]), else as its bucket does: the
    /// end of what was read is not taken over.
    ///
    /// The condition is advisory: two updates at once can both be stored, as siblings. The one that
    /// notices merges them with its [`resolver`](Update::resolver), and does not apply its change twice.
    ///
    /// ```
    /// # use quorate_client::{Read, Value, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let carts = cluster.client()?.bucket("carts");
    /// for item in ["apple", "pear"] {
    ///     let add = |cart: Option<&Value>| match cart.and_then(Value::text) {
    ///         Some(cart) => format!("{cart}, {item}"),
    ///         None => item.to_owned(),
    ///     };
    ///     carts.update("alice").apply(add).await?;
    /// }
    /// # let Read::Value(cart) = carts.get("alice").r(3).await? else { panic!() };
    /// # assert_eq!(cart.text(), Some("apple, pear"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn update(&self, key: impl Into<String>) -> Update {
        let (of_read, of_write) = (Options::default(), Options::default());
        let (at, merge, rounds_max, lifetime) = (self.at(key), None, ROUNDS, None);
        Update { at, merge, rounds_max, of_read, of_write, lifetime }
    }
}

impl Update {
    lifetime_setters!();

    /// How siblings become one value. Without it a conflict ends the update with
    /// [`Error::Conflict`].
    pub fn resolver(mut self, merge: impl FnMut(&[Sibling]) -> Value + Send + 'static) -> Self {
        self.merge = Some(Box::new(merge));
        self
    }

    /// How often it is begun at most, 1 or more. Default 8.
    pub fn rounds(mut self, rounds_max: u32) -> Self {
        self.rounds_max = rounds_max;
        self
    }

    /// R of its reads.
    pub fn r(mut self, count: impl Into<Count>) -> Self {
        self.of_read.needed = Some(count.into());
        self
    }

    /// W of its writes.
    pub fn w(mut self, count: impl Into<Count>) -> Self {
        self.of_write.needed = Some(count.into());
        self
    }

    /// Whether hints of fallbacks count.
    pub fn sloppy(mut self, sloppy: bool) -> Self {
        (self.of_read.sloppy, self.of_write.sloppy) = (Some(sloppy), Some(sloppy));
        self
    }

    /// Does it. The closure gets the value, or `None` if there is none; it is called again with a newer
    /// value if another writer was faster.
    ///
    /// # Errors
    /// [`Error::Conflict`] if there are siblings and no resolver; [`Error::ConditionFailed`] or
    /// `Conflict` if other writers were faster in every round; those of reads and writes.
    pub async fn apply<C: Into<Change>>(
        mut self,
        mut change: impl FnMut(Option<&Value>) -> C,
    ) -> Result<Updated, Error> {
        let mut applied: Option<Written> = None;
        let mut last = None;
        for round in 1..=self.rounds_max.max(1) {
            let read = self.at.bucket.get(&self.at.key).options(self.of_read.clone()).await?;
            let seen = Seen::of(&read);
            let merged = match &read {
                Read::Siblings(siblings) => Some(self.merge(siblings, round, applied.is_some())?),
                Read::Value(_) | Read::Absent(_) => None,
            };
            let wanted = match (&read, merged, &applied) {
                // The change is stored; what is left to do is to end the conflict that it met.
                (Read::Siblings(_), Some(merged), Some(_)) => Change::from(merged),
                (_, _, Some(written)) => return Ok(Updated::Written(written.clone())),
                (Read::Siblings(_), merged, None) => change(merged.as_ref()).into(),
                (Read::Value(value), _, None) => change(Some(value.value())).into(),
                (Read::Absent(_), _, None) => change(None).into(),
            };
            let result = match wanted {
                Change::Keep => return Ok(Updated::Kept),
                Change::Put(new) => seen.put(&self.at, new, &self.of_write, self.lifetime).await,
                Change::Delete => seen.delete(&self.at, &self.of_write).await,
            };
            match result {
                Ok(written) if !written.is_conflict() => return Ok(Updated::Written(written)),
                Ok(written) => {
                    let siblings = usize::try_from(written.siblings).unwrap_or(usize::MAX);
                    last = Some(Error::Conflict { siblings, rounds: round, applied: true });
                    applied = Some(written);
                }
                // Only if nothing was stored: else the change might be applied twice.
                Err(error @ Error::ConditionFailed { .. })
                    if error.outcome() == crate::Outcome::NotApplied =>
                {
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or(Error::Conflict { siblings: 0, rounds: 0, applied: false }))
    }

    fn merge(&mut self, siblings: &Siblings, round: u32, applied: bool) -> Result<Value, Error> {
        match &mut self.merge {
            Some(merge) => Ok(merge(siblings.siblings())),
            None => {
                let siblings = siblings.siblings().len();
                Err(Error::Conflict { siblings, rounds: round, applied })
            }
        }
    }
}

/// What an update has seen, and what a write after it demands.
struct Seen {
    context: Option<Context>,
    etag: Option<String>,
}

impl Seen {
    fn of(read: &Read) -> Self {
        let etag = match read {
            Read::Value(value) => value.etag(),
            Read::Siblings(siblings) => siblings.etag(),
            Read::Absent(_) => None,
        };
        Self { context: read.context().cloned(), etag: etag.map(str::to_owned) }
    }

    async fn put(
        self,
        at: &At,
        new: NewValue,
        options: &Options,
        lifetime: Option<Lifetime>,
    ) -> Result<Written, Error> {
        let put = Put::new(at.clone(), self.context, new).options(options.clone());
        let put = Put { lifetime, ..put };
        match self.etag {
            Some(etag) => put.if_match(etag).await,
            None => put.if_absent().await,
        }
    }

    async fn delete(self, at: &At, options: &Options) -> Result<Written, Error> {
        let delete = Delete::new(at.clone(), self.context).options(options.clone());
        match self.etag {
            Some(etag) => delete.if_match(etag).await,
            None => delete.await,
        }
    }
}
