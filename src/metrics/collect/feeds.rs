//! Requests that wait for changes, and the logs that feeds are made of.

use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::Writer;
use quorate_engine::node::Node;

const WATCHES: Desc =
    Desc::gauge("quorate_watches", "Requests that wait for a change of a key (wait_ms)");
const SUBSCRIBERS: Desc = Desc::gauge(
    "quorate_feed_subscribers",
    "Requests that wait for a change of a bucket, and streams of changes",
);
const CHANGES: Desc =
    Desc::counter("quorate_feed_changes_total", "Changes that this node gave to subscribers");
const ENTRIES: Desc =
    Desc::gauge("quorate_feed_entries", "Entries in the logs of this node's changes").means(
        "At limits.feed_entries_max the oldest are trimmed, whatever feed_retention_s says.",
    );

/// The metrics written here.
pub(super) const SECTION: Section =
    Section { title: "Feeds", about: "", metrics: &[WATCHES, SUBSCRIBERS, CHANGES, ENTRIES] };

/// Writes them.
pub(super) fn write(out: &mut Writer, node: &Node) {
    out.one(&WATCHES, node.watches.count());
    out.one(&SUBSCRIBERS, node.feed_watch.count());
    out.one(&CHANGES, node.feed_watch.delivered());
    let entries: u64 = node.store.feeds().iter().map(|(_, entries)| entries).sum();
    out.one(&ENTRIES, entries);
}
