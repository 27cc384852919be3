//! What this node knows of the hints it keeps: how far they have been delivered, and how many hints
//! of other nodes it can accept. Also sync points, which ask all nodes whether the hints of a
//! moment have been delivered.
//!
//! A *mark* is a number that a node hands out. A handoff pass over all hints for a target that
//! began after a mark was handed out, and delivered every hint it found, settles the mark for that
//! target: each hint kept at the time of the mark was either found or delivered earlier. A target
//! without hints is settled too. Marks live as long as the process: a nonce tells those of
//! different starts apart.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use quorate_protocol::context::equal_in_constant_time;
use quorate_protocol::message::{Message, Repair, RepairReply, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::node::{Node, record};
use crate::ops::replica::{on_blocking_pool, refusal_of};
use crate::repair::hint_marks::Mark;

/// The most hints that a node accepts at a time from one node.
pub const ROOM_ROWS_MAX: usize = 256;
/// How many hints an overloaded node accepts: handoff continues slowly, however long the load
/// lasts.
const ROOM_ROWS_BUSY: usize = 8;

/// How many hints this node accepts now; 0 for "ask later".
pub fn room(node: &Node) -> u32 {
    let max = node.config.limits.operations_max.max(1);
    let free = max.saturating_sub(node.admission.operations());
    if node.accepts_requests().is_err() || !node.is_writable() || free == 0 {
        return 0;
    }
    if node.hints.is_stalled(node.store.stats().stalls, node.uptime()) {
        return ROOM_ROWS_BUSY as u32;
    }
    // One batch of merging even on a fully loaded machine: the sender waits while the throttle
    // rests.
    (ROOM_ROWS_MAX * free / max / node.fill_throttle.price_factor()).max(ROOM_ROWS_BUSY) as u32
}

/// The hints that this node keeps for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The node they are for.
    pub target: NodeId,
    /// How many keys.
    pub keys: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was first kept, by this node's wall clock.
    pub oldest: Option<WallTime>,
}

/// The hints that this node keeps, by target.
///
/// # Errors
/// The store's.
pub async fn kept(node: &Arc<Node>) -> Result<Vec<Kept>, quorate_storage::Error> {
    on_blocking_pool(node, |node| {
        let mut kept = Vec::new();
        for (target, keys, bytes) in node.store.hint_targets()? {
            kept.push(Kept { target, keys, bytes, oldest: node.store.oldest_hint(target)? });
        }
        Ok(kept)
    })
    .await
}

/// The nodes that this node keeps hints for.
///
/// # Errors
/// The store's.
async fn targets(node: &Arc<Node>) -> Result<Vec<NodeId>, quorate_storage::Error> {
    let found = on_blocking_pool(node, |node| node.store.hint_targets()).await?;
    Ok(found.into_iter().map(|(target, _, _)| target).collect())
}

/// The targets to which not all hints of a mark are delivered: [`RepairReply::Undelivered`], or why this
/// node cannot tell.
pub async fn undelivered(node: &Arc<Node>, mark: Mark) -> Reply {
    match targets(node).await {
        Ok(kept) => {
            Reply::Repair(RepairReply::Undelivered { targets: node.hints.undelivered(mark, &kept) })
        }
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// The marks of all nodes, taken at about the same moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPoint {
    /// By node; `None` if it did not answer, so that its hints are unknown.
    pub marks: BTreeMap<NodeId, Option<Mark>>,
}

/// How far the hints of a sync point have been delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Pairs (node that keeps hints, their target) that are not fully delivered.
    pub pending: Vec<(NodeId, NodeId)>,
    /// Nodes that do not answer now, or did not when the point was made.
    pub unreachable: Vec<NodeId>,
    /// Nodes that have restarted since: they no longer know what they kept.
    pub restarted: Vec<NodeId>,
}

/// Why an id is not a sync point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncPointError {
    /// Not in the form of an id.
    #[error("the id is damaged or cut short; send it back exactly as it was given")]
    Damaged,
    /// No node of this cluster made it.
    #[error("no node of this cluster made this sync point")]
    Unknown,
}

const ID_VERSION: u8 = 1;
const MAC_BYTES: usize = 16;
/// The longest id that is parsed, in characters: 255 nodes need far less.
const ID_CHARS_MAX: usize = 32 << 10;

