//! The cluster record in force, and how far a change of it is here.

use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::Writer;
use quorate_engine::node::Node;
use quorate_protocol::record::Phase;

const EPOCH: Desc = Desc::gauge("quorate_layout_epoch", "Number of the cluster record in force here")
    .means(
        "Equal on all nodes within moments. A node that stays behind reaches no other, or was removed: its \
         `/readyz` and its log say so.",
    );
const PHASE: Desc = Desc::gauge(
    "quorate_layout_phase",
    "Where the cluster is between two layouts: 1 for the phase that it is in, 0 for the others",
)
.by(&["phase"])
.means("`quorate layout show` says how far a change is, and for whom it waits.");
const UNREADY: Desc = Desc::gauge(
    "quorate_layout_partitions_unready",
    "Partitions that this node has still to receive before the change under way can end",
)
.means("If it does not fall, an old home replica is down: the change waits for it.");
const CONFLICT: Desc = Desc::gauge(
    "quorate_layout_conflict",
    "Whether two cluster records of one epoch were seen: 1 or 0",
)
.means("1 cannot happen unless a disk lost its votes, or a recovery was forced: ask for help.");
const OUTDATED: Desc = Desc::counter(
    "quorate_outdated_frames_total",
    "Frames of peers that were not executed because they were sent in another epoch, by who was outdated",
)
.by(&["side"])
.means("Some at each change. The newer record is exchanged, and what was asked is asked again.");
const RESTARTS: Desc = Desc::counter(
    "quorate_operation_restarts_total",
    "Reads and writes that began again because the cluster record changed meanwhile",
)
.means("Some at each change; clients see only that they take longer.");

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Layout",
    about: "",
    metrics: &[EPOCH, PHASE, UNREADY, CONFLICT, OUTDATED, RESTARTS],
};

/// Writes the metrics of the cluster record.
pub(super) fn write(out: &mut Writer, node: &Node) {
    let record = node.membership.record();
    out.one(&EPOCH, record.epoch());
    let mut phases = out.metric(&PHASE);
    for (phase, name) in
        [(Phase::Stable, "stable"), (Phase::Moving, "moving"), (Phase::Releasing, "releasing")]
    {
        phases.value(&[name], u8::from(record.phase() == phase));
    }
    // What was missing when a change was given up is not waited for.
    let missing = record.next().map_or(0, |_| node.filled.move_progress().1);
    out.one(&UNREADY, missing);
    out.one(&CONFLICT, u8::from(node.membership.has_conflict()));
    let counted = &node.metrics.layout;
    let mut outdated = out.metric(&OUTDATED);
    outdated.value(&["peer"], counted.outdated_peer.get());
    outdated.value(&["self"], counted.outdated_self.get());
    out.one(&RESTARTS, counted.restarts.get());
}
