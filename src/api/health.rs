//! Liveness, readiness and metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use quorate_storage::Condition;
use serde_json::json;

use super::problem::{Kind, Problem};
use super::query::Params;
use super::represent;
use crate::metrics::collect;
use quorate_engine::background::reopen;
use quorate_engine::metrics::text::Format;
use quorate_engine::node::{Node, Unavailable};
use quorate_engine::repair::distrusted;

/// `GET /livez`: 200 while the process works or is about to recover by itself. 503 once its store
/// has failed and has not recovered, or its disk does not answer: then only a restart or an
/// operator can help.
pub(super) async fn livez(State(node): State<Arc<Node>>) -> (StatusCode, String) {
    match reopen::why_not_alive(&node) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// `GET /readyz`: 200 if the node takes requests and nothing waits for an operator, else 503 with
/// the reason. A node whose disk is nearly full is ready: it refuses only writes, and reports it.
pub(super) async fn readyz(State(node): State<Arc<Node>>) -> Result<Response, Problem> {
    // Checked first: this reason tells the operator what to do.
    if let Some(waits) = distrusted::waits(&node) {
        return Err(Problem::new(Kind::NotReady, waits));
    }
    node.accepts_requests()?;
    if node.is_draining() {
        return Err(Unavailable::Stopping.into());
    }
    let mut ready = json!({"ready": true, "node": node.me, "writable": true});
    if let Condition::DiskLow { free_bytes, min, takes_deletes } = node.store.condition() {
        let taken = if takes_deletes { "deletes and reads" } else { "reads" };
        ready["writable"] = false.into();
        ready["reason"] = format!(
            "the data disk has {free_bytes} bytes free, below storage.disk_free_bytes_min ({min}): only \
             {taken} are accepted; free some space"
        )
        .into();
    }
    Ok(represent::json(&ready))
}

/// `GET /metrics`: Prometheus' text format, or OpenMetrics for those who ask for it.
pub(super) async fn metrics(
    State(node): State<Arc<Node>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::parse(uri.query(), &[])?;
    let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let mut response = collect::everything(&node, format).await.into_response();
    let content_type = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}
