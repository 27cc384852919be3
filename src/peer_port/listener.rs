//! The peer port: where frames come in, on streams (`upgrade`), from peers' lanes and from `quorate form`.
//! The engine checks them and carries them out ([`quorate_engine::peer_port`]). A node that is in no cluster
//! yet asks to be added (`join`).

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use quorate_storage::InjectedFaults;

use crate::peer_port::{join, upgrade};
use quorate_engine::node::Node;
use quorate_engine::peer::fault_hook::{Cuts, DiskFault};

/// The peer port's routes.
pub(crate) fn app(node: Arc<Node>) -> Router {
    let mut router = Router::new().route("/peer", get(upgrade::open));
    router = router.route(join::PATH, post(join::on_join));
    if node.config.fault_hook {
        router = router.route("/fault", get(show_cuts).put(set_cuts));
        router = router.route("/fault/disk", put(set_disk_fault));
    }
    router.with_state(node)
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
