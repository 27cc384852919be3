//! Greetings: each node sends its peers its state and generation, and receives theirs. Peers agree
//! on bucket properties and on whether the cluster was formed, and detect which node came back
//! behind.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::generation::Verdict;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Refusal, Reply, Status};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::record::ClusterRecord;
use tokio::time::Instant;
use tokio::time::MissedTickBehavior;

use crate::background::jobs::JobState;
use crate::cluster::bucket_change;
use crate::cluster::generation::TWIN_FILE;
use crate::cluster::token_change;
use crate::liveness::health::{PROBES_PER_GREETING, State};
use crate::membership::voting;
use crate::node::Node;
use crate::ops::replica;

const TWIN: &str = "another process has started under this node's name, with a copy of its data directory \
     or of its configuration; only one may run. This one has ended. Find the other, let one of them go \
     on, and give the other a name and a data directory of its own";
/// How long a node waits for another process of its name to go away.
const TWIN_PATIENCE: Duration = Duration::from_secs(30);

/// Greets one peer: often while it is not up, now and then while it is, and whenever gossip has
/// news.
pub async fn run(node: Arc<Node>, peer: NodeId, job: Arc<JobState>) {
    let probe = Duration::from_millis(node.config.timeouts.probe_ms);
    let mut ticks = tokio::time::interval(probe);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(health) = node.peers.health(peer) else { return };
    let mut tokens = token_change::Turns::default();
    for turn in 0u64.. {
        let called = tokio::select! {
            biased;
            _ = ticks.tick() => false,
            () = health.to_be_greeted() => true,
        };
        tokens.take(&node, peer).await;
        if !called && health.state() == State::Up && turn % PROBES_PER_GREETING != 0 {
            continue;
        }
        let _working = job.works();
        let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(4));
        let hello = Message::Cluster(Cluster::Hello { status: Box::new(node.status()) });
        let asked_at = Instant::now();
        let answer = node.peers.ask(peer, hello, timeout).await;
        match answer.into_reply().map(|reply| reply.head) {
            Some(Reply::Cluster(ClusterReply::Status(status))) => {
                let (start, since, attests) =
                    (status.start, status.remembers_since, status.attests);
                node.generation.accepted(peer);
                let differs = status.buckets_hash != node.buckets.hash();
                node.clock.observe(peer, status.clock, asked_at.elapsed());
                on_status(&node, peer, *status);
                fold_buckets(&node).await;
                // Bucket tables first: a node that missed a change of n may take itself for a home
                // replica.
                if !differs || agree_on_buckets(&node, peer).await {
                    node.generation.admit(peer, start, since, attests);
                }
            }
            Some(Reply::Cluster(ClusterReply::Behind(_))) if mutated(Mutation::BehindIgnored) => {}
            Some(Reply::Cluster(ClusterReply::Behind(known)))
                if node.generation.was_accepted_by(peer) =>
            {
                end_beside_twin(&node, peer, &known);
            }
            Some(Reply::Refused(Refusal::NameTaken)) => {
                let taken = node.generation.name_is_taken();
                if taken > TWIN_PATIENCE {
                    end_beside_twin(&node, peer, &taken);
                }
            }
            // It is behind, and may reach nobody who knows more: all that it knows may have been removed.
            Some(Reply::Refused(Refusal::OtherEpoch)) if !node.membership.epochs.is_behind() => {
                let record = ClusterRecord::clone(&node.membership.record());
                let timeout = Duration::from_millis(node.config.timeouts.replica_ms);
                voting::teach(&node, peer, record, timeout).await;
            }
            Some(Reply::Cluster(ClusterReply::Behind(known))) => {
                let start_over = move |node: &Node| {
                    let backed_up_at = node.restored.backed_up_at();
                    node.generation.fall_behind(&node.store, known, node.now(), backed_up_at)
                };
                if let Err(error) = replica::on_blocking_pool(&node, start_over).await {
                    job.failed(&error);
                    tracing::error!(%error, "could not record that this node starts over");
                }
            }
            Some(_) | None => {}
        }
    }
}

