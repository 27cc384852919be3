//! `GET /feed/{bucket}`: what changes in a bucket, page by page or as a stream of events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderName, Uri};
use axum::response::{IntoResponse, Response};
use quorate_protocol::access::Action;
use quorate_protocol::context::ContextError;
use quorate_protocol::feed::{Cursor, Promise};
use quorate_protocol::name::{Bucket, Key};
use quorate_protocol::object::Object;
use quorate_protocol::quorum::Count;
use quorate_protocol::terms::QuorumOptions;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::{Instant, sleep_until, timeout};

use super::conditions::ReadConditions;
use super::gate::{Gate, Pass};
use super::problem::{Kind, Problem};
use super::query::Params;
use super::represent::{self, Representation};
use super::route::Answer;
use super::{batch, events, kv, permit_body, types, wait};
use quorate_engine::node::{Node, Unavailable};
use quorate_engine::ops::feed::{self, Feed, From, Question, Read};
use quorate_engine::ops::feed_watch::SUBSCRIBERS_MAX;
use quorate_engine::ops::listing::LIMIT_MAX;
use quorate_engine::ops::watchers::Watch;

/// Default page size.
const LIMIT_DEFAULT: u16 = 100;
/// Values longer than this are left out; the client reads them itself.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of changes after which a page ends, and one of a stream, of which many may be waiting to be sent.
const PAGE_BYTES_MAX: usize = 1 << 20;
const STREAMED_BYTES_MAX: usize = 64 << 10;
/// About what a change takes beside its value, in bytes.
const AROUND_A_VALUE_BYTES: usize = 512;
/// How often a request that waits looks without having been woken: a node may have come back.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a stream is silent at the most.
const PING_EVERY: Duration = Duration::from_secs(15);
/// How long a stream waits for a client that does not read.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How long a client should wait before it connects again, in milliseconds.
const RETRY_MS: u64 = 2_000;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// A parsed request.
struct Subscription {
    gate: Gate,
    params: Params,
    question: Question,
    from: From,
}

/// `GET /feed/{bucket}?prefix=&cursor=&limit=&wait_ms=`.
///
/// # Errors
/// 409 if the bucket has no feed, 410 if the cursor has expired, 503 if too many requests wait.
pub(super) async fn read(gate: Gate, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let subscription = Subscription::parse(gate, &parts.uri, &parts.headers)?;
    let accept = parts.headers.get(ACCEPT);
    match accept.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream")) {
        true => subscription.stream().await,
        false => subscription.page().await,
    }
}

impl Subscription {
    fn parse(gate: Gate, uri: &Uri, headers: &HeaderMap) -> Result<Self, Problem> {
        let bucket = gate.bucket(uri)?;
        let mut params = gate.params(uri)?;
        let prefix = params.prefix.take().unwrap_or_default();
        gate.who.must(Action::List, bucket.as_str(), prefix.as_bytes())?;
        let last = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
        let cursor = last.filter(|id| !id.is_empty()).or(params.cursor.as_deref());
        let from = match cursor {
            None | Some("oldest") => From::Oldest,
            Some("now") => From::Now,
            Some(text) => {
                let cursor = Cursor::open(&gate.node.contexts, &bucket, &prefix, text);
                From::Cursor(cursor.map_err(|error| not_a_cursor(&error))?)
            }
        };
        let limit = params.limit.map_or(LIMIT_DEFAULT, |limit| limit.min(LIMIT_MAX.into()) as u16);
        let question = Question { bucket, prefix, limit };
        Ok(Self { gate, params, question, from })
    }

    fn node(&self) -> &Arc<Node> {
        &self.gate.node
    }

