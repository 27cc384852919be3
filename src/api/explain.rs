//! Explained requests: `?explain=true`, `GET /explain` and `GET /explain/{id}` (docs/explain.md).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use quorate_protocol::explain::{Event, Kind};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::trace_context::TraceParent;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::gate::Gate;
use super::headers::SIBLINGS;
use super::problem::{Kind as ProblemKind, Problem};
use super::represent;
use super::route::Answer;
use quorate_engine::cluster::view::ClusterView;
use quorate_engine::node::Node;
use quorate_engine::ops::explain::{
    self, Arrived, Ended, Facts, Reason, Recorder, Timeline, Trace,
};
use quorate_engine::ops::sampled::Sampled;

/// The id of the request's trace.
const EXPLAIN: HeaderName = HeaderName::from_static("quorate-explain");
/// The client's own trace (W3C trace context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The media type of a trace.
const TRACE_TYPE: &str = "application/vnd.quorate.explain+json";
/// The length of a listing for which no limit is given.
const LIMIT_DEFAULT: usize = 100;
/// Why a read is coordinated where it arrived.
const READS: &str = "entry node, as every node coordinates the reads that reach it";

/// What a client wants to know about its request.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    arrived: Arrived,
    /// Whether the answer is the trace instead of the usual one.
    as_body: bool,
}

impl Wish {
    /// What the request says.
    pub(super) fn of(node: &Node, at: Instant, is_asked: bool, headers: &HeaderMap) -> Self {
        let traceparent = || TraceParent::parse(headers.get(TRACEPARENT)?.as_bytes());
        let arrived = Arrived { at, is_asked, sample: node.sampler.choose(traceparent) };
        Self { arrived, as_body: is_asked && wants_trace(headers) }
    }

    /// Whether the client is shown the trace instead of values.
    pub(super) fn hides_values(&self) -> bool {
        self.as_body
    }

    /// Begins recording.
    pub(super) fn begin(
        self,
        at: (&Node, &ClusterView),
        key: &Key,
        facts: Facts,
    ) -> (Recorder, Explained) {
        let (recorder, asked) = explain::begin(at, key, facts, self.arrived);
        let sampled = recorder.sample().map(Arc::clone);
        (recorder, Explained { wish: self, asked, sampled })
    }
}

/// A request whose operation is being recorded.
pub(super) struct Explained {
    wish: Wish,
    asked: Option<Arc<Trace>>,
    /// Held until the request is answered: it is exported when nobody holds it.
    sampled: Option<Arc<Sampled>>,
}

impl Explained {
    /// The number of the trace, if the client asked for one.
    pub(super) fn id(&self) -> Option<u64> {
        self.asked.as_ref().map(|trace| trace.id)
    }

    /// Completes the trace, if one is kept, with how the request ended; `tail` is that of a slow or failed
    /// operation. Adds its id to the answer if the client asked for it, or replaces the answer by it.
    ///
    /// # Errors
    /// The problem that was the answer.
    pub(super) fn end(
        self,
        node: &Node,
        tail: Option<Arc<Trace>>,
        answer: Result<Response, Problem>,
    ) -> Result<Response, Problem> {
        if let Some(sampled) = &self.sampled {
            sampled.end(ended(&answer, self.wish.arrived.at));
        }
        if let Some(trace) = self.asked.as_ref().or(tail.as_ref()) {
            trace.end(ended(&answer, self.wish.arrived.at));
        }
        let Some(trace) = self.asked else { return answer };
        let id = HeaderValue::try_from(id_text(trace.id));
        let id = id.unwrap_or(HeaderValue::from_static(""));
        if self.wish.as_body {
            return Ok(instead_of(answer, node.me, &trace, id));
        }
        match answer {
            Ok(mut response) => {
                response.headers_mut().insert(EXPLAIN, id);
                Ok(response)
            }
            Err(problem) => Err(problem.header(EXPLAIN, id)),
        }
    }
}

