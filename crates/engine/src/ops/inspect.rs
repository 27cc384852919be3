//! Read-only queries over the whole cluster: what every node holds of a key, and which keys are in
//! conflict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_protocol::message::{Message, Query, QueryReply, Reply, WithPayload};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::packed;

use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::replica;

/// What one node holds of a key.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    /// The node.
    pub node: NodeId,
    /// Whether it answered.
    pub reached: bool,
    /// Whether it has received the key's partition.
    pub ready: bool,
    /// Its own object.
    pub object: Option<Object>,
    /// The hints it keeps of the key: target and object.
    pub hints: Vec<(NodeId, Object)>,
}

/// Keys in conflict, from the indexes of all nodes.
#[derive(Clone, Debug)]
pub struct ConflictPage {
    /// Keys in order, each with the largest sibling count that any node reports.
    pub keys: Vec<(Key, u32)>,
    /// Whether there may be more keys after the last one.
    pub more: bool,
    /// Nodes that did not answer: their conflicts may be missing.
    pub unreachable: Vec<NodeId>,
}

/// Asks every node of the layout, in order of preference, what it holds of a key.
pub async fn inspect(node: &Arc<Node>, key: &Key, timeout_ms: u64) -> Vec<ReplicaView> {
    let timeout = Duration::from_millis(timeout_ms);
    let seen = &node.view();
    join_all(seen.preference_list(key).iter().map(|at| view(node, seen, *at, key, timeout))).await
}

async fn view(
    node: &Arc<Node>,
    seen: &ClusterView,
    at: NodeId,
    key: &Key,
    timeout: Duration,
) -> ReplicaView {
    let unreached =
        ReplicaView { node: at, reached: false, ready: true, object: None, hints: Vec::new() };
    if at == node.me {
        let Ok(kept) = replica::kept(node, seen, key).await else { return unreached };
        let (ready, object, hints) = (node.is_ready_for(seen, key), kept.own, kept.hints);
        return ReplicaView { reached: true, ready, object, hints, ..unreached };
    }
    let heard =
        node.peers.ask(at, Message::Query(Query::Inspect { key: key.clone() }), timeout).await;
    let held = |mut reply: WithPayload<Reply>| {
        node.bounds.sizes.saw(key, reply.payload.len());
        reply.payload = node.admission.held(reply.payload);
        reply
    };
    let reply = heard.into_reply().map(held);
    reply.and_then(|reply| parse_reply(at, reply)).unwrap_or(unreached)
}

fn parse_reply(node: NodeId, reply: WithPayload<Reply>) -> Option<ReplicaView> {
    let Reply::Query(QueryReply::Inspection { own, ready, hints: heads }) = reply.head else {
        return None;
    };
    let mut payload = reply.payload;
    let object = match own {
        Some(len) => Some(take_object(&mut payload, len)?),
        None => None,
    };
    let mut hints = Vec::with_capacity(heads.len());
    for (target, len) in heads {
        hints.push((target, take_object(&mut payload, len)?));
    }
    Some(ReplicaView { node, reached: true, ready, object, hints })
}

/// Splits the next object off a payload that holds several.
fn take_object(payload: &mut Bytes, len: u32) -> Option<Object> {
    Object::decode(packed::take(payload, len)?).ok()
}

/// Lists keys in conflict after `after`, at most `limit`, from every node's index.
pub async fn conflicts(
    node: &Arc<Node>,
    bucket: Option<Bucket>,
    after: Option<Key>,
    limit: usize,
) -> ConflictPage {
    let limit = limit.clamp(1, usize::from(u16::MAX));
    let question = Message::Query(Query::Conflicts {
        bucket: bucket.clone(),
        after: after.clone(),
        limit: limit as u16,
    });
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let own = work::run(node, move |node| {
        node.store.conflicts(bucket.as_ref().map(Bucket::as_str), after.as_ref(), limit)
    });
    let (own, asked) = tokio::join!(own, node.peers.ask_each(&question, timeout));
    let mut pages = vec![(node.me, own.ok())];
    for (peer, reply) in asked {
        let page = if let Some(Reply::Query(QueryReply::Conflicts { keys })) = reply {
            Some(keys)
        } else {
            None
        };
        pages.push((peer, page));
    }
    merge_pages(pages, limit)
}

/// A node and its page; `None` if it did not answer.
type NodePage = (NodeId, Option<Vec<(Key, u32)>>);

/// Merges the pages of all nodes. A full page says nothing about keys after its last one, so the
/// merged page ends at the smallest last key of the full pages.
fn merge_pages(pages: Vec<NodePage>, limit: usize) -> ConflictPage {
    let mut joint: BTreeMap<Key, u32> = BTreeMap::new();
    let mut unreachable = Vec::new();
    let mut horizon: Option<Key> = None;
    for (node, page) in pages {
        let Some(page) = page else {
            unreachable.push(node);
            continue;
        };
        if page.len() >= limit
            && let Some((last, _)) = page.last()
            && horizon.as_ref().is_none_or(|horizon| last < horizon)
        {
            horizon = Some(last.clone());
        }
        for (key, siblings) in page {
            let most = joint.entry(key).or_default();
            *most = siblings.max(*most);
        }
    }
    let within = |key: &Key| horizon.as_ref().is_none_or(|horizon| key <= horizon);
    let found = joint.len();
    let keys: Vec<_> = joint.into_iter().filter(|(key, _)| within(key)).take(limit).collect();
    ConflictPage { more: horizon.is_some() || keys.len() < found, keys, unreachable }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn page(node: &str, keys: &[&str]) -> NodePage {
        let key = |k: &&str| (Key::new("b", k.as_bytes()).unwrap(), 2);
        (NodeId::parse(node).unwrap(), Some(keys.iter().map(key).collect()))
    }

    #[test]
    fn a_joint_page_ends_where_a_full_page_ends() {
        let joint = merge_pages(vec![page("n1", &["a", "b"]), page("n2", &["c"])], 2);
        let keys: Vec<_> = joint.keys.iter().map(|(key, _)| key.key().to_owned()).collect();
        assert_eq!((keys, joint.more), (vec!["a".to_owned(), "b".to_owned()], true));
    }

    #[test]
    fn pages_that_end_are_joined_whole() {
        let joint = merge_pages(vec![page("n1", &["a"]), page("n2", &["a", "c"])], 3);
        assert_eq!((joint.keys.len(), joint.more), (2, false));
    }

    #[test]
    fn a_silent_node_is_named() {
        let n2 = NodeId::parse("n2").unwrap();
        let joint = merge_pages(vec![page("n1", &["a"]), (n2, None)], 3);
        assert_eq!(joint.unreachable, [n2]);
    }
}
