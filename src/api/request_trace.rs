//! Per request: an ID, a span for its log lines, counters and latency.

use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::Response;
use tokio::time::Instant;
use tracing::Span;

use super::access::{Arrival, Connection};
use super::counted;
use super::headers::REQUEST_ID;
use super::request_id::RequestId;
use super::route::Route;
use super::wait::Waited;
use quorate_engine::metrics::requests::Operation;
use quorate_engine::metrics::totals::Metrics;

/// A request in flight.
pub(super) struct RequestTrace {
    at: Instant,
    id: RequestId,
    span: Span,
    /// The request, if it is logged. Boxed because it seldom is.
    access: Option<Box<(Method, Uri)>>,
}

impl RequestTrace {
    /// Gives the request an ID.
    pub(super) fn new<B>(request: &Request<B>) -> Self {
        let at = Instant::now();
        let id = RequestId::of(request.headers());
        // A span costs more than the rest of this function, and at the default level nothing is
        // logged in it.
        let span = tracing::debug_span!("request", %id);
        let access = tracing::enabled!(tracing::Level::DEBUG)
            .then(|| Box::new((request.method().clone(), request.uri().clone())));
        Self { at, id, span, access }
    }

    /// When it arrived, on which connection, and what it is called.
    pub(super) fn arrival(&self, connection: Connection) -> Arrival {
        Arrival { at: self.at, id: self.id.clone(), connection }
    }

    /// The span of its log lines.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Records count and latency of a request on this route, and adds the ID to the response.
    pub(super) fn ended(
        self,
        metrics: &Metrics,
        route: Option<&'static Route>,
        mut response: Response,
    ) -> Response {
        let waited = response.extensions().get().map_or(Duration::ZERO, |Waited(time)| *time);
        let (took, status) = (self.at.elapsed().saturating_sub(waited), response.status());
        let operation = route.map_or(Operation::Other, |route| route.counted);
        metrics.requests.answered(operation, counted::outcome(&response), took);
        if let Some(asked) = self.access {
            let (method, uri) = *asked;
            let (path, status, took_us) = (uri.path(), status.as_u16(), took.as_micros() as u64);
            let action = route.and_then(|route| route.needs.action());
            self.span
                .in_scope(|| tracing::debug!(%method, path, ?action, status, took_us, "answered"));
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            let id = &self.id;
            tracing::error!(%id, "answered 500; the cause is logged above");
        }
        response.headers_mut().insert(REQUEST_ID, self.id.header());
        response
    }
}
