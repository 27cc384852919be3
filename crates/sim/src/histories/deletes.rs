//! What is deleted stays deleted: copies that come back, or arrive, after a tombstone was reaped.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::{Played, Scene, must};
use crate::setup::Setup;

/// The grace of deletes in these histories, in milliseconds.
const GRACE_MS: u64 = 4_000;
/// Longer than rows that are set aside wait for the next look at them.
const NEXT_LOOK: Duration = Duration::from_secs(12);

fn reaps(setup: &mut Setup) {
    setup.grace_ms = Some(GRACE_MS);
}

/// A backup is older than a tombstone that was reaped: what it holds is set aside, and stays there.
pub(super) const A_BACKUP_OF_WHAT_WAS_REAPED: History = History {
    name: "a-backup-of-what-was-reaped",
    about: "a disk is put back that still has what was deleted and reaped since",
    finds: &[(Mutation::AsideTakenBack, "nothing_comes_back_from_the_dead")],
    settings: reaps,
    play: |scene| Box::pin(a_backup_of_what_was_reaped(scene)),
};

async fn a_backup_of_what_was_reaped(scene: &mut Scene) -> Played {
    let [restored, other, _] = scene.homes()?;
    scene.write(restored, 3).await?;
    let copy = scene.copy_disk(restored)?;
    scene.delete(other, 3).await?;
    scene.until_reaped().await?;
    scene.put_back(restored, &copy)?;
    scene.start(restored).await?;
    let is_aside = |scene: &Scene| {
        let node = scene.node(restored);
        node.is_some_and(|node| node.filled.is_complete() && !node.distrusted.is_empty())
    };
    scene.until("its rows are set aside, and it is filled", is_aside).await?;
    scene.pass(NEXT_LOOK).await;
    scene.read_answered(restored, 1).await?;
    scene.read_answered(other, 2).await
}

/// A value is on its way to a replica for so long that it is deleted and reaped there meanwhile.
pub(super) const A_STORE_THAT_WAS_HELD_UP: History = History {
    name: "a-store-that-was-held-up",
    about: "a value arrives at a replica after its key was deleted and reaped",
    finds: &[(Mutation::StaleTaken, "nothing_comes_back_from_the_dead")],
    settings: reaps,
    play: |scene| Box::pin(a_store_that_was_held_up(scene)),
};

async fn a_store_that_was_held_up(scene: &mut Scene) -> Played {
    // The reaper reaches both others, so it can have the proof of all nodes.
    let [reaper, writer, target] = scene.homes()?;
    scene.write(writer, 3).await?; // opens the connection on which the next one is held up
    scene.cut(writer, target);
    let held_up = scene.write(writer, 2).await?;
    let shown = scene.read(reaper, 2).await;
    must(shown.is_some_and(|shown| shown.contains(&held_up)), "the value is read")?;
    scene.delete(reaper, 3).await?;
    scene.until_reaped().await?;
    scene.mend();
    scene.pass(Duration::from_secs(1)).await;
    for at in [target, reaper] {
        scene.read_answered(at, 1).await?;
    }
    Ok(())
}
