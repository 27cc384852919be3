//! Many operations in a few requests (`POST /batch`), each with its own result.
//!
//! Operations travel by the home of their key, as all requests do; what does not fit into a batch is sent
//! alone. What a node refused for the moment is asked for again, as a request alone would be.

mod answer;
mod operation;
mod pieces;

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};

pub use self::answer::BatchAnswer;
pub use self::operation::BatchOperation;
use self::pieces::{Piece, Ready, pieces};
use crate::body::{NewValue, Source};
use crate::call::{Call, Target, is_transient};
use crate::client::Client;
use crate::error::{Error, Outcome};
use crate::nodes::Place;
use crate::options::{Count, Options, option_setters};
use crate::retry::{Deadline, TIME_MAX, patience};

/// How many requests of one batch are under way at a time.
const AT_ONCE: usize = 8;
/// How much longer than one operation a batch may take: a node carries out some of them at a time.
const TIMES_LONGER: u32 = 2;

/// Operations that are sent together: add them, set options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Batch {
    client: Client,
    operations: Vec<BatchOperation>,
    options: Options,
    r: Option<Count>,
}

impl Client {
    /// Many operations in a few requests, each with the result that it would have alone. They are not
    /// atomic, and run in no order, also those of one key.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use quorate_client::{BatchAnswer, Read, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let client = cluster.client()?;
    /// let carts = client.bucket("carts");
    /// let written = client
    ///     .batch()
    ///     .put_blind("carts", "alice", "1 apple")
    ///     .insert("carts", "bob", "2 pears")
    ///     .push(carts.put_blind("carol", "{}").content_type("application/json"))
    ///     .w(3)
    ///     .await;
    /// for result in written {
    ///     result?; // each may fail by itself
    /// }
    ///
    /// let seen = client.batch().get("carts", "alice").get("carts", "nobody").await;
    /// let [Ok(BatchAnswer::Read(Read::Value(alice))), Ok(nobody)] = &seen[..] else { panic!() };
    /// assert_eq!(alice.text(), Some("1 apple"));
    /// assert!(matches!(nobody.read(), Some(Read::Absent(_))));
    ///
    /// // What was read is replaced with its context, as ever.
    /// client.batch().push(alice.replace("3 apples")).await.remove(0)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&self) -> Batch {
        let (operations, options, r) = (Vec::new(), Options::default(), None);
        Batch { client: self.clone(), operations, options, r }
    }
}

impl Batch {
    option_setters!(options, w, "How many nodes must acknowledge each write (W).");

    /// How many replicas must answer each read (R).
    pub fn r(mut self, count: impl Into<Count>) -> Self {
        self.r = Some(count.into());
        self
    }

    /// Reads a key. Of the metadata of its value the batch shows the content type, what clients call their
    /// own ([`Metadata::user`](crate::Metadata::user)), and index entries
    /// ([`Metadata::index`](crate::Metadata::index)).
    pub fn get(self, bucket: &str, key: impl Into<String>) -> Self {
        let get = self.client.bucket(bucket).get(key);
        self.push(get)
    }

    /// Writes a value without having read the key: see [`Bucket::put_blind`](crate::Bucket::put_blind).
    pub fn put_blind(
        self,
        bucket: &str,
        key: impl Into<String>,
        value: impl Into<NewValue>,
    ) -> Self {
        let put = self.client.bucket(bucket).put_blind(key, value);
        self.push(put)
    }

    /// Writes a value if the key has none: see [`Bucket::insert`](crate::Bucket::insert).
    pub fn insert(self, bucket: &str, key: impl Into<String>, value: impl Into<NewValue>) -> Self {
        let put = self.client.bucket(bucket).insert(key, value);
        self.push(put)
    }

    /// Deletes what a read of R shows, whatever it is: see [`Bucket::delete`](crate::Bucket::delete).
    pub fn delete(self, bucket: &str, key: impl Into<String>) -> Self {
        let delete = self.client.bucket(bucket).delete(key);
        self.push(delete)
    }

