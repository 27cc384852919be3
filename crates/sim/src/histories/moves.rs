//! Changes of the layout: what new home replicas receive, and what becomes of those that leave.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;

use super::History;
use super::scene::members::Change;
use super::scene::{Played, Scene, must};
use crate::setup::Setup;

/// The grace of deletes, in milliseconds.
const GRACE_MS: u64 = 4_000;

/// Little is repaired in the background while these histories last, and there is a machine more.
fn with_a_spare(setup: &mut Setup) {
    (setup.interval_ms, setup.spares) = (60_000, 1);
}

fn of_five(setup: &mut Setup) {
    with_a_spare(setup);
    setup.nodes = 5;
}

/// A write is on two of three home replicas. One of those is replaced: the new one must receive from both
/// others, since it cannot know which of them has it.
pub(super) const A_WRITE_THAT_ONE_SOURCE_MISSED: History = History {
    name: "a-write-that-one-source-missed",
    about: "a node is replaced that has a write which another home replica has missed",
    finds: &[(Mutation::FillFromOneHome, "strict_reads_see_what_was_acknowledged")],
    settings: |setup| {
        with_a_spare(setup);
        setup.interval_ms = 0; // nor when a peer is back
    },
    play: |scene| Box::pin(a_write_that_one_source_missed(scene)),
};

async fn a_write_that_one_source_missed(scene: &mut Scene) -> Played {
    let [missed, kept, replaced] = scene.homes()?;
    let new = scene.spare()?;
    scene.write(missed, 3).await?;
    scene.kill(missed)?;
    scene.write(kept, 2).await?;
    scene.start(missed).await?;
    scene.change(kept, Change::Replace(replaced)).await?;
    scene.until_changed(&[missed, kept, new]).await?;
    scene.cut_off(kept);
    scene.cut_off(replaced);
    scene.read_answered(missed, 2).await
}

/// Two of three home replicas, which alone have a write, are cut off, and the others remove them: the change
/// must not end before they have been heard.
pub(super) const A_CHANGE_WITHOUT_ITS_SOURCES: History = History {
    name: "a-change-without-its-sources",
    about: "members are removed that have a write, while nobody reaches them",
    finds: &[(Mutation::FinishBeforeFilled, "a_change_ends_when_all_is_received")],
    settings: of_five,
    play: |scene| Box::pin(a_change_without_its_sources(scene)),
};

async fn a_change_without_its_sources(scene: &mut Scene) -> Played {
    let [left, one, other] = scene.homes()?;
    scene.write(left, 3).await?;
    scene.split(&[one, other]);
    scene.write(one, 2).await?;
    scene.change(left, Change::Remove(&[one, other])).await?;
    scene.pass(Duration::from_secs(30)).await;
    scene.read(left, 2).await; // answered only by who should not
    scene.reset(one);
    scene.reset(other);
    scene.mend();
    scene.until_changed(&[left]).await?;
    scene.read_answered(left, 2).await
}

/// A write is nowhere but in a hint for a node that is dead, and that node is removed. Who keeps the hint is
/// away while new home replicas receive what they must hold, hints among it, and has no part in that.
pub(super) const A_HINT_FOR_A_DEAD_NODE: History = History {
    name: "a-hint-for-a-dead-node",
    about: "a node is removed for which a hint is all that is left of a write",
    finds: &[(Mutation::HintOfRemovedDropped, "what_is_dropped_is_held")],
    settings: |setup| {
        with_a_spare(setup);
        setup.nodes = 12;
    },
    play: |scene| Box::pin(a_hint_for_a_dead_node(scene)),
};

async fn a_hint_for_a_dead_node(scene: &mut Scene) -> Played {
    let [dead, one, _] = scene.homes()?;
    let keeper = scene.bystander(dead)?;
    scene.write(one, 3).await?;
    scene.kill(dead)?;
    scene.cut_off(keeper);
    scene.pass(Duration::from_secs(5)).await; // it takes all others for down
    let write = scene.write_sloppy(keeper, 1).await?;
    scene.kill(keeper)?; // what it was sending is lost
    scene.mend();
    scene.change(one, Change::RemoveDead(dead)).await?;
    let others = scene.others(&[dead, keeper]);
    let all_received = |scene: &Scene| others.iter().all(|at| scene.has_received(*at));
    scene.at_once("the new home replicas have received all", all_received).await?;
    scene.start(keeper).await?;
    scene.until_changed(&[one, keeper]).await?;
    scene.pass(Duration::from_secs(5)).await;
    let shown = scene.read(one, 2).await;
    must(shown.is_some(), "the home replicas answer")?;
    scene.must_show(&shown, write);
    Ok(())
}

