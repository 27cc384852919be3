//! What a node does without being asked: greets its peers, agrees with them on buckets and on whether the
//! cluster was formed, delivers hints, and fills partitions it has not received.

pub(crate) mod pool;
pub(crate) mod reopen;
pub(crate) mod reopening;
pub(crate) mod throttle;
pub(crate) mod work;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_protocol::generation::Verdict;
use quorate_protocol::message::{Message, Refusal, Reply, Status};
use quorate_protocol::name::NodeId;
use tokio::time::MissedTickBehavior;

use crate::liveness::gossip;
use crate::liveness::health::State;
use crate::node::Node;
use crate::ops::replica;
use crate::repair::{anti_entropy, distrusted, fill, handoff, reaper, reassign};

/// A peer that is up is greeted every so many probe intervals.
pub(crate) const PROBES_PER_GREETING: u64 = 2;
/// How often it is recorded how far peers were durable, if that has changed, at the least.
const REMEMBER_EVERY_MAX: Duration = Duration::from_secs(3);
/// The longest time between two records that the store is in use, and between two syncs of what is
/// remembered.
const MARK_EVERY_MAX: Duration = Duration::from_secs(60);
/// Left in the data directory of a node that has ended beside another one of its name: keeps a supervisor
/// from starting it again.
pub(crate) const TWIN_FILE: &str = "another-process-runs-under-this-name";
const TWIN: &str = "another process has started under this node's name, with a copy of its data directory \
     or of its configuration; only one may run. This one has ended. Find the other, let one of them go \
     on, and give the other a name and a data directory of its own";
/// How long a node waits for another process of its name to be gone.
const TWIN_PATIENCE: Duration = Duration::from_secs(30);
/// Round trips are measured over windows of this length.
const WINDOW: Duration = Duration::from_secs(5);

/// Starts the background jobs. They end when `node.stop` is cancelled.
pub(crate) fn start(node: &Arc<Node>) {
    for peer in node.peers.nodes() {
        spawn(node, greet(node.clone(), peer));
        spawn(node, handoff::run(node.clone(), peer));
        spawn(node, anti_entropy::run(node.clone(), peer));
    }
    spawn(node, fill::run(node.clone()));
    spawn(node, distrusted::run(node.clone()));
    spawn(node, reaper::run(node.clone()));
    spawn(node, reopen::run(node.clone()));
    spawn(node, reassign::run(node.clone()));
    spawn(node, reassign::scrub(node.clone()));
    spawn(node, mark_alive(node.clone()));
    spawn(node, admit_alone(node.clone()));
    spawn(node, remember(node.clone()));
    spawn(node, turn_windows(node.clone()));
    spawn(node, gossip::run(node.clone()));
}

