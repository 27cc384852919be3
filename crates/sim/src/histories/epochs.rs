//! Operations that meet a change of the layout: what nodes of different epochs do together counts for
//! nothing.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::members::Change;
use super::scene::{Played, Scene, must};
use crate::setup::Setup;

/// Nothing is repaired in the background, and there is a machine to replace another.
fn with_a_spare(setup: &mut Setup) {
    (setup.interval_ms, setup.spares) = (60_000, 1);
}

/// A change has ended, and two old home replicas do not know it: together they have answered R of the old
/// layout, and only the new one has what was written since.
pub(super) const AN_END_THAT_SOME_MISS: History = History {
    name: "an-end-that-some-miss",
    about: "two nodes are cut off as a change ends that removes them, and one of them is read from",
    finds: &[(Mutation::JointReadOldOnly, "strict_reads_see_what_was_acknowledged")],
    settings: |setup| {
        with_a_spare(setup);
        setup.nodes = 5;
    },
    play: |scene| Box::pin(an_end_that_some_miss(scene)),
};

async fn an_end_that_some_miss(scene: &mut Scene) -> Played {
    let [left, one, other] = scene.homes()?;
    let stay = scene.others(&[one, other]);
    scene.write(left, 3).await?;
    scene.change(left, Change::Remove(&[one, other])).await?;
    let all_received = |scene: &Scene| stay.iter().all(|at| scene.has_received(*at));
    scene.at_once("the new home replicas have received all", all_received).await?;
    scene.split(&[one, other]);
    must([one, other].iter().all(|at| scene.epoch(*at) == 2), "the change has not ended")?;
    scene.until_changed(&stay).await?;
    scene.write(left, 2).await?;
    must([one, other].iter().all(|at| scene.epoch(*at) == 2), "two nodes miss the end")?;
    scene.read(one, 2).await; // answered only by who should not
    Ok(())
}

/// A node is stopped, sworn dead and replaced, and goes on. The nodes that it knows know more, but have not
/// what was written since: that is on the new node alone.
pub(super) const A_NODE_THAT_SLEPT: History = History {
    name: "a-node-that-slept",
    about: "a node that was sworn dead goes on with a read, and asks those that know more",
    finds: &[(Mutation::OldEpochAccepted, "strict_reads_see_what_was_acknowledged")],
    settings: with_a_spare,
    play: |scene| Box::pin(a_node_that_slept(scene)),
};

async fn a_node_that_slept(scene: &mut Scene) -> Played {
    let [one, other, slept] = scene.homes()?;
    let new = scene.spare()?;
    scene.write(one, 3).await?;
    scene.pause(slept, true)?;
    scene.cut_off(slept);
    scene.change(one, Change::ReplaceDead(slept)).await?;
    scene.until_changed(&[one, other, new]).await?;
    scene.cut_off(new);
    scene.write(new, 1).await?;
    scene.reset(slept);
    let hanging = scene.hang(slept)?; // it learns of the change only after it has read
    let read = scene.begin_to_read(slept, 3);
    scene.mend_between(slept, one);
    scene.mend_between(slept, other);
    scene.pause(slept, false)?;
    scene.pass(Duration::from_secs(1)).await;
    hanging.cancel();
    scene.pass(Duration::from_secs(2)).await;
    must(read.is_finished(), "the read has ended")?;
    Ok(())
}

/// A write is on its way into the row of a node, whose disk hangs, when the node is asked for all its rows by
/// one that replaces the write's coordinator.
pub(super) const A_MERGE_THAT_HANGS: History = History {
    name: "a-merge-that-hangs",
    about: "a write of before a change is merged after all was told to the new home replica",
    finds: &[(Mutation::PageBeforeDrained, "strict_reads_see_what_was_acknowledged")],
    settings: |setup| {
        with_a_spare(setup);
        setup.request_ms = 60_000;
    },
    play: |scene| Box::pin(a_merge_that_hangs(scene)),
};

async fn a_merge_that_hangs(scene: &mut Scene) -> Played {
    let [one, hangs, slept] = scene.homes()?;
    let new = scene.spare()?;
    scene.write(slept, 3).await?;
    scene.cut(slept, one);
    scene.cut(one, slept);
    let hanging = scene.hang(hangs)?;
    let pending = scene.begin_to_write(slept, 2);
    scene.pass(Duration::from_millis(50)).await;
    scene.hang_no_more(hangs)?;
    scene.pause(slept, true)?;
    scene.change(one, Change::ReplaceDead(slept)).await?;
    scene.pass(Duration::from_secs(8)).await;
    hanging.cancel();
    scene.pass(Duration::from_millis(100)).await;
    scene.pause(slept, false)?;
    pending.acked().await?; // in the epoch before
    scene.until_changed(&[one, new]).await?;
    scene.cut_off(hangs);
    scene.read_answered(one, 2).await
}

/// A coordinator learns of a change before the others have merged its write, and begins again. Meanwhile the
/// write was read and overwritten.
pub(super) const A_WRITE_THAT_BEGINS_AGAIN: History = History {
    name: "a-write-that-begins-again",
    about: "a write begins again in a new epoch after it was overwritten",
    finds: &[(Mutation::MintAgain, "nothing_comes_back_from_the_dead")],
    settings: |setup| {
        with_a_spare(setup);
        setup.request_ms = 20_000;
    },
    play: |scene| Box::pin(a_write_that_begins_again(scene)),
};

async fn a_write_that_begins_again(scene: &mut Scene) -> Played {
    let [coordinator, one, other] = scene.homes()?;
    scene.write(coordinator, 3).await?;
    let hanging = [scene.hang(one)?, scene.hang(other)?];
    let pending = scene.begin_to_write(coordinator, 2);
    scene.pass(Duration::from_millis(50)).await;
    scene.hang_no_more(one)?;
    scene.hang_no_more(other)?;
    scene.change(one, Change::Replace(other)).await?;
    let has_learned = |scene: &Scene| scene.epoch(coordinator) == 2;
    scene.at_once("the coordinator follows the change", has_learned).await?;
    let shown = scene.read(coordinator, 1).await;
    must(shown.is_some(), "the coordinator answers")?;
    scene.write(coordinator, 1).await?;
    hanging.iter().for_each(|hanging| hanging.cancel());
    let overwritten = pending.acked().await?;
    must(shown.is_some_and(|shown| shown.contains(&overwritten)), "the write was read")?;
    let shown = scene.read(coordinator, 1).await;
    scene.must_not_show(&shown, overwritten);
    Ok(())
}