    /// The next page, once there is a change or the time is over.
    async fn page(mut self) -> Answer {
        let node = self.node().clone();
        let deadline = Instant::now() + Duration::from_millis(self.params.wait_ms.unwrap_or(0));
        let subscriber = self.params.wait_ms.map(|_| self.subscribe()).transpose()?;
        let mut waited = Duration::ZERO;
        loop {
            let began = Instant::now();
            let is_last = began >= deadline || node.is_draining();
            let mut changed = subscriber.as_ref().map(|it| Box::pin(it.changed()));
            if let Some(changed) = &mut changed {
                changed.as_mut().enable(); // before the page: what changes after it is not missed
            }
            let (feed, pass) = self.look(PAGE_BYTES_MAX).await?;
            if !feed.changes.is_empty() || is_last {
                let response = represent::json(&self.shown(&feed));
                let response = permit_body::until_sent(response, &node.admission, pass.permit);
                return Ok(wait::with_wait(Ok(response), waited));
            }
            drop(pass); // a waiting request is no operation in flight
            self.from = From::Cursor(feed.cursor);
            if let Some(changed) = changed.filter(|_| !feed.has_more) {
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(deadline.min(began + LOOK_EVERY)) => {}
                }
            }
            waited += began.elapsed();
        }
    }

    /// A page of what there is now.
    async fn look(&self, bytes_max: usize) -> Result<(Feed<Value>, Pass), Problem> {
        let node = self.node();
        let pass = self.gate.enter(&self.params)?;
        let view = node.view();
        if view.properties(self.question.bucket.as_str()).feed_retention_s.is_none() {
            return Err(no_feed(&self.question));
        }
        let r = feed::r_of(&view, self.question.bucket.as_str());
        let read = |key| read_key(node, &pass, key, r);
        let feed = feed::page(node, &self.question, &self.from, bytes_max, read).await;
        match feed.promise {
            Promise::Complete | Promise::Partial => Ok((feed, pass)),
            Promise::Expired => Err(self.expired(&feed.cursor)),
        }
    }

    fn text_of(&self, cursor: &Cursor) -> String {
        let Question { bucket, prefix, .. } = &self.question;
        cursor.seal(&self.node().contexts, bucket, prefix)
    }

    fn shown(&self, feed: &Feed<Value>) -> Value {
        json!({
            "bucket": self.question.bucket,
            "changes": feed.changes,
            "cursor": self.text_of(&feed.cursor),
            "complete": feed.promise == Promise::Complete,
        })
    }

    /// 410, with where to go on once all keys have been listed.
    fn expired(&self, cursor: &Cursor) -> Problem {
        let bucket = &self.question.bucket;
        let detail = format!(
            "changes after this cursor are not kept any more; list all keys (GET /keys/{bucket}), read \
             them, and go on with the cursor in this answer"
        );
        Problem::new(Kind::CursorExpired, detail)
            .fact("cursor", self.text_of(cursor))
            .fact("resync", format!("/keys/{bucket}"))
    }

    fn subscribe(&self) -> Result<Watch<Bucket>, Problem> {
        let node = self.node();
        if node.is_draining() {
            return Err(Unavailable::Stopping.into());
        }
        node.feed_watch.subscribe(node, &self.question.bucket).ok_or_else(|| {
            let detail = format!("at most {SUBSCRIBERS_MAX} requests wait for feeds on this node");
            Problem::new(Kind::Overloaded, detail)
        })
    }

    /// Server-sent events, until the client is gone or does not read, or the node stops.
    async fn stream(mut self) -> Answer {
        if self.params.wait_ms.is_some() {
            let detail = "a stream of events waits by itself";
            return Err(Problem::bad_parameter("wait_ms", detail));
        }
        let subscriber = self.subscribe()?;
        let (first, _) = self.look(STREAMED_BYTES_MAX).await?; // what is wrong is a status, not an event
        let (sender, receiver) = channel(1);
        let node = self.node().clone();
        node.background.spawn(async move {
            let text = format!("retry: {RETRY_MS}\n\n{}", self.events(&first));
            self.from = From::Cursor(first.cursor);
            if send(&sender, text).await.is_ok() {
                drop(self.follow(&sender, &subscriber).await);
            }
        });
        Ok(events::stream(receiver))
    }

    /// Sends page after page. Ends where nothing can be sent any more.
    async fn follow(
        &mut self,
        sender: &Sender<Bytes>,
        subscriber: &Watch<Bucket>,
    ) -> Result<(), Gone> {
        let node = self.node().clone();
        let mut sent_at = Instant::now();
        loop {
            let mut changed = Box::pin(subscriber.changed());
            changed.as_mut().enable();
            if node.is_draining() || !self.gate.who.is_still_known(&node) {
                return Err(Gone);
            }
            let has_more = match self.look(STREAMED_BYTES_MAX).await {
                Ok((feed, _)) => {
                    if !feed.changes.is_empty() {
                        send(sender, self.events(&feed)).await?;
                        sent_at = Instant::now();
                    }
                    self.from = From::Cursor(feed.cursor);
                    feed.has_more
                }
                Err(problem) if problem.status().is_server_error() => false, // it may pass
                Err(problem) => {
                    let mut last = String::new();
                    events::add(&mut last, "problem", &problem.body());
                    return send(sender, last).await;
                }
            };
            if sent_at.elapsed() >= PING_EVERY {
                send(sender, ": ping\n\n".to_owned()).await?;
                sent_at = Instant::now();
            }
            if !has_more {
                tokio::select! {
                    () = changed => {}
                    () = sleep_until(Instant::now() + LOOK_EVERY) => {}
                    () = sender.closed() => return Err(Gone),
                }
            }
        }
    }

    /// One event for each change, and one with the cursor, which a client sends to go on.
    fn events(&self, feed: &Feed<Value>) -> String {
        let mut text = String::new();
        for change in &feed.changes {
            events::add(&mut text, "change", &change.to_string());
        }
        let complete = feed.promise == Promise::Complete;
        // A field of the event that follows.
        text.push_str(&format!("id: {}\n", self.text_of(&feed.cursor)));
        events::add(&mut text, "page", &json!({"complete": complete}).to_string());
        text
    }
}

