//! `/kv/{bucket}/{key}`: the key-value store itself.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::clock::Dot;
use quorate_protocol::name::Key;
use quorate_protocol::object::{Metadata, Object};
use quorate_protocol::terms::Terms;

use super::conditions::ReadConditions;
use super::explain::Wish;
use super::gate::{Gate, Pass};
use super::problem::Problem;
use super::query::{Params, unfit};
use super::represent::Representation;
use super::route::Answer;
use super::write::{Change, WriteRequest};
use super::{body, headers, index_entries, permit_body, represent, wait, write};
use quorate_engine::cluster::view::ClusterView;
use quorate_engine::limits::sizes::LARGE_BYTES;
use quorate_engine::node::Node;
use quorate_engine::ops::coordinator;
use quorate_engine::ops::entry::{self, ReadFailure, ReadOptions};
use quorate_engine::ops::explain::{Facts, Recorder, Trace};

/// Rough size of an object without its value, in bytes.
const AROUND_A_VALUE_BYTES: usize = 1024;

/// A parsed GET or HEAD.
pub(super) struct ReadRequest {
    key: Key,
    headers: HeaderMap,
    conflicts: Conflicts,
    sibling: Option<Dot>,
    shows_values: bool,
    wish: Wish,
}

impl ReadRequest {
    /// Parses the request: how to render the response, and how to read.
    ///
    /// # Errors
    /// 400 if anything is invalid, and those of the gate.
    pub(super) fn parse(
        gate: &Gate,
        parts: Parts,
        params: &Params,
    ) -> Result<(Self, (ClusterView, Terms), Pass), Problem> {
        let key = gate.key(&parts.uri)?;
        ReadConditions::parse(&parts.headers)?; // validated here, evaluated after the read
        let ((view, terms), pass) =
            gate.enter_if(params, |node| match read_terms(node, &key, params)? {
                (_, terms) if terms.conflicts.data_type().is_some() => Err(represent::typed(&key)),
                read => Ok(read),
            })?;
        let wish = Wish::of(&gate.node, gate.arrived, params.explain, &parts.headers);
        let question = Self {
            conflicts: terms.conflicts,
            sibling: params.sibling,
            // A HEAD or a trace shows no values, and a context covers only what the client saw.
            shows_values: parts.method != Method::HEAD && !wish.hides_values(),
            wish,
            headers: parts.headers,
            key,
        };
        Ok((question, (view, terms), pass))
    }

