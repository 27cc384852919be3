//! The peer port: where frames come in. Peers' lanes send theirs on streams (`upgrade`); who has only
//! one (`quorate form`) posts it. Either way the engine checks it and carries it out
//! ([`quorate_engine::peer_port`]). A node that is in no cluster yet asks to be added (`join`).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use quorate_protocol::message::Message;
use quorate_protocol::wire::Frame;
use quorate_storage::InjectedFaults;

use crate::peer_port::{join, upgrade};
use quorate_engine::node::Node;
use quorate_engine::peer::fault_hook::{Cuts, DiskFault};
use quorate_engine::peer::framed::frame_bytes_max;
use quorate_engine::peer_port::batch::Batch;
use quorate_engine::peer_port::receive::{Refused, frame_to, receive};

/// The longest frame that is accepted in a POST, in bytes.
const POSTED_BYTES_MAX: usize = 2 << 20;

/// The peer port's routes.
pub(crate) fn app(node: Arc<Node>) -> Router {
    let mut router = Router::new().route("/peer", get(upgrade::open).post(on_frame));
    router = router.route(join::PATH, post(join::on_join));
    if node.config.fault_hook {
        router = router.route("/fault", get(show_cuts).put(set_cuts));
        router = router.route("/fault/disk", put(set_disk_fault));
    }
    router.with_state(node)
}

async fn on_frame(State(node): State<Arc<Node>>, body: Body) -> Response {
    let bytes = match read_frame(&node, body).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    match receive(&node, bytes, node.config.versions()).await {
        Ok(frame) => match answer(&node, frame).await {
            Some(replies) => replies.into_response(),
            None => refuse(StatusCode::INSUFFICIENT_STORAGE, "too large for a POST: open a stream"),
        },
        Err(refused) => {
            let status = match &refused {
                Refused::Invalid(_) => StatusCode::BAD_REQUEST,
                Refused::Version(_) => StatusCode::UPGRADE_REQUIRED,
                Refused::CutOff => StatusCode::SERVICE_UNAVAILABLE,
            };
            refuse(status, refused.why())
        }
    }
}

/// Executes the messages of a posted frame; `None` if the replies are too long for one answer.
async fn answer(node: &Arc<Node>, received: Frame<Message>) -> Option<Bytes> {
    let mut frame = frame_to(node, received.protocol, received.header.from);
    let mut batch = Batch::new(node, received, false);
    loop {
        let part = batch.next().await;
        for reply in &part.replies {
            frame.push(&reply.head, &reply.payload);
        }
        if part.is_last {
            return Some(frame.finish());
        }
        if frame.len() > frame_bytes_max(&node.config) {
            return None;
        }
    }
}

/// Reads a frame from the body, within limits of bytes and time.
async fn read_frame(node: &Node, body: Body) -> Result<Bytes, Box<Response>> {
    // Until it is received its sender is unknown; peers' lanes send large frames on streams.
    let bytes_max = POSTED_BYTES_MAX;
    let too_large = || Box::new(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the frame is too large"));
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let patience = Duration::from_millis(node.config.timeouts.body_ms);
    let reading = Limited::new(body, bytes_max).collect();
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Box::new(refuse(StatusCode::BAD_REQUEST, &error.to_string()))),
        Err(_) => Err(Box::new(refuse(StatusCode::REQUEST_TIMEOUT, "the frame took too long"))),
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, why.to_owned()).into_response()
}

async fn show_cuts(State(node): State<Arc<Node>>) -> Response {
    let cuts = serde_json::to_vec(&node.faults.get()).unwrap_or_default();
    ([("content-type", "application/json")], cuts).into_response()
}

async fn set_cuts(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    match serde_json::from_slice::<Cuts>(&body) {
        Ok(cuts) => {
            tracing::warn!(?cuts, "faults set by the fault hook");
            node.clock.set_fault(cuts.clock_ahead_ms);
            node.faults.set(cuts);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn set_disk_fault(State(node): State<Arc<Node>>, body: Bytes) -> Response {
    match serde_json::from_slice::<DiskFault>(&body) {
        Ok(fault) => {
            tracing::warn!(?fault, "the disk fails by the fault hook");
            let DiskFault { syncs_fail, sync_ms, read_ms } = fault;
            node.store.inject_faults(InjectedFaults { syncs_fail, sync_ms, read_ms });
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}
