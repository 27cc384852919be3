//! Traces for a collector.

use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::Writer;
use quorate_engine::node::Node;

const OPERATIONS: Desc = Desc::counter(
    "quorate_traced_operations_total",
    "Sampled operations, and what was done for those of other nodes, by what became of their spans",
)
.by(&["result"])
.means(
    "`dropped`: more was sampled than could be sent, so lower otlp.sample_percent. `failed`: the collector \
     did not take them; the log says why. Requests do not suffer from either.",
);

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Traces",
    about: "What goes to the collector of `[otlp]`.",
    metrics: &[OPERATIONS],
};

/// Writes the metrics of traces.
pub(super) fn write(out: &mut Writer, node: &Node) {
    let counts = node.sampler.counts();
    let mut operations = out.metric(&OPERATIONS);
    operations.value(&["exported"], counts.exported);
    operations.value(&["dropped"], counts.dropped);
    operations.value(&["failed"], counts.failed);
}
