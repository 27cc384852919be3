//! Shared by PUT, DELETE and resolutions: the request as sent to a coordinator, and the response.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::header::{ACCEPT, ETAG};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use quorate_protocol::access::Action;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::context::{Context, ContextKeys};
use quorate_protocol::data_type::Operation;
use quorate_protocol::lifetime::Lifetime;
use quorate_protocol::message::{Condition, Write, WriteAnswer, WrittenAnswer};
use quorate_protocol::name::Key;
use quorate_protocol::object::{Metadata, WriteId};
use quorate_protocol::row::Draft;
use quorate_protocol::terms::QuorumOptions;
use tokio::time::Instant;

use super::conditions::{self, ReadConditions};
use super::explain::Wish;
use super::gate::{Gate, Pass};
use super::headers::{self, ACKS, CONTEXT, HINTS, SIBLINGS};
use super::problem::{Kind, Problem};
use super::query::{Params, unfit};
use super::represent::{self, Representation};
use super::{body, refusal, types};
use quorate_engine::node::Node;
use quorate_engine::ops::entry::{self, WriteOutcome};
use quorate_engine::ops::explain::Facts;

/// The headers of most answers, with those that every answer has: what is made for them need not grow.
const HEADERS_USUAL: usize = 8;

/// What a write puts there.
pub(super) enum Change {
    /// A value with its metadata, or a tombstone.
    Value(Metadata, Option<Bytes>),
    /// An operation on a typed value.
    Typed(Operation),
}

/// A parsed write request, without the value.
pub(super) struct WriteRequest<'a> {
    parts: &'a Parts,
    pub(super) key: Key,
    asked: QuorumOptions,
    return_body: bool,
    /// The context, as sent and as verified.
    context: Option<(&'a str, Context)>,
    condition: Option<Condition>,
    idempotency_key: Option<&'a [u8]>,
    /// How long the value lives.
    pub(super) lifetime: Lifetime,
    wish: Wish,
}

impl<'a> WriteRequest<'a> {
    /// Parses the headers and parameters.
    ///
    /// # Errors
    /// 400 if any is invalid.
    pub(super) fn parse(
        gate: &Gate,
        parts: &'a Parts,
        key: Key,
        params: &Params,
    ) -> Result<Self, Problem> {
        if params.return_body {
            gate.also(Action::Read, &key)?;
        }
        let condition = conditions::condition(&parts.headers)?;
        let idempotency_key = headers::idempotency_key(&parts.headers)?;
        let lifetime = headers::lifetime(&parts.headers)?;
        let context = gate.seen(&parts.headers, &key)?;
        let wish = Wish::of(&gate.node, gate.arrived, params.explain, &parts.headers);
        Ok(Self {
            parts,
            asked: params.of_write(),
            // A trace shows no values, and a context covers only what the client saw.
            return_body: params.return_body && !wish.hides_values(),
            key,
            context,
            condition,
            idempotency_key,
            lifetime,
            wish,
        })
    }

    /// Checks the quorum against the key's bucket: before the body is here, so that no client uploads it in
    /// vain. It is checked again afterwards.
    ///
    /// # Errors
    /// 400 that names the invalid parameter.
    pub(super) fn check(&self, node: &Node) -> Result<(), Problem> {
        node.view().check_write(&self.key, &self.asked).map_err(|error| unfit("w", error))
    }

    /// The client's context.
    pub(super) fn seen(&self) -> Option<&Context> {
        self.context.as_ref().map(|(_, seen)| seen)
    }

    /// Whether the request has `If-Match` or `If-None-Match`.
    pub(super) fn is_conditional(&self) -> bool {
        self.condition.is_some()
    }

    /// The ID of this write. With an `Idempotency-Key` it is a hash over the whole request, so that
    /// a retry gets the same ID and a different request under the same key does not; without one it
    /// is random.
    pub(super) fn write_id(&self, metadata: &Metadata, body: &[u8]) -> WriteId {
        let Some(idempotency_key) = self.idempotency_key else { return WriteId(rand::random()) };
        let mut hasher = blake3::Hasher::new();
        let context = self.context.as_ref().map_or("", |(text, _)| text);
        for part in [
            idempotency_key,
            self.parts.method.as_str().as_bytes(),
            self.key.as_bytes(),
            context.as_bytes(),
            metadata.content_type.as_bytes(),
            &(metadata.user.len() as u64).to_le_bytes(),
        ] {
            feed(&mut hasher, part);
        }
        for (name, value) in &metadata.user {
            feed(&mut hasher, name.as_bytes());
            feed(&mut hasher, value.as_bytes());
        }
        feed(&mut hasher, body);
        // Last, and only if it is said: else the same request had another id before there were lifetimes.
        match self.lifetime {
            Lifetime::OfBucket => {}
            Lifetime::Unlimited => feed(&mut hasher, b"never"),
            Lifetime::Limited { seconds } => feed(&mut hasher, &seconds.to_le_bytes()),
        }
        WriteId(first_half(&hasher.finalize()))
    }

