//! Values as streams: for those that need not be in memory as a whole.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::ETAG;
use reqwest::{Response, StatusCode};

use crate::answer::{Answer, AnswerBody, Answered, PROBLEM_BYTES_MAX, Unread, bad, causes, read};
use crate::body::NewValue;
use crate::bucket::At;
use crate::error::Error;
use crate::expiry::expires_at;
use crate::read::{Absent, Context, Read, Versioned, context_of};
use crate::retry::Deadline;
use crate::siblings::Siblings;
use crate::value::{Metadata, Value};
use crate::write::{Delete, Put};

/// What is stored under a key; a single value as a stream.
#[derive(Debug)]
pub enum ReadStream {
    /// One value.
    Value(ValueStream),
    /// Several, in memory: a conflict.
    Siblings(Siblings),
    /// Nothing: never written, deleted, or expired.
    Absent(Absent),
}

impl ReadStream {
    /// Builds it from the answer to a GET whose body was not read.
    pub(crate) async fn of(at: &At, answer: Answer, silence: Duration) -> Result<Self, Error> {
        let Answer { status, headers, body, by } = answer;
        let AnswerBody::Live(response) = body else {
            return Err(bad(&by.node, "the answer was read before"));
        };
        let settings = &at.bucket.client.inner.settings;
        if status == StatusCode::OK {
            let length = response.content_length();
            let head = Answer { status, headers, body: AnswerBody::Whole(Bytes::new()), by };
            let metadata = Metadata::of(&head.headers);
            let bytes_max = settings.answer_bytes_max;
            let stream = ValueStream {
                at: at.clone(),
                context: context_of(&head)?,
                expires_at: expires_at(&head)?,
                metadata: metadata.map_err(|why| head.bad(why).of_read())?,
                head: Box::new(head),
                length,
                response: Box::new(response),
                silence,
                read_bytes: 0,
                bytes_max,
            };
            return Ok(Self::Value(stream));
        }
        let bytes_max = match status {
            StatusCode::MULTIPLE_CHOICES => settings.answer_bytes_max,
            _ => PROBLEM_BYTES_MAX,
        };
        let deadline = Deadline::new(settings.timeout);
        let body = read(response, bytes_max, silence, &deadline).await;
        let unread = |it: Unread| it.into_error(&by.node, silence).of_read();
        let body = AnswerBody::Whole(body.map_err(unread)?);
        match Read::of(at, &Answer { status, headers, body, by }).map_err(Error::of_read)? {
            Read::Value(value) => {
                Err(bad(&value.answered().node, "a value that is no stream").of_read())
            }
            Read::Siblings(siblings) => Ok(Self::Siblings(siblings)),
            Read::Absent(absent) => Ok(Self::Absent(absent)),
        }
    }
}

/// One value on its way. Its context is known before its bytes.
#[derive(Debug)]
#[must_use = "a stream holds a connection until it is read or dropped"]
pub struct ValueStream {
    at: At,
    context: Context,
    expires_at: Option<SystemTime>,
    metadata: Metadata,
    head: Box<Answer>,
    length: Option<u64>,
    response: Box<Response>,
    silence: Duration,
    read_bytes: u64,
    bytes_max: usize,
}

impl ValueStream {
    /// The next bytes; `None` at the end. The end is told only if every byte has arrived.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the connection breaks, [`Error::TimedOut`] if it falls silent; the value
    /// has to be read again.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let node = &self.head.by.node;
        let at = self.read_bytes;
        match tokio::time::timeout(self.silence, self.response.chunk()).await {
            Ok(Ok(Some(chunk))) => {
                self.read_bytes += chunk.len() as u64;
                Ok(Some(chunk))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => {
                let detail =
                    format!("the value was cut short after {at} bytes: {}", causes(&error));
                Err(bad(node, detail).of_read())
            }
            Err(_) => Err(bad(node, format!("the value stopped after {at} bytes")).of_read()),
        }
    }

    /// The rest of the value, in memory.
    ///
    /// # Errors
    /// As [`ValueStream::chunk`], and if it is longer than the client's `answer_bytes_max`.
    pub async fn collect(mut self) -> Result<Versioned, Error> {
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() + chunk.len() > self.bytes_max {
                let detail = format!("the value is longer than {} bytes", self.bytes_max);
                return Err(bad(&self.head.by.node, detail).of_read());
            }
            bytes.extend_from_slice(&chunk);
        }
        let value = Value { bytes: bytes.freeze(), metadata: self.metadata() };
        Versioned::of(&self.at, &self.head, value)
    }

    /// The length of the whole value in bytes, if the node told it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// What is stored with the value.
    pub fn metadata(&self) -> Metadata {
        self.metadata.clone()
    }

    /// The entity tag, with its quotes.
    pub fn etag(&self) -> Option<String> {
        self.head.header(&ETAG)
    }

    /// When the value expires; `None` if it stays until it is overwritten or deleted.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.expires_at
    }

    /// What was seen.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Who answers.
    pub fn answered(&self) -> &Answered {
        &self.head.by
    }

    /// A write that replaces this value.
    pub fn replace(&self, new: impl Into<NewValue>) -> Put {
        Put::new(self.at.clone(), Some(self.context.clone()), new.into())
    }

    /// A write that deletes this value.
    pub fn delete(&self) -> Delete {
        Delete::new(self.at.clone(), Some(self.context.clone()))
    }
}