fn ended(answer: &Result<Response, Problem>, arrived: Instant) -> Ended {
    let took_us = arrived.elapsed().as_micros() as u64;
    match answer {
        Ok(response) => {
            let status = response.status().as_u16();
            Ended { status, problem: None, outcome: None, took_us }
        }
        Err(problem) => Ended {
            status: problem.status().as_u16(),
            problem: Some(problem.name()),
            outcome: problem.text_fact("outcome"),
            took_us,
        },
    }
}

/// The trace as the answer, with the status of the request, unless that allows no body: then 200. Of the
/// usual answer's headers only those stay that are true without its body.
fn instead_of(
    answer: Result<Response, Problem>,
    me: NodeId,
    trace: &Trace,
    id: HeaderValue,
) -> Response {
    let is_problem = answer.is_err();
    let usual = answer.into_response();
    let is_read = trace.facts.method == "GET";
    let mut response = Response::new(Body::from(format!("{}\n", trace_json(me, trace))));
    *response.status_mut() = match usual.status() {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => StatusCode::OK,
        status => status,
    };
    if is_read && !is_problem {
        if let Some(siblings) = usual.headers().get(SIBLINGS) {
            response.headers_mut().insert(SIBLINGS, siblings.clone());
        }
    } else {
        *response.headers_mut() = usual.headers().clone();
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TRACE_TYPE));
    response.headers_mut().insert(EXPLAIN, id);
    response
}

/// Whether `Accept` names the type of a trace. A wildcard does not: without being asked for, the answer
/// stays the usual one.
fn wants_trace(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    ranges.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(TRACE_TYPE));
        let mut weights = parts.filter_map(|part| part.strip_prefix("q="));
        is_named && !weights.any(|q| q.parse::<f32>().is_ok_and(|q| q <= 0.0))
    })
}

/// `GET /explain?slow=&limit=`: the kept traces, newest first.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT);
    let traces = gate.node.explanations.newest(params.slow, limit);
    let traces: Vec<Value> = traces.iter().map(|trace| summary(trace)).collect();
    Ok(represent::json(&json!({"traces": traces})))
}

/// `GET /explain/{id}`: one trace.
pub(super) async fn show(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let id = parse_id(gate.rest(request.uri()))
        .ok_or_else(|| Problem::bad_path("the id of a trace is 16 hexadecimal digits"))?;
    let trace = gate.node.explanations.find(id).ok_or_else(|| {
        let detail = "this node keeps no trace of this id (any more); it kept it only if it was the entry \
                      node, and keeps the last few hundred";
        Problem::new(ProblemKind::NoSuchExplanation, detail)
    })?;
    let mut response = represent::json(&trace_json(gate.node.me, &trace));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TRACE_TYPE));
    Ok(response)
}

fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

fn parse_id(text: &str) -> Option<u64> {
    let is_digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_digits.then(|| u64::from_str_radix(text, 16).ok())?
}

fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Asked => "asked",
        Reason::Slow => "slow",
        Reason::Failed => "failed",
    }
}

/// One line of the listing.
fn summary(trace: &Trace) -> Value {
    let ended = trace.ended();
    json!({
        "id": id_text(trace.id),
        "at": represent::rfc3339(trace.subject.at),
        "method": trace.facts.method,
        "bucket": trace.subject.key.bucket(),
        "key": trace.subject.key.key(),
        "status": ended.map(|ended| ended.status),
        "took_us": ended.map(|ended| ended.took_us),
        "why": reason_name(trace.reason),
    })
}

