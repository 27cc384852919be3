//! Changes of typed values. Each carries an `Idempotency-Key`, as all writes.

use std::future::IntoFuture;
use std::marker::PhantomData;

use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::Value as Json;

use super::read::Typed;
use super::value::{AnyValue, TypedValue};
use crate::answer::{ACKS, Answer, Answered, HINTS};
use crate::body::Source;
use crate::bucket::At;
use crate::error::Error;
use crate::options::option_setters;
use crate::read::Context;
use crate::write::{Common, Part, idempotency_key_setter};

/// A change of a typed value: set its options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct Operation<V> {
    pub(crate) common: Common,
    body: Json,
    /// Why it is not sent.
    refused: Option<&'static str>,
    value: PhantomData<fn() -> V>,
}

/// A change that was acknowledged: W nodes hold it durably.
#[derive(Clone, Debug)]
pub struct Applied {
    /// How many nodes acknowledged it. These counts are 0 if the answer does not tell.
    pub acks: u32,
    /// How many of them keep it as a hint for a home replica that is down.
    pub hints: u32,
    /// Who answered.
    pub answered: Answered,
}

impl Applied {
    pub(crate) fn of(answer: &Answer) -> Self {
        let (acks, hints) = (answer.number(&ACKS), answer.number(&HINTS));
        let answered = answer.by.clone();
        Self { acks: acks.unwrap_or(0), hints: hints.unwrap_or(0), answered }
    }
}

impl<V> Operation<V> {
    option_setters!(common.options, w, "How many nodes must acknowledge the change (W).");
    idempotency_key_setter!();

    pub(super) fn new(at: At, context: Option<Context>, body: Json) -> Self {
        Self { common: Common::new(at, context), body, refused: None, value: PhantomData }
    }

    /// The same, but not sent, for this reason.
    pub(super) fn refused(self, why: &'static str) -> Self {
        Self { refused: Some(why), ..self }
    }

    /// Never sends it again after it may have arrived. This is for increments, of which it is then certain
    /// that they count once at most, also after an error whose outcome is
    /// [`Unknown`](crate::Outcome::Unknown); to repeat any other change does no harm.
    pub fn at_most_once(mut self) -> Self {
        self.common.repeatable = false;
        self
    }

    /// The same, of a value of any type.
    pub(crate) fn of_any(self) -> Operation<AnyValue> {
        let Self { common, body, refused, .. } = self;
        Operation { common, body, refused, value: PhantomData }
    }

    /// What is sent.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not to be sent.
    pub(crate) fn body(&self) -> Result<&Json, Error> {
        match self.refused {
            Some(why) => Err(Error::invalid("change", why)),
            None => Ok(&self.body),
        }
    }

    async fn ask(&self, also: &'static str) -> Result<Answer, Error> {
        let body = self.body()?;
        let mut headers = self.common.headers()?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Source::Bytes(body.to_string().into());
        let (method, route) = (Method::POST, "/types");
        self.common.send(Part { method, route, headers, body, also, accepts: &[] }).await
    }
}

impl<V: TypedValue> Operation<V> {
    /// Carries it out.
    ///
    /// # Errors
    /// [`Error`], whose [`outcome`](Error::outcome) says what may have been left behind.
    pub async fn send(self) -> Result<Applied, Error> {
        let answer = self.ask("").await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(Applied::of(&answer)),
            status => Err(answer.bad(format!("status {status} is none of a change"))),
        }
    }

    /// Carries it out, and reads what the coordinator then holds.
    ///
    /// # Errors
    /// As [`Operation::send`].
    pub async fn send_and_read(self) -> Result<(Applied, Typed<V>), Error> {
        let answer = self.ask("return_body=true").await?;
        let typed = Typed::of(&self.common.at, &answer)?;
        Ok((Applied::of(&answer), typed))
    }
}

impl<V: TypedValue> IntoFuture for Operation<V> {
    type Output = Result<Applied, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
