//! What was recorded of a sampled operation, as spans: one for what this node did, and one for each node that
//! it asked. Names and attributes follow OpenTelemetry's conventions for databases.

use std::time::{Duration, SystemTime};

use quorate_engine::ops::finished::{Finished, Operation, Role, Sample, Work};
use quorate_engine::ops::log::Ended;
use quorate_otlp::{Event as SpanEvent, Kind as SpanKind, Span, Value};
use quorate_protocol::explain::{Event, Events, Kind, Note};
use quorate_protocol::name::{Key, NodeId};
use tokio::time::Instant;

type Attributes = Vec<(&'static str, Value)>;

/// The node that the spans are of.
#[derive(Debug)]
pub(super) struct Origin {
    /// Its name.
    pub(super) node: NodeId,
    /// Where clients reach it: host and port.
    pub(super) addr: (String, u16),
    /// Whether spans name keys.
    pub(super) shows_keys: bool,
}

/// The spans of what is over.
pub(super) fn of(finished: &Finished, origin: &Origin) -> Vec<Span> {
    match finished {
        Finished::Operation { operation, log, ended } => {
            of_operation(operation, &log.events(), ended.as_ref(), origin)
        }
        Finished::Work(work) => vec![of_work(work, origin)],
    }
}

/// The wall-clock time of an instant that is over.
fn wall_time(at: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(at.elapsed()).unwrap_or(now)
}

/// The spans of an operation: its own first.
fn of_operation(
    operation: &Operation,
    events: &Events,
    ended: Option<&Ended>,
    origin: &Origin,
) -> Vec<Span> {
    let Operation { sample, method, key, .. } = operation;
    let (began, events) = (wall_time(operation.arrived), events.list());
    let last_us = events.last().map_or(0, |event| u64::from(event.us));
    let end = began + Duration::from_micros(ended.map_or(last_us, |ended| ended.took_us));
    let failed = ended.filter(|ended| ended.status >= 500).and_then(|ended| ended.problem);
    let mut own = Span {
        end,
        events: events.iter().map(|event| event_of(began, event)).collect(),
        error: failed.map(str::to_owned),
        ..server_span(sample, method, key, began, origin)
    };
    own.attributes.push(("quorate.role", role_name(operation.role).into()));
    if let Some(ended) = ended {
        own.attributes.push(("http.response.status_code", ended.status.into()));
        own.attributes.extend(ended.problem.map(|problem| ("error.type", problem.into())));
        own.attributes.extend(ended.outcome.clone().map(|it| ("quorate.outcome", it.into())));
    }
    let mut spans = vec![own];
    for (at, event) in events.iter().enumerate() {
        let was_asked = events[..at].iter().any(|before| asks(before) && before.node == event.node);
        if asks(event) && !was_asked && event.node != origin.node {
            spans.push(ask_span(sample, &events[at..], began, end));
        }
    }
    spans
}

/// The span of a replica.
fn of_work(work: &Work, origin: &Origin) -> Span {
    let start = wall_time(work.began);
    let mut span = server_span(&work.sample, work.method, &work.key, start, origin);
    span.attributes.push(("quorate.role", "replica".into()));
    let end = start + work.ended.saturating_duration_since(work.began);
    Span { end, error: work.refused.map(|refusal| refusal.to_string()), ..span }
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

fn at(began: SystemTime, event: &Event) -> SystemTime {
    began + Duration::from_micros(event.us.into())
}

fn event_of(began: SystemTime, event: &Event) -> SpanEvent {
    let mut attributes: Attributes = vec![("quorate.peer", event.node.as_str().into())];
    attributes.extend(event.note.text().map(|detail| ("quorate.detail", detail.into())));
    SpanEvent { name: event.kind.name(), at: at(began, event), attributes }
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
fn ask_span(sample: &Sample, events: &[Event], began: SystemTime, end: SystemTime) -> Span {
    let first = &events[0];
    let verb = match (first.kind, first.note) {
        (Kind::Forwarded, _) => "forward to",
        (_, Note::Ask(..)) => "read at",
        _ => "store at",
    };
    let (context, start) = (sample.ask(first.node), at(began, first));
    let last = events.iter().rfind(|event| event.node == first.node && settles(event));
    Span {
        trace: context.trace(),
        id: context.span(),
        parent: Some(sample.context.span()),
        kind: SpanKind::Client,
        name: format!("{verb} {}", first.node),
        start,
        end: last.map_or(end, |event| at(began, event)).max(start),
        attributes: vec![
            ("db.system.name", "quorate".into()),
            ("quorate.peer", first.node.as_str().into()),
        ],
        events: Vec::new(),
        error: last.filter(|event| is_failure(event)).map(|event| event.kind.name().to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::trace_context::TraceContext;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    #[test]
    fn each_node_that_was_asked_has_one_span_below_the_operation() {
        let context = TraceContext::new([7; 16], [9; 8]).unwrap();
        let sample = Sample { context, parent: None };
        let key = Key::new("carts", b"alice").unwrap();
        let (role, arrived) = (Role::Entry, Instant::now());
        let operation = Operation { sample, role, method: "PUT", key, arrived };
        let mut events = Events::default();
        for (us, kind, name) in [
            (1, Kind::Asked, "n1"),
            (2, Kind::Asked, "n2"),
            (2, Kind::Asked, "n3"),
            (5, Kind::Acked, "n2"),
            (9, Kind::Silent, "n3"),
            (9, Kind::Fallback, "n4"),
        ] {
            events.push(Event { us, kind, node: node(name), note: Note::Nothing });
        }
        let addr = ("h".to_owned(), 1);
        let origin = Origin { node: node("n1"), addr, shows_keys: false };
        let (status, problem, took_us) = (503, Some("no_quorum"), 20);
        let ended = Ended { status, problem, outcome: Some("unknown".to_owned()), took_us };
        let spans = of_operation(&operation, &events, Some(&ended), &origin);
        let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["PUT carts", "store at n2", "store at n3", "store at n4"]);
        assert_eq!((spans[0].id, spans[0].parent, spans[0].events.len()), ([9; 8], None, 6));
        assert_eq!(spans[0].error.as_deref(), Some("no_quorum"));
        assert!(!format!("{spans:?}").contains("alice"));
        let took = |at: usize| spans[at].end.duration_since(spans[at].start).unwrap().as_micros();
        assert_eq!([took(0), took(1), took(2), took(3)], [20, 3, 7, 11]);
        for (span, name) in spans[1..].iter().zip(["n2", "n3", "n4"]) {
            assert_eq!((span.parent, span.id), (Some([9; 8]), sample.ask(node(name)).span()));
        }
        assert_eq!(spans[2].error.as_deref(), Some("silent"));
        let shown = of_operation(&operation, &events, None, &Origin { shows_keys: true, ..origin });
        assert!(format!("{shown:?}").contains("alice"));
    }
}
