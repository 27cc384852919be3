//! Deciding the next cluster record: this disk's vote, and a try to have a record decided
//! (`protocol::synod`).

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Refusal, Reply};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::record::{ClusterRecord, DiskId, RecordHash};
use quorate_protocol::synod::{self, Effect, Proposer, Request, Response};
use tokio::time::{Instant, sleep, timeout_at};

use super::{LearnError, files, lock};
use crate::node::Node;
use crate::ops::replica::on_blocking_pool;

/// How long a proposer waits before it tries again, in milliseconds: between these.
const BACKOFF_MS: (u64, u64) = (50, 500);

/// What came of a proposal.
#[derive(Debug)]
pub enum Proposed {
    /// The record is decided, and in force here.
    Decided,
    /// Another record came first; it, or a later one, is in force here.
    Overtaken(Arc<ClusterRecord>),
}

/// Why a proposal came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    /// The record may not follow the one in force.
    #[error("{0}")]
    Invalid(#[from] synod::ProposeError),
    /// Too few disks answered in time.
    #[error("fewer than {majority} of {of} voting nodes answered in time")]
    NoQuorum {
        /// How many are needed.
        majority: usize,
        /// Of how many.
        of: usize,
        /// Whether the record may be decided all the same.
        is_outcome_unknown: bool,
    },
    /// Two records of one epoch.
    #[error(
        "a peer knows another cluster record of the same epoch ({0}): do not go on, ask for help"
    )]
    Conflict(RecordHash),
    /// The decided record could not be taken over here.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// There are no more ballots.
    #[error("{0}")]
    Rounds(#[from] synod::RetryError),
}

/// The answers that a proposal waits for.
type Asked = FuturesUnordered<BoxFuture<'static, (DiskId, Option<Response>)>>;

impl Node {
    /// This disk's vote. Blocks.
    ///
    /// # Errors
    /// The [`Refusal`] to reply with: it has no vote, or it cannot be recorded.
    pub fn vote(&self, request: &Request) -> Result<Response, Refusal> {
        let membership = &self.membership;
        if !self.takes_part() || !membership.votes.load(Relaxed) {
            return Err(Refusal::Busy);
        }
        let _one_at_a_time = lock(&membership.learning);
        let mut acceptor = lock(&membership.acceptor);
        let reply = acceptor.answer(request);
        if let Some(changes) = reply.sync_first {
            let stored = match mutated(Mutation::VoteNotSynced) {
                true => Ok(()),
                false => files::store_votes(&*self.host.files, &acceptor.state()),
            };
            if let Err(error) = stored {
                tracing::error!(%error, "a vote on the cluster record cannot be stored");
                return Err(Refusal::Failed);
            }
            acceptor.synced(changes);
        }
        Ok(reply.response)
    }

    /// Gives this disk a vote under the name of its node, if it has none: the cluster is new, so it has
    /// forgotten none. It may have heard of the formation from a peer first, and have drawn an id. A record
    /// that names that may be decided yet, and counts then (`vote_if_new`). Blocks.
    ///
    /// # Errors
    /// The system's, if that cannot be recorded.
    pub fn begin_to_vote(&self) -> std::io::Result<()> {
        let membership = &self.membership;
        let _one_at_a_time = lock(&membership.learning);
        if membership.votes() {
            return Ok(());
        }
        let by_name = DiskId::of_name(&self.config.cluster_id, self.me);
        if membership.record().member(self.me).is_some_and(|member| member.disk == by_name) {
            membership.vote_as(by_name);
        }
        membership.give_vote(&*self.host.files)
    }

    /// Has a record decided that follows the one in force, and takes it over. All members are told.
    ///
    /// # Errors
    /// [`ProposalError`], which says whether the outcome is known.
    pub async fn propose(
        self: &Arc<Self>,
        wanted: ClusterRecord,
        patience: Duration,
    ) -> Result<Proposed, ProposalError> {
        let parent = self.membership.record();
        let begun = {
            let mut ballots = lock(&self.membership.ballots);
            Proposer::start(ClusterRecord::clone(&parent), wanted, &mut ballots)?
        };
        let proposal = Proposal {
            node: self,
            parent,
            proposer: begun.0,
            asked: FuturesUnordered::new(),
            deadline: Instant::now() + patience,
        };
        proposal.run(begun.1).await
    }

