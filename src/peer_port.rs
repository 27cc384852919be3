//! The peer port: where frames come in. Peers' lanes send theirs on streams (`src/peer_stream.rs`);
//! who has only one (`quorate form`) posts it. Either way `answer` checks it and has it carried out.

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
use quorate_protocol::message::{Message, Reply, WithPayload};
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, FrameError, FrameWriter, Header};
use quorate_storage::Ailment;

use crate::faults::{Cuts, DiskFault};
use crate::node::Node;
use crate::stream::frame_bytes_max;
use crate::{batch, peer_stream};

/// The peer port's routes.
pub fn app(node: Arc<Node>) -> Router {
    let mut router = Router::new().route("/peer", get(peer_stream::open).post(on_frame));
    if node.config.fault_hook {
        router = router.route("/fault", get(show_cuts).put(set_cuts));
        router = router.route("/fault/disk", put(set_disk_fault));
    }
    router.with_state(node)
}

/// Why a frame was refused as a whole. Nothing of it was carried out.
pub(crate) struct Refused {
    status: StatusCode,
    pub(crate) why: String,
}

/// Carries out the messages of a frame. Says whose they are and what came of each.
pub(crate) async fn answer(
    node: &Arc<Node>,
    frame: Bytes,
) -> Result<(NodeId, Vec<WithPayload<Reply>>), Refused> {
    let (header, messages) = receive(node, frame)
        .map_err(|error| Refused { status: StatusCode::BAD_REQUEST, why: error.to_string() })?;
    if node.faults.cuts_in(header.from) {
        tokio::time::sleep(Duration::from_millis(4 * node.config.timeouts.replica_ms)).await;
        let why = "cut off by the fault hook".to_owned();
        return Err(Refused { status: StatusCode::SERVICE_UNAVAILABLE, why });
    }
    Ok((header.from, batch::carry_out(node, header.from, messages).await))
}

fn receive(node: &Node, bytes: Bytes) -> Result<(Header, Vec<WithPayload<Message>>), FrameError> {
    let (header, messages) = wire::decode::<Message>(bytes)?;
    header.check(&node.header, &node.tokens, |from| node.layout.contains(from))?;
    Ok((header, messages))
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
    match answer(&node, bytes).await {
        Ok((from, replies)) => {
            let mut frame = frame_to(&node, from);
            for reply in &replies {
                frame.push(&reply.head, &reply.payload);
            }
            frame.finish().into_response()
        }
        Err(refused) => refuse(refused.status, &refused.why),
    }
}

/// The bytes of a frame, within a bound of bytes and of time.
async fn read_frame(node: &Node, body: Body) -> Result<Bytes, Box<Response>> {
    let bytes_max = frame_bytes_max(&node.config);
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
            let DiskFault { syncs_fail, sync_ms } = fault;
            node.store.suffer(Ailment { syncs_fail, sync_ms });
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}
