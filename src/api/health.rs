//! Is the process alive, does it take requests, and what does it count.

use std::sync::Arc;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::problem::{Kind, Problem};
use super::query::Params;
use super::show;
use crate::node::Node;
use crate::{distrusted, metrics};

/// `GET /livez`: 200 as long as the process answers at all.
pub(super) async fn livez() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: 200 if the node takes requests and nothing waits for an operator, else 503 with the
/// reason.
pub(super) async fn readyz(State(node): State<Arc<Node>>) -> Result<Response, Problem> {
    node.readiness()?;
    if let Some(waits) = distrusted::waits(&node) {
        return Err(Problem::new(Kind::NotReady, waits));
    }
    Ok(show::json(&json!({"ready": true, "node": node.me})))
}

/// `GET /metrics`, as OpenMetrics text.
pub(super) async fn metrics(State(node): State<Arc<Node>>, uri: Uri) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let text = node.metrics.render(&node);
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
