//! Hand-made histories: exact steps that show what no random schedule comes upon, because too much must
//! happen in one order.
//!
//! A history runs on the node as it ships, like a seed does, and is judged by the same oracle and
//! observer, to which it adds what it knows itself. It keeps every promise; with one of the deliberate
//! bugs in [`History::finds`] it breaks the promise that is named there.
//!
//! `scene` has the words that histories are told in.

mod backups;
mod counts;
mod deletes;
mod disks;
mod epochs;
mod feeds;
mod moves;
mod scene;
mod tokens;
mod votes;

use std::future::Future;
use std::pin::Pin;

use quorate_protocol::mutation::Mutation;

use self::scene::{Played, Scene};
use crate::run::{Run, run_in_world};
use crate::setup::Setup;

/// What chance is drawn from: delays and names. No history depends on them.
const SEED: u64 = 1;

/// The steps of a history.
type Play = for<'a> fn(&'a mut Scene) -> Pin<Box<dyn Future<Output = Played> + 'a>>;

/// A hand-made history.
pub struct History {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it, in a few words.
    pub about: &'static str,
    /// The deliberate bugs that it finds, and the property that the oracle finds broken by each.
    pub finds: &'static [(Mutation, &'static str)],
    settings: fn(&mut Setup),
    play: Play,
}

/// All of them.
pub const HISTORIES: &[History] = &[
    disks::AN_EMPTY_DISK,
    disks::A_COPY_OF_A_CLEAN_STOP,
    disks::A_BACKUP_AMONG_RESTARTS,
    deletes::A_BACKUP_OF_WHAT_WAS_REAPED,
    deletes::A_STORE_THAT_WAS_HELD_UP,
    counts::A_ROW_THAT_IS_OWNED_AGAIN,
    moves::A_WRITE_THAT_ONE_SOURCE_MISSED,
    moves::A_CHANGE_WITHOUT_ITS_SOURCES,
    moves::A_HINT_FOR_A_DEAD_NODE,
    moves::A_DEAD_NODE_THAT_RETURNS,
    moves::A_DEAD_NODE_AMONG_THE_LIVING,
    moves::A_NODE_THAT_IS_LET_GO,
    epochs::AN_END_THAT_SOME_MISS,
    epochs::A_NODE_THAT_SLEPT,
    epochs::A_MERGE_THAT_HANGS,
    epochs::A_WRITE_THAT_BEGINS_AGAIN,
    backups::A_HINT_BETWEEN_TWO_COPIES,
    backups::A_WRITE_AFTER_THE_BACKUP,
    backups::A_DELETE_IN_ONE_COPY,
    votes::A_DECISION_THAT_FEW_KNOW,
    votes::A_DECISION_THAT_A_DISK_FORGETS,
    feeds::HOMES_THAT_ARE_ALL_REPLACED,
    tokens::A_REVOCATION_THAT_ONE_MISSED,
    tokens::A_REVOCATION_UNHEARD,
];

