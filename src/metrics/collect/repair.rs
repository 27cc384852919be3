//! Hints, anti-entropy, filling, and tombstones.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quorate_protocol::name::NodeId;

use super::store::Readings;
use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::{Writer, seconds};
use quorate_engine::node::Node;
use quorate_engine::repair::distrusted;

const HINTS_KEPT: Desc =
    Desc::gauge("quorate_hints", "Keys of which a hint is kept for the target")
        .by(&["target"])
        .means("It grows while the target is down and goes back to 0 once that is up.");
const HINT_BYTES: Desc = Desc::gauge("quorate_hints_bytes", "Bytes of these hints").by(&["target"]);
const HINT_LIMIT: Desc = Desc::gauge(
    "quorate_hints_limit_bytes",
    "How many bytes all hints together may hold: limits.hint_bytes_max",
);
const HINT_AGE: Desc = Desc::gauge(
    "quorate_hints_oldest_age_seconds",
    "How long the oldest hint for the target has been kept, looked up once a minute; 0 without hints",
)
.by(&["target"])
.means("Until its hints are delivered, the target lacks these writes. Age drops no hint.");
const HINTS_QUEUED: Desc = Desc::counter(
    "quorate_hints_queued_total",
    "Keys of which a hint was stored where there was none",
);
const HINTS_DELIVERED: Desc =
    Desc::counter("quorate_hints_delivered_total", "Hints that their target has acknowledged")
        .means("No hint is dropped in any other way.");
const HINTS_REFUSED: Desc = Desc::counter(
    "quorate_hints_refused_total",
    "Hints not stored because all together would exceed their limit",
)
.means("Such a write lacks an acknowledgement. Bring the targets back, or raise the limit.");

/// The metrics of hints.
pub(super) const HINTS: Section = Section {
    title: "Hints",
    about: "Writes that this node keeps for others that were down.",
    metrics: &[
        HINTS_KEPT,
        HINT_BYTES,
        HINT_LIMIT,
        HINT_AGE,
        HINTS_QUEUED,
        HINTS_DELIVERED,
        HINTS_REFUSED,
    ],
};

const AE_ROUNDS: Desc = Desc::counter(
    "quorate_anti_entropy_rounds_total",
    "Rounds of comparing with a peer that this node began",
)
.by(&["result"])
.means("`incomplete`: the peer did not answer everything, or rows are being moved; it is retried.");
const AE_TIMES: Desc =
    Desc::histogram("quorate_anti_entropy_round_duration_seconds", "How long such a round took");
const AE_AGE: Desc = Desc::gauge(
    "quorate_anti_entropy_age_seconds",
    "Time since a complete round with the peer ended, or since the start of the node",
)
.by(&["peer"])
.means("Far above the interval: differences from this peer are neither found nor repaired.");
const AE_INTERVAL: Desc = Desc::gauge(
    "quorate_anti_entropy_interval_seconds",
    "How often peers are compared: anti_entropy.interval_ms; 0 for never",
);
const AE_TREES: Desc = Desc::counter(
    "quorate_anti_entropy_trees_compared_total",
    "Merkle trees whose roots were compared",
);
const AE_DIFFERING: Desc =
    Desc::counter("quorate_anti_entropy_trees_differing_total", "Of these, trees that differed");
const AE_COMPARED: Desc = Desc::counter(
    "quorate_anti_entropy_keys_compared_total",
    "Keys whose versions were compared because their leaves differed",
);
const AE_REPAIRED: Desc = Desc::counter(
    "quorate_anti_entropy_keys_repaired_total",
    "Keys repaired, here or on the peer",
)
.means("Replicas had missed writes. Steady growth without failures is a reason to look for one.");
const AE_BYTES: Desc =
    Desc::counter("quorate_anti_entropy_bytes_total", "Bytes of the messages of these rounds")
        .by(&["direction"]);
const AE_DIRTY: Desc = Desc::gauge(
    "quorate_anti_entropy_dirty_partitions",
    "Partitions that may differ and are compared next",
);
const FILL_ROWS: Desc =
    Desc::counter("quorate_fill_rows_total", "Rows received and merged while filling");
const FILLED: Desc =
    Desc::counter("quorate_fill_partitions_total", "Partitions that were received in full");
