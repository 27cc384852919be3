//! A change of the layout that an operator wants: planned with what this node knows, committed, or given up.
//! Nothing is kept between the two: a commit computes its plan again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Refusal as Refused, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::plan::{self, Change, Facts, Held, Plan, PlanError, Refusal, Warning};
use quorate_protocol::record::successor::SuccessorError;
use quorate_protocol::record::{ClusterRecord, Op, Reason, RecordHash};

use super::voting::{ProposalError, Proposed};
use crate::node::Node;
use crate::ops::replica::on_blocking_pool;

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The changes.
    pub changes: Vec<Change>,
    /// The members that are sworn gone.
    pub gone: BTreeSet<NodeId>,
}

/// What a change comes to that is to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The record that it was planned from.
    pub base: RecordHash,
    /// The [`Plan::result`] that the operator has seen.
    pub result: RecordHash,
    /// The names of the warnings that the operator accepts.
    pub accept: BTreeSet<String>,
}

/// Why a change was not planned, committed or given up. Nothing has changed, unless it is a
/// [`ProposalError`] that says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Another record is in force than the one that was named.
    #[error("the layout has changed: record {current:?} is in force")]
    Changed {
        /// That record.
        current: Arc<ClusterRecord>,
    },
    /// The changes come to something else than what the operator has seen.
    #[error(
        "the changes come to something else by now: a process that joins has another disk or address"
    )]
    OtherResult {
        /// The [`Plan::result`] by now.
        result: RecordHash,
    },
    /// A change is under way.
    #[error("a change of the layout is under way (epoch {epoch})")]
    Moving {
        /// The epoch in which it is.
        epoch: u64,
    },
    /// No change is under way.
    #[error("no change of the layout is under way")]
    NotMoving,
    /// A joining node is said to be lost, and answers.
    #[error("{0} is said to be lost and answers: stop it for good, or do not name it")]
    LostIsUp(NodeId),
    /// A leaving node is said to be lost, and answers a member.
    #[error(
        "{node} is said to be lost and answers {by}: it is released by itself once it has handed over what \
         it holds; if it is to be given up, stop it for good first"
    )]
    LeavingIsUp {
        /// The node.
        node: NodeId,
        /// That member.
        by: NodeId,
    },
    /// The changes are wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The step is wrong.
    #[error(transparent)]
    Step(#[from] SuccessorError),
    /// The change cannot be committed, or its warnings were not accepted.
    #[error("the change is not safe")]
    Unsafe(Box<Plan>),
    /// The next record could not be decided.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
    /// This node stops.
    #[error(transparent)]
    Store(#[from] quorate_storage::Error),
}

impl ChangeError {
    /// The warnings of a plan that `accept` does not name.
    pub fn not_accepted<'a>(plan: &'a Plan, accept: &BTreeSet<String>) -> Vec<&'a Warning> {
        plan.warnings.iter().filter(|warning| !accept.contains(warning.name())).collect()
    }
}

/// What a change would come to. Writes nothing.
///
/// # Errors
/// [`ChangeError`]: `base` is named and not in force, or the changes are wrong.
pub async fn plan(
    node: &Arc<Node>,
    base: Option<RecordHash>,
    wanted: Wanted,
) -> Result<Plan, ChangeError> {
    let current = node.membership.record();
    match base {
        Some(base) if base != current.hash() => Err(ChangeError::Changed { current }),
        Some(_) | None => planned(node, current, wanted).await,
    }
}

/// Plans off the event loop: a large cluster takes a while.
async fn planned(
    node: &Arc<Node>,
    base: Arc<ClusterRecord>,
    wanted: Wanted,
) -> Result<Plan, ChangeError> {
    let mut facts = ask_members(node, &base).await;
    let plan = on_blocking_pool(node, move |node| {
        let view = node.view();
        facts.n_in_use = view.ns();
        facts.held.insert(node.me, held(node));
        let waiting = node.membership.waiting.all(node.uptime());
        facts.waiting = waiting.into_iter().map(|it| (it.node, it.disk)).collect();
        Ok(plan::plan(&base, &wanted.changes, &wanted.gone, &facts))
    });
    Ok(plan.await??)
}

/// About what this node holds; `None` if it is ending.
pub async fn holds(node: &Arc<Node>) -> Option<Held> {
    on_blocking_pool(node, |node| Ok(held(node))).await.ok()
}

fn held(node: &Node) -> Held {
    let stats = node.store.database_stats();
    let tables: u64 = stats.levels.values().map(|level| level.bytes).sum();
    let values = stats.blob_bytes.saturating_sub(stats.blob_garbage_bytes);
    let bytes = tables.saturating_add(values).saturating_add(stats.memtable_bytes);
    Held { bytes, rows: node.store.stats().keys_estimate }
}

