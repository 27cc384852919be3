//! Takes the steps of a change of the layout that are due, and the newer record that a peer shows. Every
//! member looks for itself; all steps may be taken twice.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::message::{Cluster, ClusterReply, Message, MoveProgress, Refusal, Reply};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::record::successor::SuccessorError;
use quorate_protocol::record::{ClusterRecord, Phase, Reason};
use tokio::time::{Instant, sleep};

use super::voting::{ProposalError, Proposed};
use super::{LearnError, lost, refresh};
use crate::background::jobs::{JobState, Pause};
use crate::node::Node;
use crate::ops::replica::on_blocking_pool;

/// How often a change under way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The first member takes a step as soon as it is due, the others if it does not for so long.
const FIRST_FOR: Duration = Duration::from_secs(10);
/// How long a step may take to be decided.
const STEP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs for as long as the node does.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    // From here on nobody waits for the file.
    drop(on_blocking_pool(&node, |node| Ok(node.record_history())).await);
    let (mut epoch, mut since) = (node.epoch(), Instant::now());
    loop {
        let shown = tokio::select! {
            biased;
            shown = node.membership.epochs.next_shown() => Some(shown),
            () = sleep(LOOK_EVERY) => None,
        };
        if let Some(peer) = shown {
            let _working = job.works();
            fetch(&node, peer).await;
            continue;
        }
        if !node.takes_part() {
            job.pauses(Pause::NotAdmitted);
            continue;
        }
        if node.epoch() != epoch {
            (epoch, since) = (node.epoch(), Instant::now());
        }
        refresh::run(&node).await;
        let record = node.membership.record();
        let is_moving = record.phase() != Phase::Stable;
        if !is_moving || !(is_first(&node, &record) || since.elapsed() >= FIRST_FOR) {
            job.waits();
            continue;
        }
        let _working = job.works();
        if let Some(step) = due(&node, &record).await {
            take(&node, step).await;
        }
    }
}

/// Receives the record of a peer that has shown a newer epoch.
async fn fetch(node: &Arc<Node>, peer: NodeId) {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms);
    let message = Message::Cluster(Cluster::AskRecord);
    let heard = node.peers.ask(peer, message, timeout).await;
    let learned = match heard.into_reply().map(|reply| reply.head) {
        Some(Reply::Cluster(ClusterReply::Record { record })) => learn(node, *record).await,
        Some(_) | None => Ok(false),
    };
    match learned {
        Ok(true) => {}
        Ok(false) => node.membership.epochs.disbelieve(peer),
        Err(error) => {
            node.membership.epochs.disbelieve(peer);
            // It will show the epoch in its next frame, too.
            if node.membership.refusals.now().is_some() {
                tracing::error!(%peer, %error, "the peer's cluster record is not taken over");
            }
        }
    }
}

/// Takes over a record that was received.
async fn learn(node: &Arc<Node>, record: ClusterRecord) -> Result<bool, LearnError> {
    let learning = node.clone();
    on_blocking_pool(node, move |_| Ok(learning.learn(&record))).await?
}

/// Whether this node is the first stable member, of those that are up, to take a step.
fn is_first(node: &Node, record: &ClusterRecord) -> bool {
    let down = node.peers.down();
    let is_up = |at: &NodeId| !down.contains(at);
    record.stable().iter().map(|member| member.node).find(is_up) == Some(node.me)
}

/// The step that is due, if one is.
async fn due(
    node: &Arc<Node>,
    record: &ClusterRecord,
) -> Option<Result<ClusterRecord, SuccessorError>> {
    let reason = Reason { by: node.me, at: node.now(), note: String::new() };
    if let Some(next) = record.next() {
        for member in next {
            let progress = progress_of(node, member.node).await?;
            let is_filled = progress.missing == 0 || mutated(Mutation::FinishBeforeFilled);
            if !is_filled || progress.is_busy {
                return None;
            }
        }
        return Some(record.finish(reason));
    }
    for member in record.leaving() {
        let Some(progress) = progress_of(node, member.node).await else { continue };
        if (progress.unowned_rows, progress.hints) == (0, 0) {
            return Some(record.release(member.node, reason));
        }
    }
    None
}

/// How far a node is; `None` if it does not answer in this epoch.
pub async fn progress_of(node: &Arc<Node>, at: NodeId) -> Option<MoveProgress> {
    if at == node.me {
        return node.move_progress().await;
    }
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let asked = node.peers.ask(at, Message::Cluster(Cluster::AskMove), timeout).await;
    let Reply::Cluster(ClusterReply::Move(progress)) = asked.into_reply()?.head else {
        return None;
    };
    Some(progress)
}

/// Has a step decided.
pub(super) async fn take(node: &Arc<Node>, step: Result<ClusterRecord, SuccessorError>) {
    let record = match step {
        Ok(record) => record,
        Err(error) => return tracing::error!(%error, "a step of a layout change cannot be taken"),
    };
    let op = record.cause().op.name();
    match node.propose(record, STEP_PATIENCE).await {
        Ok(Proposed::Decided) => tracing::info!(op, "a step of a layout change is decided"),
        Ok(Proposed::Overtaken(_)) => {}
        Err(error @ ProposalError::NoQuorum { .. }) => {
            tracing::warn!(op, %error, "a step of a layout change is not decided; trying again");
        }
        Err(error) => tracing::error!(op, %error, "a step of a layout change failed"),
    }
}

/// Executes the messages about the record.
pub(crate) async fn carry_out(node: &Arc<Node>, message: Cluster) -> Reply {
    match message {
        Cluster::AskRecord => {}
        Cluster::Learn { record } => {
            if let Err(error) = learn(node, *record).await {
                tracing::error!(%error, "a cluster record is not taken over");
                return Reply::Refused(Refusal::Failed);
            }
        }
        Cluster::Vote { request } => {
            let voted = on_blocking_pool(node, move |node| Ok(node.vote(&request))).await;
            return match voted.unwrap_or(Err(Refusal::Failed)) {
                Ok(response) => ClusterReply::Vote { response: Box::new(response) }.into(),
                Err(refusal) => Reply::Refused(refusal),
            };
        }
        Cluster::AskMove => {
            return match node.move_progress().await {
                Some(progress) => ClusterReply::Move(progress).into(),
                None => Reply::Refused(Refusal::Failed),
            };
        }
        Cluster::AskHears { node: at } => {
            return ClusterReply::Hears { hears: lost::hears(node, at) }.into();
        }
        Cluster::Hello { .. }
        | Cluster::Buckets { .. }
        | Cluster::Form { .. }
        | Cluster::CompareTokens { .. }
        | Cluster::Tokens { .. } => {
            return Reply::Refused(Refusal::Malformed);
        }
    }
    let record = Box::new(ClusterRecord::clone(&node.membership.record()));
    ClusterReply::Record { record }.into()
}

impl Node {
    /// How far this node is with the change of the layout; `None` if its store cannot tell.
    pub async fn move_progress(self: &Arc<Self>) -> Option<MoveProgress> {
        let counted = on_blocking_pool(self, |node| {
            let (partitions, missing) = node.filled.move_progress();
            let hints = node.store.hint_targets()?;
            Ok(MoveProgress {
                partitions,
                missing,
                is_busy: !node.buckets.raised().is_empty(),
                unowned_rows: node.swept.unowned_in(node.epoch().number).unwrap_or(u64::MAX),
                hints: hints.into_iter().map(|(_, keys, _)| keys).sum(),
            })
        });
        counted.await.ok()
    }
}
