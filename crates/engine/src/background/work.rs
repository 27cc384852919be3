//! Runs background work on a node's store, on the threads of `crate::background::pool`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_storage::Error;
use rustix::time::{ClockId, clock_gettime};

use crate::background::throttle::Throttle;
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
        let (began, worked_before) = (Instant::now(), worked());
        let done = work(node)?;
        Ok((done, worked().saturating_sub(worked_before), began.elapsed()))
    };
    let (done, worked, took) = run(node, timed).await?;
    throttle.worked(worked, took);
    Ok(done)
}

/// The processor time of the calling thread.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
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
    node.background_pool.run(move || work(&working)).await
}
