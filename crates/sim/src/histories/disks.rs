//! Disks that are lost, copied and put back: a node comes back with less than it had promised.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::{Played, Scene, must};

/// A disk is lost, and the node that lost it cannot reach one of those that have its data.
pub(super) const AN_EMPTY_DISK: History = History {
    name: "an-empty-disk",
    about: "a node whose disk was replaced is asked before it has received all it lacks",
    finds: &[(Mutation::DiskLossReadyAtOnce, "no_false_absence")],
    settings: |_| {},
    play: |scene| Box::pin(an_empty_disk(scene)),
};

async fn an_empty_disk(scene: &mut Scene) -> Played {
    let [lost, _, other] = scene.homes()?;
    let write = scene.write(lost, 3).await?;
    scene.wipe(lost)?;
    // It is filled once it has merged with both, so it stays empty.
    scene.cut(lost, other);
    scene.cut(other, lost);
    scene.start(lost).await?;
    let is_filled = scene.node(lost).is_some_and(|node| node.filled.is_complete());
    must(!is_filled, "the empty node is still being filled")?;
    // Its own row is the nearest, and there is none: it must ask another.
    let shown = scene.read(lost, 1).await;
    must(shown.is_some(), "another home replica answers for the empty one")?;
    scene.must_show(&shown, write);
    Ok(())
}

/// A node stops cleanly and is copied, writes more, and the copy replaces its disk. Cut off, it cannot
/// learn that it is behind, and takes a write: as somebody who never wrote before.
pub(super) const A_COPY_OF_A_CLEAN_STOP: History = History {
    name: "a-copy-of-a-clean-stop",
    about: "a node that came back as it was copied writes where nobody can tell it so",
    finds: &[(Mutation::CloneKeepsIncarnation, "no_dot_stands_for_two_values")],
    settings: |_| {},
    play: |scene| Box::pin(a_copy_of_a_clean_stop(scene)),
};

async fn a_copy_of_a_clean_stop(scene: &mut Scene) -> Played {
    let [copied, other, _] = scene.homes()?;
    scene.write(copied, 3).await?;
    scene.stop(copied)?;
    let copy = scene.copy_disk(copied)?;
    scene.start(copied).await?;
    scene.write(copied, 3).await?; // minted after the copy
    scene.read_answered(other, 2).await?;
    scene.cut_off(copied);
    scene.put_back(copied, &copy)?;
    scene.start(copied).await?;
    // A context would say that the node has minted more, so it comes from another client.
    scene.write_blind(copied, 1).await?;
    scene.read_answered(copied, 1).await?;
    scene.mend();
    scene.pass(Duration::from_secs(5)).await;
    scene.read_answered(other, 2).await
}

/// A write is on two of three nodes. One of them comes back as it was before, and is asked together with
/// the third, which has restarted since. Only that one can tell it that it is behind.
pub(super) const A_BACKUP_AMONG_RESTARTS: History = History {
    name: "a-backup-among-restarts",
    about: "a node comes back as it was copied, to one that has restarted and to none else",
    finds: &[(Mutation::PeersForgotten, "no_false_absence")],
    settings: |_| {},
    play: |scene| Box::pin(a_backup_among_restarts(scene)),
};

async fn a_backup_among_restarts(scene: &mut Scene) -> Played {
    let [restored, holder, remembering] = scene.homes()?;
    let copy = scene.copy_disk(restored)?;
    scene.restart(restored).await?; // its peers remember a start that the copy does not know
    scene.pass(Duration::from_secs(5)).await;
    scene.cut_off(remembering);
    let write = scene.write(restored, 2).await?;
    scene.kill(restored)?;
    scene.kill(holder)?;
    scene.mend();
    scene.restart(remembering).await?;
    scene.put_back(restored, &copy)?;
    scene.start(restored).await?;
    scene.pass(Duration::from_secs(5)).await;
    // Neither has the write. The restored node lacks what the holder has, and must not count.
    for at in [restored, remembering] {
        let shown = scene.read(at, 2).await;
        scene.must_show(&shown, write);
    }
    scene.start(holder).await?;
    scene.pass(Duration::from_secs(5)).await;
    let shown = scene.read(restored, 2).await;
    must(shown.is_some(), "the restored node is filled once the holder is back")?;
    scene.must_show(&shown, write);
    Ok(())
}