    /// Sends a record to all peers, and does not wait for them.
    fn tell(&self, record: &ClusterRecord) {
        for peer in self.peers.nodes() {
            let message = Message::Cluster(Cluster::Learn { record: Box::new(record.clone()) });
            let nobody = crate::peer::mailbox::ReplyTo::nobody();
            self.peers.send(peer, message, bytes::Bytes::new(), nobody);
        }
    }
}

/// A proposal in progress.
struct Proposal<'a> {
    node: &'a Arc<Node>,
    parent: Arc<ClusterRecord>,
    proposer: Proposer,
    asked: Asked,
    deadline: Instant,
}

impl Proposal<'_> {
    async fn run(mut self, effects: Vec<Effect>) -> Result<Proposed, ProposalError> {
        let mut effects = effects;
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Ask { to, request } => {
                        to.iter().for_each(|disk| self.ask(*disk, &request, None))
                    }
                    Effect::Teach { to, record, request } => self.ask(to, &request, Some(record)),
                    Effect::Retry => self.asked.clear(),
                    Effect::Decided { record, is_wanted } => {
                        return self.decided(record, is_wanted).await;
                    }
                    Effect::Outdated { record } => return self.decided(record, false).await,
                    Effect::Conflict { known, .. } => return Err(ProposalError::Conflict(known)),
                }
            }
            match timeout_at(self.deadline, self.asked.next()).await {
                Ok(Some((disk, Some(response)))) => {
                    effects = self.proposer.on_response(disk, response);
                }
                Ok(Some((_, None))) => {}
                // Nobody is left to answer.
                Ok(None) => {
                    let (least, most) = BACKOFF_MS;
                    let pause = least + self.node.host.chance.draw() % (most - least);
                    sleep(Duration::from_millis(pause)).await;
                    effects = self.proposer.retry(&mut lock(&self.node.membership.ballots))?;
                }
                Err(_) => return Err(self.no_quorum()),
            }
            if Instant::now() >= self.deadline {
                return Err(self.no_quorum());
            }
        }
    }

    fn no_quorum(&self) -> ProposalError {
        ProposalError::NoQuorum {
            majority: self.parent.majority(),
            of: self.parent.stable().len(),
            is_outcome_unknown: self.proposer.is_outcome_unknown(),
        }
    }

    /// Asks a disk, and teaches its node the parent first if that is given.
    fn ask(&self, disk: DiskId, request: &Request, teach: Option<ClusterRecord>) {
        let stable = self.parent.stable();
        let Some(at) = stable.iter().find(|member| member.disk == disk).map(|m| m.node) else {
            return;
        };
        let (node, request) = (self.node.clone(), request.clone());
        self.asked.push(Box::pin(async move {
            let response = if at == node.me {
                let vote = move |node: &Node| Ok(node.vote(&request));
                on_blocking_pool(&node, vote).await.ok().and_then(Result::ok)
            } else {
                ask_peer(&node, at, request, teach).await
            };
            (disk, response)
        }));
    }

    /// A record is decided.
    async fn decided(
        self,
        record: ClusterRecord,
        is_wanted: bool,
    ) -> Result<Proposed, ProposalError> {
        // Also those that are no members by it.
        self.node.tell(&record);
        let learning = self.node.clone();
        let learned = on_blocking_pool(self.node, move |_| Ok(learning.learn(&record)));
        learned.await.map_err(LearnError::from)??;
        self.node.tell(&self.node.membership.record());
        Ok(match is_wanted {
            true => Proposed::Decided,
            false => Proposed::Overtaken(self.node.membership.record()),
        })
    }
}

/// Tells a peer a record, and waits for its answer; `None` without one.
pub(crate) async fn teach(
    node: &Node,
    peer: NodeId,
    record: ClusterRecord,
    timeout: Duration,
) -> Option<Reply> {
    let message = Message::Cluster(Cluster::Learn { record: Box::new(record) });
    Some(node.peers.ask(peer, message, timeout).await.into_reply()?.head)
}

async fn ask_peer(
    node: &Arc<Node>,
    at: NodeId,
    request: Request,
    teach: Option<ClusterRecord>,
) -> Option<Response> {
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    if let Some(record) = teach {
        self::teach(node, at, record, timeout).await?;
    }
    let message = Message::Cluster(Cluster::Vote { request: Box::new(request) });
    let reply = node.peers.ask(at, message, timeout).await.into_reply()?.head;
    let Reply::Cluster(ClusterReply::Vote { response }) = reply else { return None };
    Some(*response)
}
