//! The peer port: where frames come in. Peers' lanes send theirs on streams (`src/peer_port/stream.rs`);
//! who has only one (`quorate form`) posts it. Either way `receive` checks it and
//! [`crate::peer_port::batch`] carries it out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use quorate_protocol::message::Message;
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, Frame, FrameError, FrameWriter, Header};
use quorate_storage::InjectedFaults;

use crate::node::Node;
use crate::peer::fault_hook::{Cuts, DiskFault};
use crate::peer::framed::frame_bytes_max;
use crate::peer_port::batch::Batch;
use crate::peer_port::stream;

/// The longest frame that is accepted in a POST, in bytes.
const POSTED_BYTES_MAX: usize = 2 << 20;

/// The peer port's routes.
pub(crate) fn app(node: Arc<Node>) -> Router {
    let mut router = Router::new().route("/peer", get(stream::open).post(on_frame));
    if node.config.fault_hook {
        router = router.route("/fault", get(show_cuts).put(set_cuts));
        router = router.route("/fault/disk", put(set_disk_fault));
    }
    router.with_state(node)
}

/// Why a frame was refused as a whole. None of it was executed.
pub(crate) struct Refused {
    status: StatusCode,
    pub(crate) why: String,
}

impl Refused {
    pub(crate) fn new(status: StatusCode, why: &impl ToString) -> Self {
        Self { status, why: why.to_string() }
    }
}

/// Validates a frame: its sender and its messages.
pub(crate) async fn receive(node: &Node, frame: Bytes) -> Result<Frame<Message>, Refused> {
    let decoded = wire::decode_if::<Message>(frame, |header| check(node, header).map(drop));
    let frame = decoded.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, &error))?;
    if node.faults.cuts_in(frame.header.from) {
        tokio::time::sleep(Duration::from_millis(4 * node.config.timeouts.replica_ms)).await;
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, &"cut off by the fault hook"));
    }
    Ok(frame)
}

/// The sender of a frame, if it may send this node any.
pub(crate) fn check(node: &Node, header: &Header) -> Result<NodeId, FrameError> {
    header.check(&node.header, &node.tokens, |from| node.layout.contains(from))?;
    Ok(header.from)
}

/// Starts a frame to a peer.
pub(crate) fn frame_to(node: &Node, to: NodeId) -> FrameWriter {
    FrameWriter::new(&Header { to, ..node.header.clone() })
}

async fn on_frame(State(node): State<Arc<Node>>, body: Body) -> Response {
    let bytes = match read_frame(&node, body).await {
        Ok(bytes) => bytes,
        Err(refused) => return *refused,
    };
    match receive(&node, bytes).await {
        Ok(frame) => match answer(&node, frame).await {
            Some(replies) => replies.into_response(),
            None => refuse(StatusCode::INSUFFICIENT_STORAGE, "too large for a POST: open a stream"),
        },
        Err(refused) => refuse(refused.status, &refused.why),
    }
}

/// Executes the messages of a posted frame; `None` if the replies are too long for one answer.
async fn answer(node: &Arc<Node>, received: Frame<Message>) -> Option<Bytes> {
    let mut frame = frame_to(node, received.header.from);
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
