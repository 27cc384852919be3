//! The copies of all nodes are a backup: what was acknowledged is in them, and what is made of them is a
//! cluster of its own.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::{Played, Scene, must};
use crate::setup::Setup;

/// The grace of deletes, in milliseconds: a reaper looks four times as often, before replicas compare.
const GRACE_MS: u64 = 1_000;

/// A write is acknowledged by a hint alone, which arrives after its target was copied, and before its
/// holder is.
pub(super) const A_HINT_BETWEEN_TWO_COPIES: History = History {
    name: "a-hint-between-two-copies",
    about: "a hint is delivered to nodes that were copied by one that is not yet",
    finds: &[(Mutation::BackupDropsHints, "no_false_absence")],
    settings: |setup: &mut Setup| setup.nodes = 4,
    play: |scene| Box::pin(a_hint_between_two_copies(scene)),
};

async fn a_hint_between_two_copies(scene: &mut Scene) -> Played {
    let homes = scene.homes()?;
    let [first, _, _] = homes;
    let others = scene.others(&homes);
    must(others.len() == 1, "one node is no home replica of the key")?;
    let fallback = others[0];
    scene.cut_off(fallback);
    let write = scene.write_sloppy(fallback, 1).await?;
    scene.hold_all();
    for home in homes {
        scene.back_up(home).await?;
    }
    scene.mend();
    scene.pass(Duration::from_secs(10)).await;
    scene.back_up(fallback).await?;
    scene.restore_all().await?;
    scene.pass(Duration::from_secs(10)).await;
    let shown = scene.read(first, 3).await;
    must(shown.is_some(), "the restored cluster answers")?;
    scene.must_show(&shown, write);
    Ok(())
}

/// After the backup the old cluster goes on for a while: a node mints there, and again in the new one.
pub(super) const A_WRITE_AFTER_THE_BACKUP: History = History {
    name: "a-write-after-the-backup",
    about: "a node of a restored cluster writes what it wrote in the old one after the backup",
    finds: &[(Mutation::RestoreKeepsActors, "no_dot_stands_for_two_values")],
    settings: |_| {},
    play: |scene| Box::pin(a_write_after_the_backup(scene)),
};

async fn a_write_after_the_backup(scene: &mut Scene) -> Played {
    let [writer, one, other] = scene.homes()?;
    let before = scene.write(writer, 3).await?;
    for node in [writer, one, other] {
        scene.back_up(node).await?;
    }
    // Nobody acknowledges it, so that it may be lost.
    scene.cut_off(writer);
    let after = scene.begin_to_write(writer, 3);
    scene.pass(Duration::from_secs(1)).await;
    scene.read_answered(writer, 1).await?;
    must(after.acked().await.is_err(), "the write is not acknowledged")?;
    scene.mend();
    scene.restore_all().await?;
    let shown = scene.read(one, 2).await;
    scene.must_show(&shown, before);
    scene.write_blind(writer, 1).await?;
    scene.read_answered(writer, 1).await?;
    scene.pass(Duration::from_secs(5)).await;
    scene.read_answered(one, 2).await
}

/// A delete is in the copy of one node only, and older than the grace.
pub(super) const A_DELETE_IN_ONE_COPY: History = History {
    name: "a-delete-in-one-copy",
    about: "nodes of a restored cluster are asked to confirm a tombstone that their copies do not have",
    finds: &[(Mutation::RestoreReapsAtOnce, "reaped_for_good")],
    settings: |setup: &mut Setup| setup.grace_ms = Some(GRACE_MS),
    play: |scene| Box::pin(a_delete_in_one_copy(scene)),
};

async fn a_delete_in_one_copy(scene: &mut Scene) -> Played {
    let [reaper, one, other] = scene.homes()?;
    scene.write(reaper, 3).await?;
    scene.cut_off(reaper);
    scene.delete(reaper, 1).await?;
    scene.pass_grace().await?;
    for node in [reaper, one, other] {
        scene.back_up(node).await?;
    }
    scene.mend();
    scene.restore_all().await?;
    scene.pass(Duration::from_secs(10)).await;
    for at in [one, reaper] {
        scene.read_answered(at, 3).await?;
    }
    Ok(())
}
