//! Runs background work on a node's store, on threads of low priority.

use std::sync::Arc;

use tokio::time::Instant;

use quorate_storage::Error;

use crate::background::throttle::Throttle;
use crate::host::Urgency;
use crate::node::Node;

/// Runs work when its turn comes, within the share of a core that `throttle` allows.
///
/// # Errors
/// As [`run`].
pub async fn run_throttled<T: Send + 'static>(
    node: &Arc<Node>,
    throttle: &Throttle,
    work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let _turn = throttle.turn().await;
    let timed = move |node: &Node| {
        let worked = || node.host.threads.processor_time();
        let (began, worked_before) = (Instant::now(), worked());
        let done = work(node)?;
        Ok((done, worked().saturating_sub(worked_before), began.elapsed()))
    };
    let (done, worked, took) = run(node, timed).await?;
    throttle.worked(worked, took);
    Ok(done)
}

/// Runs work without a throttle.
///
/// # Errors
/// What `work` returns, or [`Error::Closed`] if the node is stopping.
pub async fn run<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let working = node.clone();
    node.host.run(Urgency::Background, move || work(&working)).await
}
