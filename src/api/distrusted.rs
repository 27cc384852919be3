//! `/distrusted`: data that nodes have set aside or lost, and the operator's decision about it.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use quorate_protocol::message::{Decision, Distrusted as Told};
use quorate_protocol::name::NodeId;
use serde_json::{Value, json};

use super::problem::Problem;
use super::query::Params;
use super::represent;
use quorate_engine::node::Node;
use quorate_engine::repair::distrusted::everywhere;

/// `GET /distrusted`: the state of every node of the cluster.
pub(super) async fn list(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, Problem> {
    answer(&node, &uri, None).await
}

/// `POST /distrusted/accept`: at every node of the cluster.
pub(super) async fn accept(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, Problem> {
    answer(&node, &uri, Some(Decision::Accept)).await
}

/// `POST /distrusted/discard`: at every node of the cluster.
pub(super) async fn discard(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, Problem> {
    answer(&node, &uri, Some(Decision::Discard)).await
}

/// Works before the node is ready: an operator needs it exactly then.
async fn answer(
    node: &Arc<Node>,
    uri: &Uri,
    decision: Option<Decision>,
) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let _permit = node.admission.operation()?;
    let (mut nodes, mut unreachable) = (Vec::new(), Vec::new());
    for (from, told) in everywhere(node, decision).await {
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