fn spawn(node: &Arc<Node>, job: impl Future<Output = ()> + Send + 'static) {
    let stop = node.stop.clone();
    node.background.spawn(async move {
        tokio::select! {
            () = job => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Greets one peer: often while it is not up, now and then while it is, and whenever gossip has news.
async fn greet(node: Arc<Node>, peer: NodeId) {
    let probe = Duration::from_millis(node.config.timeouts.probe_ms);
    let mut ticks = tokio::time::interval(probe);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(health) = node.peers.health(peer) else { return };
    for turn in 0u64.. {
        let called = tokio::select! {
            _ = ticks.tick() => false,
            () = health.to_be_greeted() => true,
        };
        if !called && health.state() == State::Up && turn % PROBES_PER_GREETING != 0 {
            continue;
        }
        let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(4));
        let hello = Message::Hello { status: Box::new(node.status()) };
        let asked_at = Instant::now();
        let heard = node.peers.ask(peer, hello, timeout).await;
        match heard.into_reply().map(|reply| reply.head) {
            Some(Reply::Status(status)) => {
                let (start, since, attests) =
                    (status.start, status.remembers_since, status.attests);
                node.generation.accepted(peer);
                let differs = status.buckets_hash != node.buckets.hash();
                node.clock.hear(peer, status.clock, asked_at.elapsed());
                self::heard(&node, peer, *status);
                fold_buckets(&node).await;
                // First: who does not know that n was changed may take itself for a home replica.
                if !differs || agree_on_buckets(&node, peer).await {
                    node.generation.admit(peer, start, since, attests);
                }
            }
            Some(Reply::Behind(known)) if node.generation.was_accepted_by(peer) => {
                end_beside_twin(&node, peer, &known);
            }
            Some(Reply::Refused(Refusal::NameTaken)) => {
                let taken = node.generation.name_is_taken();
                if taken > TWIN_PATIENCE {
                    end_beside_twin(&node, peer, &taken);
                }
            }
            Some(Reply::Behind(known)) => {
                let start_over =
                    move |node: &Node| node.generation.fall_behind(&node.store, known, node.now());
                if let Err(error) = replica::on_blocking_pool(&node, start_over).await {
                    tracing::error!(%error, "could not record that this node starts over");
                }
            }
            Some(_) | None => {}
        }
    }
}

/// Two processes run under this node's name. Starting over would make the other one do the same, and so on
/// without end: this one, which can tell, ends for good.
fn end_beside_twin(node: &Node, peer: NodeId, known: &dyn Debug) {
    if node.generation.twin.is_cancelled() {
        return;
    }
    tracing::error!(%peer, this = ?node.generation.start(&node.store), ?known, "{TWIN}");
    if let Err(error) = std::fs::write(node.config.data_dir.join(TWIN_FILE), format!("{TWIN}\n")) {
        tracing::error!(%error, "could not leave a note of it: do not restart this node by itself");
    }
    node.generation.twin.cancel();
}

/// Answers a greeting: a peer that is behind what this node remembers of it is told so.
pub(crate) async fn answer(node: &Arc<Node>, peer: NodeId, status: Status) -> Reply {
    if let Some(health) = node.peers.health(peer) {
        health.greeted(node.peers.now());
    }
    let start = status.start;
    if start.number == 0 {
        return greeted(node, peer, status, false); // not by a node
    }
    // A peer that is up greets this often; one greeting may be lost.
    let alive = 2 * PROBES_PER_GREETING * node.config.timeouts.probe_ms;
    let judged = replica::on_blocking_pool(node, move |node| {
        node.generation.hear(&node.store, peer, start, Duration::from_millis(alive))
    });
    match judged.await {
        Ok(Verdict::Behind(known)) => Reply::Behind(known),
        Ok(Verdict::Taken) => Reply::Refused(Refusal::NameTaken),
        Ok(Verdict::GoesOn(_)) => {
            let attests = node.generation.attests(peer, start);
            greeted(node, peer, status, attests)
        }
        Err(error) => Reply::Refused(replica::refusal_of(&error)),
    }
}

fn greeted(node: &Arc<Node>, peer: NodeId, status: Status, attests: bool) -> Reply {
    heard(node, peer, status);
    Reply::Status(Box::new(Status { attests, ..node.status() }))
}

/// Waits a while for a peer to find nothing wrong with this node's start, then goes on without.
async fn admit_alone(node: Arc<Node>) {
    tokio::time::sleep(Duration::from_millis(4 * node.config.timeouts.replica_ms)).await;
    if !node.generation.is_admitted() && !node.generation.admit_alone() {
        tracing::warn!(
            "the data was last in use longer ago than the grace of deletes allows; this node takes no part \
             until a peer can say whether it is an old backup, or an operator: quorate distrusted accept"
        );
    }
}

/// How old what is recorded may get, so that it tells of a copy of a disk that knows less than what was
/// reaped since: a small part of the grace.
fn mark_every(node: &Node) -> Duration {
    let every = Duration::from_millis(node.config.deletes.grace_ms / 16).min(MARK_EVERY_MAX);
    every.max(Duration::from_millis(50))
}

/// Records now and then that the store is in use: the age of its rows, should it come back as a backup.
async fn mark_alive(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(mark_every(&node));
    let mut marked_at = 0;
    loop {
        ticks.tick().await;
        // An old backup must not seem young at its next start: only who takes part is in use.
        if !node.generation.is_admitted() || node.store.durable_at() == marked_at {
            continue; // or nothing was written since the last mark
        }
        let now = node.now();
        node.generation.own_record();
        match replica::on_blocking_pool(&node, move |node| node.store.mark_alive(now)).await {
            Ok(()) => marked_at = node.store.durable_at(),
            Err(error) => tracing::debug!(%error, "could not record that the store is in use"),
        }
    }
}

/// Records now and then how far peers were durable, in a log that is synced as for rows, and at least
/// every [`mark_every`]: more often would take whatever a buffered store wrote to the disk, in all nodes at
/// once, and requests would wait behind that.
async fn remember(node: Arc<Node>) {
    let mark_every = mark_every(&node);
    let mut ticks = tokio::time::interval(REMEMBER_EVERY_MAX.min(mark_every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut synced_at = Instant::now();
    loop {
        ticks.tick().await;
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
            Err(error) => tracing::debug!(%error, "could not record how far peers were durable"),
        }
    }
}

/// Takes note of what a peer says of itself.
pub(crate) fn heard(node: &Arc<Node>, peer: NodeId, status: Status) {
    match (node.formation(), status.formation) {
        (None, Some(formation)) => {
            // The cluster was formed without this node's disk: join it, empty.
            let node = node.clone();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = node.record_formation(formation, true) {
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
            tracing::error!(%peer, settings, "settings differ that all nodes must have alike");
        }
    }
    health.word().heard(&status);
}

/// Exchanges bucket properties with a peer. Whether that was done.
async fn agree_on_buckets(node: &Arc<Node>, peer: NodeId) -> bool {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let message = Message::Buckets { table: node.buckets.table(), want_all: true };
    let heard = node.peers.ask(peer, message, timeout).await;
    let Some(Reply::Buckets { table }) = heard.into_reply().map(|reply| reply.head) else {
        return false;
    };
    let merged =
        replica::on_blocking_pool(node, move |node| node.buckets.merge(&node.store, &table));
    match merged.await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, %peer, "could not take bucket properties over");
            false
        }
    }
}

/// Forgets resets of bucket properties that all peers have heard of.
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

async fn turn_windows(node: Arc<Node>) {
    let mut ticks = tokio::time::interval(WINDOW);
    loop {
        ticks.tick().await;
        for health in node.peers.nodes().filter_map(|peer| node.peers.health(peer)) {
            health.turn_window();
        }
    }
}
