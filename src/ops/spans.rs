//! What was recorded of a sampled operation, as spans: one for what this node did, and one for each node that
//! it asked. Names and attributes follow OpenTelemetry's conventions for databases.

use std::time::{Duration, SystemTime};

use quorate_otlp::{Event as SpanEvent, Kind as SpanKind, Span, Value};
use quorate_protocol::explain::{Event, Events, Kind, Note};
use quorate_protocol::message::Refusal;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::trace_context::TraceContext;

use crate::ops::ended::Ended;
use crate::ops::sampler::{Origin, Sample};

type Attributes = Vec<(&'static str, Value)>;

/// The part that a node plays in an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It took the request, and coordinates it unless another node does.
    Entry,
    /// It coordinates a write that was forwarded to it.
    Coordinator,
}

/// A sampled operation.
#[derive(Debug)]
pub(crate) struct Operation {
    /// Its span, and the one that asks for it.
    pub(crate) sample: Sample,
    /// What this node is in it.
    pub(crate) role: Role,
    /// The HTTP method.
    pub(crate) method: &'static str,
    /// The key.
    pub(crate) key: Key,
    /// When it arrived: events count from here.
    pub(crate) began: SystemTime,
}

/// What a replica did for one.
#[derive(Debug)]
pub(crate) struct Work {
    /// Its span, and the one that asks for it.
    pub(crate) sample: Sample,
    /// `STORE` or `READ`.
    pub(crate) method: &'static str,
    /// The key.
    pub(crate) key: Key,
    /// When it began.
    pub(crate) start: SystemTime,
    /// When it ended.
    pub(crate) end: SystemTime,
    /// Why the replica did nothing, if so.
    pub(crate) refused: Option<Refusal>,
}

/// The span of what an operation asks of a node. The node is told this, and its own span is below it.
pub(crate) fn of_ask(operation: &TraceContext, node: NodeId) -> TraceContext {
    operation.child(node.as_str().as_bytes())
}

/// The spans of an operation: its own first.
pub(crate) fn of_operation(
    operation: &Operation,
    events: &Events,
    ended: Option<&Ended>,
    origin: &Origin,
) -> Vec<Span> {
    let events = events.list();
    let last_us = events.last().map_or(0, |event| u64::from(event.us));
    let end_us = ended.map_or(last_us, |ended| ended.took_us);
    let mut own = Span {
        end: operation.began + Duration::from_micros(end_us),
        events: events.iter().map(|event| event_of(operation, event)).collect(),
        error: ended
            .filter(|ended| ended.status >= 500)
            .and_then(|ended| ended.problem)
            .map(Into::into),
        ..server_span(&operation.sample, operation.method, &operation.key, operation.began, origin)
    };
    own.attributes.push(("quorate.role", role_name(operation.role).into()));
    if let Some(ended) = ended {
        own.attributes.push(("http.response.status_code", ended.status.into()));
        own.attributes.extend(ended.problem.map(|problem| ("error.type", problem.into())));
        own.attributes.extend(ended.outcome.clone().map(|it| ("quorate.outcome", it.into())));
    }
    let mut spans = vec![own];
    for (at, event) in events.iter().enumerate() {
        let is_first = !events[..at].iter().any(|before| asks(before) && before.node == event.node);
        if asks(event) && is_first && event.node != origin.node {
            spans.push(ask_span(operation, &events[at..], end_us));
        }
    }
    spans
}

/// The span of a replica.
pub(crate) fn of_work(work: &Work, origin: &Origin) -> Span {
    let mut span = server_span(&work.sample, work.method, &work.key, work.start, origin);
    span.attributes.push(("quorate.role", "replica".into()));
    Span { end: work.end, error: work.refused.map(|refusal| refusal.to_string()), ..span }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Entry => "entry",
        Role::Coordinator => "coordinator",
    }
}

/// A span of this node, without an end yet.
fn server_span(
    sample: &Sample,
    method: &'static str,
    key: &Key,
    start: SystemTime,
    origin: &Origin,
) -> Span {
    let (host, port) = &origin.addr;
    let mut attributes: Attributes = vec![
        ("db.system.name", "quorate".into()),
        ("db.operation.name", method.into()),
        ("db.collection.name", key.bucket().into()),
        ("server.address", host.as_str().into()),
        ("server.port", (*port).into()),
        ("quorate.node", origin.node.as_str().into()),
    ];
    if origin.shows_keys {
        attributes.push(("quorate.key", key.key().into()));
    }
    Span {
        trace: sample.context.trace(),
        id: sample.context.span(),
        parent: sample.parent,
        kind: SpanKind::Server,
        name: format!("{method} {}", key.bucket()),
        start,
        end: start,
        attributes,
        events: Vec::new(),
        error: None,
    }
}

fn at(operation: &Operation, event: &Event) -> SystemTime {
    operation.began + Duration::from_micros(event.us.into())
}

fn event_of(operation: &Operation, event: &Event) -> SpanEvent {
    let mut attributes: Attributes = vec![("quorate.peer", event.node.as_str().into())];
    attributes.extend(event.note.text().map(|detail| ("quorate.detail", detail.into())));
    SpanEvent { name: event.kind.name(), at: at(operation, event), attributes }
}

/// Whether a node is asked for something that it answers.
fn asks(event: &Event) -> bool {
    matches!(event.kind, Kind::Forwarded | Kind::Asked | Kind::Hedged | Kind::Fallback)
}

/// Whether a node that was asked is heard of again, or given up.
fn settles(event: &Event) -> bool {
    let is_answer = matches!(event.kind, Kind::Replied | Kind::Acked | Kind::Late | Kind::Accepted);
    is_answer || is_failure(event)
}

fn is_failure(event: &Event) -> bool {
    matches!(event.kind, Kind::Refused | Kind::Silent | Kind::NotSent)
}

/// What was asked of the node of the first of `events`, from then until the last that is heard of it; until
/// the end of the operation if nothing is.
fn ask_span(operation: &Operation, events: &[Event], end_us: u64) -> Span {
    let first = &events[0];
    let verb = match (first.kind, first.note) {
        (Kind::Forwarded, _) => "forward to",
        (_, Note::Ask(..)) => "read at",
        _ => "store at",
    };
    let context = of_ask(&operation.sample.context, first.node);
    let last = events.iter().rfind(|event| event.node == first.node && settles(event));
    let ended = operation.began + Duration::from_micros(end_us);
    Span {
        trace: context.trace(),
        id: context.span(),
        parent: Some(operation.sample.context.span()),
        kind: SpanKind::Client,
        name: format!("{verb} {}", first.node),
        start: at(operation, first),
        end: last.map_or(ended, |event| at(operation, event)).max(at(operation, first)),
        attributes: vec![
            ("db.system.name", "quorate".into()),
            ("quorate.peer", first.node.as_str().into()),
        ],
        events: Vec::new(),
        error: last.filter(|event| is_failure(event)).map(|event| event.kind.name().to_owned()),
    }
}
