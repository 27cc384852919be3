//! A disk that has lost what it had voted becomes another one: it draws an id, and asks for a record that
//! names it. The other disks decide that without it.

use std::sync::Arc;

use quorate_protocol::record::{DiskId, Phase, Reason};
use quorate_protocol::synod::Acceptor;

use super::files::OwnDisk;
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
        Ok(Ok(disk)) => disk,
        Ok(Err(error)) => return tracing::warn!(%error, "the id of this disk cannot be stored"),
        Err(_) => return, // the node is ending
    };
    let reason =
        Reason { by: node.me, at: node.now(), note: "a disk that lost its votes".to_owned() };
    moves::take(node, record.refresh(node.me, drawn, reason)).await;
}

impl Node {
    /// The id that was drawn for this disk; draws one if none was. Blocks.
    fn draw_disk(&self) -> std::io::Result<DiskId> {
        let mut disk = lock(&self.membership.disk);
        let known = self.membership.record().member(self.me).map(|member| member.disk);
        if disk.is_drawn && known != Some(disk.id) {
            return Ok(disk.id);
        }
        let id =
            DiskId(u128::from(self.host.chance.draw()) << 64 | u128::from(self.host.chance.draw()));
        files::store_disk(&*self.host.files, id)?;
        *disk = OwnDisk { id, is_drawn: true };
        // Its vote begins with nothing.
        if let Ok(acceptor) = Acceptor::restore(id, (*self.membership.record()).clone(), None) {
            *lock(&self.membership.acceptor) = acceptor;
        }
        Ok(id)
    }
}