/// Two processes run under this node's name. Starting over would make the other one start over in
/// turn, without end: this process, which can detect it, ends for good.
fn end_beside_twin(node: &Node, peer: NodeId, known: &dyn Debug) {
    if node.generation.twin.is_cancelled() {
        return;
    }
    tracing::error!(%peer, this = ?node.generation.start(&node.store), ?known, "{TWIN}");
    if let Err(error) = node.host.files.replace(TWIN_FILE, format!("{TWIN}\n").as_bytes()) {
        tracing::error!(%error, "could not write a note of it: do not let a supervisor restart this node");
    }
    node.generation.twin.cancel();
}

/// Answers a greeting: a peer that is behind what this node remembers of it is told so.
pub async fn answer(node: &Arc<Node>, peer: NodeId, status: Status) -> Reply {
    if let Some(health) = node.peers.health(peer) {
        health.greeted(node.peers.now());
    }
    let start = status.start;
    if start.number == 0 {
        return greeted(node, peer, status, false); // not from a node
    }
    // A peer that is up greets this often; one greeting may be lost.
    let alive = 2 * PROBES_PER_GREETING * node.config.timeouts.probe_ms;
    let judged = replica::on_blocking_pool(node, move |node| {
        node.generation.hear(&node.store, peer, start, Duration::from_millis(alive))
    });
    match judged.await {
        Ok(Verdict::Behind(known)) => Reply::Cluster(ClusterReply::Behind(known)),
        Ok(Verdict::Taken) => Reply::Refused(Refusal::NameTaken),
        Ok(Verdict::GoesOn(_)) => {
            let attests = node.generation.attests(peer, start);
            greeted(node, peer, status, attests)
        }
        Err(error) => Reply::Refused(replica::refusal_of(&error)),
    }
}

fn greeted(node: &Arc<Node>, peer: NodeId, status: Status, attests: bool) -> Reply {
    on_status(node, peer, status);
    Reply::Cluster(ClusterReply::Status(Box::new(Status { attests, ..node.status() })))
}

/// Records the status that a peer reports.
fn on_status(node: &Arc<Node>, peer: NodeId, status: Status) {
    match (node.formation(), status.formation) {
        (None, Some(formation)) => {
            // The cluster was formed without this node's disk: join it, empty.
            let joining = node.clone();
            node.background.spawn(async move {
                let record = move |node: &Node| node.record_formation(formation, true);
                if let Err(error) = replica::on_blocking_pool(&joining, record).await {
                    tracing::error!(%error, "could not record the cluster's formation");
                }
            });
        }
        (Some(mine), Some(theirs)) if mine != theirs => {
            tracing::error!(%peer, "the peer was formed with another cluster of the same id; \
                 one of the two must be wiped and join the other");
        }
        (Some(_) | None, Some(_) | None) => {}
    }
    let Some(health) = node.peers.health(peer) else { return };
    let common = status.common;
    if status.start.number != 0 && health.word().last().common != Some(common) {
        let differences = node.config.common().differences(&common);
        if !differences.is_empty() {
            let settings = differences.join("; ");
            tracing::error!(%peer, settings, "settings differ that must be the same on all nodes");
        }
    }
    health.word().heard(&status);
}

/// Exchanges bucket properties with a peer. Returns whether that succeeded.
async fn agree_on_buckets(node: &Arc<Node>, peer: NodeId) -> bool {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let message =
        Message::Cluster(Cluster::Buckets { table: node.buckets.table(), want_all: true });
    let heard = node.peers.ask(peer, message, timeout).await;
    let Some(Reply::Cluster(ClusterReply::Buckets { table })) =
        heard.into_reply().map(|reply| reply.head)
    else {
        return false;
    };
    let merged = replica::on_blocking_pool(node, move |node| bucket_change::take_now(node, &table));
    match merged.await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, %peer, "could not merge a peer's bucket properties");
            false
        }
    }
}

/// Forgets resets of bucket properties that all peers have.
async fn fold_buckets(node: &Arc<Node>) {
    if !node.buckets.has_many_resets() {
        return;
    }
    let fold = |node: &Node| {
        let said = |peer| node.peers.health(peer)?.word().last().buckets_hash;
        node.buckets.fold(&node.store, node.peers.nodes().map(said))
    };
    if let Err(error) = replica::on_blocking_pool(node, fold).await {
        tracing::debug!(%error, "could not forget resets of bucket properties");
    }
}
