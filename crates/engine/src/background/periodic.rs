//! Small jobs that record something now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::jobs::{JobState, Pause};
use crate::node::Node;
use crate::ops::replica;

/// The longest interval at which it is recorded how far peers were durable, if that has changed
/// (docs/decisions/0008).
const REMEMBER_EVERY_MAX: Duration = Duration::from_secs(3);
/// The longest interval between two records that the store is in use, and between two syncs of what
/// is remembered of peers.
const MARK_EVERY_MAX: Duration = Duration::from_secs(60);
/// Round trips are measured over windows of this length.
const WINDOW: Duration = Duration::from_secs(5);

/// Gives peers some time to accept this node's start, then goes on without them.
pub(super) async fn admit_alone(node: Arc<Node>, job: Arc<JobState>) {
    tokio::time::sleep(Duration::from_millis(4 * node.config.timeouts.replica_ms)).await;
    let _working = job.works();
    if !node.generation.is_admitted() && !node.generation.admit_alone() {
        tracing::warn!(
            "the data was last in use longer ago than the grace of deletes allows; this node takes no part \
             until a peer can say whether it is an old backup, or an operator: quorate distrusted accept"
        );
    }
}

/// How often those records are renewed: a small part of the grace, so that a copied disk that is
/// older than what was reaped since is recognised.
fn mark_every(node: &Node) -> Duration {
    let every = Duration::from_millis(node.config.deletes.grace_ms / 16).min(MARK_EVERY_MAX);
    every.max(Duration::from_millis(50))
}

/// Records now and then that the store is in use: this dates its rows, should they come back as a
/// backup.
pub(super) async fn mark_alive(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(mark_every(&node));
    let mut marked_at = 0;
    loop {
        ticks.tick().await;
        // An old backup must not seem young at its next start: only an admitted node counts as in
        // use.
        if !node.generation.is_admitted() {
            job.pauses(Pause::NotAdmitted);
            continue;
        }
        if node.store.durable_at() == marked_at {
            job.waits();
            continue; // nothing was written since the last mark
        }
        let _working = job.works();
        let now = node.now();
        let mark = move |node: &Node| node.generation.own_record(|| node.store.mark_alive(now));
        match replica::on_blocking_pool(&node, mark).await {
            Ok(()) => marked_at = node.store.durable_at(),
            Err(error) => {
                job.failed(&error);
                tracing::debug!(%error, "could not record that the store is in use");
            }
        }
    }
}

/// Records now and then how far peers were durable. The record is synced as rows are, and at the
/// least every [`mark_every`]: syncing more often would flush everything that a buffered store has
/// written, on all nodes at once, and requests would wait behind that.
pub(super) async fn remember(node: Arc<Node>, job: Arc<JobState>) {
    let mark_every = mark_every(&node);
    let mut ticks = tokio::time::interval(REMEMBER_EVERY_MAX.min(mark_every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut synced_at = Instant::now();
    loop {
        ticks.tick().await;
        let _working = job.works();
        let is_due = synced_at.elapsed() >= mark_every;
        let record = move |node: &Node| {
            node.generation.remember(&node.store)?;
            if is_due { node.store.sync() } else { Ok(()) }
        };
        let remembered = match replica::on_blocking_pool(&node, record).await {
            Ok(()) => node.store.durable().await,
            failed @ Err(_) => failed,
        };
        match remembered {
            Ok(()) if is_due => synced_at = Instant::now(),
            Ok(()) => {}
            Err(error) => {
                job.failed(&error);
                tracing::debug!(%error, "could not record how far peers were durable");
            }
        }
    }
}

/// Begins a new window of round trips now and then.
pub(super) async fn turn_windows(node: Arc<Node>, job: Arc<JobState>) {
    let mut ticks = tokio::time::interval(WINDOW);
    loop {
        ticks.tick().await;
        let _working = job.works();
        node.peers.all().iter().for_each(|peer| peer.health.round_trips().turn_window());
    }
}
