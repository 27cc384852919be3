//! What a read returns. Everything that was seen carries its context, and writes with it.

use std::time::SystemTime;

use reqwest::StatusCode;
use reqwest::header::{ETAG, HeaderMap, HeaderName, HeaderValue};

use crate::answer::{Answer, Answered, CONTEXT};
use crate::body::NewValue;
use crate::bucket::At;
use crate::error::Error;
use crate::expiry::{expires_at, has_expired};
use crate::problem::Problem;
use crate::siblings::Siblings;
use crate::value::{Metadata, Value};
use crate::wait::Wait;
use crate::write::{Delete, Put};

/// What a client saw of a key, opaque, signed by the cluster. A write with it replaces what was seen; a
/// write without replaces nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context(String);

impl Context {
    /// A context from the text that [`Context::as_str`] gave, for programs that keep it elsewhere.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no context can look like this. Whether it is one, the cluster says.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let is_base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if text.is_empty() || !text.bytes().all(is_base64url) {
            return Err(Error::invalid("context", "must be the text of a Quorate-Context header"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The context of an answer.
    pub(crate) fn of(answer: &Answer) -> Option<Self> {
        Self::parse(&answer.header(&CONTEXT)?).ok()
    }

    /// Adds it to a request.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        let name: HeaderName = CONTEXT;
        if let Ok(value) = HeaderValue::try_from(&self.0) {
            headers.insert(name, value); // its characters were checked
        }
    }
}

/// What is stored under a key.
#[derive(Debug)]
pub enum Read {
    /// One value.
    Value(Versioned),
    /// Several, from concurrent writes: a conflict.
    Siblings(Siblings),
    /// Nothing: never written, deleted, or expired.
    Absent(Absent),
}

impl Read {
    /// What was seen. None if the key was never written.
    pub fn context(&self) -> Option<&Context> {
        match self {
            Self::Value(value) => Some(&value.context),
            Self::Siblings(siblings) => Some(siblings.context()),
            Self::Absent(absent) => absent.context.as_ref(),
        }
    }

    /// Waits for something that this read has not seen.
    pub fn wait(&self) -> Wait {
        match self {
            Self::Value(value) => value.wait(),
            Self::Siblings(siblings) => siblings.wait(),
            Self::Absent(absent) => absent.wait(),
        }
    }

    /// Who answered.
    pub fn answered(&self) -> &Answered {
        match self {
            Self::Value(value) => &value.answered,
            Self::Siblings(siblings) => siblings.answered(),
            Self::Absent(absent) => &absent.answered,
        }
    }

    /// Builds it from the answer to a GET whose body was read.
    pub(crate) fn of(at: &At, answer: &Answer) -> Result<Self, Error> {
        match answer.status {
            StatusCode::OK => {
                let metadata = Metadata::of(&answer.headers).map_err(|why| answer.bad(why))?;
                let value = Value { bytes: answer.bytes(), metadata };
                Ok(Self::Value(Versioned::of(at, answer, value)?))
            }
            StatusCode::MULTIPLE_CHOICES => Ok(Self::Siblings(Siblings::of(at, answer)?)),
            StatusCode::NOT_FOUND => Ok(Self::Absent(Absent::of(at, answer)?)),
            status => Err(answer.bad(format!("status {status} is none of a read"))),
        }
    }
}

/// The context of an answer that shows everything, which must have one.
pub(crate) fn context_of(answer: &Answer) -> Result<Context, Error> {
    Context::of(answer).ok_or_else(|| answer.bad("the answer carries no Quorate-Context"))
}

/// One value, as it was read.
#[derive(Clone, Debug)]
pub struct Versioned {
    at: At,
    value: Value,
    context: Context,
    etag: Option<String>,
    expires_at: Option<SystemTime>,
    answered: Answered,
}

impl Versioned {
    pub(crate) fn of(at: &At, answer: &Answer, value: Value) -> Result<Self, Error> {
        Ok(Self {
            at: at.clone(),
            value,
            context: context_of(answer)?,
            etag: answer.header(&ETAG),
            expires_at: expires_at(answer)?,
            answered: answer.by.clone(),
        })
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.at.key
    }