/// A node was sworn dead and replaced, and what it holds is deleted and reaped. Then it returns.
pub(super) const A_DEAD_NODE_THAT_RETURNS: History = History {
    name: "a-dead-node-that-returns",
    about: "a node that was sworn dead returns with what was deleted and reaped since",
    finds: &[(Mutation::RemovedDiskReturns, "nothing_comes_back_from_the_dead")],
    settings: |setup| {
        with_a_spare(setup);
        setup.grace_ms = Some(GRACE_MS);
    },
    play: |scene| Box::pin(a_dead_node_that_returns(scene)),
};

async fn a_dead_node_that_returns(scene: &mut Scene) -> Played {
    let [one, other, dead] = scene.homes()?;
    let new = scene.spare()?;
    scene.write(one, 3).await?;
    scene.pass(Duration::from_secs(1)).await;
    scene.kill(dead)?;
    scene.change(one, Change::ReplaceDead(dead)).await?;
    scene.until_changed(&[one, other, new]).await?;
    scene.delete(one, 3).await?;
    scene.until_reaped().await?;
    scene.try_to_start(dead)?;
    scene.pass(Duration::from_secs(30)).await;
    for at in [one, other, new] {
        scene.read_answered(at, 1).await?;
    }
    Ok(())
}

/// A node that was sworn dead returns before the change is over. Nothing waits for what it holds, so it must
/// acknowledge nothing.
pub(super) const A_DEAD_NODE_AMONG_THE_LIVING: History = History {
    name: "a-dead-node-among-the-living",
    about: "a node that was sworn dead returns before the change is over, and is asked to write",
    finds: &[(Mutation::SwornDeadHeard, "no_false_absence")],
    settings: |setup| {
        with_a_spare(setup);
        setup.nodes = 12;
    },
    play: |scene| Box::pin(a_dead_node_among_the_living(scene)),
};

async fn a_dead_node_among_the_living(scene: &mut Scene) -> Played {
    let [one, other, _] = scene.homes()?;
    let (dead, new) = (scene.bystander(one)?, scene.spare()?);
    scene.write(one, 3).await?;
    scene.kill(dead)?;
    scene.cut_off(new);
    scene.change(one, Change::ReplaceDead(dead)).await?;
    scene.try_to_start(dead)?;
    scene.at_once("it hears of the change", |scene| scene.epoch(dead) == 2).await?;
    scene.pass(Duration::from_secs(3)).await;
    scene.cut_off(dead);
    scene.pass(Duration::from_secs(5)).await; // it takes all others for down
    let write = scene.write_sloppy(dead, 1).await; // which it should refuse
    scene.kill(dead)?;
    scene.mend();
    scene.until_changed(&[one, other, new]).await?;
    scene.pass(Duration::from_secs(5)).await;
    let shown = scene.read(one, 2).await;
    must(shown.is_some(), "the home replicas answer")?;
    write.into_iter().for_each(|write| scene.must_show(&shown, write)); // if it did not
    Ok(())
}

/// A node that leaves is let go, does not hear of it, and is asked to write while it reaches no other node.
/// It must keep nothing, since nobody will ask it any more.
pub(super) const A_NODE_THAT_IS_LET_GO: History = History {
    name: "a-node-that-is-let-go",
    about: "a node that leaves is let go without hearing of it, and is asked to write",
    finds: &[(Mutation::LeavingKeepsHints, "no_false_absence")],
    settings: |setup| {
        with_a_spare(setup); // so that machines that were removed are switched off
        setup.nodes = 12;
    },
    play: |scene| Box::pin(a_node_that_is_let_go(scene)),
};

async fn a_node_that_is_let_go(scene: &mut Scene) -> Played {
    let [one, ..] = scene.homes()?;
    let leaving = scene.bystander(one)?;
    scene.write(one, 3).await?;
    scene.set_latency(20); // the record is on its way for so long
    scene.change(one, Change::Remove(&[leaving])).await?;
    let others = scene.others(&[leaving]);
    let is_let_go = |scene: &Scene| others.iter().any(|at| scene.epoch(*at) == 4);
    scene.at_once("it is let go", is_let_go).await?;
    scene.cut_off(leaving);
    must(scene.epoch(leaving) == 3, "it has not heard of it")?;
    scene.pass(Duration::from_secs(5)).await; // it takes all others for down
    let write = scene.write_sloppy(leaving, 1).await; // which it should refuse
    scene.mend();
    scene.pass(Duration::from_secs(5)).await;
    let shown = scene.read(one, 2).await;
    must(shown.is_some(), "the home replicas answer")?;
    write.into_iter().for_each(|write| scene.must_show(&shown, write)); // if it did not
    Ok(())
}
