//! Steps with many operations.

use std::time::{Duration, Instant};

use quorate_client::{BatchAnswer, BatchOperation, Error};
use serde_json::Value as Json;

use crate::arguments::options;
use crate::cases::only;
use crate::run::{Done, Run, Step, Taken};

/// What a batch may have.
pub(crate) const BATCH: [&str; 6] = ["operations", "r", "w", "n", "sloppy", "timeout_ms"];
const GET: [&str; 3] = ["op", "as", "key"];
const PUT: [&str; 7] =
    ["value", "content_type", "index", "context", "if", "idempotency_key", "expires_in"];
const DELETE: [&str; 3] = ["context", "if", "idempotency_key"];
const CHANGE: [&str; 3] = ["operation", "context", "idempotency_key"];

/// The operations of a step.
pub(crate) fn operations(step: &Step) -> Vec<Step> {
    let all = step["operations"].as_array().into_iter().flatten();
    all.map(|operation| operation.as_object().unwrap().clone()).collect()
}

impl Run {
    /// Carries out a batch. Each operation has its own result.
    pub(crate) async fn batch(&self, step: &Step) -> Result<Result<Done, Error>, String> {
        let (read, written) = match (options(step, "r"), options(step, "w")) {
            (Ok(read), Ok(written)) => (read, written),
            (Err(error), _) | (Ok(_), Err(error)) => return Ok(Err(error)),
        };
        let mut batch = self.client.batch().options(written);
        if let Some(r) = read.needed {
            batch = batch.r(r);
        }
        let mut writes = Vec::new();
        for operation in operations(step) {
            writes.push(operation["op"] != "get");
            batch = batch.push(self.operation(&operation)?);
        }
        let begun = Instant::now();
        let results = batch.await;
        let took = begun.elapsed();
        let one =
            |(result, writes): (Result<BatchAnswer, Error>, bool)| taken(result, writes, took);
        Ok(Ok(Done::Batch(results.into_iter().zip(writes).map(one).collect())))
    }

    fn operation(&self, operation: &Step) -> Result<BatchOperation, String> {
        let text = |name: &str| operation.get(name).and_then(Json::as_str);
        let op = text("op").unwrap_or_default();
        let own: &[&str] = match op {
            "get" => &[],
            "put" => &PUT,
            "delete" => &DELETE,
            "change" => &CHANGE,
            other => return Err(format!("op: {other} is none of a batch")),
        };
        only(operation, &[&GET, own].concat())?;
        let told = |error: Error| error.to_string();
        let (bucket, key) = (self.client.bucket(self.bucket.as_str()), text("key").unwrap());
        Ok(match op {
            "get" => bucket.get(key).into(),
            "put" => self.put(operation)?.map_err(told)?.into(),
            "delete" => self.delete(operation)?.map_err(told)?.into(),
            _ => {
                let context = self.context(operation)?.map_err(told)?;
                let what = operation["operation"].clone();
                let change = bucket.typed(key).change(context.as_ref(), what);
                match text("idempotency_key") {
                    Some(key) => change.idempotency_key(key).into(),
                    None => change.into(),
                }
            }
        })
    }
}

fn taken(result: Result<BatchAnswer, Error>, writes: bool, took: Duration) -> Taken {
    let result = result.map(|answer| match answer {
        BatchAnswer::Read(read) => Done::Read(read),
        BatchAnswer::Written(written) => Done::Written(written),
        BatchAnswer::Applied(applied) => Done::Applied(applied, None),
    });
    Taken { result, took, writes }
}
