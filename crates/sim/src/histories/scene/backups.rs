//! Backups of all nodes, and the cluster that is made of them.

use std::time::Duration;

use quorate_engine::backup::hold::HOLD_MAX;
use quorate_engine::backup::make;
use quorate_engine::backup::state::Stage;
use quorate_protocol::name::NodeId;

use super::{OffCourse, Played, Scene, off};

/// What the backup is called.
const NAME: &str = "b";
/// The id of the restored cluster.
const NEW_ID: &str = "restored";

impl Scene {
    /// Nodes keep what they would hand over.
    pub(in crate::histories) fn hold_all(&self) {
        self.cluster.world.note(format_args!("all nodes hold what they would hand over"));
        self.cluster.nodes().iter().for_each(|node| node.backups.hold.hold(HOLD_MAX));
    }

    /// A node is backed up.
    pub(in crate::histories) async fn back_up(&self, at: NodeId) -> Played {
        let node = self.node(at).ok_or_else(|| off(format!("{at} does not run")))?;
        match make::begin(&node, NAME) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return Err(off(format!("{at}: {why}"))),
            Err(error) => return Err(off(format!("{at}: {error}"))),
        }
        let is_whole = |_: &Self| node.backups.last().is_some_and(|it| it.stage == Stage::Whole);
        self.until("the backup is whole", is_whole).await?;
        self.cluster.world.note(format_args!("{at} is backed up"));
        Ok(())
    }

    /// All disks are lost, and a new cluster is made of the backups of all. Clients have seen nothing of it.
    pub(in crate::histories) async fn restore_all(&mut self) -> Played {
        for machine in self.cluster.machines.iter() {
            machine.found(NAME, NEW_ID).map_err(off)?;
        }
        self.client.sessions.clear();
        for machine in self.cluster.machines.iter() {
            machine.start();
        }
        let all = self.all();
        let take_part = |scene: &Self| {
            all.iter().all(|name| scene.node(*name).is_some_and(|node| node.takes_part()))
        };
        self.until("all restored nodes take part", take_part).await
    }

    /// Time passes until rows are older than the grace of deletes.
    pub(in crate::histories) async fn pass_grace(&self) -> Result<(), OffCourse> {
        let grace_ms = self.cluster.setup.grace_ms.ok_or_else(|| off("nothing is reaped"))?;
        self.pass(Duration::from_millis(grace_ms + grace_ms / 4)).await;
        Ok(())
    }
}
