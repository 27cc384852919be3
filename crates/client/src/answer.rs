//! Answers of nodes, read with bounds on their length and their silence.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Response, StatusCode};

use crate::error::{Error, Outcome};
use crate::nodes::Node;
use crate::problem::{Head, Problem, cut};
use crate::retry::Deadline;

/// The longest error answer that is read, in bytes.
pub(crate) const PROBLEM_BYTES_MAX: usize = 64 << 10;
/// The most bytes that are made room for before they arrive.
const ROOM_AHEAD_BYTES_MAX: usize = 1 << 20;

pub(crate) const CONTEXT: HeaderName = HeaderName::from_static("quorate-context");
pub(crate) const SIBLINGS: HeaderName = HeaderName::from_static("quorate-siblings");
pub(crate) const ACKS: HeaderName = HeaderName::from_static("quorate-acks");
pub(crate) const HINTS: HeaderName = HeaderName::from_static("quorate-hints");
/// The epoch of the layout that a node follows.
pub(crate) const EPOCH: HeaderName = HeaderName::from_static("quorate-epoch");
const EXPLAIN: HeaderName = HeaderName::from_static("quorate-explain");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who answered, under which ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The URL of the node.
    pub node: String,
    /// The id under which the node's log has the request.
    pub request_id: Option<String>,
    /// The id of the trace, if the request asked for one: see
    /// [`Admin::explanation`](crate::Admin::explanation).
    pub explain_id: Option<String>,
    /// How often the request was sent, 1 or more.
    pub attempts: u32,
}

/// The head of an answer, and its body if that was read already.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnswerBody,
    pub(crate) by: Answered,
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// All of it.
    Whole(Bytes),
    /// Still on its way.
    Live(Response),
}

impl Answer {
    /// A header's text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<String> {
        header(&self.headers, name)
    }

    /// A header's number.
    pub(crate) fn number(&self, name: &HeaderName) -> Option<u32> {
        self.header(name)?.parse().ok()
    }

    /// The whole body, which was asked for.
    pub(crate) fn bytes(&self) -> Bytes {
        match &self.body {
            AnswerBody::Whole(bytes) => bytes.clone(),
            AnswerBody::Live(_) => Bytes::new(),
        }
    }

    /// An answer that no node gives.
    pub(crate) fn bad(&self, detail: impl Into<String>) -> Error {
        bad(&self.by.node, detail)
    }

    /// The body as JSON of a type.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        let body = self.bytes();
        serde_json::from_slice(&body).map_err(|error| {
            let shown = cut(&String::from_utf8_lossy(&body[..body.len().min(200)]));
            self.bad(format!("the answer is not the JSON expected ({error}): {shown:?}"))
        })
    }
}

/// An answer that no node gives. Of a write it leaves open what became of it.
pub(crate) fn bad(node: &str, detail: impl Into<String>) -> Error {
    let (outcome, detail) = (Outcome::Unknown, cut(&detail.into()));
    Error::BadAnswer { outcome, node: node.to_owned(), detail }
}

/// What the network said, with its causes: the outermost error alone names only the URL.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    cut(&text)
}

/// The head of what a node answered.
pub(crate) fn answered(node: &Arc<Node>, headers: &HeaderMap, attempts: u32) -> Answered {
    Answered {
        node: node.url.clone(),
        request_id: header(headers, &REQUEST_ID),
        explain_id: header(headers, &EXPLAIN),
        attempts,
    }
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Why a body was not read to its end.
#[derive(Debug)]
pub(crate) enum Unread {
    /// It is longer than the reader takes.
    TooLong,
    /// The connection broke.
    Cut(String),
    /// Nothing came for too long.
    Stopped,
}

/// Reads a body of at most `bytes_max`, by the deadline, with no silence longer than `patience`.
///
/// # Errors
/// What kept it from being read to its end.
pub(crate) async fn read(
    mut response: Response,
    bytes_max: usize,
    patience: Duration,
    deadline: &Deadline,
) -> Result<Bytes, Unread> {
    let announced = response.content_length().unwrap_or(0);
    if announced > bytes_max as u64 {
        return Err(Unread::TooLong);
    }
    let room = usize::try_from(announced).unwrap_or(0).min(ROOM_AHEAD_BYTES_MAX);
    let mut body = BytesMut::with_capacity(room);
    loop {
        let allowed = patience.min(deadline.left());
        match tokio::time::timeout(allowed, response.chunk()).await {
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() > bytes_max => {
                return Err(Unread::TooLong);
            }
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Err(error)) => return Err(Unread::Cut(causes(&error))),
            Err(_) => return Err(Unread::Stopped),
        }
    }
}

impl Unread {
    /// The error of a request whose answer was this.
    pub(crate) fn into_error(self, node: &str, patience: Duration) -> Error {
        let (outcome, node) = (Outcome::Unknown, node.to_owned());
        match self {
            Self::TooLong => {
                let detail = "the answer is longer than the client holds in memory".to_owned();
                Error::BadAnswer { outcome, node, detail }
            }
            Self::Cut(why) => {
                let detail = format!("the answer was cut short: {why}");
                Error::Unreachable { outcome, node, detail }
            }
            Self::Stopped => Error::TimedOut { outcome, after: patience, attempts: 1, last: None },
        }
    }
}

/// The error that an answer stands for.
pub(crate) async fn error(response: Response, deadline: &Deadline, node: &str) -> Error {
    let status = response.status().as_u16();
    let headers = response.headers();
    let head = Head {
        request_id: header(headers, &REQUEST_ID),
        explain_id: header(headers, &EXPLAIN),
        retry_after: retry_after(headers),
    };
    let kind = header(headers, &CONTENT_TYPE).unwrap_or_default();
    let patience = deadline.left();
    let body = match read(response, PROBLEM_BYTES_MAX, patience, deadline).await {
        Ok(body) => body,
        Err(Unread::TooLong) => Bytes::new(), // then its status has to do
        Err(unread) => return unread.into_error(node, patience),
    };
    if let Some(problem) = Problem::parse(&body, status, node) {
        return problem.with_head(head).into_error();
    }
    let shown = cut(&String::from_utf8_lossy(&body[..body.len().min(200)]));
    let detail = format!("status {status}, {kind}, which no node answers: {shown:?}");
    match status {
        400 | 401 | 403 | 405..=499 | 500.. => {
            let problem = Problem::of_status(status, node, detail);
            problem.with_head(head).into_error()
        }
        _ => bad(node, detail), // a redirect, or the 404 of another server
    }
}

/// `Retry-After` in seconds. Its other form, a date, is not used by nodes.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = header(headers, &RETRY_AFTER)?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}