    /// The value with its metadata.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The value itself, without what was seen.
    pub fn into_value(self) -> Value {
        self.value
    }

    /// Its bytes.
    pub fn bytes(&self) -> &bytes::Bytes {
        &self.value.bytes
    }

    /// Its bytes as text; `None` if they are not UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.value.text()
    }

    /// What was seen.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The entity tag, with its quotes, for [`Put::if_match`].
    pub fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    /// Who answered.
    pub fn answered(&self) -> &Answered {
        &self.answered
    }

    /// When the value expires; `None` if it stays until it is overwritten or deleted.
    ///
    /// ```
    /// # use std::time::{Duration, SystemTime};
    /// # use quorate_client::{Read, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let sessions = cluster.client()?.bucket("sessions");
    /// sessions.insert("7f3a", "alice").expires_in(Duration::from_secs(3600)).w(3).await?;
    /// let Read::Value(session) = sessions.get("7f3a").await? else { panic!("it was just written") };
    /// assert!(session.expires_at().is_some_and(|at| at > SystemTime::now()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// Waits for something else: a write, a delete, the end of this value. See [`Wait`].
    pub fn wait(&self) -> Wait {
        Wait::new(self.at.clone(), Some(self.context.clone()))
    }

    /// A write that replaces this value. Metadata, index entries and the end of its life are not taken over:
    /// they belong to the new value.
    pub fn replace(&self, new: impl Into<NewValue>) -> Put {
        Put::new(self.at.clone(), Some(self.context.clone()), new.into())
    }

    /// A write that deletes this value.
    pub fn delete(&self) -> Delete {
        Delete::new(self.at.clone(), Some(self.context.clone()))
    }
}

/// A key without a value.
#[derive(Clone, Debug)]
pub struct Absent {
    at: At,
    context: Option<Context>,
    has_expired: bool,
    answered: Answered,
}

impl Absent {
    fn of(at: &At, answer: &Answer) -> Result<Self, Error> {
        let context = Context::of(answer);
        let Some(problem) = Problem::parse(&answer.bytes(), 404, &answer.by.node) else {
            return Err(answer.bad("status 404 that is about no key"));
        };
        match (problem.name(), &context) {
            ("key_not_found", _) | ("key_deleted", Some(_)) => {}
            ("key_deleted", None) => return Err(answer.bad("a deleted key without its context")),
            _ => return Err(problem.into_error()),
        }
        let context = context.filter(|_| problem.name() == "key_deleted");
        let has_expired = context.is_some() && has_expired(answer);
        Ok(Self { at: at.clone(), context, has_expired, answered: answer.by.clone() })
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.at.key
    }

    /// Whether it had a value that was deleted, or has expired.
    pub fn was_deleted(&self) -> bool {
        self.context.is_some()
    }

    /// Whether it had a value that has expired, and is therefore as if it were deleted.
    pub fn has_expired(&self) -> bool {
        self.has_expired
    }

    /// What was seen: the delete, or what has expired. None if the key was never written.
    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// Who answered.
    pub fn answered(&self) -> &Answered {
        &self.answered
    }

    /// Waits for a value, or another delete. See [`Wait`].
    pub fn wait(&self) -> Wait {
        Wait::new(self.at.clone(), self.context.clone())
    }

    /// A write of a value, which replaces the delete if there was one.
    pub fn put(&self, new: impl Into<NewValue>) -> Put {
        Put::new(self.at.clone(), self.context.clone(), new.into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_base64url() {
        assert_eq!(Context::parse("AYfK-_9").unwrap().as_str(), "AYfK-_9");
        for bad in ["", "a b", "a\r\nX: y", "ü", "a="] {
            assert!(Context::parse(bad).is_err(), "{bad}");
        }
    }
}