const NOT_READY: Desc = Desc::gauge(
    "quorate_partitions_not_ready",
    "Partitions still to be received, which this node does not answer for",
)
.means("Above 0 after a lost disk; it goes down while `quorate_fill_rows_total` grows.");
const LOST: Desc = Desc::gauge(
    "quorate_partitions_lost",
    "Partitions of which all home replicas have lost their data, waiting for an operator",
)
.means("Nothing is served of them: `quorate distrusted` decides.");
const UNDECIDED: Desc = Desc::gauge(
    "quorate_partitions_undecided",
    "Partitions whose replicas all came back too old to be believed, waiting for an operator",
)
.means("Nothing is served of them: `quorate distrusted` decides.");
const DISTRUSTED: Desc = Desc::gauge(
    "quorate_distrusted_rows",
    "Rows and hints that are set aside and not held by the cluster",
)
.means("They came with an old disk. `quorate distrusted list` shows them.");
const DOUBTFUL: Desc = Desc::gauge(
    "quorate_doubtful_keys",
    "Keys that this node does not answer for because a replica cannot give what it holds of them",
)
.means("Usually a damaged row on a peer: its log names it.");
const SCRUBBED: Desc = Desc::counter(
    "quorate_scrub_partitions_total",
    "Partitions whose trees and indexes were checked",
);
const SCRUB_REPAIRS: Desc = Desc::counter(
    "quorate_scrub_repairs_total",
    "Leaves and index entries that did not fit the rows and were repaired",
)
.means("A damaged disk or a bug: look at the disk, and report it.");
const MOVED: Desc = Desc::counter(
    "quorate_rows_moved_total",
    "Rows moved to another tree because the n of their bucket changed",
);
const UNOWNED: Desc = Desc::gauge(
    "quorate_unowned_rows",
    "Rows that others own, found by the last search and not yet taken by all of them",
);
const UNOWNED_DROPPED: Desc = Desc::counter(
    "quorate_unowned_rows_dropped_total",
    "Rows dropped because all their home replicas hold them and this node is none",
);

/// The metrics of anti-entropy, filling and scrubbing.
pub(super) const REPAIR: Section = Section {
    title: "Repair",
    about: "How replicas become equal again: anti-entropy, filling, scrubbing.",
    metrics: &[
        AE_ROUNDS,
        AE_TIMES,
        AE_AGE,
        AE_INTERVAL,
        AE_TREES,
        AE_DIFFERING,
        AE_COMPARED,
        AE_REPAIRED,
        AE_BYTES,
        AE_DIRTY,
        FILL_ROWS,
        FILLED,
        NOT_READY,
        LOST,
        UNDECIDED,
        DISTRUSTED,
        DOUBTFUL,
        SCRUBBED,
        SCRUB_REPAIRS,
        MOVED,
        UNOWNED,
        UNOWNED_DROPPED,
    ],
};

const TOMBSTONES_KEPT: Desc = Desc::gauge(
    "quorate_tombstones",
    "Deleted keys of this node that are not yet reaped",
)
.means(
    "They are kept for deletes.grace_ms at the least, and until every node confirms the delete.",
);
const REAPED: Desc =
    Desc::counter("quorate_tombstones_reaped_total", "Tombstones deleted for good");
const UNCONFIRMED: Desc = Desc::counter(
    "quorate_tombstones_unconfirmed_total",
    "Tombstones that were old enough and that some node did not confirm, each time",
)
.means("Normal within a grace after a start, a hint or a repair; they are tried again.");
const BLOCKED: Desc = Desc::gauge(
    "quorate_reaping_blocked",
    "Whether this keeps the node from reaping any tombstone: 1 or 0",
)
.by(&["reason"])
.means(
    "`node_down`: a node is away. `grace_differs`: deletes.grace_ms is not the same everywhere. \
     `not_received`: this node has still to receive partitions. `not_taking_part`: it is not admitted.",
);

const EXPIRED: Desc = Desc::counter(
    "quorate_expired_total",
    "Keys of which this node removed values that had expired",
);
const EXPIRED_LEFT: Desc = Desc::gauge(
    "quorate_expired_left",
    "Keys with expired values that this node could not remove when it looked last",
)
.means("No read shows them. Above 0 while W replicas cannot be written; it is tried again.");

/// The metrics of deletes.
pub(super) const TOMBSTONES: Section = Section {
    title: "Tombstones",
    about: "Deletes, and what keeps them from being forgotten.",
    metrics: &[TOMBSTONES_KEPT, REAPED, UNCONFIRMED, BLOCKED, EXPIRED, EXPIRED_LEFT],
};

/// Writes the metrics of repair.
pub(super) fn write(out: &mut Writer, node: &Node, readings: Option<&Readings>) {
    write_hints(out, node, readings);
    write_anti_entropy(out, node);
    write_rows(out, node);
    write_tombstones(out, node, readings);
}

