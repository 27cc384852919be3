//! Everything that `/metrics` shows.
//!
//! Most numbers are atomics. Those that the store has to be asked for take RocksDB's lock, and may
//! wait for a disk that hangs: they are asked for on a thread that may block, for a limited time,
//! and left out if the store does not answer. That is when the others are needed most.

mod feeds;
mod jobs;
mod layout;
mod node;
mod peers;
mod process;
mod repair;
mod store;
mod tls;
mod traces;

use std::sync::Arc;

use quorate_engine::cluster::token_change;
use quorate_engine::metrics::desc::Section;
use quorate_engine::metrics::text::{Format, Writer};
use quorate_engine::metrics::{auth, operations, requests};
use quorate_engine::node::Node;
use quorate_protocol::time::WallTime;

use crate::config::Config;

/// All metrics, in the order in which they are shown and documented.
pub(crate) const SECTIONS: [Section; 15] = [
    node::SECTION,
    requests::SECTION,
    auth::SECTION,
    operations::SECTION,
    repair::HINTS,
    repair::REPAIR,
    repair::TOMBSTONES,
    feeds::SECTION,
    jobs::SECTION,
    layout::SECTION,
    peers::SECTION,
    store::SECTION,
    tls::SECTION,
    traces::SECTION,
    process::SECTION,
];

/// The metrics of a node that waits to be added to a cluster, since then.
pub(crate) fn while_joining(config: &Config, started: WallTime, format: Format) -> String {
    let mut out = Writer::new(format);
    node::write_joining(&mut out, config);
    process::write(&mut out, started);
    out.finish()
}

/// All metrics of a node.
pub(crate) async fn everything(node: &Arc<Node>, format: Format) -> String {
    let readings = store::read(node).await;
    let mut out = Writer::new(format);
    let local_write = readings.as_ref().map(|readings| &readings.database.writes);
    node::write(&mut out, node);
    node.metrics.requests.write(&mut out);
    let tokens = (node.auth.count(), token_change::is_fresh(node));
    node.metrics.auth.write(&mut out, tokens, &token_change::disagreements(node));
    node.metrics.operations.write(&mut out, local_write);
    repair::write(&mut out, node, readings.as_ref());
    feeds::write(&mut out, node);
    jobs::write(&mut out, node);
    layout::write(&mut out, node);
    peers::write(&mut out, node);
    store::write(&mut out, node, readings.as_ref());
    tls::write(&mut out, node);
    traces::write(&mut out, node);
    process::write(&mut out, node.metrics.started);
    out.finish()
}