/// Which members answer, and which of them know no cluster records.
async fn ask_members(node: &Arc<Node>, base: &ClusterRecord) -> Facts {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let others = base.stable().iter().map(|member| member.node).filter(|at| *at != node.me);
    let asked = others.map(|at| async move {
        let message = Message::Cluster(Cluster::AskRecord);
        let heard = node.peers.ask(at, message, timeout).await;
        (at, heard.into_reply().map(|reply| reply.head))
    });
    let mut facts = Facts { up: [node.me].into(), ..Facts::default() };
    for (at, reply) in join_all(asked).await {
        if reply.is_some() {
            facts.up.insert(at);
        }
        match reply {
            Some(Reply::Cluster(ClusterReply::Record { .. })) => {}
            Some(Reply::Refused(Refused::Unsupported)) => drop(facts.old_release.insert(at)),
            Some(_) | None => drop(facts.down.insert(at)),
        }
    }
    // It may answer the next question.
    let seen_up =
        node.peers.view().into_iter().filter(|peer| matches!(peer.state, "up" | "suspected"));
    facts.up.extend(seen_up.map(|peer| peer.node));
    facts
}

/// Begins a change. A commit that is repeated finds that it was done, and returns the record.
///
/// # Errors
/// [`ChangeError`].
pub async fn commit(
    node: &Arc<Node>,
    agreed: &Agreed,
    wanted: Wanted,
    patience: Duration,
) -> Result<Arc<ClusterRecord>, ChangeError> {
    let done = |record: &ClusterRecord| {
        matches!(record.cause().op, Op::Begin | Op::Readdress)
            && record.parent() == agreed.base
            && plan::result_of(record) == agreed.result
    };
    let current = node.membership.record();
    if current.hash() != agreed.base {
        return in_history(node, done).ok_or(ChangeError::Changed { current });
    }
    if current.next().is_some() {
        return Err(ChangeError::Moving { epoch: current.epoch() });
    }
    let plan = planned(node, current.clone(), wanted).await?;
    if plan.result != agreed.result {
        return Err(ChangeError::OtherResult { result: plan.result });
    }
    let unaccepted = ChangeError::not_accepted(&plan, &agreed.accept);
    if !plan.refusals.is_empty() || !unaccepted.is_empty() {
        return Err(ChangeError::Unsafe(Box::new(plan)));
    }
    let record = plan.to_record(&current, reason(node))?;
    propose(node, agreed.base, record, patience, done).await
}

/// Gives up the change that is under way. Nodes that join and are `lost` with it need not hand over what they
/// hold. An abort that is repeated finds that it was done, and returns the record.
///
/// # Errors
/// [`ChangeError`].
pub async fn abort(
    node: &Arc<Node>,
    base: RecordHash,
    lost: &BTreeSet<NodeId>,
    patience: Duration,
) -> Result<Arc<ClusterRecord>, ChangeError> {
    let done = |record: &ClusterRecord| record.cause().op == Op::Abort && record.parent() == base;
    let current = node.membership.record();
    if current.hash() != base {
        return in_history(node, done).ok_or(ChangeError::Changed { current });
    }
    if current.next().is_none() {
        return Err(ChangeError::NotMoving);
    }
    let down = node.peers.down();
    if let Some(up) = lost.iter().find(|at| **at == node.me || !down.contains(at)) {
        // One that does not join is named as such.
        current.abort(lost, reason(node))?;
        return Err(ChangeError::LostIsUp(*up));
    }
    let record = current.abort(lost, reason(node))?;
    propose(node, base, record, patience, done).await
}

/// Has a record decided that follows `base`. Another one may have come first that is `done` all the same.
pub(super) async fn propose(
    node: &Arc<Node>,
    base: RecordHash,
    record: ClusterRecord,
    patience: Duration,
    done: impl Fn(&ClusterRecord) -> bool,
) -> Result<Arc<ClusterRecord>, ChangeError> {
    let changed = || ChangeError::Changed { current: node.membership.record() };
    match node.propose(record, patience).await {
        Ok(Proposed::Decided | Proposed::Overtaken(_)) => {
            in_history(node, done).ok_or_else(changed)
        }
        Err(ProposalError::Invalid(_)) if node.membership.record().hash() != base => {
            in_history(node, done).ok_or_else(changed)
        }
        Err(error) => Err(error.into()),
    }
}

/// The last record of this kind, if it is remembered.
pub(super) fn in_history(
    node: &Node,
    is_it: impl Fn(&ClusterRecord) -> bool,
) -> Option<Arc<ClusterRecord>> {
    node.record_history().into_iter().rev().find(|record| is_it(record))
}

fn reason(node: &Node) -> Reason {
    Reason { by: node.me, at: node.now(), note: String::new() }
}

/// Which warnings and refusals of a plan keep it from being committed, by name.
pub fn obstacles(plan: &Plan, accept: &BTreeSet<String>) -> Vec<&'static str> {
    let unaccepted = ChangeError::not_accepted(plan, accept).into_iter().map(Warning::name);
    let mut names: Vec<_> = plan.refusals.iter().map(Refusal::name).chain(unaccepted).collect();
    names.dedup();
    names
}
