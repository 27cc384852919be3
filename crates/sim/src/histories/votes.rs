//! Votes on the next cluster record: two that differ are never decided, whatever nodes forget.

use std::time::Duration;

use quorate_protocol::mutation::Mutation;
use quorate_protocol::name::NodeId;

use super::History;
use super::scene::members::Change;
use super::scene::{OffCourse, Played, Scene};

/// How long bytes take while a record is decided, in milliseconds: long enough to cut the link in between.
const LATENCY_MS: u64 = 20;

/// A record is decided with the vote of a node that does not hear of that, and starts again.
pub(super) const A_DECISION_THAT_FEW_KNOW: History = History {
    name: "a-decision-that-few-know",
    about: "a record is decided, and who knows it is cut off while others decide again",
    finds: &[
        (Mutation::TwoRecordsOneEpoch, "one_record_of_each_epoch"),
        (Mutation::VoteNotSynced, "one_record_of_each_epoch"),
    ],
    settings: |_| {},
    play: |scene| Box::pin(a_decision_that_few_know(scene)),
};

async fn a_decision_that_few_know(scene: &mut Scene) -> Played {
    let [voter, third] = decided_by_two(scene).await?;
    scene.kill(voter)?;
    scene.start(voter).await?;
    decided_again(scene, third).await
}

/// The same, but the node that voted loses its disk.
pub(super) const A_DECISION_THAT_A_DISK_FORGETS: History = History {
    name: "a-decision-that-a-disk-forgets",
    about: "a record is decided, and a disk is lost that had voted for it",
    finds: &[(Mutation::WipedAcceptorVotes, "one_record_of_each_epoch")],
    settings: |_| {},
    play: |scene| Box::pin(a_decision_that_a_disk_forgets(scene)),
};

async fn a_decision_that_a_disk_forgets(scene: &mut Scene) -> Played {
    let [voter, third] = decided_by_two(scene).await?;
    scene.wipe(voter)?;
    scene.start(voter).await?;
    decided_again(scene, third).await
}

/// A record is decided by one node with the vote of a second, which does not hear of it: only a third one is
/// left to that one. Returns the two.
async fn decided_by_two(scene: &mut Scene) -> Result<[NodeId; 2], OffCourse> {
    let [knows, voter, third] = scene.homes()?;
    scene.write(knows, 3).await?;
    scene.cut_off(third);
    scene.set_latency(LATENCY_MS);
    drop(scene.propose(knows, Change::Weigh(knows, 2))?);
    let has_voted = |scene: &Scene| {
        let node = scene.node(voter);
        node.is_some_and(|node| node.membership.voted().accepted.is_some())
    };
    scene.at_once("a node has voted", has_voted).await?;
    scene.cut(knows, voter);
    scene.at_once("the record is decided", |scene| scene.epoch(knows) == 2).await?;
    scene.cut_off(knows);
    scene.reset(knows);
    scene.mend_between(voter, third);
    Ok([voter, third])
}

/// The third one has a record decided, if it can.
async fn decided_again(scene: &mut Scene, third: NodeId) -> Played {
    scene.pass(Duration::from_secs(2)).await;
    drop(scene.propose(third, Change::Weigh(third, 3))?);
    scene.pass(Duration::from_secs(8)).await;
    scene.mend();
    scene.pass(Duration::from_secs(5)).await;
    scene.read_answered(third, 2).await
}
