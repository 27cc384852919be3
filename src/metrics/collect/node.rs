//! The node itself: what it is, whether it serves, what its limits leave.

use std::time::Duration;

use crate::config::{Config, Durability};
use crate::log;
use quorate_engine::config::origin::Origin;
use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::{Writer, seconds};
use quorate_engine::node::{Node, RELEASE};
use quorate_engine::repair::distrusted;

const BUILD: Desc =
    Desc::info("quorate_build_info", "The release that runs").by(&["version"]).means(
        "Join it to other metrics to compare releases; more than one version at a time is an upgrade.",
    );
const INFO: Desc = Desc::info("quorate_node_info", "The node's name and place").by(&[
    "node",
    "zone",
    "durability",
]);
const READY: Desc = Desc::gauge(
    "quorate_ready",
    "Whether the node takes requests and nothing waits for an operator, as /readyz says: 1 or 0",
)
.means("0 shortly after a start is normal. Otherwise `GET /readyz` says why.");
const DRAINING: Desc =
    Desc::gauge("quorate_draining", "Whether the node is about to stop and sends its clients away");
const CORRECTED: Desc = Desc::gauge(
    "quorate_clock_corrected",
    "Whether the cluster's time is used because this machine's clock is over a minute off",
)
.means("1: set the machine's clock (NTP). A restart is not needed.");
const SKEW: Desc = Desc::gauge(
    "quorate_clock_skew_seconds",
    "How far this machine's clock is ahead of the cluster's, negative if it is behind",
)
.means("In last-write-wins buckets the clock decides between concurrent writes.");
const IN_FLIGHT: Desc =
    Desc::gauge("quorate_requests_in_flight", "Client requests that are being worked on");
const IN_FLIGHT_LIMIT: Desc = Desc::gauge(
    "quorate_requests_in_flight_limit",
    "How many may be: limits.operations_max; one more is refused",
);
const BYTES: Desc = Desc::gauge(
    "quorate_requests_in_flight_bytes",
    "Memory held for the values of client requests",
);
const BYTES_LIMIT: Desc = Desc::gauge(
    "quorate_requests_in_flight_limit_bytes",
    "How much may be: limits.operation_bytes_max; requests that need more are refused",
);
const UPLOADS_LIMIT: Desc = Desc::gauge(
    "quorate_uploads_limit_bytes",
    "How many bytes of large values clients may have in flight at the moment",
)
.means("It follows how fast large writes are: far below the limit of memory, writes are slow.");
const PEER_LARGE: Desc = Desc::gauge(
    "quorate_peer_large_bytes",
    "Memory held for large messages from peers and large answers to them",
);
const REFUSALS: Desc = Desc::counter(
    "quorate_overload_refusals_total",
    "Requests refused because a limit of operations or of memory was reached",
)
.means("Clients send more than the node can do, or something slows it down.");
const GIVEN_UP: Desc = Desc::counter(
    "quorate_answers_given_up_total",
    "Answers cut off because their client did not read them while memory was short",
);
const LINES_LOST: Desc = Desc::counter(
    "quorate_log_lines_lost_total",
    "Log lines dropped because they could not be written in time",
)
.means("Whatever reads the node's log is too slow or stands still.");

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Node",
    about: "",
    metrics: &[
        BUILD,
        INFO,
        READY,
        DRAINING,
        CORRECTED,
        SKEW,
        IN_FLIGHT,
        IN_FLIGHT_LIMIT,
        BYTES,
        BYTES_LIMIT,
        UPLOADS_LIMIT,
        PEER_LARGE,
        REFUSALS,
        GIVEN_UP,
        LINES_LOST,
    ],
};

fn durability(config: &Config) -> &'static str {
    match config.durability {
        Durability::Fsync => "fsync",
        Durability::Buffered => "buffered",
    }
}

/// Writes what there is to say of a node that waits to be added to a cluster.
pub(super) fn write_joining(out: &mut Writer, config: &Config) {
    out.metric(&BUILD).value(&[RELEASE], 1);
    let zone = match config.origin() {
        Ok(Origin::Join(joining)) => joining.zone,
        Ok(Origin::Layout(_)) | Err(_) => "",
    };
    out.metric(&INFO).value(&[config.node.as_str(), zone, durability(config)], 1);
    out.one(&READY, 0);
    out.one(&DRAINING, 0);
    out.one(&LINES_LOST, log::lost());
}

/// Writes the metrics of the node itself.
pub(super) fn write(out: &mut Writer, node: &Node) {
    out.metric(&BUILD).value(&[RELEASE], 1);
    let record = node.membership.record();
    let zone = record.member(node.me).map_or("", |mine| mine.zone.as_str());
    out.metric(&INFO).value(&[node.me.as_str(), zone, durability(&node.config)], 1);
    let serves = node.accepts_requests().is_ok() && !node.is_draining();
    out.one(&READY, u8::from(serves && distrusted::waits(node).is_none()));
    out.one(&DRAINING, u8::from(node.is_draining()));
    out.one(&CORRECTED, u8::from(node.clock.is_corrected()));
    let ahead_ms = node.clock.ahead_ms();
    let ahead_s = seconds(Duration::from_millis(ahead_ms.unsigned_abs()));
    out.one(&SKEW, if ahead_ms < 0 { -ahead_s } else { ahead_s });
    let (admission, limits) = (&node.admission, &node.config.limits);
    out.one(&IN_FLIGHT, admission.operations());
    out.one(&IN_FLIGHT_LIMIT, limits.operations_max);
    out.one(&BYTES, admission.bytes());
    out.one(&BYTES_LIMIT, limits.operation_bytes_max);
    out.one(&UPLOADS_LIMIT, admission.pace_bytes());
    out.one(&PEER_LARGE, node.bounds.room.taken_bytes());
    out.one(&REFUSALS, admission.refused());
    out.one(&GIVEN_UP, admission.given_up());
    out.one(&LINES_LOST, log::lost());
}
