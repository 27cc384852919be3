//! Trims the logs of feeds: entries that are older than their bucket keeps them, and the oldest where all
//! logs together have more than a node may keep.

use std::sync::Arc;
use std::time::Duration;

use quorate_storage::{Error, TRIM_MAX};

use crate::background::jobs::JobState;
use crate::background::work;
use crate::node::Node;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Trims for as long as the node runs.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let feeds = node.store.feeds();
        let _working = job.works();
        if let Err(error) = repeat(&node, |node| node.store.sweep_feeds()).await {
            job.failed(&error);
            tracing::warn!(%error, "could not delete what is left of feeds");
        }
        let entries: u64 = feeds.iter().map(|(_, entries)| entries).sum();
        let entries_max = node.config.limits.feed_entries_max;
        for (bucket, own) in feeds {
            // Each gives up the same part.
            let kept = u128::from(own) * u128::from(entries_max) / u128::from(entries.max(1));
            let kept = kept.min(u128::from(u64::MAX)) as u64;
            let trim = move |node: &Node| node.store.trim_feed(&bucket, node.now(), kept);
            if let Err(error) = repeat(&node, trim).await {
                job.failed(&error);
                tracing::warn!(%error, "could not trim the feed of a bucket");
            }
        }
    }
}

/// Does a step as the throttle allows, until it finds less than it could.
async fn repeat(
    node: &Arc<Node>,
    step: impl Fn(&Node) -> Result<usize, Error> + Clone + Send + 'static,
) -> Result<(), Error> {
    while work::run_throttled(node, &node.anti_entropy.throttle, step.clone()).await? >= TRIM_MAX {}
    Ok(())
}