    /// Renders what was read.
    ///
    /// # Errors
    /// 404 if there is nothing to show.
    pub(super) fn answer(&self, node: &Node, object: &Object) -> Result<Response, Problem> {
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
pub(super) async fn get(gate: Gate, request: Request) -> Answer {
    let (parts, _) = request.into_parts();
    let params = gate.params(&parts.uri)?;
    if let Some(wait_ms) = params.wait_ms {
        if params.explain {
            let detail = "a request that waits cannot be explained";
            return Err(Problem::bad_parameter("wait_ms", detail));
        }
        return Box::pin(wait::get(gate, parts, params, wait_ms)).await;
    }
    let (question, (view, terms), mut pass) = ReadRequest::parse(&gate, parts, &params)?;
    let node = gate.node;
    let facts = Facts::of_read(&terms, pass.timeout_ms);
    let (recorder, explained) = question.wish.begin((&node, &view), &question.key, facts);
    let (object, trace) =
        read_recorded(&node, &question.key, (view, terms), &mut pass, recorder).await;
    let answer = object.and_then(|object| question.answer(&node, &object));
    let response = explained.end(&node, trace, answer)?;
    Ok(permit_body::until_sent(response, &node.admission, pass.permit))
}

/// Reads R, for a part of another request. The object is charged to the pass; the operation is in flight
/// until that is dropped.
pub(super) async fn read(
    node: &Arc<Node>,
    key: &Key,
    (view, terms): (ClusterView, Terms),
    mut pass: Pass,
) -> Result<(Arc<Object>, Pass), Problem> {
    let (object, _) = read_recorded(node, key, (view, terms), &mut pass, Recorder::off()).await;
    Ok((object?, pass))
}

/// The same, recorded; with the trace, if it is kept.
pub(super) async fn read_recorded(
    node: &Arc<Node>,
    key: &Key,
    (view, terms): (ClusterView, Terms),
    pass: &mut Pass,
    recorder: Recorder,
) -> (Result<Arc<Object>, Problem>, Option<Arc<Trace>>) {
    pass.begin();
    let n = terms.n;
    let options = ReadOptions { view, terms, timeout_ms: pass.timeout_ms };
    let (result, trace) = entry::read(node, key, options, recorder).await;
    (charged(result, n, pass), trace)
}

/// The object that was read, charged to the pass, or why there is none.
fn charged(
    result: Result<Arc<Object>, ReadFailure>,
    n: u16,
    pass: &mut Pass,
) -> Result<Arc<Object>, Problem> {
    pass.end();
    let object = result.map_err(|failure| Problem::from(failure).fact("replicas", n))?;
    // Large objects were charged before they were read, and stay charged while held.
    pass.permit.add_bytes(object.value_bytes().min(LARGE_BYTES))?;
    Ok(object)
}

/// The quorum that a read asks for, checked against its bucket.
///
/// # Errors
/// 400 that names the invalid parameter.
pub(super) fn read_terms(
    node: &Node,
    key: &Key,
    params: &Params,
) -> Result<(ClusterView, Terms), Problem> {
    let view = node.view();
    let terms = view.read_terms(key, &params.of_read()).map_err(|error| unfit("r", error))?;
    Ok((view, terms))
}

/// `PUT`: a value.
pub(super) async fn put(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = put_value(&gate, &parts, &mut body).await;
    write::end(answer, &parts, &mut body).await
}

async fn put_value(gate: &Gate, parts: &Parts, body: &mut Body) -> Answer {
    let key = gate.key(&parts.uri)?;
    let params = gate.params(&parts.uri)?;
    let metadata = headers::metadata(&parts.headers)?;
    let ask = WriteRequest::parse(gate, parts, key, &params)?;
    let (_, mut pass) = gate.enter_if(&params, |node| ask.check(node))?;
    let node = &gate.node;
    let mut bytes_max = node.config.limits.value_bytes_max;
    if body.size_hint().lower() > LARGE_BYTES as u64 {
        bytes_max = bytes_max.min(coordinator::bytes_max(node));
    }
    let body_ms = node.config.timeouts.body_ms;
    let value = body::read(body, bytes_max, body_ms, &mut pass.permit).await?;
    if value.len() > LARGE_BYTES {
        // Recorded with its overhead, so that the next read here need not ask for the length.
        node.bounds.sizes.saw(&ask.key, value.len() + AROUND_A_VALUE_BYTES);
    }
    let id = ask.write_id(&metadata, &value);
    ask.carry_out(node, id, Change::Value(metadata, Some(value)), pass).await
}

/// `DELETE`: a tombstone. Without a context it deletes what a read of R returns.
pub(super) async fn delete(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    let answer = put_tombstone(&gate, &parts).await;
    write::end(answer, &parts, &mut body).await
}

async fn put_tombstone(gate: &Gate, parts: &Parts) -> Answer {
    let key = gate.key(&parts.uri)?;
    let params = gate.params(&parts.uri)?;
    headers::refuse_lifetime(&parts.headers, "a delete writes no value that could expire")?;
    index_entries::refuse(&parts.headers, "a delete writes no value that could be found")?;
    let ask = WriteRequest::parse(gate, parts, key, &params)?;
    let (_, pass) = gate.enter_if(&params, |node| ask.check(node))?;
    let id = ask.write_id(&Metadata::default(), &[]);
    let tombstone = Change::Value(Metadata::default(), None);
    ask.carry_out(&gate.node, id, tombstone, pass).await
}
