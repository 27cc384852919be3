//! `GET /kv/{bucket}/{key}?wait_ms=`: the answer once there is something that the client has not seen.

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quorate_protocol::context::Context;
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::time::WallTime;
use tokio::time::{Instant, sleep_until};

use super::gate::{Gate, Pass};
use super::headers::CONTEXT;
use super::kv::{self, ReadRequest};
use super::permit_body;
use super::problem::{Kind, Problem};
use super::query::Params;
use super::route::Answer;

/// How long a request waited, beyond what it took.
#[derive(Clone, Copy)]
pub(super) struct Waited(pub(super) Duration);

/// Waits, and answers as a GET does, or 304 if the time is over and there is nothing that the context of
/// the request has not seen.
pub(super) async fn get(gate: Gate, parts: Parts, params: Params, wait_ms: u64) -> Answer {
    let node = gate.node.clone();
    let key = gate.key(&parts.uri)?;
    let seen = gate.seen(&parts.headers, &key)?;
    let watch = node.watches.watch(&key);
    let watch = watch.ok_or_else(|| Problem::new(Kind::Overloaded, "too many requests wait"))?;
    let deadline = Instant::now() + Duration::from_millis(wait_ms);
    let (mut waited, mut was_over) = (Duration::ZERO, None);
    let mut turn = None;
    loop {
        let mut changed = std::pin::pin!(watch.changed());
        changed.as_mut().enable(); // before the read: what changes after it is not missed
        let found = look(&gate, &parts, &params, &key).await;
        drop(turn.take());
        let (now, began) = (node.now(), Instant::now());
        let is_last = began >= deadline || node.is_draining();
        let end = match found {
            // Many were woken at once: this request has time.
            Err(problem) if problem.kind() == Kind::Overloaded && !is_last => None,
            Err(problem) => return Err(problem),
            Ok((question, object, pass)) => {
                let is_over = object.has_expired(now);
                let is_new = is_unseen(seen.as_ref().map(|(_, seen)| seen), &object)
                    || (is_over && was_over == Some(false));
                if is_new || is_last {
                    let answer = match &seen {
                        Some((context, _)) if !is_new => Ok(nothing_new(context)),
                        _ => question.answer(&node, &object),
                    };
                    let answer = answer.map(|response| {
                        permit_body::until_sent(response, &node.admission, pass.permit)
                    });
                    return Ok(with_wait(answer, waited));
                }
                was_over.get_or_insert(is_over);
                end_of(&object, now)
            }
        };
        // A waiting request is no operation in flight: the pass is dropped.
        let until = began + node.watches.look_every().min(end.unwrap_or(Duration::MAX));
        tokio::select! {
            () = changed => {}
            () = sleep_until(deadline.min(until)) => {}
        }
        turn = node.watches.turn().await;
        waited += began.elapsed();
    }
}

/// Reads the key as any GET does.
async fn look(
    gate: &Gate,
    parts: &Parts,
    params: &Params,
    key: &Key,
) -> Result<(ReadRequest, Arc<Object>, Pass), Problem> {
    let (question, read, pass) = ReadRequest::parse(gate, parts.clone(), params)?;
    let (object, pass) = kv::read(&gate.node, key, read, pass).await?;
    Ok((question, object, pass))
}

/// Whether an object says anything that a client with this context has not seen.
fn is_unseen(seen: Option<&Context>, object: &Object) -> bool {
    match seen {
        Some(seen) => !seen.clock.covers_all(&object.clock),
        None => !object.is_absent(),
    }
}

/// How long until something in it expires.
fn end_of(object: &Object, now: WallTime) -> Option<Duration> {
    let ends = object.siblings.iter().filter_map(|sibling| sibling.expires);
    let next = ends.filter(|end| *end > now).min()?;
    Some(Duration::from_millis(next.since(now)))
}

/// 304, with the context that the client has.
fn nothing_new(context: &str) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    if let Ok(context) = HeaderValue::from_str(context) {
        response.headers_mut().insert(CONTEXT, context);
    }
    response
}

/// The answer, which did not take the time that it waited.
pub(super) fn with_wait(answer: Answer, waited: Duration) -> Response {
    let mut response = answer.into_response();
    response.extensions_mut().insert(Waited(waited));
    response
}