impl SyncPoint {
    /// Asks every node for a mark.
    pub async fn make(node: &Arc<Node>) -> Self {
        let timeout = Duration::from_millis(node.config.timeouts.request_ms);
        let mark_of = |(peer, reply)| match reply {
            Some(Reply::Repair(RepairReply::SyncPoint { nonce, mark })) => {
                (peer, Some(Mark { nonce, number: mark }))
            }
            Some(_) | None => (peer, None),
        };
        let replies = node.peers.ask_each(&Message::Repair(Repair::SyncPoint), timeout).await;
        let mut marks: BTreeMap<_, _> = replies.into_iter().map(mark_of).collect();
        marks.insert(node.me, Some(node.hints.mark()));
        Self { marks }
    }

    /// Nodes that did not answer when the point was made.
    pub fn unreachable(&self) -> Vec<NodeId> {
        self.marks.iter().filter(|(_, mark)| mark.is_none()).map(|(node, _)| *node).collect()
    }

    /// Asks every node for its progress.
    ///
    /// # Errors
    /// This node's own store's.
    pub async fn delivery(
        &self,
        node: &Arc<Node>,
        timeout: Duration,
    ) -> Result<Delivery, quorate_storage::Error> {
        let mut delivery = Delivery { unreachable: self.unreachable(), ..Delivery::default() };
        let asked = self.marks.iter().filter_map(|(peer, mark)| Some((*peer, (*mark)?)));
        let own = targets(node).await?;
        let answers = asked.map(|(holder, mark)| {
            let own = &own;
            async move {
                if holder == node.me {
                    return (holder, Some(node.hints.undelivered(mark, own)));
                }
                let message =
                    Message::Repair(Repair::Undelivered { nonce: mark.nonce, mark: mark.number });
                let heard = node.peers.ask(holder, message, timeout).await;
                match heard.into_reply().map(|reply| reply.head) {
                    Some(Reply::Repair(RepairReply::Undelivered { targets })) => {
                        (holder, Some(targets))
                    }
                    Some(_) | None => (holder, None),
                }
            }
        });
        for (holder, answer) in join_all(answers).await {
            match answer {
                Some(Some(targets)) => {
                    delivery.pending.extend(targets.into_iter().map(|target| (holder, target)));
                }
                Some(None) => delivery.restarted.push(holder),
                None => delivery.unreachable.push(holder),
            }
        }
        delivery.unreachable.sort_unstable();
        Ok(delivery)
    }

    /// The point as text that any node of the cluster can decode: base64url of `version 1 | MAC 16
    /// | postcard`.
    pub fn id(&self, secret: &[u8; 32]) -> String {
        let body = record::encoded(self);
        let mut id = vec![ID_VERSION];
        id.extend_from_slice(&mac(secret, &body));
        id.extend_from_slice(&body);
        URL_SAFE_NO_PAD.encode(id)
    }

