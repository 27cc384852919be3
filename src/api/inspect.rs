//! `GET /siblings/{bucket}/{key}`: one key as each replica holds it. Read-only.

use axum::extract::Request;
use axum::response::Response;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Sibling};
use quorate_protocol::view::context_of;
use serde_json::{Map, Value, json};

use super::gate::Gate;
use super::headers::CONTEXT;
use super::pieces::Later;
use super::problem::{Kind, Problem};
use super::route::Answer;
use super::{buckets, permit_body, represent};
use quorate_engine::node::Node;
use quorate_engine::ops::entry::{self, ReplicaView};

/// Every sibling, the nodes that hold it, and how each replica compares with the merge.
pub(super) async fn inspect(gate: Gate, request: Request) -> Answer {
    let key = gate.key(request.uri())?;
    let params = gate.params(request.uri())?;
    let mut pass = gate.enter(&params)?;
    let node = gate.node;
    // Every replica sends its whole object: only a few inspections run at a time, each with room
    // reserved.
    let Ok(Ok(_turn)) =
        tokio::time::timeout(pass.timeout(), node.bounds.inspections.acquire()).await
    else {
        return Err(Problem::new(Kind::Overloaded, "too many keys are being inspected"));
    };
    let room = node.bounds.sizes.of(&key).saturating_mul(node.view().nodes().count());
    let room = node.admission.charge(room)?;
    pass.begin();
    let views = entry::inspect(&node, &key, pass.timeout_ms).await;
    pass.end();
    drop(room); // each object is charged separately from here on
    Ok(permit_body::until_sent(report(&node, &key, &views), &node.admission, pass.permit))
}

fn report(node: &Node, key: &Key, views: &[ReplicaView]) -> Response {
    let merged = merge(views);
    let properties = node.view().properties(key.bucket());
    let n = usize::from(properties.n).min(views.len());
    let (homes, fallbacks) = views.split_at(n);
    let context = (!merged.is_absent()).then(|| {
        // All siblings are shown below, so the context may cover all of them.
        represent::context(&node.contexts, key, &context_of(&merged))
    });
    let mut later = Later::new();
    let shown = merged.siblings.iter().map(|s| sibling(s, views, &mut later));
    let siblings: Vec<Value> = shown.collect();
    let replicas: Vec<Value> = homes.iter().map(|home| replica(home, &merged, views)).collect();
    let fallbacks: Vec<Value> = fallbacks.iter().map(fallback).collect();
    let report = json!({
        "bucket": key.bucket(),
        "key": key.key(),
        "partition": node.partition(key).0,
        "n": n,
        "conflicts": buckets::conflicts(properties.conflicts),
        "type": buckets::type_name(properties.conflicts),
        "conflict": merged.is_conflict(),
        "version": merged.version().to_hex(),
        "clock": clock(&merged),
        "context": context.as_ref().and_then(|context| context.to_str().ok()),
        "siblings": siblings,
        "replicas": replicas,
        "fallbacks": fallbacks,
    });
    let mut response = represent::json_with(later, &report);
    if let Some(context) = context {
        response.headers_mut().insert(CONTEXT, context);
    }
    response
}

/// The merge of all replicas and hints.
fn merge(views: &[ReplicaView]) -> Object {
    let mut merged = Object::default();
    for view in views {
        for object in view.object.iter().chain(view.hints.iter().map(|(_, object)| object)) {
            merged.merge(object);
        }
    }
    merged
}

/// A sibling, and the nodes that hold it as a replica or as a hint.
fn sibling(sibling: &Sibling, views: &[ReplicaView], later: &mut Later) -> Value {
    let holds = |view: &&ReplicaView| view.object.as_ref().is_some_and(|o| o.has(sibling.dot));
    let keeps = |view: &&ReplicaView| view.hints.iter().any(|(_, o)| o.has(sibling.dot));
    let names = |views: Vec<&ReplicaView>| views.iter().map(|v| v.node).collect::<Vec<NodeId>>();
    let mut value = represent::sibling_json(sibling, later);
    if let Value::Object(fields) = &mut value {
        fields.insert("held_by".to_owned(), json!(names(views.iter().filter(holds).collect())));
        fields.insert("hinted_at".to_owned(), json!(names(views.iter().filter(keeps).collect())));
    }
    value
}

