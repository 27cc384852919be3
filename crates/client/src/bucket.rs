//! A bucket: where requests for keys begin.

use std::future::IntoFuture;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Method;
use reqwest::header::HeaderMap;

use crate::answer::Answer;
use crate::body::{NewValue, Source};
use crate::call::{Call, Target};
use crate::client::Client;
use crate::error::Error;
use crate::nodes::Place;
use crate::options::{Options, explain_setter, option_setters};
use crate::path;
use crate::read::{Context, Read};
use crate::retry::{Deadline, TIME_MAX, patience};
use crate::stream::ReadStream;
use crate::write::{Delete, Put, Resolve};

/// A bucket of a cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub(crate) client: Client,
    pub(crate) name: String,
}

/// A key of a bucket.
#[derive(Clone, Debug)]
pub(crate) struct At {
    pub(crate) bucket: Bucket,
    pub(crate) key: String,
}

impl Bucket {
    pub(crate) fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn at(&self, key: impl Into<String>) -> At {
        At { bucket: self.clone(), key: key.into() }
    }

    /// Reads a key.
    pub fn get(&self, key: impl Into<String>) -> Get {
        Get { at: self.at(key), options: Options::default() }
    }

    /// Writes a value without having read the key. It replaces nothing: if the key has a value, this
    /// makes a sibling of it. For keys that are known to be fresh; where they may not be, read first, or
    /// use [`Bucket::insert`] or [`Bucket::update`].
    pub fn put_blind(&self, key: impl Into<String>, value: impl Into<NewValue>) -> Put {
        Put::new(self.at(key), None, value.into())
    }

    /// Writes a value if the key has none (`If-None-Match: *`). Advisory: two clients that reach
    /// different coordinators can both succeed.
    pub fn insert(&self, key: impl Into<String>, value: impl Into<NewValue>) -> Put {
        self.put_blind(key, value).if_absent()
    }

    /// Writes a value that replaces what this context saw, for programs that keep contexts elsewhere.
    /// With a read at hand, use [`Versioned::replace`](crate::Versioned::replace) and its like.
    pub fn put_after(
        &self,
        key: impl Into<String>,
        context: &Context,
        value: impl Into<NewValue>,
    ) -> Put {
        Put::new(self.at(key), Some(context.clone()), value.into())
    }

    /// Deletes what a read of R shows now, whatever it is.
    pub fn delete(&self, key: impl Into<String>) -> Delete {
        Delete::new(self.at(key), None)
    }

    /// Deletes what this context saw, for programs that keep contexts elsewhere.
    pub fn delete_after(&self, key: impl Into<String>, context: &Context) -> Delete {
        Delete::new(self.at(key), Some(context.clone()))
    }

    /// Keeps the sibling with this dot of those that the context saw, and drops the others.
    pub fn keep_after(&self, key: impl Into<String>, context: &Context, dot: &str) -> Resolve {
        Resolve::new(self.at(key), context.clone(), serde_json::json!({ "keep": dot }))
    }
}

/// How a request of a key is made.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// `/kv`, `/siblings` or `/types`.
    pub(crate) route: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
    pub(crate) options: &'a Options,
    /// `r` or `w`.
    pub(crate) needed: &'static str,
    /// A further part of the query; may be empty.
    pub(crate) also: &'static str,
    pub(crate) writes: bool,
    /// Whether it may be sent again after it may have arrived: reads change nothing, and every write has
    /// an `Idempotency-Key`.
    pub(crate) repeatable: bool,
    pub(crate) accepts: &'a [u16],
    pub(crate) reads_body: bool,
}

impl At {
    /// Sends a request for this key until it is answered.
    pub(crate) async fn send(&self, request: Request<'_>) -> Result<Answer, Error> {
        let Request { method, route, headers, body, options, needed, also, writes, .. } = request;
        let repeatable = request.repeatable;
        let path = path::of_key(route, &self.bucket.name, &self.key)?;
        let inner = &self.bucket.client.inner;
        let query = |budget: Option<Duration>| {
            let asked = options.query(needed, budget);
            let parts = [asked.as_str(), also].into_iter().filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join("&")
        };
        let (name, key) = (self.bucket.name.as_str(), self.key.as_str());
        let home = if writes { Place::FirstHome(name, key) } else { Place::AnyHome(name, key) };
        let place = if inner.settings.routes { home } else { Place::Any };
        let call = Call {
            method,
            path,
            query: &query,
            headers,
            body,
            target: Target::Place(place),
            writes,
            repeatable,
            accepts: request.accepts,
            reads_body: request.reads_body,
            deadline: Deadline::new(self.deadline(options)),
            attempt_max: self.attempt_max(options),
        };
        inner.call(call).await
    }

    /// How long a whole call may take.
    pub(crate) fn deadline(&self, options: &Options) -> Duration {
        let usual = self.bucket.client.inner.settings.timeout;
        let least = match options.timeout_ms {
            Some(_) => patience(self.attempt_max(options)),
            None => Duration::ZERO,
        };
        options.deadline.unwrap_or(usual.max(least)).min(TIME_MAX)
    }

    /// How long a node may take for one attempt.
    pub(crate) fn attempt_max(&self, options: &Options) -> Duration {
        let asked = options.timeout_ms.map(Duration::from_millis);
        asked.unwrap_or(self.bucket.client.inner.settings.attempt_timeout).min(TIME_MAX)
    }

    /// How long a node may be silent while it answers.
    pub(crate) fn patience(&self, options: &Options) -> Duration {
        patience(self.attempt_max(options))
    }
}

/// A read, made by [`Bucket::get`]: set its options, then await it, or [`Get::stream`] it.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Get {
    pub(crate) at: At,
    pub(crate) options: Options,
}

impl Get {
    option_setters!(options, r, "How many replicas must answer (R).");
    explain_setter!(options);

    /// Reads the key.
    ///
    /// # Errors
    /// [`Error`]; a key without a value is none.
    pub async fn send(self) -> Result<Read, Error> {
        let answer = self.ask(true).await?;
        Read::of(&self.at, &answer)
    }

    /// Reads the key, the value as a stream.
    ///
    /// # Errors
    /// [`Error`]; a key without a value is none.
    pub async fn stream(self) -> Result<ReadStream, Error> {
        let answer = self.ask(false).await?;
        ReadStream::of(&self.at, answer, self.at.patience(&self.options)).await
    }

    async fn ask(&self, reads_body: bool) -> Result<Answer, Error> {
        let request = Request {
            method: Method::GET,
            route: "/kv",
            headers: HeaderMap::new(),
            body: Source::EMPTY,
            options: &self.options,
            needed: "r",
            also: "",
            writes: false,
            repeatable: true,
            accepts: &[300, 404],
            reads_body,
        };
        self.at.send(request).await
    }
}

impl IntoFuture for Get {
    type Output = Result<Read, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
