//! Per request: an ID, a span for its log lines, counters and latency.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::Response;
use tokio::time::Instant;
use tracing::Span;

use super::access::{Arrival, Connection};
use super::counted;
use super::headers::REQUEST_ID;
use super::route::Route;
use super::wait::Waited;
use quorate_engine::metrics::requests::Operation;
use quorate_engine::metrics::totals::Metrics;

/// The longest request ID that is accepted from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// A request in flight.
pub(super) struct RequestTrace {
    at: Instant,
    id: HeaderValue,
    span: Span,
    /// The request, if it is logged. Boxed because it seldom is.
    access: Option<Box<(Method, Uri)>>,
}

impl RequestTrace {
    /// Gives the request an ID.
    pub(super) fn new<B>(request: &Request<B>) -> Self {
        let at = Instant::now();
        let id = given_id(request.headers()).unwrap_or_else(new_id);
        // A span costs more than the rest of this function, and at the default level nothing is
        // logged in it.
        let span = tracing::debug_span!("request", id = id.to_str().unwrap_or_default());
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
            let id = self.id.to_str().unwrap_or_default();
            tracing::error!(id, "answered 500; the cause is logged above");
        }
        response.headers_mut().insert(REQUEST_ID, self.id);
        response
    }
}

/// The client's own request ID, if it is fit for a log line.
fn given_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&REQUEST_ID)?;
    let bytes = id.as_bytes();
    let fits = !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX;
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (fits && bytes.iter().all(allowed)).then(|| id.clone())
}

/// 16 random hexadecimal digits.
pub(super) fn new_id() -> HeaderValue {
    let number: u64 = rand::random();
    let mut digits = [0; 16];
    for (i, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * i)) as usize & 15];
    }
    HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("unnamed"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_fit_for_a_log_line_are_taken_over() {
        let given = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            given_id(&headers).is_some()
        };
        assert!(given("a.B_7-x") && given(&"a".repeat(64)));
        assert!(!given("") && !given("a b") && !given("ü") && !given(&"a".repeat(65)));
        assert!(!given("a\"b") && !given("a=b"));
    }

    #[test]
    fn new_ids_are_short_and_differ() {
        let (one, two) = (new_id(), new_id());
        assert_eq!(one.len(), 16);
        assert!(one != two && one.as_bytes().iter().all(u8::is_ascii_hexdigit));
    }
}
