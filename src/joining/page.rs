//! What a node shows on its ports while it waits to be added to the cluster.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::join_all;
use quorate_engine::metrics::text::Format;
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::Config;
use crate::http::port::{self, Bounds, Entrance, Stop};
use crate::metrics::collect;
use crate::tls::Tls;

/// Concurrent connections on each port, of people and probes.
const CONNECTIONS_MAX: usize = 64;
/// How long requests in flight are waited for when the node starts or stops.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);

/// What is waited for, and what to do about it.
pub(crate) fn waits_for(node: NodeId) -> String {
    format!("waiting to be added to the cluster: quorate layout commit --add {node}")
}

/// Both ports while the node waits.
pub(super) struct Pages {
    shown: Arc<Shown>,
    stop: Stop,
    ended: [JoinHandle<()>; 2],
}

struct Shown {
    node: NodeId,
    config: Config,
    started: WallTime,
    /// What keeps the node from being added, if anything but an operator.
    trouble: Mutex<Option<String>>,
}

impl Pages {
    /// Opens the ports of clients and peers, for a node that was started then.
    pub(super) fn open(
        config: &Config,
        started: WallTime,
        (clients, peers): (TcpListener, TcpListener),
        tls: &Tls,
    ) -> Self {
        let shown = Arc::new(Shown {
            node: config.node,
            config: config.clone(),
            started,
            trouble: Mutex::default(),
        });
        let stop = Stop::default();
        let for_clients = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/metrics", get(metrics))
            .fallback(waits)
            .with_state(shown.clone());
        let for_peers = Router::new().fallback(waits).with_state(shown.clone());
        let bounds = Bounds::for_clients(config, CONNECTIONS_MAX);
        let clients = Entrance::shared(clients, tls.client.clone());
        let peers = Entrance::shared(peers, tls.peer.clone());
        let ended = [(clients, for_clients), (peers, for_peers)]
            .map(|(entrance, app)| tokio::spawn(port::run(entrance, app, bounds, stop.clone())));
        Self { shown, stop, ended }
    }

    /// Shows what keeps the node from being added, if anything but an operator does.
    pub(super) fn show(&self, trouble: Option<String>) {
        *self.shown.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Answers what has arrived, and leaves the ports to whoever shares them.
    pub(super) async fn close(self) {
        self.stop.begun.cancel();
        let mut ended = join_all(self.ended);
        if timeout(CLOSED_WITHIN, &mut ended).await.is_err() {
            self.stop.cut.cancel();
            ended.await;
        }
    }
}

/// The few metrics of a node that has no store yet.
async fn metrics(State(shown): State<Arc<Shown>>, headers: HeaderMap) -> Response {
    let format = Format::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let text = collect::while_joining(&shown.config, shown.started, format);
    ([(CONTENT_TYPE, format.content_type())], text).into_response()
}

async fn waits(State(shown): State<Arc<Shown>>) -> Response {
    let waits = waits_for(shown.node);
    let trouble = shown.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let detail = match trouble {
        Some(trouble) => format!("{waits} ({trouble})"),
        None => waits,
    };
    let problem = json!({
        "type": "urn:quorate:problem:not_ready",
        "title": "Node not ready",
        "status": 503,
        "detail": detail,
        // For whoever takes this node for a member and writes: nothing was written.
        "outcome": "not_applied",
    });
    let headers = [(CONTENT_TYPE, "application/problem+json"), (RETRY_AFTER, "1")];
    (StatusCode::SERVICE_UNAVAILABLE, headers, format!("{problem}\n")).into_response()
}