/// A trace as `GET /explain/{id}` shows it; `me` is the entry node.
fn trace_json(me: NodeId, trace: &Trace) -> Value {
    let Timeline { events, is_done, is_truncated } = trace.timeline();
    let ended = trace.ended();
    let quorum = events.iter().find(|event| event.kind == Kind::Quorum);
    let facts = &trace.facts;
    json!({
        "id": id_text(trace.id),
        "at": represent::rfc3339(trace.subject.at),
        "why": reason_name(trace.reason),
        "method": facts.method,
        "bucket": trace.subject.key.bucket(),
        "key": trace.subject.key.key(),
        "entry": me,
        "coordinator": coordinator_json(me, trace, &events),
        "n": facts.n,
        "needed": facts.needed,
        "sloppy": facts.sloppy,
        "timeout_ms": facts.timeout_ms,
        "preference_list": trace.subject.preference_list,
        "status": ended.map(|ended| ended.status),
        "problem": ended.and_then(|ended| ended.problem),
        "took_us": ended.map(|ended| ended.took_us),
        "quorum_us": quorum.map(|event| event.us),
        "done": is_done,
        "truncated": is_truncated,
        "events": events_json(me, &events, ended),
    })
}

/// The events in order of time, with the answer among them. Nothing is over before the client is answered,
/// even if no node had anything left to do.
fn events_json(me: NodeId, events: &[Event], ended: Option<&Ended>) -> Vec<Value> {
    let Some(ended) = ended else { return events.iter().map(event_json).collect() };
    let took_us = u32::try_from(ended.took_us).unwrap_or(u32::MAX);
    let is_before = |event: &&Event| event.us <= took_us && event.kind != Kind::Done;
    let late = |event: &Event| event_json(&Event { us: event.us.max(took_us), ..*event });
    let mut shown: Vec<Value> = events.iter().filter(is_before).map(event_json).collect();
    shown.push(answered_json(me, ended));
    shown.extend(events.iter().filter(|event| !is_before(event)).map(late));
    shown
}

/// Who coordinated: the node that was chosen last, and why. `null` if a write found none to try.
fn coordinator_json(me: NodeId, trace: &Trace, events: &[Event]) -> Value {
    if trace.facts.method == "GET" {
        return json!({"node": me, "why": READS});
    }
    let chosen = events.iter().rfind(|event| event.kind == Kind::Routed);
    chosen.map_or(Value::Null, |event| json!({"node": event.node, "why": event.note.text()}))
}

fn event_json(event: &Event) -> Value {
    let Event { us, kind, node, note } = event;
    json!({"us": us, "node": node, "what": kind.name(), "detail": note.text()})
}

fn answered_json(me: NodeId, ended: &Ended) -> Value {
    let detail = match (ended.problem, &ended.outcome) {
        (None, _) => ended.status.to_string(),
        (Some(problem), None) => format!("{} {problem}", ended.status),
        (Some(problem), Some(outcome)) => format!("{} {problem}: {outcome}", ended.status),
    };
    json!({"us": ended.took_us, "node": me, "what": Kind::Answered.name(), "detail": detail})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::headers::tests::headers;
    use super::*;

    #[test]
    fn a_trace_must_be_named_to_be_the_answer() {
        let wants = |accept: &str| wants_trace(&headers(&[("accept", accept)]));
        assert!(wants(TRACE_TYPE));
        assert!(wants("text/plain, Application/VND.quorate.explain+json;q=0.5"));
        for accept in ["*/*", "application/*", "application/json", "", TRACE_TYPE[1..].as_ref()] {
            assert!(!wants(accept), "{accept}");
        }
        assert!(!wants(&format!("{TRACE_TYPE};q=0")));
        assert!(!wants_trace(&HeaderMap::new()));
    }

    #[test]
    fn ids_are_sixteen_digits() {
        assert_eq!(parse_id(&id_text(0x0123_4567_89ab_cdef)), Some(0x0123_4567_89ab_cdef));
        assert_eq!(parse_id("00000000000000FF"), Some(255));
        for bad in [
            "",
            "1",
            "+123456789abcdef",
            "0123456789abcdefa",
            "0123456789abcdeg",
            "0123456789abcdé",
        ] {
            assert_eq!(parse_id(bad), None, "{bad}");
        }
    }
}
