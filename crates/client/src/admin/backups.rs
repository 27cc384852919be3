//! Backups of a node: what `quorate backup` asks of every node.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use serde_json::{Value as Json, json};

use super::{Admin, Ask};
use crate::answer::{AnswerBody, bad, causes};
use crate::body::Source;
use crate::call::{Call, Target};
use crate::error::{Error, Outcome};
use crate::nodes::Place;
use crate::retry::Deadline;

impl Admin {
    /// The backups that the node keeps, and how far the last one is that was asked for.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn backups(&self) -> Result<Json, Error> {
        self.get("/backups").await
    }

    /// Makes a backup of the node: answers once its copy is made, or after `timeout_ms`; it goes on then.
    ///
    /// # Errors
    /// [`Error`]; the problem `backup_refused` says why not.
    pub async fn make_backup(&self, name: &str, timeout_ms: u64) -> Result<Json, Error> {
        let mut ask = Ask::of(Method::POST, "/backups");
        ask.body = Some(json!({"name": name}));
        ask.timeout_ms = Some(timeout_ms);
        self.ask(ask).await?.json()
    }

    /// Keeps hints and unowned rows from leaving the node for so long, in milliseconds; 0 ends it.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn hold_rows(&self, ms: u64) -> Result<(), Error> {
        let mut ask = Ask::of(Method::POST, "/backups/hold");
        ask.body = Some(json!({"ms": ms}));
        self.ask(ask).await.map(drop)
    }

    /// The manifest of a backup, as the node gives it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the node does not keep it, or has not finished it.
    pub async fn backup_manifest(&self, name: &str) -> Result<Bytes, Error> {
        let path = format!("/backups/{}", crate::path::escaped(name));
        Ok(self.ask(Ask::get(&path)).await?.bytes())
    }

    /// Deletes a backup.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the node does not keep it.
    pub async fn delete_backup(&self, name: &str) -> Result<(), Error> {
        let path = format!("/backups/{}", crate::path::escaped(name));
        self.ask(Ask::of(Method::DELETE, &path)).await.map(drop)
    }

    /// A file of a backup from a byte on, as a stream.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the backup has no such file.
    pub async fn backup_file(
        &self,
        name: &str,
        file: &str,
        from: u64,
    ) -> Result<FileStream, Error> {
        let inner = &self.client.inner;
        let mut headers = HeaderMap::new();
        let range = HeaderValue::try_from(format!("bytes={from}-"));
        if let (1.., Ok(range)) = (from, range) {
            headers.insert(RANGE, range);
        }
        let escaped = crate::path::escaped;
        let silence = inner.settings.attempt_timeout;
        let call = Call {
            method: Method::GET,
            path: format!("/backups/{}/files/{}", escaped(name), escaped(file)),
            query: &|_| String::new(),
            headers,
            body: Source::EMPTY,
            target: match &self.node {
                Some(node) => Target::Node(node.clone()),
                None => Target::Place(Place::Any),
            },
            writes: false,
            repeatable: true,
            accepts: &[],
            reads_body: false,
            deadline: Deadline::new(inner.settings.timeout),
            attempt_max: silence,
        };
        let answer = inner.call(call).await?;
        let (node, status) = (answer.by.node, answer.status);
        let AnswerBody::Live(response) = answer.body else {
            return Err(bad(&node, "the answer was read before").of_read());
        };
        let wanted = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        if status != wanted {
            return Err(bad(&node, format!("status {status} for a part of a file")).of_read());
        }
        Ok(FileStream { node, silence, response })
    }
}

/// A file on its way.
#[derive(Debug)]
#[must_use = "a stream holds a connection until it is read or dropped"]
pub struct FileStream {
    node: String,
    silence: Duration,
    response: Response,
}

impl FileStream {
    /// The next bytes; `None` at the end. The end is told only if every byte has arrived.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if the connection breaks, [`Error::TimedOut`] if it falls silent: the rest
    /// can be asked for.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.silence, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => {
                let detail = format!("the file was cut short: {}", causes(&error));
                let (outcome, node) = (Outcome::NotApplied, self.node.clone());
                Err(Error::Unreachable { outcome, node, detail })
            }
            Err(_) => {
                let (outcome, after) = (Outcome::NotApplied, self.silence);
                Err(Error::TimedOut { outcome, after, attempts: 1, last: None })
            }
        }
    }
}
