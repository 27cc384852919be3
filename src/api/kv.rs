//! `/kv/{bucket}/{key}`: the key-value store itself.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::response::Response;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::clock::Dot;
use quorate_protocol::name::Key;
use quorate_protocol::object::{Metadata, Object};
use tokio::time::Instant;

use super::conditions::ReadConditions;
use super::explain::{Arrival, Wish};
use super::headers;
use super::problem::Problem;
use super::query::{OF_READS, OF_WRITES, Params, unfit};
use super::represent::Representation;
use super::write::WriteRequest;
use super::{body, path, permit_body, write};
use quorate_engine::limits::admission::Permit;
use quorate_engine::limits::sizes::LARGE_BYTES;
use quorate_engine::node::Node;
use quorate_engine::ops::coordinator;
use quorate_engine::ops::entry::{self, ReadFailure, ReadOptions};
use quorate_engine::ops::explain::{Facts, Recorder};

const ROUTE: &str = "/kv/";
/// Rough size of an object without its value, in bytes.
const AROUND_A_VALUE_BYTES: usize = 1024;

/// Whether a path is `/kv/` and something after it, valid as a key or not.
pub(super) fn is_key(uri: &Uri) -> bool {
    uri.path().strip_prefix(ROUTE).is_some_and(|rest| !rest.is_empty())
}

/// A parsed GET or HEAD.
struct ReadRequest {
    key: Key,
    headers: HeaderMap,
    conflicts: Conflicts,
    sibling: Option<Dot>,
    shows_values: bool,
    wish: Wish,
}

impl ReadRequest {
    /// Parses the request: how to render the response, and how to read.
    fn parse(
        node: &Node,
        request: Request,
        arrived: Instant,
    ) -> Result<(Self, ReadOptions), Problem> {
        let (parts, _) = request.into_parts();
        let key = path::key(&parts.uri, ROUTE)?;
        let params = Params::parse(parts.uri.query(), OF_READS)?;
        ReadConditions::parse(&parts.headers)?; // validated here, evaluated after the read
        node.accepts_reads()?;
        let options = read_options(node, &key, &params)?;
        let wish = Wish::of(node, arrived, params.explain, &parts.headers);
        let question = Self {
            conflicts: options.terms.conflicts,
            sibling: params.sibling,
            // A HEAD or a trace shows no values, and a context covers only what the client saw.
            shows_values: parts.method != Method::HEAD && !wish.hides_values(),
            wish,
            headers: parts.headers,
            key,
        };
        Ok((question, options))
    }

    fn answer(&self, node: &Node, object: &Object) -> Result<Response, Problem> {
        let accept = self.headers.get(ACCEPT);
        let look = Representation {
            contexts: &node.contexts,
            key: &self.key,
            conflicts: self.conflicts,
            accept,
            sibling: self.sibling,
            conditions: ReadConditions::parse(&self.headers)?,
            now: node.now(),
            shows_values: self.shows_values,
        };
        let mut response = look.at(object)?;
        if accept.is_some_and(is_of_a_page) {
            confine(response.headers_mut());
        }
        Ok(response)
    }
}

/// Whether a browser would show the answer as a page: only then it asks for HTML by name.
fn is_of_a_page(accept: &HeaderValue) -> bool {
    const HTML: &[u8] = b"text/html";
    accept.as_bytes().windows(HTML.len()).any(|word| word.eq_ignore_ascii_case(HTML))
}

