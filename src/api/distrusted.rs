//! `/distrusted`: data that nodes have set aside or lost, and the operator's decision about it.

use axum::extract::Request;
use axum::http::Uri;
use quorate_protocol::message::{Decision, Distrusted as Told};
use quorate_protocol::name::NodeId;
use serde_json::{Value, json};

use super::gate::Gate;
use super::represent;
use super::route::Answer;
use quorate_engine::repair::distrusted::everywhere;

/// `GET /distrusted`: the state of every node of the cluster.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    answer(&gate, request.uri(), None).await
}

/// `POST /distrusted/accept`: at every node of the cluster.
pub(super) async fn accept(gate: Gate, request: Request) -> Answer {
    answer(&gate, request.uri(), Some(Decision::Accept)).await
}

/// `POST /distrusted/discard`: at every node of the cluster.
pub(super) async fn discard(gate: Gate, request: Request) -> Answer {
    answer(&gate, request.uri(), Some(Decision::Discard)).await
}

/// Works before the node is ready: an operator needs it exactly then.
async fn answer(gate: &Gate, uri: &Uri, decision: Option<Decision>) -> Answer {
    let params = gate.params(uri)?;
    let _pass = gate.enter(&params)?;
    let (mut nodes, mut unreachable) = (Vec::new(), Vec::new());
    for (from, told) in everywhere(&gate.node, decision).await {
        match told {
            Some(told) => nodes.push(of_node(from, &told)),
            None => unreachable.push(from),
        }
    }
    Ok(represent::json(&json!({"nodes": nodes, "unreachable": unreachable, "decision": decision})))
}

fn of_node(node: NodeId, told: &Told) -> Value {
    let unknown: Vec<String> = told.unknown.iter().map(ToString::to_string).collect();
    json!({
        "node": node,
        "waits": told.waits,
        "rows": told.rows,
        "covered": told.covered,
        "lost_partitions": told.lost,
        "unknown_keys": unknown,
    })
}
