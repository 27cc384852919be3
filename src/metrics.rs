//! What the node counts, as OpenMetrics text at `/metrics`.
//!
//! Requests are counted as they are answered; everything that somebody else counts already (the store,
//! the peers, admission) is read when it is asked for, so that no number is kept twice.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::http::descriptors;
use crate::log;
use crate::node::Node;

/// The media type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "quorate";
/// Times from 50 microseconds to 52 seconds, each bound twice the one before.
const TIME_BUCKETS: (f64, f64, u16) = (0.000_05, 2.0, 21);

type Labels = [(&'static str, &'static str); 2];

/// What a request asked for, as far as it is counted apart.
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
    /// Ring, cluster, health, metrics, and all that is not there.
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

/// Counts and times of answered requests.
pub(crate) struct Metrics {
    registry: Registry,
    /// One counter for each route and status class, so that counting looks nothing up.
    requests: [[Counter; CLASSES.len()]; Route::ALL.len()],
    times: [Histogram; Route::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Starts counting from zero.
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

    /// Counts one answered request.
    pub(crate) fn answered(&self, route: Route, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[route as usize][class].inc();
        self.times[route as usize].observe(took.as_secs_f64());
    }

    /// Everything as OpenMetrics text.
    pub(crate) fn render(&self, node: &Node) -> String {
        let mut now = Registry::with_prefix(PREFIX);
        register_store(&mut now, node);
        register_admission(&mut now, node);
        register_peers(&mut now, node);
        register_repair(&mut now, node);
        register_process(&mut now);
        let mut text = String::with_capacity(16 << 10);
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &now))
            .and_then(|()| encode_eof(&mut text));
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
        text
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    registry.register(name, help, ConstGauge::new(value));
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn register_process(now: &mut Registry) {
    let help = "Log lines that were dropped because they could not be written";
    counter(now, "log_lines_lost", help, log::lost());
    if let Some(open) = descriptors::open_now() {
        gauge(now, "open_descriptors", "File descriptors that are open", open);
    }
    if let Some(limit) = descriptors::limit() {
        gauge(now, "open_descriptors_max", "File descriptors that may be open", limit);
    }
}

fn register_repair(now: &mut Registry, node: &Node) {
    let totals = node.anti_entropy.totals();
    let load =
        |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    counter(now, "anti_entropy_rounds", "Rounds of anti-entropy with any peer", totals.rounds);
    let help = "Keys that anti-entropy mended, here or on the peer";
    counter(now, "anti_entropy_keys_repaired", help, totals.keys_mended);
    counter(now, "anti_entropy_bytes", "Bytes of anti-entropy messages, both ways", totals.bytes);
    let dirty = node.anti_entropy.dirty_partitions() as u64;
    gauge(now, "anti_entropy_dirty_partitions", "Partitions to be compared soon", dirty);
    let help = "Leaves and index entries that a scrub found wrong and mended";
    counter(now, "scrub_mended", help, load(&node.swept.wrong_leaves));
    counter(now, "tombstones_reaped", "Deleted rows forgotten after proof", load(&node.reaped));
    let missing = node.filled.missing_count() as u64;
    gauge(now, "partitions_not_ready", "Partitions that are still to be filled", missing);
    let help = "Partitions that lost all replicas and wait for an operator";
    gauge(now, "partitions_lost", help, node.unreceived.lost() as u64);
    let rows = crate::repair::distrusted::rows(node);
    gauge(now, "distrusted_rows", "Rows set aside that the cluster does not hold", rows);
}

fn register_store(now: &mut Registry, node: &Node) {
    let stats = node.store.stats();
    gauge(now, "keys", "Keys held as home replica, estimated", stats.keys_estimate);
    gauge(now, "hint_keys", "Hints kept for other nodes", stats.hint_keys);
    gauge(now, "hint_bytes", "Bytes of the hints kept for other nodes", stats.hint_bytes);
    counter(now, "store_syncs", "Syncs of the log", stats.syncs);
    counter(now, "store_writes", "Batches written", stats.writes);
    let help = "Batches known to be durable as configured";
    counter(now, "store_synced_writes", help, stats.synced_writes);
    let help = "Store calls answered without leaving the event loop";
    counter(now, "store_inline", help, stats.inline);
    let help = "Store calls that went to the blocking pool";
    counter(now, "store_would_block", help, stats.would_block);
    let help = "Reads of the disk without leaving the event loop";
    counter(now, "store_reads_in_place", help, stats.reads_in_place);
    counter(now, "store_stalls", "Store calls that met a write stall", stats.stalls);
    let help = "Flushes and compactions that failed and are tried again";
    counter(now, "store_background_errors", help, stats.background_errors);
    gauge(now, "block_cache_bytes", "Bytes in the block cache", stats.block_cache_bytes);
    gauge(now, "row_cache_bytes", "Bytes of whole rows in memory", stats.row_cache_bytes);
    gauge(now, "disk_free_bytes", "Free bytes on the data disk", stats.disk_free_bytes);
    gauge(now, "writable", "Whether the store takes writes", u64::from(node.is_writable()));
    let help = "How far this machine's clock is off the cluster's, in milliseconds";
    gauge(now, "clock_skew_ms", help, node.clock.ahead_ms().unsigned_abs());
    let mine = node.config.common();
    let common = node.peers.view().into_iter().filter_map(|peer| peer.said.common);
    let differ = common.filter(|theirs| *theirs != mine).count() as u64;
    gauge(now, "peers_disagreeing", "Peers with other settings where all must be alike", differ);
    let ready = u64::from(node.readiness().is_ok());
    gauge(now, "ready", "Whether the node takes requests", ready);
}

fn register_admission(now: &mut Registry, node: &Node) {
    let admission = &node.admission;
    let operations = admission.operations() as u64;
    gauge(now, "operations", "Client operations in progress", operations);
    let help = "Bytes of values held for them";
    gauge(now, "operation_bytes", help, admission.bytes() as u64);
    let help = "Bytes of large values that clients may have under way: fewer while writes are slow";
    gauge(now, "pace_bytes", help, admission.pace_bytes() as u64);
    counter(now, "overloads", "Requests refused for overload", admission.refused());
    let help = "Answers given up because nobody took them while others had no room";
    counter(now, "answers_given_up", help, admission.given_up());
    let help = "Bytes of large messages and answers of peers";
    gauge(now, "peer_large_bytes", help, node.bounds.room.taken_bytes() as u64);
}

fn register_peers(now: &mut Registry, node: &Node) {
    type PerPeer = Family<[(&'static str, String); 1], Gauge>;
    let mut family = |name: &str, help: &str| {
        let family = PerPeer::default();
        now.register(name, help, family.clone());
        family
    };
    let up = family("peer_up", "Whether the peer answers");
    let queue = family("peer_queue_depth", "Messages that wait for the peer");
    let p50 = family("peer_round_trip_p50_us", "Median round trip in microseconds");
    let p99 = family("peer_round_trip_p99_us", "99th percentile of round trips in microseconds");
    for peer in node.peers.view() {
        let label = [("peer", peer.node.to_string())];
        let set = |family: &PerPeer, value: u64| {
            family.get_or_create(&label).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&up, u64::from(peer.state == "up"));
        set(&queue, peer.queue_depth as u64);
        set(&p50, peer.round_trip_p50_us);
        set(&p99, peer.round_trip_p99_us);
    }
}

#[cfg(test)]
mod tests {
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
