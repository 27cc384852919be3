//! The results of a batch: each as the answer that its operation would have had alone.

use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value as Json;

use super::operation::BatchOperation;
use crate::answer::Answer;
use crate::error::Error;
use crate::problem::{Head, Problem};
use crate::read::Read;
use crate::shown::Shown;
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
    let shown = Shown::parse(whole, "result of an operation", result)?;
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
