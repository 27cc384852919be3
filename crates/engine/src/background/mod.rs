//! The background jobs of a node. They end when the node stops.
//!
//! `registry` lists them, `jobs` knows what each does at the moment; `periodic` and `reopen` are jobs,
//! most others are in `crate::repair`. `work` and `throttle` run their work at low priority and within a
//! share of a core.

pub mod jobs;
mod periodic;
pub mod registry;
pub mod reopen;
pub mod reopening;
pub mod throttle;
pub mod work;

use std::future::Future;
use std::sync::Arc;

use crate::node::Node;

/// Starts the background jobs. They end when `node.stop` is cancelled.
pub fn start(node: &Arc<Node>) {
    registry::start_all(node);
}

/// Starts a task that ends when `node.stop` is cancelled, and is not listed as a job.
pub fn spawn(node: &Arc<Node>, job: impl Future<Output = ()> + Send + 'static) {
    let stop = node.stop.clone();
    node.background.spawn(async move {
        tokio::select! {
            biased;
            () = job => {}
            () = stop.cancelled() => {}
        }
    });
}
