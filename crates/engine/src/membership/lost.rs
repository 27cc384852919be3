//! A node that was leaving, and is dead for good: an operator lets it go. Nobody else can tell a dead node
//! from one that comes back with what it has still to hand over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Reply};
use quorate_protocol::name::NodeId;
use quorate_protocol::record::successor::SuccessorError;
use quorate_protocol::record::{ClusterRecord, Op, Reason, RecordHash};

use super::change::{ChangeError, in_history, propose};
use crate::node::Node;

/// The note on the record that lets such a node go.
const NOTE: &str = "declared lost";

/// Lets a leaving node go that is dead for good. What it had not handed over, and nobody else holds, is lost.
/// A release that is repeated finds that it was done, and returns the record.
///
/// # Errors
/// [`ChangeError`]: the node answers a member, or is not leaving.
pub async fn release(
    node: &Arc<Node>,
    base: RecordHash,
    lost: NodeId,
    patience: Duration,
) -> Result<Arc<ClusterRecord>, ChangeError> {
    let current = node.membership.record();
    if current.member(lost).is_none() {
        let released = |record: &ClusterRecord| record.cause().op == Op::Release;
        let let_go = in_history(node, released).filter(|_| was_leaving(node, lost));
        return let_go.ok_or(SuccessorError::NotLeaving(lost).into());
    }
    if current.hash() != base {
        return Err(ChangeError::Changed { current });
    }
    let reason = Reason { by: node.me, at: node.now(), note: NOTE.to_owned() };
    // Names a node that is not leaving, before anybody is asked about it.
    let record = current.release(lost, reason)?;
    if let Some(by) = heard_by(node, &current, lost).await {
        return Err(ChangeError::LeavingIsUp { node: lost, by });
    }
    let done = |record: &ClusterRecord| {
        record.cause().op == Op::Release && record.parent() == base && record.member(lost).is_none()
    };
    propose(node, base, record, patience, done).await
}

/// Whether a record that is remembered says that a node was leaving.
fn was_leaving(node: &Node, lost: NodeId) -> bool {
    let history = node.record_history();
    history.iter().any(|record| record.leaving().iter().any(|member| member.node == lost))
}

/// A member that a node answers, if there is one. All are asked; the node itself, too.
async fn heard_by(node: &Arc<Node>, record: &ClusterRecord, lost: NodeId) -> Option<NodeId> {
    if lost == node.me || hears(node, lost) {
        return Some(node.me);
    }
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms.saturating_mul(2));
    let lists = [record.stable(), record.next().unwrap_or_default(), record.leaving()];
    let all: BTreeSet<NodeId> = lists.into_iter().flatten().map(|member| member.node).collect();
    let asked = all.into_iter().filter(|at| *at != node.me).map(|at| async move {
        let question = match at == lost {
            true => Cluster::AskRecord,
            false => Cluster::AskHears { node: lost },
        };
        let heard = node.peers.ask(at, Message::Cluster(question), timeout).await;
        let reply = heard.into_reply()?.head;
        let hears = matches!(reply, Reply::Cluster(ClusterReply::Hears { hears: true }));
        // Whatever the node itself answers.
        (hears || at == lost).then_some(at)
    });
    join_all(asked).await.into_iter().flatten().next()
}

/// Whether a node answers this one, as far as this one can tell.
pub(super) fn hears(node: &Node, at: NodeId) -> bool {
    let seen = node.peers.view();
    seen.iter().any(|peer| peer.node == at && matches!(peer.state, "up" | "suspected"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::message::Formation;
    use quorate_protocol::record::{DiskId, RecordMember};
    use quorate_protocol::time::WallTime;

    use super::*;
    use crate::liveness::peer_time::PeerTime;
    use crate::testing;

    fn name(text: &str) -> NodeId {
        NodeId::parse(text).unwrap()
    }

    fn reason() -> Reason {
        Reason { by: name("n1"), at: WallTime(1), note: String::new() }
    }

    /// A node of one, from which n2 is leaving.
    fn releasing(dir: &tempfile::TempDir) -> Arc<Node> {
        let node = testing::node(dir.path(), "n1", &["n1"]);
        node.record_formation(Formation([9; 16]), false).unwrap();
        let first = node.membership.record();
        let n2 = RecordMember {
            node: name("n2"),
            disk: DiskId(2),
            seat: name("n2"),
            zone: "n2".to_owned(),
            weight: 1,
            peer_addr: "n2.test:1".to_owned(),
            client_addr: None,
        };
        let both = [first.stable(), &[n2]].concat();
        let begun = first.begin(both, &[], reason()).unwrap();
        let aborted = begun.abort(&BTreeSet::new(), reason()).unwrap();
        for record in [begun, aborted] {
            assert!(node.learn(&record).unwrap());
        }
        node
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_dead_node_that_was_leaving_is_let_go_once() {
        let dir = tempfile::tempdir().unwrap();
        let node = releasing(&dir);
        assert!(node.generation.admit_alone());
        let base = node.membership.record().hash();
        let wrong = release(&node, RecordHash(7), name("n2"), PATIENCE).await;
        assert!(matches!(wrong, Err(ChangeError::Changed { .. })), "{wrong:?}");
        for other in ["n1", "n9"] {
            let wrong = release(&node, base, name(other), PATIENCE).await;
            let is_named = |error: &ChangeError| error.to_string().contains("is not leaving");
            assert!(wrong.as_ref().is_err_and(is_named), "{wrong:?}");
        }
        let health = node.peers.health(name("n2")).unwrap();
        health.answered(0, PeerTime(1), PeerTime(2));
        let up = release(&node, base, name("n2"), PATIENCE).await;
        assert!(matches!(up, Err(ChangeError::LeavingIsUp { .. })), "{up:?}");
        assert!(hears(&node, name("n2")) && !hears(&node, name("n9")));
        health.failed(0, PeerTime(3), PeerTime(4), "a test".to_owned());
        assert!(!hears(&node, name("n2")));
        let let_go = release(&node, base, name("n2"), PATIENCE).await.unwrap();
        assert_eq!((let_go.cause().reason.note.as_str(), let_go.leaving()), (NOTE, &[][..]));
        let again = release(&node, base, name("n2"), PATIENCE).await.unwrap();
        assert_eq!(again, let_go);
        assert_eq!(node.membership.record(), let_go);
    }
}