/// The client of a stream is gone, or does not read.
struct Gone;

async fn send(sender: &Sender<Bytes>, text: String) -> Result<(), Gone> {
    match timeout(STUCK_AFTER, sender.send(Bytes::from(text))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Gone),
    }
}

/// What a changed key is now; `None` if that cannot be found out.
async fn read_key(node: &Arc<Node>, pass: &Pass, key: Key, r: u16) -> Option<Read<Value>> {
    let pass = pass.another(node).ok()?;
    let view = node.view();
    // Only home replicas: what W of them have acknowledged is seen.
    let asked = QuorumOptions { n: None, needed: Some(Count::Exactly(r)), sloppy: Some(false) };
    let terms = view.read_terms(&key, &asked).ok()?;
    let conflicts = terms.conflicts;
    let (object, _pass) = kv::read(node, &key, (view, terms), pass).await.ok()?;
    let data_type = conflicts.data_type();
    let has_values = object.value_bytes() <= VALUE_BYTES_MAX;
    let response = match data_type {
        Some(_) if object.is_absent() || object.is_deleted() => deleted(node, &key, &object),
        Some(data_type) => types::shown(&node.contexts, &key, &object, data_type),
        None => {
            let unconditional = HeaderMap::new();
            let look = Representation {
                contexts: &node.contexts,
                key: &key,
                conflicts,
                accept: None,
                sibling: None,
                conditions: ReadConditions::parse(&unconditional).ok()?,
                now: node.now(),
                shows_values: has_values,
            };
            look.at(&object).unwrap_or_else(IntoResponse::into_response)
        }
    };
    let left_out = (!has_values).then(|| object.value_bytes());
    let (change, bytes) = change((&key, data_type.is_some()), response, left_out).await;
    Some(Read { shown: change, version: object.version(), bytes: bytes + AROUND_A_VALUE_BYTES })
}

/// 404 with a context.
fn deleted(node: &Node, key: &Key, object: &Object) -> Response {
    let seen = quorate_protocol::view::context_of(object);
    let context = represent::context(&node.contexts, key, &seen);
    let problem = Problem::new(Kind::KeyDeleted, "the key was written and then deleted");
    problem.header(super::headers::CONTEXT, context).into_response()
}

/// A change: what a batch says of a read of the key. Without a value that is too long.
async fn change(
    (key, is_typed): (&Key, bool),
    response: Response,
    left_out: Option<usize>,
) -> (Value, usize) {
    let response = if left_out.is_some() { response.map(|_| Body::empty()) } else { response };
    let (result, bytes) = batch::result_of(response, |_| true).await;
    let mut change = Map::from_iter([("key".to_owned(), json!(key.key()))]);
    let Value::Object(mut result) = result else { return (Value::Object(change), bytes) };
    if result.remove("problem").is_some() {
        result.insert("deleted".to_owned(), json!(true));
    }
    if let (true, Some(Value::String(text))) = (is_typed, result.get("value"))
        && let Ok(Value::Object(typed)) = serde_json::from_str(text)
    {
        result.extend(typed);
    }
    if let Some(bytes) = left_out {
        result.remove("value");
        result.insert("bytes".to_owned(), json!(bytes));
    }
    change.extend(result);
    (Value::Object(change), bytes)
}

fn no_feed(question: &Question) -> Problem {
    let bucket = &question.bucket;
    let detail = format!(
        "bucket {bucket} has no feed; give it one: PUT /buckets/{bucket} with \"feed_retention_s\", the \
         seconds for which changes are kept, beside its other properties"
    );
    Problem::new(Kind::NoFeed, detail)
}

fn not_a_cursor(error: &ContextError) -> Problem {
    let detail = match error {
        ContextError::Damaged => "is damaged or truncated; send it back exactly as it was given",
        ContextError::Version(_) => "was made by another release; begin again, with cursor=oldest",
        ContextError::UnknownSigner => "was made by another cluster, or signed by a retired key",
        ContextError::Forged => "is forged, or belongs to another bucket or prefix",
    };
    Problem::bad_parameter("cursor", detail)
}