    /// Adds any request of a key: a [`Get`](crate::Get), a [`Put`](crate::Put), such as
    /// [`Versioned::replace`](crate::Versioned::replace) gives one, a [`Delete`](crate::Delete), or a change
    /// of a typed value ([`Operation`](crate::Operation)).
    ///
    /// Sent alone, beside the batch, is what has options of its own (R or W, say), metadata beyond a content
    /// type and index entries, more than about 3 MiB, or a stream, and the delete of a typed value.
    pub fn push(mut self, operation: impl Into<BatchOperation>) -> Self {
        self.operations.push(operation.into());
        self
    }

    /// How many operations it has.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Carries out all operations; their results are in the order in which they were added. If a request
    /// with many of them fails as a whole, each has its error, whose [`outcome`](Error::outcome) says what
    /// a write may have left behind.
    pub async fn send(self) -> Vec<Result<BatchAnswer, Error>> {
        let attempt = self.options.timeout_ms.map(Duration::from_millis);
        let settings = &self.client.inner.settings;
        let attempt_max =
            (attempt.unwrap_or(settings.attempt_timeout) * TIMES_LONGER).min(TIME_MAX);
        let least = attempt.map_or(Duration::ZERO, |_| patience(attempt_max));
        let after = self.options.deadline.unwrap_or(settings.timeout.max(least)).min(TIME_MAX);
        Run { batch: &self, deadline: Deadline::new(after), attempt_max }.all().await
    }
}

impl IntoFuture for Batch {
    type Output = Vec<Result<BatchAnswer, Error>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A batch on its way.
struct Run<'a> {
    batch: &'a Batch,
    deadline: Deadline,
    /// How long one request may take.
    attempt_max: Duration,
}

/// What is sent at once.
enum Job {
    Together(Piece),
    /// The operation with this number.
    Alone(usize),
}

/// How an attempt of one operation ended.
struct Ended {
    /// The number of the operation.
    place: usize,
    result: Result<BatchAnswer, Error>,
    /// Whether it is worth another attempt: then alone, or with others.
    again: Option<Again>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    Together,
    Alone,
}