    /// Carries out a change, and builds the response.
    ///
    /// # Errors
    /// What became of the write, if it failed.
    pub(super) async fn carry_out(
        self,
        node: &Arc<Node>,
        write_id: WriteId,
        change: Change,
        mut pass: Pass,
    ) -> Result<Response, Problem> {
        let view = node.view();
        let terms = view.write_terms(&self.key, &self.asked).map_err(|error| unfit("w", error))?;
        let (n, conflicts) = (terms.n, terms.conflicts);
        let (began, timeout_ms) = (Instant::now(), pass.timeout_ms);
        pass.begin();
        let mut write = self.to_write(write_id, change, timeout_ms);
        let bytes = write.draft.value.as_ref().map_or(0, Bytes::len);
        let facts = Facts::of_write(&write, &terms);
        let (recorder, explained) = self.wish.begin((node, &view), &self.key, facts);
        write.explain = explained.id();
        let mut outcome = entry::write(node, write, (view, terms), recorder).await;
        pass.end();
        node.admission.written(bytes, began, pass.timeout());
        let trace = outcome.trace.take();
        explained.end(node, trace, self.answer(node, outcome, n, conflicts))
    }

    fn to_write(&self, write_id: WriteId, change: Change, timeout_ms: u64) -> Write {
        let (metadata, value, operation) = match change {
            Change::Value(metadata, value) => (metadata, value, None),
            Change::Typed(operation) => (Metadata::default(), None, Some(operation)),
        };
        let seen = self.seen().cloned().unwrap_or_default();
        let idempotency = self.idempotency_key.map(|idempotency_key| {
            let mut hasher = blake3::Hasher::new();
            feed(&mut hasher, idempotency_key);
            feed(&mut hasher, self.key.as_bytes());
            first_half(&hasher.finalize())
        });
        Write {
            key: self.key.clone(),
            has_value: value.is_some() || operation.is_some(),
            delete_seen: self.parts.method == Method::DELETE && self.context.is_none(),
            draft: Draft {
                context: seen.clock,
                context_stamp: seen.stamp,
                metadata,
                write_id,
                operation,
                value,
                lifetime: self.lifetime,
                ..Draft::default()
            },
            asked: self.asked,
            condition: self.condition.clone(),
            idempotency,
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
            return_body: self.return_body,
            explain: None,
        }
    }

    fn answer(
        &self,
        node: &Node,
        outcome: WriteOutcome,
        n: u16,
        conflicts: Conflicts,
    ) -> Result<Response, Problem> {
        let contexts = &node.contexts;
        let WriteOutcome { answer, object, trace: _ } = outcome;
        let written = match answer {
            WriteAnswer::Written(written) => written,
            WriteAnswer::NoQuorum { required, acks, outcome } => {
                return Err(refusal::no_quorum(required, n, &acks, outcome));
            }
            WriteAnswer::NoReadQuorum { required, counted } => {
                return Err(refusal::no_read_before_write(required, counted));
            }
            WriteAnswer::ConditionFailed => {
                let detail = "what is stored does not satisfy If-Match or If-None-Match";
                return Err(Problem::new(Kind::ConditionFailed, detail));
            }
            WriteAnswer::IdempotencyKeyReused => {
                let detail = "use a new Idempotency-Key for every new request";
                return Err(Problem::new(Kind::IdempotencyKeyReused, detail));
            }
            WriteAnswer::Refused(error) => return Err(error.into()),
            WriteAnswer::Unavailable(refusal) => return Err(refusal.into()),
            WriteAnswer::InvalidQuorum(error) => return Err(unfit("w", error)),
        };
        let data_type = conflicts.data_type().filter(|_| self.parts.method == Method::POST);
        let mut response = match (object, data_type) {
            (Some(object), Some(data_type)) if self.return_body => {
                types::shown(contexts, &self.key, &object, data_type)
            }
            (Some(object), None) if self.return_body && !object.is_deleted() => {
                let look = Representation {
                    contexts,
                    key: &self.key,
                    conflicts,
                    accept: self.parts.headers.get(ACCEPT),
                    sibling: None,
                    conditions: ReadConditions::default(),
                    now: node.now(),
                    shows_values: true,
                };
                look.at(&object)?
            }
            _ => self.without_values(contexts, &written),
        };
        let headers = response.headers_mut();
        if data_type.is_none() {
            headers.insert(SIBLINGS, HeaderValue::from(written.siblings));
        }
        headers.insert(ACKS, HeaderValue::from(written.acks));
        headers.insert(HINTS, HeaderValue::from(written.hints));
        Ok(response)
    }

    /// Status 204. The client saw only its own sibling: it gets a context (and a tag to match) only
    /// if there is no other.
    fn without_values(&self, contexts: &ContextKeys, written: &WrittenAnswer) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        *response.headers_mut() = HeaderMap::with_capacity(HEADERS_USUAL);
        if let Some(seen) = &written.seen {
            let headers = response.headers_mut();
            headers.insert(CONTEXT, represent::context(contexts, &self.key, seen));
            headers.insert(ETAG, represent::etag(written.version, ""));
        }
        response
    }
}

/// Finishes every write request. The unread body of a rejected request is drained; a failure of the
/// service always reports what became of the write.
pub(super) async fn end(
    answer: Result<Response, Problem>,
    parts: &Parts,
    body: &mut Body,
) -> Result<Response, Problem> {
    if answer.is_err() {
        body::discard(parts, body).await;
    }
    answer.map_err(Problem::nothing_written)
}

/// Hashes one part prefixed with its length, so that different requests never hash the
/// same bytes.
fn feed(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}

fn first_half(hash: &blake3::Hash) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&hash.as_bytes()[..16]);
    half
}
