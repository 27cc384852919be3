//! `/hints`: the hints that this node keeps. `/hints/sync-points`: have all hints up to a point in
//! time been delivered?

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header::LOCATION;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use quorate_protocol::time::WallTime;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::gate::Gate;
use super::problem::{Kind, Problem};
use super::route::Answer;
use super::{body, refusal, represent};
use quorate_engine::node::Node;
use quorate_engine::repair::hints::{Delivery, SyncPoint, SyncPointError, kept};

/// Poll intervals of a sync point, in milliseconds: doubled from the first to the last.
const LOOK_AGAIN_MS: (u64, u64) = (20, 250);

/// `GET /hints`: for each peer, how many hints this node keeps and how old the oldest is.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    let _pass = gate.enter(&params)?;
    let node = gate.node;
    let now = node.now();
    let age_ms = |since: Option<WallTime>| since.map(|since| now.since(since));
    let targets: Vec<Value> = kept(&node)
        .await
        .map_err(|error| refusal::of_store(&error))?
        .into_iter()
        .map(|kept| {
            json!({
                "node": kept.target,
                "keys": kept.keys,
                "bytes": kept.bytes,
                "oldest_ms": age_ms(kept.oldest),
            })
        })
        .collect();
    Ok(represent::json(&json!({
        "targets": targets,
        "bytes": node.store.hint_bytes(),
        "bytes_max": node.config.limits.hint_bytes_max,
    })))
}

/// `POST /hints/sync-points`: a sync point that covers all hints stored before it.
pub(super) async fn make(gate: Gate, request: Request) -> Answer {
    let (parts, mut body) = request.into_parts();
    // The request needs no body; one that is sent is drained.
    body::discard(&parts, &mut body).await;
    make_point(&gate, &parts).await
}

async fn make_point(gate: &Gate, parts: &Parts) -> Answer {
    let params = gate.params(&parts.uri)?;
    let _pass = gate.enter(&params)?;
    let node = &gate.node;
    let secrets = secrets(node)?;
    let point = SyncPoint::make(node).await;
    let id = point.id(&secrets[0]);
    let location = HeaderValue::try_from([parts.uri.path(), "/", &id].concat());
    let mut response = represent::json(&json!({"id": id, "unreachable": point.unreachable()}));
    *response.status_mut() = StatusCode::CREATED;
    if let Ok(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// `GET /hints/sync-points/{id}?timeout_ms=`: whether all its hints are delivered. Waits for it if
/// a timeout is given, else answers at once.
pub(super) async fn look(gate: Gate, request: Request) -> Answer {
    let params = gate.params(request.uri())?;
    gate.timeout_ms(&params)?; // named whatever the node's state
    let id = gate.rest(request.uri());
    let find = |node: &Node| Ok(SyncPoint::parse(id, &secrets(node)?)?);
    let (point, mut pass) = gate.enter_if(&params, find)?;
    pass.begin();
    let delivery = wait(&gate.node, &point, pass.deadline()).await;
    pass.end();
    answer(&delivery?)
}

/// Polls until all are delivered, the timeout passes, or the answer can no longer be known.
async fn wait(node: &Arc<Node>, point: &SyncPoint, deadline: Instant) -> Result<Delivery, Problem> {
    let patience = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let mut again_ms = LOOK_AGAIN_MS.0;
    loop {
        let delivery =
            point.delivery(node, patience).await.map_err(|error| refusal::of_store(&error))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if delivery.is_complete() || !delivery.restarted.is_empty() || left.is_zero() {
            return Ok(delivery);
        }
        tokio::time::sleep(left.min(Duration::from_millis(again_ms))).await;
        again_ms = (2 * again_ms).min(LOOK_AGAIN_MS.1);
    }
}

fn answer(delivery: &Delivery) -> Result<Response, Problem> {
    if !delivery.restarted.is_empty() {
        let detail = "nodes that keep its hints have restarted since and no longer know which hints \
                      belong to it; make a new sync point";
        let restarted = json!(delivery.restarted);
        return Err(Problem::new(Kind::SyncPointGone, detail).fact("restarted", restarted));
    }
    let pending: Vec<Value> = delivery
        .pending
        .iter()
        .map(|(holder, target)| json!({"holder": holder, "target": target}))
        .collect();
    Ok(represent::json(&json!({
        "delivered": delivery.is_complete(),
        "pending": pending,
        "unreachable": delivery.unreachable,
    })))
}

fn secrets(node: &Node) -> Result<Vec<[u8; 32]>, Problem> {
    // Cannot fail: the keys were checked at start.
    node.config.secrets().map_err(|error| Problem::new(Kind::Internal, error.to_string()))
}

impl From<SyncPointError> for Problem {
    fn from(error: SyncPointError) -> Self {
        match error {
            SyncPointError::Damaged => Self::bad_path(error.to_string()),
            SyncPointError::Unknown => Self::new(Kind::NoSuchSyncPoint, error.to_string()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::name::NodeId;

    use super::*;

    #[test]
    fn a_restarted_holder_makes_a_sync_point_useless_whatever_the_others_say() {
        let node = |name: &str| NodeId::parse(name).unwrap();
        let pending = Delivery { pending: vec![(node("n1"), node("n2"))], ..Delivery::default() };
        assert_eq!(answer(&pending).unwrap().status(), StatusCode::OK);
        let restarted = Delivery { restarted: vec![node("n3")], ..pending };
        assert_eq!(answer(&restarted).unwrap_err().status(), StatusCode::GONE);
    }
}
