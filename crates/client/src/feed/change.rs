//! One change of a feed: a key, and what it is now.

use std::time::SystemTime;

use bytes::Bytes;
use reqwest::header::ETAG;
use serde_json::{Value as Json, json};

use crate::answer::{Answer, AnswerBody, SIBLINGS};
use crate::bucket::Bucket;
use crate::error::Error;
use crate::expiry::expires_at;
use crate::read::{Context, Read};
use crate::shown::Shown;
use crate::types::{AnyValue, Typed};
use crate::value::Metadata;

/// A key that has changed.
#[derive(Debug)]
pub struct FeedChange {
    /// The key.
    pub key: String,
    /// What it is now.
    pub state: KeyState,
}

/// What a key of a feed is now, as a read shows it.
#[derive(Debug)]
pub enum KeyState {
    /// A value, several siblings, or nothing: deleted, or expired. Of the metadata of a value the content
    /// type, what clients call their own, and index entries are told.
    Read(Read),
    /// The value of a bucket with a type. A key of such a bucket that was deleted is [`Read::Absent`].
    Typed(Typed<AnyValue>),
    /// More than a feed shows: read the key ([`Bucket::get`]).
    LeftOut(LeftOut),
}

/// What is told of a key whose value a feed does not show: it has more than 64 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// How many bytes its values have together.
    pub bytes: u64,
    /// How many values: more than one is a conflict.
    pub siblings: u32,
    /// The metadata of one value, as far as feeds tell it.
    pub metadata: Metadata,
    /// When one value expires. None if it stays until it is overwritten or deleted.
    pub expires_at: Option<SystemTime>,
    /// The entity tag, with its quotes, for [`Put::if_match`](crate::Put::if_match).
    pub etag: Option<String>,
}

impl FeedChange {
    /// What was seen, for a write that replaces it. None if the value was left out: read the key.
    pub fn context(&self) -> Option<&Context> {
        match &self.state {
            KeyState::Read(read) => read.context(),
            KeyState::Typed(typed) => Some(typed.context()),
            KeyState::LeftOut(_) => None,
        }
    }

    /// Reads it from a page.
    ///
    /// # Errors
    /// [`Error::BadAnswer`].
    pub(super) fn of(bucket: &Bucket, page: &Answer, mut json: Json) -> Result<Self, Error> {
        let Some(key) = json["key"].as_str().map(str::to_owned) else {
            return Err(page.bad("a change without its key"));
        };
        let at = bucket.at(key.as_str());
        let bytes = json["bytes"].take();
        let state = if !bytes.is_null() {
            let head = Shown::parse(page, "change", json)?.head(page)?;
            let bytes =
                bytes.as_u64().ok_or_else(|| page.bad("a change whose bytes are no number"))?;
            KeyState::LeftOut(LeftOut::of(bytes, &head)?)
        } else if json["type"].is_string() {
            let (data_type, exists) = (json["type"].take(), json["exists"].take());
            let value = json["value"].take(); // it is no text
            let body = json!({"type": data_type, "exists": exists, "value": value}).to_string();
            let head = Shown::parse(page, "change", json)?.head(page)?;
            let alone = Answer { body: AnswerBody::Whole(Bytes::from(body)), ..head };
            KeyState::Typed(Typed::of(&at, &alone)?)
        } else {
            let alone = Shown::parse(page, "change", json)?.alone(page)?;
            KeyState::Read(Read::of(&at, &alone)?)
        };
        Ok(Self { key, state })
    }
}

impl LeftOut {
    fn of(bytes: u64, head: &Answer) -> Result<Self, Error> {
        Ok(Self {
            bytes,
            siblings: head.number(&SIBLINGS).unwrap_or(1),
            metadata: Metadata::of(&head.headers).map_err(|why| head.bad(why))?,
            expires_at: expires_at(head)?,
            etag: head.header(&ETAG),
        })
    }
}
