//! The results of a batch: each as the answer that its operation would have had alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::operation::BatchOperation;
use crate::answer::{ACKS, Answer, AnswerBody, CONTEXT, HINTS, SIBLINGS};
use crate::error::Error;
use crate::expiry::told;
use crate::problem::{Head, Problem};
use crate::read::Read;
use crate::types::Applied;
use crate::write::Written;

/// What one operation of a [`Batch`](crate::Batch) was answered.
#[derive(Debug)]
pub enum BatchAnswer {
    /// What a get has read.
    Read(Read),
    /// A put or a delete was acknowledged.
    Written(Written),
    /// A change of a typed value was acknowledged.
    Applied(Applied),
}

impl BatchAnswer {
    /// What was read, if it is the answer to a get.
    pub fn read(&self) -> Option<&Read> {
        match self {
            Self::Read(read) => Some(read),
            Self::Written(_) | Self::Applied(_) => None,
        }
    }

    /// What became of a put or a delete, if it is the answer to one.
    pub fn written(&self) -> Option<&Written> {
        match self {
            Self::Written(written) => Some(written),
            Self::Read(_) | Self::Applied(_) => None,
        }
    }
}

/// The body of the answer to a batch.
#[derive(Deserialize)]
struct Results {
    results: Vec<Json>,
}

/// One result.
#[derive(Deserialize)]
struct Shown {
    status: u16,
    context: Option<String>,
    etag: Option<String>,
    siblings_count: Option<u64>,
    acks: Option<u64>,
    hints: Option<u64>,
    content_type: Option<String>,
    expires_at: Option<String>,
    #[serde(default)]
    expired: bool,
    value: Option<String>,
    encoding: Option<String>,
    siblings: Option<Json>,
    problem: Option<Json>,
}

/// The results of these operations, in their order.
///
/// # Errors
/// [`Error::BadAnswer`] if it is no answer to them.
pub(super) fn of(
    answer: &Answer,
    operations: Vec<&BatchOperation>,
) -> Result<Vec<Result<BatchAnswer, Error>>, Error> {
    let Results { results } = answer.json()?;
    if results.len() != operations.len() {
        let (given, told) = (operations.len(), results.len());
        return Err(answer.bad(format!("{told} results of {given} operations")));
    }
    let one = |(operation, result): (&BatchOperation, Json)| {
        of_one(answer, operation, result).map_err(|error| operation.own(error))
    };
    Ok(operations.into_iter().zip(results).map(one).collect())
}

fn of_one(whole: &Answer, operation: &BatchOperation, result: Json) -> Result<BatchAnswer, Error> {
    let shown: Shown = serde_json::from_value(result)
        .map_err(|error| whole.bad(format!("no result of an operation: {error}")))?;
    let at = operation.at();
    let answer = shown.alone(whole)?;
    match (answer.status, operation.writes()) {
        (StatusCode::OK | StatusCode::MULTIPLE_CHOICES | StatusCode::NOT_FOUND, false) => {
            Read::of(at, &answer).map(BatchAnswer::Read)
        }
        (StatusCode::NO_CONTENT, true) if operation.is_change() => {
            Ok(BatchAnswer::Applied(Applied::of(&answer)))
        }
        (StatusCode::NO_CONTENT, true) => Ok(BatchAnswer::Written(Written::of(at, &answer))),
        (status, _) => {
            let Some(problem) = Problem::parse(&answer.bytes(), status.as_u16(), &answer.by.node)
            else {
                return Err(answer.bad(format!("status {status} is none of the operation")));
            };
            let request_id = answer.by.request_id;
            let head = Head { request_id, explain_id: None, retry_after: None };
            Err(problem.with_head(head).into_error())
        }
    }
}

impl Shown {
    /// The answer that the operation would have had alone.
    fn alone(self, whole: &Answer) -> Result<Answer, Error> {
        let status = StatusCode::from_u16(self.status);
        let status =
            status.map_err(|_| whole.bad(format!("status {} of an operation", self.status)))?;
        let mut headers = HeaderMap::new();
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        for (name, text) in [
            (CONTEXT, self.context),
            (ETAG, self.etag),
            (CONTENT_TYPE, self.content_type),
            (SIBLINGS, number(self.siblings_count)),
            (ACKS, number(self.acks)),
            (HINTS, number(self.hints)),
        ] {
            let value = text.as_deref().map(HeaderValue::from_str).transpose();
            let no_header = |name: &HeaderName| whole.bad(format!("{name} of an operation"));
            if let Some(value) = value.map_err(|_| no_header(&name))? {
                headers.insert(name, value);
            }
        }
        told(&mut headers, self.expires_at.as_deref(), self.expired);
        let body = match (self.value, self.siblings, self.problem) {
            (Some(text), ..) if self.encoding.is_none() => Bytes::from(text),
            (Some(text), ..) => {
                let bytes = STANDARD.decode(text).ok().filter(|_| is_base64(&self.encoding));
                Bytes::from(bytes.ok_or_else(|| whole.bad("the value is not valid base64"))?)
            }
            (None, Some(siblings), _) => Bytes::from(json!({"siblings": siblings}).to_string()),
            (None, None, Some(problem)) => Bytes::from(problem.to_string()),
            (None, None, None) if status == StatusCode::OK => {
                return Err(whole.bad("a value is missing"));
            }
            (None, None, None) => Bytes::new(),
        };
        Ok(Answer { status, headers, body: AnswerBody::Whole(body), by: whole.by.clone() })
    }
}

fn is_base64(encoding: &Option<String>) -> bool {
    encoding.as_deref() == Some("base64")
}