/// A stored page must not run with the rights of the console, which has the same origin: it gets an
/// origin of its own, without scripts. Other clients are spared the headers.
fn confine(headers: &mut HeaderMap) {
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// `GET` and `HEAD`: the value, all siblings of a conflict, or one of them.
pub(super) async fn get(
    State(node): State<Arc<Node>>,
    Arrival(arrived): Arrival,
    request: Request,
) -> Result<Response, Problem> {
    let (question, options) = ReadRequest::parse(&node, request, arrived)?;
    let mut permit = node.admission.operation()?;
    let facts = Facts::of_read(&options.terms, options.timeout_ms);
    let (recorder, explained) = question.wish.begin((&node, &options.view), &question.key, facts);
    permit.started(Duration::from_millis(options.timeout_ms));
    let (result, trace) = entry::read(&node, &question.key, options, recorder).await;
    let object = charged(result, facts.n, &mut permit);
    let answer = object.and_then(|object| question.answer(&node, &object));
    let response = explained.end(&node, trace, answer)?;
    Ok(permit_body::until_sent(response, &node.admission, permit))
}

/// Reads R, for a part of another request. The object is charged to the permit; the operation is in flight
/// until that is dropped.
pub(super) async fn read(
    node: &Arc<Node>,
    key: &Key,
    options: ReadOptions,
    mut permit: Permit,
) -> Result<(Arc<Object>, Permit), Problem> {
    permit.started(Duration::from_millis(options.timeout_ms));
    let n = options.terms.n;
    let (result, _) = entry::read(node, key, options, Recorder::off()).await;
    let object = charged(result, n, &mut permit)?;
    Ok((object, permit))
}

/// The object that was read, charged to the permit, or why there is none.
fn charged(
    result: Result<Arc<Object>, ReadFailure>,
    n: u16,
    permit: &mut Permit,
) -> Result<Arc<Object>, Problem> {
    permit.finished();
    let object = result.map_err(|failure| Problem::from(failure).fact("replicas", n))?;
    // Large objects were charged before they were read, and stay charged while held.
    permit.add_bytes(object.value_bytes().min(LARGE_BYTES))?;
    Ok(object)
}

/// The read options of a request, checked against its bucket.
///
/// # Errors
/// 400 that names the invalid parameter.
pub(super) fn read_options(
    node: &Node,
    key: &Key,
    params: &Params,
) -> Result<ReadOptions, Problem> {
    let view = node.view();
    let terms = view.read_terms(key, &params.of_read()).map_err(|error| unfit("r", error))?;
    let timeouts = &node.config.timeouts;
    Ok(ReadOptions {
        view,
        terms,
        timeout_ms: params.timeout_ms(timeouts.request_ms, timeouts.request_ms_max)?,
    })
}

/// `PUT`: a value.
pub(super) async fn put(
    State(node): State<Arc<Node>>,
    Arrival(arrived): Arrival,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, mut body) = request.into_parts();
    let answer = put_value(&node, &parts, &mut body, arrived).await;
    write::end(answer, &parts, &mut body).await
}

async fn put_value(
    node: &Arc<Node>,
    parts: &Parts,
    body: &mut Body,
    arrived: Instant,
) -> Result<Response, Problem> {
    let key = path::key(&parts.uri, ROUTE)?;
    let params = Params::parse(parts.uri.query(), OF_WRITES)?;
    let metadata = headers::metadata(&parts.headers)?;
    let ask = WriteRequest::parse(node, parts, key, &params)?.arrived(arrived);
    let mut permit = node.admission.operation()?;
    let mut bytes_max = node.config.limits.value_bytes_max;
    if body.size_hint().lower() > LARGE_BYTES as u64 {
        bytes_max = bytes_max.min(coordinator::bytes_max(node));
    }
    let value = body::read(body, bytes_max, node.config.timeouts.body_ms, &mut permit).await?;
    if value.len() > LARGE_BYTES {
        // Recorded with its overhead, so that the next read here need not ask for the length.
        node.bounds.sizes.saw(&ask.key, value.len() + AROUND_A_VALUE_BYTES);
    }
    let id = ask.write_id(&metadata, &value);
    ask.carry_out(node, id, metadata, Some(value), permit).await
}

/// `DELETE`: a tombstone. Without a context it deletes what a read of R returns.
pub(super) async fn delete(
    State(node): State<Arc<Node>>,
    Arrival(arrived): Arrival,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, mut body) = request.into_parts();
    let answer = put_tombstone(&node, &parts, arrived).await;
    write::end(answer, &parts, &mut body).await
}

async fn put_tombstone(
    node: &Arc<Node>,
    parts: &Parts,
    arrived: Instant,
) -> Result<Response, Problem> {
    let key = path::key(&parts.uri, ROUTE)?;
    let params = Params::parse(parts.uri.query(), OF_WRITES)?;
    let ask = WriteRequest::parse(node, parts, key, &params)?.arrived(arrived);
    let permit = node.admission.operation()?;
    let id = ask.write_id(&Metadata::default(), &[]);
    ask.carry_out(node, id, Metadata::default(), None, permit).await
}