impl History {
    /// The history of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        HISTORIES.iter().find(|history| history.name == name)
    }

    /// Plays it, with a deliberate bug, if any, and judges the healed cluster. `keep_lines` keeps the
    /// trace.
    pub fn run(&self, mutation: Option<Mutation>, keep_lines: bool) -> Run {
        let mut setup = Setup::calm();
        (self.settings)(&mut setup);
        run_in_world(SEED, mutation, keep_lines, async |world| {
            world.note(format_args!("{}: {}", self.name, self.about));
            let mut scene = Scene::begin(world, setup).await;
            let played = (self.play)(&mut scene).await;
            scene.end(played).await;
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::scene::members::Change;
    use super::scene::must;
    use super::*;

    /// A history that cannot be played as it was written proves nothing, and must not pass.
    #[test]
    fn a_history_that_goes_another_way_fails() {
        let history = History {
            name: "no-quorum",
            about: "three replicas of two are asked for",
            finds: &[],
            settings: |_| {},
            play: |scene| {
                Box::pin(async {
                    let [entry, killed, _] = scene.homes()?;
                    scene.kill(killed)?;
                    scene.write(entry, 3).await.map(drop)
                })
            },
        };
        let broken = history.run(None, false).violation.map(|violation| violation.property);
        assert_eq!(broken, Some("a_history_goes_as_written"));
    }

    /// The simulated operators must not take a member for a spare machine: the change would wait for ever
    /// for a disk that is no more.
    #[test]
    fn a_machine_that_is_emptied_as_it_joins_again_is_not_given_up() {
        let history = History {
            name: "told-of-before",
            about: "a node was removed, joins again, loses its disk, and asks a peer that missed the joining",
            finds: &[],
            settings: |setup| (setup.interval_ms, setup.spares) = (60_000, 1),
            play: |scene| Box::pin(told_of_before(scene)),
        };
        let run = history.run(None, true);
        assert_eq!(run.violation, None, "{}", run.lines.join("\n"));
    }

    async fn told_of_before(scene: &mut Scene) -> Played {
        let [one, misses, again] = scene.homes()?;
        let new = scene.spare()?;
        scene.change(one, Change::Replace(again)).await?;
        scene.until_changed(&[one, misses, new]).await?;
        let is_spare = |scene: &Scene| scene.spare().is_ok_and(|spare| spare == again);
        scene.until("the old node may join again", is_spare).await?;

        scene.cut_off(misses);
        scene.change(one, Change::Replace(new)).await?;
        scene.until("it joins again", |scene| scene.node(again).is_some()).await?;
        scene.wipe(again)?;
        scene.cut_off(again);
        scene.mend_between(again, misses);
        scene.try_to_start(again)?;
        let is_removed =
            |scene: &Scene| scene.node(again).is_some_and(|node| !node.membership.is_member());
        scene.at_once("it is told that it was removed", is_removed).await?;
        must(scene.epoch(one) > scene.epoch(misses), "its peer has missed that it joins")?;
        scene.pass(Duration::from_secs(5)).await;
        scene.mend();
        Ok(())
    }

    /// All that its configuration names were removed: it reaches nobody, and those that reach it know more.
    #[test]
    fn a_founder_that_lost_its_disk_is_told_of_the_members_of_today() {
        let history = History {
            name: "told-by-strangers",
            about: "a founder loses its disk after all others were replaced",
            finds: &[],
            settings: |setup| (setup.interval_ms, setup.spares) = (60_000, 1),
            play: |scene| Box::pin(told_by_strangers(scene)),
        };
        let run = history.run(None, true);
        assert_eq!(run.violation, None, "{}", run.lines.join("\n"));
    }

    async fn told_by_strangers(scene: &mut Scene) -> Played {
        let [one, other, founder] = scene.homes()?;
        scene.write(founder, 3).await?;
        let new = scene.spare()?;
        scene.change(founder, Change::Replace(one)).await?;
        scene.until_changed(&[founder, other, new]).await?;
        let is_spare = |scene: &Scene| scene.spare().is_ok_and(|spare| spare == one);
        scene.until("the first has left", is_spare).await?;
        scene.change(founder, Change::Remove(&[other])).await?;
        let knows_nobody = |scene: &Scene| [founder, new].iter().all(|at| scene.epoch(*at) >= 6);
        scene.until("the second has left", knows_nobody).await?;
        scene.pass(Duration::from_secs(1)).await;
        scene.wipe(founder)?;
        scene.start(founder).await?;
        let is_back = |scene: &Scene| scene.node(founder).is_some_and(|node| node.takes_part());
        scene.until("it is a member again", is_back).await?;
        scene.read_answered(founder, 2).await
    }

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = HISTORIES.iter().map(|history| history.name).collect();
        assert_eq!(names.len(), HISTORIES.len());
        assert!(names.iter().all(|name| History::named(name).is_some_and(|it| it.name == *name)));
        assert!(History::named("no-such-history").is_none());
    }
}
