//! A disk that has lost what it had voted becomes another one: it draws an id, and asks for a record that
//! names it. The other disks decide that without it.

use std::sync::Arc;

use quorate_protocol::record::{DiskId, Phase, Reason};

use super::{files, lock, moves};
use crate::node::Node;
use crate::ops::replica::on_blocking_pool;

/// Asks for it, if it is due.
pub(super) async fn run(node: &Arc<Node>) {
    let record = node.membership.record();
    if node.membership.votes() || record.phase() == Phase::Moving {
        return;
    }
    if !record.stable().iter().any(|member| member.node == node.me) {
        return;
    }
    let drawn = match on_blocking_pool(node, |node| Ok(node.draw_disk())).await {
        Ok(Ok(Some(disk))) => disk,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::warn!(%error, "the id of this disk cannot be stored"),
        Err(_) => return, // the node is ending
    };
    let reason =
        Reason { by: node.me, at: node.now(), note: "a disk that lost its votes".to_owned() };
    moves::take(node, record.refresh(node.me, drawn, reason)).await;
}

impl Node {
    /// The id that was drawn for this disk; draws one if none was. `None` if it was given its vote meanwhile.
    /// Blocks.
    pub(super) fn draw_disk(&self) -> std::io::Result<Option<DiskId>> {
        let membership = &self.membership;
        let _one_at_a_time = lock(&membership.learning);
        if membership.votes() {
            return Ok(None);
        }
        let known = membership.record().member(self.me).map(|member| member.disk);
        let drawn = lock(&membership.disk).drawn;
        if drawn.is_some() && drawn != known {
            return Ok(drawn);
        }
        let draw = || u128::from(self.host.chance.draw());
        let id = DiskId(draw() << 64 | draw());
        files::store_disk(&*self.host.files, id)?;
        lock(&membership.disk).drawn = Some(id);
        membership.vote_as(id);
        Ok(Some(id))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::message::Formation;
    use quorate_protocol::time::WallTime;

    use super::*;
    use crate::testing;

    const FORMATION: Formation = Formation([9; 16]);

    /// A node of one that heard of the formation from a peer, and has drawn an id for its disk.
    fn drawn(dir: &tempfile::TempDir) -> (Arc<Node>, DiskId) {
        let node = testing::node(dir.path(), "n1", &["n1"]);
        node.record_formation(FORMATION, true).unwrap();
        let drawn = node.draw_disk().unwrap().unwrap();
        assert_eq!(node.draw_disk().unwrap(), Some(drawn), "once");
        assert!(!node.membership.votes());
        (node, drawn)
    }

    /// The cluster is formed while a node takes itself for one that lost its votes.
    #[tokio::test]
    async fn a_disk_that_is_told_late_of_the_formation_votes_as_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (node, drawn) = drawn(&dir);
        node.record_formation(FORMATION, false).unwrap();
        let record = node.membership.record();
        let by_name = record.stable()[0].disk;
        let is_by_name = || {
            let stored = files::load_member_disk(&*node.host.files, &record, node.me).unwrap();
            (node.membership.votes(), node.membership.disk(), stored.id, stored.drawn)
        };
        assert_eq!(is_by_name(), (true, by_name, by_name, Some(drawn)));
        assert_eq!(node.draw_disk().unwrap(), None, "it has its vote");

        // What it had asked for is decided all the same.
        let reason = Reason { by: node.me, at: WallTime(1), note: String::new() };
        let renamed = record.refresh(node.me, drawn, reason).unwrap();
        assert!(node.learn(&renamed).unwrap());
        assert_eq!((node.membership.votes(), node.membership.disk()), (true, drawn));
        let stored = files::load_member_disk(&*node.host.files, &renamed, node.me).unwrap();
        assert_eq!(stored.id, drawn);
    }

    /// Else a disk that came back as it was copied would vote again, as if it never had.
    #[tokio::test]
    async fn an_id_without_its_votes_is_not_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let (node, drawn) = drawn(&dir);
        let stored = || files::load_disk(&*node.host.files, "test", node.me).unwrap().drawn;
        assert_eq!(stored(), Some(drawn));
        files::forget_votes(&*node.host.files).unwrap();
        assert_eq!(stored(), None);
        assert!(!files::has_disk(&*node.host.files).unwrap());
    }
}
