//! The node's metrics, as OpenMetrics text at `/metrics`.
//!
//! Requests are counted as they are answered; values that other parts count already (the store, the
//! peers, admission) are read when `/metrics` is, so that no number is kept twice.

pub(crate) mod requests;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use self::requests::PREFIX;
use crate::http::descriptors;
use crate::log;
use crate::node::Node;

/// The media type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics as OpenMetrics text.
pub(crate) fn render(node: &Node) -> String {
    let mut now = Registry::with_prefix(PREFIX);
    register_store(&mut now, node);
    register_admission(&mut now, node);
    register_peers(&mut now, node);
    register_repair(&mut now, node);
    register_process(&mut now);
    let mut text = String::with_capacity(16 << 10);
    let written = encode_registry(&mut text, &node.metrics.registry)
        .and_then(|()| encode_registry(&mut text, &now))
        .and_then(|()| encode_eof(&mut text));
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
    text
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    registry.register(name, help, ConstGauge::new(value));
}

fn counter(registry: &mut Registry, name: &str, help: &str, value: u64) {
    registry.register(name, help, ConstCounter::new(value));
}

fn register_process(now: &mut Registry) {
    let help = "Log lines dropped because they could not be written";
    counter(now, "log_lines_lost", help, log::lost());
    if let Some(open) = descriptors::open_now() {
        gauge(now, "open_descriptors", "Open file descriptors", open);
    }
    if let Some(limit) = descriptors::limit() {
        gauge(now, "open_descriptors_max", "Limit of open file descriptors", limit);
    }
}

fn register_repair(now: &mut Registry, node: &Node) {
    let totals = node.anti_entropy.totals();
    let load =
        |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    counter(now, "anti_entropy_rounds", "Anti-entropy rounds with any peer", totals.rounds);
    let help = "Keys repaired by anti-entropy, here or on the peer";
    counter(now, "anti_entropy_keys_repaired", help, totals.keys_repaired);
    counter(now, "anti_entropy_bytes", "Bytes of anti-entropy messages, both ways", totals.bytes);
    let dirty = node.anti_entropy.dirty_partitions() as u64;
    gauge(now, "anti_entropy_dirty_partitions", "Partitions due for comparison", dirty);
    let help = "Leaves and index entries that a scrub found wrong and repaired";
    counter(now, "scrub_mended", help, load(&node.swept.wrong_leaves));
    counter(now, "tombstones_reaped", "Tombstones garbage-collected", load(&node.reaped));
    let missing = node.filled.missing_count() as u64;
    gauge(now, "partitions_not_ready", "Partitions still to be filled", missing);
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
    let help = "Store calls offloaded to the blocking pool";
    counter(now, "store_would_block", help, stats.would_block);
    let help = "Disk reads without leaving the event loop";
    counter(now, "store_reads_in_place", help, stats.reads_in_place);
    counter(now, "store_stalls", "Store calls delayed by a write stall", stats.stalls);
    let help = "Flushes and compactions that failed and are retried";
    counter(now, "store_background_errors", help, stats.background_errors);
    gauge(now, "block_cache_bytes", "Bytes in the block cache", stats.block_cache_bytes);
    gauge(now, "row_cache_bytes", "Bytes in the row cache", stats.row_cache_bytes);
    gauge(now, "disk_free_bytes", "Free bytes on the data disk", stats.disk_free_bytes);
    gauge(now, "writable", "Whether the store takes writes", u64::from(node.is_writable()));
    let help = "Offset of this machine's clock from the cluster's, in milliseconds";
    gauge(now, "clock_skew_ms", help, node.clock.ahead_ms().unsigned_abs());
    let mine = node.config.common();
    let common = node.peers.view().into_iter().filter_map(|peer| peer.said.common);
    let differ = common.filter(|theirs| *theirs != mine).count() as u64;
    gauge(now, "peers_disagreeing", "Peers that differ in settings that must be equal", differ);
    let ready = u64::from(node.accepts_requests().is_ok());
    gauge(now, "ready", "Whether the node takes requests", ready);
}

fn register_admission(now: &mut Registry, node: &Node) {
    let admission = &node.admission;
    let operations = admission.operations() as u64;
    gauge(now, "operations", "Client operations in flight", operations);
    let help = "Bytes of values held for client operations";
    gauge(now, "operation_bytes", help, admission.bytes() as u64);
    let help = "Limit of bytes of large client values in flight: lower while writes are slow";
    gauge(now, "pace_bytes", help, admission.pace_bytes() as u64);
    counter(now, "overloads", "Requests refused for overload", admission.refused());
    let help = "Responses aborted because no client read them while memory was short";
    counter(now, "answers_given_up", help, admission.given_up());
    let help = "Bytes of large messages from peers and of large answers to them";
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
    let queue = family("peer_queue_depth", "Messages pending for the peer");
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
