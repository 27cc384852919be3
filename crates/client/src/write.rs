//! Writes: of a value, of a delete, of a resolution. Each carries an `Idempotency-Key`, so that a retry
//! never becomes a second sibling.

use std::future::IntoFuture;

use futures_util::future::BoxFuture;
use reqwest::header::{
    CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use reqwest::{Method, StatusCode};
use serde_json::Value as Json;

use crate::answer::{ACKS, Answer, Answered, HINTS, SIBLINGS};
use crate::body::{NewValue, Source};
use crate::bucket::{At, Request};
use crate::error::Error;
use crate::expiry::{Lifetime, lifetime_setters};
use crate::index::IndexValue;
use crate::options::{Options, explain_setter, option_setters};
use crate::read::{Context, Read};
use crate::value::Metadata;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// A write that was acknowledged: W nodes hold it durably.
#[derive(Clone, Debug)]
pub struct Written {
    at: At,
    /// What the writer now has seen. None if the key has other siblings, which it has not seen: read it
    /// before the next write.
    pub context: Option<Context>,
    /// The entity tag, with its quotes; as the context.
    pub etag: Option<String>,
    /// How many siblings the key has. More than 1: there is a conflict. These counts are 0 if the answer
    /// does not tell.
    pub siblings: u32,
    /// How many nodes acknowledged the write.
    pub acks: u32,
    /// How many of them keep it as a hint for a home replica that is down.
    pub hints: u32,
    /// Who answered.
    pub answered: Answered,
}

impl Written {
    pub(crate) fn of(at: &At, answer: &Answer) -> Self {
        let number = |name: &HeaderName| answer.number(name).unwrap_or(0);
        Self {
            at: at.clone(),
            context: Context::of(answer),
            etag: answer.header(&ETAG),
            siblings: number(&SIBLINGS),
            acks: number(&ACKS),
            hints: number(&HINTS),
            answered: answer.by.clone(),
        }
    }

    /// Of an answer that shows no values.
    fn unseen(at: &At, answer: &Answer) -> Result<Self, Error> {
        match answer.status {
            StatusCode::NO_CONTENT => Ok(Self::of(at, answer)),
            status => Err(answer.bad(format!("status {status} is none of a write"))),
        }
    }

    /// Whether the key has other siblings.
    pub fn is_conflict(&self) -> bool {
        self.siblings > 1
    }

    /// A write that replaces what was just written; `None` if there are siblings that the writer has not
    /// seen.
    pub fn replace(&self, new: impl Into<NewValue>) -> Option<Put> {
        let context = self.context.clone()?;
        Some(Put::new(self.at.clone(), Some(context), new.into()))
    }
}

/// When a write is to be refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Absent,
    Present,
    Match(String),
}

/// What all writes have.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) at: At,
    pub(crate) context: Option<Context>,
    pub(crate) condition: Option<Condition>,
    pub(crate) options: Options,
    pub(crate) idempotency_key: String,
    /// Whether it may be sent again after it may have been stored.
    pub(crate) repeatable: bool,
}

impl Common {
    pub(crate) fn new(at: At, context: Option<Context>) -> Self {
        let idempotency_key = format!("{:032x}", rand::random::<u128>());
        let (options, repeatable) = (Options::default(), true);
        Self { at, context, condition: None, options, idempotency_key, repeatable }
    }

    pub(crate) fn headers(&self) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        if let Some(context) = &self.context {
            context.write_to(&mut headers);
        }
        let key = &self.idempotency_key;
        let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len());
        if !fits || !key.bytes().all(|b| b.is_ascii_graphic()) {
            let detail = "must be 1 to 255 visible ASCII characters";
            return Err(Error::invalid("idempotency key", detail));
        }
        let value = HeaderValue::try_from(key);
        let wrong = |_| Error::invalid("idempotency key", "cannot be a header");
        headers.insert(IDEMPOTENCY_KEY, value.map_err(wrong)?);
        let any = HeaderValue::from_static("*");
        match &self.condition {
            None => {}
            Some(Condition::Absent) => drop(headers.insert(IF_NONE_MATCH, any)),
            Some(Condition::Present) => drop(headers.insert(IF_MATCH, any)),
            Some(Condition::Match(tag)) => {
                let value = HeaderValue::try_from(tag);
                let wrong = |_| Error::invalid("entity tag", "must be one that an answer carried");
                headers.insert(IF_MATCH, value.map_err(wrong)?);
            }
        }
        Ok(headers)
    }

    pub(crate) async fn send(&self, write: Part<'_>) -> Result<Answer, Error> {
        let Part { method, route, headers, body, also, accepts } = write;
        let request = Request {
            method,
            route,
            headers,
            body,
            options: &self.options,
            needed: "w",
            also,
            writes: true,
            repeatable: self.repeatable,
            accepts,
            reads_body: true,
        };
        self.at.send(request).await
    }
}

/// What the kinds of writes differ in.
pub(crate) struct Part<'a> {
    pub(crate) method: Method,
    pub(crate) route: &'static str,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Source,
    pub(crate) also: &'static str,
    pub(crate) accepts: &'a [u16],
}

/// The setters that every write has.
macro_rules! write_setters {
    () => {
        option_setters!(common.options, w, "How many nodes must acknowledge the write (W).");
        explain_setter!(common.options);
        idempotency_key_setter!();
    };
}

/// The setter of the `Idempotency-Key`.
macro_rules! idempotency_key_setter {
    () => {
        /// Uses this `Idempotency-Key` instead of a random one: 1 to 255 visible ASCII characters. A
        /// program that is started again can so repeat a write that it does not know the end of.
        pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
            self.common.idempotency_key = key.into();
            self
        }
    };
}
pub(crate) use idempotency_key_setter;

