//! Tokens, from one node to all: a change is sent to everyone at once, and every node compares its table
//! with each peer about every second (from `hello`), so that one that was away hears of it
//! as soon as it is back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::token::TokenId;
use quorate_protocol::token_table::Table;
use tokio::time::Instant;

use crate::cluster::tokens::{TokensError, Wanted, majority};
use crate::config::AuthMode;
use crate::host::Urgency;
use crate::liveness::health::State;
use crate::node::Node;
use crate::ops::replica;

/// How often tables are compared with each peer.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// All members of the cluster, this node among them; while the layout changes the old and the new ones.
fn members(node: &Node) -> Vec<NodeId> {
    node.view().nodes().collect()
}

/// Whether this node may accept tokens: whether it knows of every revocation that was acknowledged longer
/// ago than `auth.stale_ms`.
pub fn is_fresh(node: &Node) -> bool {
    node.auth.is_fresh(node.uptime(), || members(node))
}

/// Whether this node compares its tokens with those of its peers. None are compared while it checks no
/// tokens and knows of none.
fn compares(node: &Node) -> bool {
    node.config.auth.mode == AuthMode::On || !node.auth.is_new()
}

/// For each peer, for how long in milliseconds its tokens and this node's are not known to be equal; none if
/// they are not compared.
pub fn disagreements(node: &Node) -> Vec<(NodeId, u64)> {
    let now = node.uptime();
    let for_how_long = |peer| (peer, node.auth.disagrees_for(peer, now));
    match compares(node) {
        true => node.peers.nodes().map(for_how_long).collect(),
        false => Vec::new(),
    }
}

/// Makes a token: durable on a majority of the members when this returns.
///
/// # Errors
/// [`TokensError`]. After [`TokensError::NoQuorum`] the token has been revoked again here.
pub async fn make(node: &Arc<Node>, wanted: Wanted) -> Result<(), TokensError> {
    if !is_fresh(node) {
        // While nobody checks tokens, nobody has compared them.
        join_all(node.peers.nodes().map(|peer| compare(node, peer))).await;
    }
    if !is_fresh(node) {
        return Err(TokensError::Stale); // others may have forgotten tokens up to a later time
    }
    let (making, id) = (node.clone(), wanted.id);
    let make = move || Ok(making.auth.make(&making.store, wanted, (making.me, making.now())));
    let part = node.host.run(Urgency::Request, make).await??;
    let made = spread(node, part).await;
    if made.is_err() {
        // Nobody gets its secret: it must not stay.
        if let Err(error) = revoke(node, id).await {
            tracing::debug!(%error, %id, "a token that could not be made is revoked here only, as yet");
        }
    }
    made
}

/// Revokes a token: durable on a majority of the members when this returns.
///
/// # Errors
/// [`TokensError`]. After [`TokensError::NoQuorum`] it is revoked on this node, and goes on to the others
/// as they can be reached.
pub async fn revoke(node: &Arc<Node>, id: TokenId) -> Result<(), TokensError> {
    if node.auth.table().record(id).is_none() {
        // It may have been made a moment ago, elsewhere.
        let ask = node.peers.nodes().map(|peer| exchange(node, peer));
        join_all(ask).await;
    }
    let revoking = node.clone();
    let revoke =
        move || Ok(revoking.auth.revoke(&revoking.store, id, (revoking.me, revoking.now())));
    let part = node.host.run(Urgency::Request, revoke).await??;
    spread(node, part).await
}

/// Sends a change to every peer, and counts who has it durably.
async fn spread(node: &Arc<Node>, part: Table) -> Result<(), TokensError> {
    let message = Message::Cluster(Cluster::Tokens { table: part, want_all: false });
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let replies = node.peers.ask_each(&message, timeout).await;
    let has_it = |(_, reply): &&(NodeId, Option<Reply>)| {
        matches!(reply, Some(Reply::Cluster(ClusterReply::Tokens { .. })))
    };
    let acks = 1 + replies.iter().filter(has_it).count();
    let needed = majority(members(node).len());
    if acks < needed { Err(TokensError::NoQuorum { acks, needed }) } else { Ok(()) }
}

/// Merges a peer's tokens, durably. The reply has all of this node's if `want_all`, else nothing.
pub async fn take(node: &Arc<Node>, table: Table, want_all: bool) -> Reply {
    match merge(node, table).await {
        Ok(()) if want_all => ClusterReply::Tokens { table: node.auth.table() }.into(),
        Ok(()) => ClusterReply::Tokens { table: Table::default() }.into(),
        Err(error) => Reply::Refused(replica::refusal_of(&error)),
    }
}

async fn merge(node: &Arc<Node>, table: Table) -> Result<(), quorate_storage::Error> {
    let merge = move |node: &Node| node.auth.merge(&node.store, &table).map(drop);
    replica::on_blocking_pool(node, merge).await
}

/// When this node compares tables with a peer.
#[derive(Debug, Default)]
pub struct Turns {
    last: Option<Instant>,
}

impl Turns {
    /// Compares tables with a peer if a second has passed since the last time. Nothing is asked while this
    /// node checks no tokens and knows of none.
    pub(super) async fn take(&mut self, node: &Arc<Node>, peer: NodeId) {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= COMPARE_EVERY);
        let is_down = node.peers.health(peer).is_none_or(|it| it.state() == State::Down);
        if !is_due || !compares(node) || is_down {
            return;
        }
        self.last = Some(Instant::now());
        compare(node, peer).await;
        if !node.auth.has_many_dead(node.now()) {
            return;
        }
        let fold = |node: &Node| {
            let peers: Vec<NodeId> = node.peers.nodes().collect();
            node.auth.fold(&node.store, &peers, node.now())
        };
        if let Err(error) = replica::on_blocking_pool(node, fold).await {
            tracing::debug!(%error, "could not forget tokens that are out of use");
        }
    }
}

/// Compares tables with a peer once, and exchanges them if they differ.
async fn compare(node: &Arc<Node>, peer: NodeId) {
    let asked_at = node.uptime();
    let hash = node.auth.hash();
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let message = Message::Cluster(Cluster::CompareTokens { hash });
    let heard = node.peers.ask(peer, message, timeout).await;
    let equal = match heard.into_reply().map(|reply| reply.head) {
        Some(Reply::Cluster(ClusterReply::TokensHash(theirs))) if theirs == hash => Some(hash),
        Some(Reply::Cluster(ClusterReply::TokensHash(_))) => None,
        Some(_) | None => return,
    };
    if equal.is_some() || exchange(node, peer).await {
        node.auth.compared(peer, asked_at, equal, &members(node));
    }
}

/// Exchanges tables with a peer. Returns whether both have merged the other's.
async fn exchange(node: &Arc<Node>, peer: NodeId) -> bool {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let message = Message::Cluster(Cluster::Tokens { table: node.auth.table(), want_all: true });
    let heard = node.peers.ask(peer, message, timeout).await;
    let Some(Reply::Cluster(ClusterReply::Tokens { table })) =
        heard.into_reply().map(|reply| reply.head)
    else {
        return false;
    };
    match merge(node, table).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, %peer, "could not merge a peer's tokens");
            false
        }
    }
}