    /// Decodes an id that was made under one of the cluster's keys.
    ///
    /// # Errors
    /// [`SyncPointError`].
    pub fn parse(id: &str, secrets: &[[u8; 32]]) -> Result<Self, SyncPointError> {
        if id.len() > ID_CHARS_MAX {
            return Err(SyncPointError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(id).map_err(|_| SyncPointError::Damaged)?;
        let (head, body) = bytes.split_at_checked(1 + MAC_BYTES).ok_or(SyncPointError::Damaged)?;
        if head[0] != ID_VERSION {
            return Err(SyncPointError::Damaged);
        }
        let made_by = |secret| equal_in_constant_time(&mac(secret, body), &head[1..]);
        if !secrets.iter().any(made_by) {
            return Err(SyncPointError::Unknown);
        }
        postcard::from_bytes(body).map_err(|_| SyncPointError::Damaged)
    }
}

impl Delivery {
    /// Whether every hint of the sync point is known to be delivered.
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty() && self.unreachable.is_empty() && self.restarted.is_empty()
    }
}

fn mac(secret: &[u8; 32], body: &[u8]) -> [u8; MAC_BYTES] {
    let key = blake3::derive_key("quorate 2026-11 sync point", secret);
    let mut mac = [0; MAC_BYTES];
    mac.copy_from_slice(&blake3::keyed_hash(&key, body).as_bytes()[..MAC_BYTES]);
    mac
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::time::Uptime;

    use super::*;
    use crate::repair::hint_marks::Hints;

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    #[test]
    fn a_mark_is_settled_by_a_later_pass_and_for_its_target_only() {
        let (n2, n3) = (node("n2"), node("n3"));
        let hints = Hints::new([n2, n3], 1);
        let before = hints.last();
        let mark = hints.mark();
        assert_eq!(hints.undelivered(mark, &[]), Some(vec![]), "nothing is kept");
        hints.settle(n2, before);
        assert_eq!(hints.undelivered(mark, &[n2]), Some(vec![n2]), "the pass began too early");
        hints.settle(n2, hints.last());
        assert_eq!(hints.undelivered(mark, &[n2, n3]), Some(vec![n3]));
        let later = hints.mark();
        assert_eq!(hints.undelivered(later, &[n2]), Some(vec![n2]), "a pass settles no later mark");
        assert_eq!(hints.undelivered(mark, &[n2]), Some(vec![]));
    }

    #[test]
    fn marks_are_settled_for_members_only() {
        let (n2, n3) = (node("n2"), node("n3"));
        let hints = Hints::new([n2], 1);
        let mark = hints.mark();
        let settle = |target| hints.settle(target, hints.last());
        settle(n2);
        hints.follow([n2, n3]);
        assert_eq!(hints.undelivered(mark, &[n2, n3]), Some(vec![n3]), "what n2 has is kept");
        settle(n3);
        hints.saw_oldest(n3, Some(WallTime(7)));
        assert_eq!(hints.undelivered(mark, &[n2, n3]), Some(vec![]));
        assert_eq!((hints.oldest(n2), hints.oldest(n3)), (None, Some(WallTime(7))));
        hints.follow([n2]);
        settle(n3);
        hints.saw_oldest(n3, Some(WallTime(7)));
        assert_eq!(hints.undelivered(mark, &[n2, n3]), Some(vec![n3]), "its hints are still here");
        hints.follow([n2, n3]);
        assert_eq!((hints.undelivered(mark, &[n3]), hints.oldest(n3)), (Some(vec![n3]), None));
    }

    #[test]
    fn marks_of_another_start_and_marks_never_given_mean_nothing() {
        let hints = Hints::new([node("n2")], 2);
        let mark = hints.mark();
        let other = Mark { nonce: mark.nonce ^ 1, ..mark };
        assert_eq!(hints.undelivered(other, &[]), None);
        assert_eq!(hints.undelivered(Mark { number: mark.number + 1, ..mark }, &[]), None);
    }

    #[test]
    fn a_stall_counts_for_a_second() {
        let hints = Hints::new([], 3);
        assert!(!hints.is_stalled(0, Uptime(5)));
        assert!(hints.is_stalled(1, Uptime(10)) && hints.is_stalled(1, Uptime(1_009)));
        assert!(!hints.is_stalled(1, Uptime(1_010)));
    }

    #[test]
    fn an_id_comes_back_as_it_was_given_and_never_otherwise() {
        let mark = Mark { nonce: u64::MAX, number: 7 };
        let marks = [(node("n1"), Some(mark)), (node("n2"), None)].into();
        let point = SyncPoint { marks };
        let (old, new) = ([7; 32], [8; 32]);
        let id = point.id(&old);
        assert_eq!(SyncPoint::parse(&id, &[new, old]), Ok(point.clone()), "keys are rotated");
        assert_eq!(SyncPoint::parse(&id, &[new]), Err(SyncPointError::Unknown));
        assert_eq!(point.unreachable(), [node("n2")]);
        for at in 0..id.len() {
            assert!(SyncPoint::parse(&id[..at], &[old]).is_err(), "cut at {at}");
            let mut changed = id.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_ne!(SyncPoint::parse(&changed, &[old]), Ok(point.clone()), "changed at {at}");
        }
        for bad in ["", "!", "AAAA", &"A".repeat(ID_CHARS_MAX + 1)] {
            assert_eq!(SyncPoint::parse(bad, &[old]), Err(SyncPointError::Damaged), "{bad:.10}");
        }
    }
}