impl Run<'_> {
    async fn all(&self) -> Vec<Result<BatchAnswer, Error>> {
        let retries = &self.batch.client.inner.settings.retries;
        let count = self.batch.operations.len();
        let mut results: Vec<Option<Result<BatchAnswer, Error>>> = Vec::new();
        results.resize_with(count, || None);
        let mut left_behind = vec![Outcome::NotApplied; count];
        let mut due: Vec<(usize, Again)> = (0..count).map(|at| (at, Again::Together)).collect();
        for round in 1..=retries.attempts_max {
            let pause = retries.pause(round, rand::random());
            let is_last = round == retries.attempts_max;
            let ended = self.round(&std::mem::take(&mut due)).await;
            let may_go_on = !is_last && pause < self.deadline.left();
            for Ended { place, result, again } in ended {
                let result = result.map_err(|error| error.at_least(left_behind[place]));
                if let (Err(error), Some(again), true) = (&result, again, may_go_on) {
                    left_behind[place] = error.outcome();
                    due.push((place, again));
                }
                results[place] = Some(result);
            }
            if due.is_empty() {
                break;
            }
            due.sort_unstable_by_key(|(place, _)| *place);
            tokio::time::sleep(pause).await;
        }
        let missing = || Err(Error::invalid("batch", "an operation was not sent"));
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    /// Sends these operations once.
    async fn round(&self, due: &[(usize, Again)]) -> Vec<Ended> {
        let view = self.batch.client.inner.view();
        let (mut ended, mut jobs, mut ready) = (Vec::new(), Vec::new(), Vec::new());
        for (place, how) in due.iter().copied() {
            let operation = &self.batch.operations[place];
            match operation.json() {
                Err(error) => ended.push(Ended { place, result: Err(error), again: None }),
                Ok(Some(text)) if how == Again::Together => {
                    let at = operation.at();
                    let homes = view.ring.as_ref().map(|ring| ring.homes(&at.bucket.name, &at.key));
                    let home = homes.and_then(|mut homes| homes.next()).map(str::to_owned);
                    let repeatable = operation.is_repeatable();
                    ready.push(Ready { place, text, home, repeatable });
                }
                Ok(_) => jobs.push(Job::Alone(place)),
            }
        }
        jobs.splice(0..0, pieces(ready).into_iter().map(Job::Together));
        let mut under_way =
            stream::iter(jobs).map(|job| self.carry_out(job)).buffer_unordered(AT_ONCE);
        while let Some(some) = under_way.next().await {
            ended.extend(some);
        }
        ended
    }

    async fn carry_out(&self, job: Job) -> Vec<Ended> {
        match job {
            Job::Together(piece) => self.together(piece).await,
            Job::Alone(place) => {
                let operation = self.batch.operations[place].clone();
                let (options, r) = (&self.batch.options, self.batch.r);
                let result = operation.alone(options, r, self.deadline.left()).await;
                vec![Ended { place, result, again: None }]
            }
        }
    }

    /// Sends one request, and tells the operations apart again.
    async fn together(&self, piece: Piece) -> Vec<Ended> {
        let Piece { places, body, repeatable } = piece;
        let operations = || places.iter().map(|place| &self.batch.operations[*place]);
        let Some(first) = operations().next().map(BatchOperation::at) else { return Vec::new() };
        let (inner, name, key) = (&self.batch.client.inner, &first.bucket.name, &first.key);
        let routes = inner.settings.routes;
        let place = if routes { Place::FirstHome(name, key) } else { Place::Any };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let call = Call {
            method: Method::POST,
            path: "/batch".to_owned(),
            query: &|budget| self.query(budget),
            headers,
            body: Source::Bytes(body.into()),
            target: Target::Place(place),
            writes: operations().any(BatchOperation::writes),
            repeatable,
            accepts: &[],
            reads_body: true,
            deadline: self.deadline,
            attempt_max: self.attempt_max,
        };
        let answer = Arc::clone(inner).call(call).await;
        let results = answer.and_then(|answer| answer::of(&answer, operations().collect()));
        let ended = |place: usize, result: Result<BatchAnswer, Error>| {
            let operation = &self.batch.operations[place];
            let again = result.as_ref().err().and_then(|error| again(operation, error));
            Ended { place, result, again }
        };
        match results {
            Ok(results) => {
                let results = places.iter().zip(results);
                results.map(|(place, result)| ended(*place, result)).collect()
            }
            // It was tried often enough already.
            Err(error) => {
                let whole = |place: &usize| {
                    let error = self.batch.operations[*place].own(error.clone());
                    Ended { place: *place, result: Err(error), again: None }
                };
                places.iter().map(whole).collect()
            }
        }
    }

    /// The query of an attempt. An operation gets a part of the time that the whole request has.
    fn query(&self, budget: Option<Duration>) -> String {
        let options = Options { explain: false, ..self.batch.options.clone() };
        let asked = options.query("w", budget.map(|budget| budget / TIMES_LONGER));
        match self.batch.r {
            None => asked,
            Some(r) if asked.is_empty() => format!("r={r}"),
            Some(r) => format!("{asked}&r={r}"),
        }
    }
}

/// Whether an operation that failed by itself is worth another attempt. A read for which there was no room
/// beside the others is sent alone.
fn again(operation: &BatchOperation, error: &Error) -> Option<Again> {
    let may_repeat = operation.is_repeatable() || error.outcome() == Outcome::NotApplied;
    if !may_repeat || !is_transient(error) {
        return None;
    }
    let had_no_room = matches!(error, Error::Overloaded { .. }) && !operation.writes();
    Some(if had_no_room { Again::Alone } else { Again::Together })
}