/// The setters of conditions.
macro_rules! condition_setters {
    () => {
        /// Refuses the write if the key has a value (`If-None-Match: *`). Advisory, as all conditions.
        pub fn if_absent(mut self) -> Self {
            self.common.condition = Some(Condition::Absent);
            self
        }

        /// Refuses the write if the key has no value (`If-Match: *`).
        pub fn if_present(mut self) -> Self {
            self.common.condition = Some(Condition::Present);
            self
        }

        /// Refuses the write unless the key is as an answer with this entity tag showed it (`If-Match`).
        /// Several can be given, separated by commas.
        pub fn if_match(mut self, etag: impl Into<String>) -> Self {
            self.common.condition = Some(Condition::Match(etag.into()));
            self
        }
    };
}

/// A write of a value: set its options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Put {
    pub(crate) common: Common,
    pub(crate) value: NewValue,
    pub(crate) lifetime: Option<Lifetime>,
}

impl Put {
    write_setters!();
    condition_setters!();
    lifetime_setters!();

    pub(crate) fn new(at: At, context: Option<Context>, value: NewValue) -> Self {
        Self { common: Common::new(at, context), value, lifetime: None }
    }

    /// With this `Content-Type`.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.value.metadata.content_type = Some(content_type.into());
        self
    }

    /// With this name and value of the client's own metadata (`Quorate-Meta-{name}`).
    pub fn meta(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.value.metadata.user.push((name.into().to_ascii_lowercase(), value.into()));
        self
    }

    /// With this entry of an index (`Quorate-Index-{index}`), by which the key is then found
    /// ([`Bucket::index`](crate::Bucket::index)): a text if the name ends in `_s`, an integer if it ends in
    /// `_i`. An index can have several entries of a value.
    pub fn index(mut self, index: impl Into<String>, value: impl Into<IndexValue>) -> Self {
        self.value.metadata.index.push((index.into().to_ascii_lowercase(), value.into()));
        self
    }

    /// With this instead of all metadata, index entries among it.
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.value.metadata = metadata;
        self
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`Error`], whose [`outcome`](Error::outcome) says what may have been left behind.
    pub async fn send(self) -> Result<Written, Error> {
        let answer = self.write("", &[]).await?;
        Written::unseen(&self.common.at, &answer)
    }

    /// Writes it, and reads what the coordinator then holds: with concurrent writes all siblings, whose
    /// context is that of the read.
    ///
    /// # Errors
    /// As [`Put::send`].
    pub async fn send_and_read(self) -> Result<(Written, Read), Error> {
        let answer = self.write("return_body=true", &[300]).await?;
        let written = Written::of(&self.common.at, &answer);
        let read = match answer.status {
            // It was deleted at once by another writer.
            StatusCode::NO_CONTENT => self.common.at.bucket.get(&self.common.at.key).await?,
            _ => Read::of(&self.common.at, &answer)?,
        };
        Ok((written, read))
    }

    async fn write(&self, also: &'static str, accepts: &[u16]) -> Result<Answer, Error> {
        let mut headers = self.common.headers()?;
        self.value.metadata.write_to(&mut headers)?;
        Lifetime::write_to(self.lifetime, &mut headers)?;
        let (method, body) = (Method::PUT, self.value.source.clone());
        self.common.send(Part { method, route: "/kv", headers, body, also, accepts }).await
    }
}

/// A delete: set its options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Delete {
    pub(crate) common: Common,
    /// `/kv` or `/types`.
    pub(crate) route: &'static str,
}

impl Delete {
    write_setters!();
    condition_setters!();

    pub(crate) fn new(at: At, context: Option<Context>) -> Self {
        Self { common: Common::new(at, context), route: "/kv" }
    }

    /// Of a typed value.
    pub(crate) fn typed(at: At, context: Option<Context>) -> Self {
        Self { route: "/types", ..Self::new(at, context) }
    }

    /// Deletes it.
    ///
    /// # Errors
    /// [`Error`], whose [`outcome`](Error::outcome) says what may have been left behind.
    pub async fn send(self) -> Result<Written, Error> {
        let headers = self.common.headers()?;
        let (method, body) = (Method::DELETE, Source::EMPTY);
        let part = Part { method, route: self.route, headers, body, also: "", accepts: &[] };
        Written::unseen(&self.common.at, &self.common.send(part).await?)
    }
}

/// A resolution that keeps one sibling: set its options, then await it. A sibling that expires keeps the
/// time that it has left, unless the resolution says how long it lives.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Resolve {
    common: Common,
    body: Json,
    lifetime: Option<Lifetime>,
}

impl Resolve {
    write_setters!();
    lifetime_setters!();

    pub(crate) fn new(at: At, context: Context, body: Json) -> Self {
        Self { common: Common::new(at, Some(context)), body, lifetime: None }
    }

    /// Resolves the conflict.
    ///
    /// # Errors
    /// [`Error::SiblingGone`] if another write has replaced the sibling, and as [`Put::send`].
    pub async fn send(self) -> Result<Written, Error> {
        let mut headers = self.common.headers()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Lifetime::write_to(self.lifetime, &mut headers)?;
        let body = Source::Bytes(self.body.to_string().into());
        let method = Method::POST;
        let part = Part { method, route: "/siblings", headers, body, also: "", accepts: &[] };
        Written::unseen(&self.common.at, &self.common.send(part).await?)
    }
}

/// A request is sent by awaiting it.
macro_rules! awaits {
    ($request:ty) => {
        impl IntoFuture for $request {
            type Output = Result<Written, Error>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(self) -> Self::IntoFuture {
                Box::pin(self.send())
            }
        }
    };
}

awaits!(Put);
awaits!(Delete);
awaits!(Resolve);
