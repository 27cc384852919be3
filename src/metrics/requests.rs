//! Counters and latencies of answered requests.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The prefix of every metric name.
pub(super) const PREFIX: &str = "quorate";
/// Latency buckets from 50 microseconds to 52 seconds, in seconds: the first bound, the factor
/// between bounds, their number.
const TIME_BUCKETS: (f64, f64, u16) = (0.000_05, 2.0, 21);
type Labels = [(&'static str, &'static str); 2];

/// The kinds of request that are counted separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// GET or HEAD of a key.
    Get,
    /// PUT of a key.
    Put,
    /// DELETE of a key.
    Delete,
    /// Inspection, listing and resolution of conflicts.
    Siblings,
    /// Bucket properties.
    Buckets,
    /// Ring, cluster, health, metrics, and everything else.
    Other,
}

impl Route {
    const ALL: [Self; 6] =
        [Self::Get, Self::Put, Self::Delete, Self::Siblings, Self::Buckets, Self::Other];

    /// The route of a request.
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        if path.starts_with("/kv/") {
            return match *method {
                Method::PUT => Self::Put,
                Method::DELETE => Self::Delete,
                Method::GET | Method::HEAD => Self::Get,
                _ => Self::Other,
            };
        }
        let first = path.split('/').nth(1);
        match first {
            Some("siblings") => Self::Siblings,
            Some("buckets") => Self::Buckets,
            Some(_) | None => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Siblings => "siblings",
            Self::Buckets => "buckets",
            Self::Other => "other",
        }
    }
}

/// The first digit of a status.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counters and latencies of answered requests.
pub(crate) struct Metrics {
    pub(super) registry: Registry,
    /// One counter per route and status class, so that counting needs no lookup.
    requests: [[Counter; CLASSES.len()]; Route::ALL.len()],
    times: [Histogram; Route::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All counters at zero.
    pub(crate) fn new() -> Self {
        let requests = Family::<Labels, Counter>::default();
        let times =
            Family::<[(&'static str, &'static str); 1], Histogram>::new_with_constructor(|| {
                Histogram::new(exponential_buckets(TIME_BUCKETS.0, TIME_BUCKETS.1, TIME_BUCKETS.2))
            });
        let mut registry = Registry::with_prefix(PREFIX);
        let help = "Client requests answered, by route and status class";
        registry.register("requests", help, requests.clone());
        let help = "Time from a request's head to its answer";
        registry.register_with_unit("request_time", help, Unit::Seconds, times.clone());
        let counter = |route: Route, class| {
            requests.get_or_create_owned(&[("route", route.name()), ("status", class)])
        };
        Self {
            registry,
            requests: Route::ALL.map(|route| CLASSES.map(|class| counter(route, class))),
            times: Route::ALL.map(|route| times.get_or_create_owned(&[("route", route.name())])),
        }
    }

    /// Records one answered request.
    pub(crate) fn answered(&self, route: Route, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][class].inc();
        self.times[route as usize].observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode_registry;

    use super::*;

    #[test]
    fn routes_are_few_whatever_is_asked() {
        let of = |method: Method, path: &str| Route::of(&method, path);
        assert_eq!(of(Method::PUT, "/kv/b/k"), Route::Put);
        assert_eq!(of(Method::HEAD, "/kv/b/k"), Route::Get);
        assert_eq!(of(Method::POST, "/kv/b/k"), Route::Other);
        assert_eq!(of(Method::POST, "/siblings/b/k"), Route::Siblings);
        assert_eq!(of(Method::GET, "/siblings"), Route::Siblings);
        assert_eq!(of(Method::GET, "/bucketsx"), Route::Other);
        assert_eq!(of(Method::GET, "*"), Route::Other);
    }

    #[test]
    fn what_was_answered_is_counted_by_route_and_class() {
        let metrics = Metrics::new();
        metrics.answered(Route::Put, StatusCode::NO_CONTENT, Duration::from_millis(3));
        metrics.answered(Route::Put, StatusCode::SERVICE_UNAVAILABLE, Duration::from_millis(3));
        let mut text = String::new();
        assert!(encode_registry(&mut text, &metrics.registry).is_ok());
        for line in [
            r#"quorate_requests_total{route="put",status="2xx"} 1"#,
            r#"quorate_requests_total{route="put",status="5xx"} 1"#,
            r#"quorate_requests_total{route="get",status="2xx"} 0"#,
            r#"quorate_request_time_seconds_count{route="put"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