/// A home replica: its dots, how it compares with the merge, and the hints kept for it elsewhere.
fn replica(view: &ReplicaView, merged: &Object, views: &[ReplicaView]) -> Value {
    let hints: Vec<Value> = views
        .iter()
        .flat_map(|holder| holder.hints.iter().map(move |hint| (holder.node, hint)))
        .filter(|(_, (target, _))| *target == view.node)
        .map(|(holder, (_, object))| json!({"at": holder, "dots": dots(object)}))
        .collect();
    let mut fields = Map::new();
    fields.insert("node".to_owned(), json!(view.node));
    fields.insert("state".to_owned(), json!(state(view, merged)));
    if view.reached {
        let held = view.object.as_ref().map(dots).unwrap_or_default();
        fields.insert("dots".to_owned(), json!(held));
    }
    fields.insert("hints".to_owned(), Value::Array(hints));
    Value::Object(fields)
}

/// A fallback, and the nodes for which it keeps hints.
fn fallback(view: &ReplicaView) -> Value {
    let targets: Vec<NodeId> = view.hints.iter().map(|(target, _)| *target).collect();
    let state = if view.reached { "ok" } else { "unreachable" };
    json!({"node": view.node, "state": state, "hints_for": targets})
}

fn state(view: &ReplicaView, merged: &Object) -> &'static str {
    match &view.object {
        _ if !view.reached => "unreachable",
        Some(object) if object.version() == merged.version() => "ok",
        _ if !view.ready => "not_ready",
        Some(object) if !object.is_absent() => "behind",
        Some(_) | None if merged.is_absent() => "ok",
        Some(_) | None => "missing",
    }
}

/// The last write of each actor: it and all earlier ones are siblings or superseded.
fn clock(object: &Object) -> Vec<String> {
    object.clock.entries().iter().map(|dot| dot.to_string()).collect()
}

fn dots(object: &Object) -> Vec<String> {
    object.siblings.iter().map(|sibling| sibling.dot.to_string()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;
    use quorate_protocol::clock::{Actor, Dot};
    use quorate_protocol::data_type::Part;
    use quorate_protocol::object::{Metadata, WriteId};
    use quorate_protocol::stamp::Stamp;

    use super::*;

    fn object(actors: &[u64]) -> Object {
        let mut object = Object::default();
        for actor in actors {
            let dot = Dot { actor: Actor(*actor), counter: 1 };
            object.clock.advance(dot);
            object.siblings.push(Sibling {
                dot,
                part: Part::Value,
                value: Some(Bytes::from_static(b"v")),
                metadata: Metadata::default(),
                stamp: Stamp(1),
                expires: None,
                writer: NodeId::parse("n1").unwrap(),
                write_id: WriteId([*actor as u8; 16]),
            });
        }
        object
    }

    fn view(name: &str, object: Option<Object>) -> ReplicaView {
        let node = NodeId::parse(name).unwrap();
        ReplicaView { node, reached: true, ready: true, object, hints: Vec::new() }
    }

    #[test]
    fn each_replica_stands_somewhere() {
        let mut views = vec![
            view("n1", Some(object(&[1, 2]))),
            view("n2", Some(object(&[1]))),
            view("n3", None),
            view("n4", None),
            view("n5", None),
        ];
        views[3].ready = false;
        views[4].reached = false;
        views[3].hints.push((NodeId::parse("n3").unwrap(), object(&[2])));
        let merged = merge(&views);
        let states: Vec<_> = views.iter().map(|view| state(view, &merged)).collect();
        assert_eq!(states, ["ok", "behind", "missing", "not_ready", "unreachable"]);
        let n3 = replica(&views[2], &merged, &views);
        assert_eq!(n3["hints"][0]["at"], "n4");
        assert_eq!(n3["hints"][0]["dots"][0], "0000000000000002-1");
        let second = sibling(&merged.siblings[1], &views, &mut Later::new());
        assert_eq!((&second["held_by"], &second["hinted_at"]), (&json!(["n1"]), &json!(["n4"])));
    }

    #[test]
    fn a_key_that_nobody_has_is_missing_nowhere() {
        assert_eq!(state(&view("n1", None), &merge(&[])), "ok");
    }
}