fn write_hints(out: &mut Writer, node: &Node, readings: Option<&Readings>) {
    let kept = |target: NodeId| {
        let found = readings?.hints.iter().find(|(other, ..)| *other == target);
        Some(found.map_or((0, 0), |(_, keys, bytes)| (*keys, *bytes)))
    };
    let kept: Vec<_> = node.peers.nodes().filter_map(|peer| Some((peer, kept(peer)?))).collect();
    let mut keys = out.metric(&HINTS_KEPT);
    kept.iter().for_each(|(target, (count, _))| keys.value(&[target.as_str()], count));
    let mut bytes = out.metric(&HINT_BYTES);
    kept.iter().for_each(|(target, (_, count))| bytes.value(&[target.as_str()], count));
    out.one(&HINT_LIMIT, node.config.limits.hint_bytes_max);
    let mut ages = out.metric(&HINT_AGE);
    let now = node.now();
    for (target, (count, _)) in kept {
        let oldest = node.hints.oldest(target).filter(|_| count > 0);
        let age_ms = oldest.map_or(0, |since| now.since(since));
        ages.value(&[target.as_str()], seconds(Duration::from_millis(age_ms)));
    }
    if let Some(readings) = readings {
        out.one(&HINTS_QUEUED, readings.stats.hints_queued);
        out.one(&HINTS_REFUSED, readings.stats.hints_refused);
    }
    out.one(&HINTS_DELIVERED, node.metrics.repair.hints_delivered.get());
}

fn write_anti_entropy(out: &mut Writer, node: &Node) {
    let totals = node.anti_entropy.totals();
    let mut rounds = out.metric(&AE_ROUNDS);
    rounds.value(&["complete"], totals.complete);
    rounds.value(&["incomplete"], totals.rounds - totals.complete);
    out.metric(&AE_TIMES).durations(&[], &node.anti_entropy.round_times.counts());
    let (now, mut ages) = (node.uptime(), out.metric(&AE_AGE));
    for peer in node.peers.nodes() {
        let ended = node.anti_entropy.completed(peer).unwrap_or_default();
        ages.value(&[peer.as_str()], seconds(Duration::from_millis(now.since(ended))));
    }
    let interval = Duration::from_millis(node.config.anti_entropy.interval_ms);
    out.one(&AE_INTERVAL, seconds(interval));
    out.one(&AE_TREES, totals.trees);
    out.one(&AE_DIFFERING, totals.differing);
    out.one(&AE_COMPARED, totals.keys_compared);
    out.one(&AE_REPAIRED, totals.keys_repaired);
    let mut bytes = out.metric(&AE_BYTES);
    bytes.value(&["sent"], totals.bytes_sent);
    bytes.value(&["received"], totals.bytes_received);
    out.one(&AE_DIRTY, node.anti_entropy.dirty_partitions());
}

fn write_rows(out: &mut Writer, node: &Node) {
    let load = |count: &AtomicU64| count.load(Relaxed);
    out.one(&FILL_ROWS, node.metrics.repair.fill_rows.get());
    out.one(&FILLED, node.metrics.repair.partitions_filled.get());
    out.one(&NOT_READY, node.filled.missing_count());
    out.one(&LOST, node.unreceived.lost());
    out.one(&UNDECIDED, node.unreceived.undecided());
    out.one(&DISTRUSTED, distrusted::rows(node));
    out.one(&DOUBTFUL, node.filled.doubtful().len());
    out.one(&SCRUBBED, load(&node.swept.scrubbed));
    out.one(&SCRUB_REPAIRS, load(&node.swept.wrong_leaves));
    out.one(&MOVED, load(&node.swept.moved));
    out.one(&UNOWNED, load(&node.swept.unowned));
    out.one(&UNOWNED_DROPPED, load(&node.swept.dropped));
}

fn write_tombstones(out: &mut Writer, node: &Node, readings: Option<&Readings>) {
    if let Some(readings) = readings {
        out.one(&TOMBSTONES_KEPT, readings.stats.tombstones);
    }
    out.one(&REAPED, node.reaped.load(Relaxed));
    out.one(&UNCONFIRMED, node.metrics.repair.tombstones_unconfirmed.get());
    out.one(&EXPIRED, node.metrics.repair.expired.get());
    out.one(&EXPIRED_LEFT, node.metrics.repair.expired_left.get());
    let mut blocked = out.metric(&BLOCKED);
    for (reason, blocks) in [
        ("node_down", !node.peers.down().is_empty()),
        ("grace_differs", !node.graces_agree()),
        ("not_received", !node.filled.is_complete()),
        ("not_taking_part", !node.takes_part()),
    ] {
        blocked.value(&[reason], u8::from(blocks));
    }
}
