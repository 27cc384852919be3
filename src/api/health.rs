//! Liveness, readiness and metrics.

use axum::extract::Request;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::IntoResponse;
use quorate_storage::Condition;
use serde_json::json;

use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::represent;
use super::route::Answer;
use crate::metrics::collect;
use quorate_engine::background::reopen;
use quorate_engine::metrics::text::Format;
use quorate_engine::node::{Node, Unavailable};
use quorate_engine::repair::distrusted;

/// `GET /livez`: 200 while the process works or is about to recover by itself. 503 once its store
/// has failed and has not recovered, or its disk does not answer: then only a restart or an
/// operator can help.
pub(super) async fn livez(gate: Gate, _: Request) -> Answer {
    Ok(match reopen::why_not_alive(&gate.node) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
    .into_response())
}

/// `GET /readyz`: 200 if the node takes requests and nothing waits for an operator, else 503 with
/// the reason. A node whose disk is nearly full is ready: it refuses only writes, and reports it.
pub(super) async fn readyz(gate: Gate, _: Request) -> Answer {
    let node = gate.node;
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
    if let Some(warning) = certificate_warning(&node) {
        ready["warning"] = warning.into();
    }
    Ok(represent::json(&ready))
}

/// What an operator must do about a certificate soon. The node is ready all the same.
fn certificate_warning(node: &Node) -> Option<String> {
    const SOON_MS: u64 = 7 * 86_400_000;
    let now = node.now();
    let states = node.host.certificates.as_ref()?.list();
    let soonest = states.into_iter().min_by_key(|state| state.expires)?;
    let left_ms = soonest.expires.0.saturating_sub(now.0);
    (left_ms < SOON_MS).then(|| {
        let (port, hours) = (soonest.port, left_ms / 3_600_000);
        format!("the certificate in {port}_tls.cert expires in {hours} hours: `quorate ca renew`")
    })
}

/// `GET /metrics`: Prometheus' text format, or OpenMetrics for those who ask for it.
pub(super) async fn metrics(gate: Gate, request: Request) -> Answer {
    gate.params(request.uri())?;
    let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept);
    let mut response = collect::everything(&gate.node, format).await.into_response();
    let content_type = HeaderValue::from_static(format.content_type());
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}
