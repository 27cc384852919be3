//! Reads of typed values. What was read carries its context, and removes with it.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::marker::PhantomData;

use futures_util::future::BoxFuture;
use reqwest::Method;
use reqwest::header::{ETAG, HeaderMap};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::change::{MapChange, SetChange};
use super::operation::Operation;
use super::value::{Fields, TypedValue};
use crate::answer::{Answer, Answered};
use crate::body::Source;
use crate::bucket::{At, Request};
use crate::data_type::DataType;
use crate::error::{Error, Outcome};
use crate::options::{Options, option_setters};
use crate::read::{Context, context_of};
use crate::write::Delete;

/// A read of a typed value: set its options, then await it.
#[derive(Clone, Debug)]
#[must_use = "nothing is sent until it is awaited"]
pub struct TypedGet<V> {
    at: At,
    options: Options,
    value: PhantomData<fn() -> V>,
}

impl<V: TypedValue> TypedGet<V> {
    option_setters!(options, r, "How many replicas must answer (R).");

    pub(super) fn new(at: At) -> Self {
        Self { at, options: Options::default(), value: PhantomData }
    }

    /// Reads the value.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the bucket has another type; [`Error`]. A key that was never written, or was
    /// deleted, is none.
    pub async fn send(self) -> Result<Typed<V>, Error> {
        let request = Request {
            method: Method::GET,
            route: "/types",
            headers: HeaderMap::new(),
            body: Source::EMPTY,
            options: &self.options,
            needed: "r",
            also: "",
            writes: false,
            repeatable: true,
            accepts: &[],
            reads_body: true,
        };
        let answer = self.at.send(request).await?;
        Typed::of(&self.at, &answer).map_err(Error::of_read)
    }
}

impl<V: TypedValue> IntoFuture for TypedGet<V> {
    type Output = Result<Typed<V>, Error>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

/// A typed value, as it was read. What removes is asked of it, so that its context cannot be forgotten: what
/// others add meanwhile stays.
#[derive(Clone, Debug)]
pub struct Typed<V> {
    at: At,
    value: V,
    exists: bool,
    context: Context,
    etag: Option<String>,
    answered: Answered,
}

/// The body of an answer.
#[derive(Deserialize)]
struct Shown {
    #[serde(rename = "type")]
    data_type: DataType,
    #[serde(default)]
    value: Json,
    exists: bool,
}

impl<V: TypedValue> Typed<V> {
    pub(crate) fn of(at: &At, answer: &Answer) -> Result<Self, Error> {
        let shown: Shown = answer.json()?;
        let (has, bucket) = (shown.data_type, &at.bucket.name);
        if let Some(expected) = V::TYPE.filter(|expected| *expected != has) {
            let detail = format!("bucket {bucket} has values of type {has}, not {expected}");
            return Err(Error::WrongType { outcome: Outcome::Unknown, detail, problem: None });
        }
        let value = V::of_json(has, shown.value);
        Ok(Self {
            at: at.clone(),
            value: value.map_err(|why| answer.bad(format!("no value of type {has}: {why}")))?,
            exists: shown.exists,
            context: context_of(answer)?,
            etag: answer.header(&ETAG),
            answered: answer.by.clone(),
        })
    }
}

impl<V> Typed<V> {
    /// The key.
    pub fn key(&self) -> &str {
        &self.at.key
    }

    /// The value; the empty one (0, off, nothing) if nothing is stored.
    pub fn value(&self) -> &V {
        &self.value
    }

    /// The value itself, without what was seen.
    pub fn into_value(self) -> V {
        self.value
    }

    /// Whether anything is stored. Not if the key was never written or was deleted, nor if all of a set or a
    /// map was removed, or a flag switched off.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// What was seen.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The entity tag, with its quotes.
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Who answered.
    pub fn answered(&self) -> &Answered {
        &self.answered
    }

    /// Deletes what was read. What others change meanwhile stays.
    pub fn delete(&self) -> Delete {
        Delete::typed(self.at.clone(), Some(self.context.clone()))
    }

    fn operation(&self, body: Json) -> Operation<V> {
        Operation::new(self.at.clone(), Some(self.context.clone()), body)
    }
}

impl Typed<BTreeSet<String>> {
    /// Removes elements, as far as they were read: one that someone adds meanwhile stays.
    pub fn remove<I>(&self, elements: I) -> Operation<BTreeSet<String>>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.change(SetChange::new().without(elements))
    }

    /// Adds and removes at once.
    pub fn change(&self, change: SetChange) -> Operation<BTreeSet<String>> {
        self.operation(change.json())
    }
}

impl Typed<bool> {
    /// Switches it off, as far as it was read: if someone enables it meanwhile, it stays on.
    pub fn disable(&self) -> Operation<bool> {
        self.operation(json!({ "enable": false }))
    }
}

impl Typed<Fields> {
    /// Changes fields, and removes of what was read.
    pub fn update(&self, change: MapChange) -> Operation<Fields> {
        self.operation(change.json())
    }
}
