//! Builds the secondary indexes of a store that an earlier release has written: it may have kept values with
//! index entries, as it does metadata, without knowing what they are.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::layout::Partition;
use quorate_storage::Error;
use tokio::time::Instant;

use crate::background::jobs::JobState;
use crate::background::work;
use crate::node::Node;

/// How long one step works.
const STEP_TIME: Duration = Duration::from_millis(10);
/// How long it waits after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Builds them, if they are not there. Until then this node is no ready home replica for questions to them.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    while !node.store.has_whole_index() {
        if let Err(error) = build(&node, &job).await {
            job.failed(&error);
            tracing::warn!(%error, "could not build the secondary indexes");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

async fn build(node: &Arc<Node>, job: &JobState) -> Result<(), Error> {
    let partitions: Vec<Partition> = node.view().partitions().collect();
    let of = partitions.len() as u64;
    for (done, partition) in partitions.into_iter().enumerate() {
        let _working = job.works();
        job.progress(done as u64, of);
        let mut after = None;
        loop {
            let step = move |node: &Node| {
                let began = Instant::now();
                let is_over = || began.elapsed() >= STEP_TIME;
                node.store.build_index_some(partition, after, is_over)
            };
            after = work::run_throttled(node, &node.anti_entropy.throttle, step).await?;
            if after.is_none() {
                break;
            }
        }
    }
    work::run(node, |node| node.store.index_is_built()).await?;
    tracing::info!("built the secondary indexes");
    Ok(())
}
