//! Records decided by nodes that crash, lose disks and messages, and propose against each other.
//!
//! A run is a random schedule from a seed: messages are lost, repeated and reordered; nodes crash and lose
//! what was not synced, or lose their disk and come back with an empty one; several propose at once, each a
//! random step after the record that it knows. After every event the invariants must hold:
//! * no two records of one epoch are decided or learned, anywhere;
//! * a decided record's parent was decided, and a majority of that one's stable disks accepted the record;
//! * a disk remembers every answer that it gave.
//!
//! The same exploration must fail with each of some deliberate bugs ([`Bug`]).

#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use world::{STEPS, World};

const RUNS: u64 = 2000;
/// Within so many runs each bug must show.
const RUNS_WITH_BUG_MAX: u64 = 3000;

/// A deliberate bug, of the node around the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Answers leave before what they speak of is synced.
    AnswersBeforeSync,
    /// A restart takes up what was promised, but not what was accepted.
    AcceptedForgotten,
    /// A disk that lost everything keeps its id.
    WipedKeepsId,
    /// Each try begins with the same ballot.
    BallotAgain,
    /// A proposer does not hear of what was accepted.
    AcceptedUnheard,
    /// One vote counts for two disks.
    CountedTwice,
}

/// What a run has seen, so that tests can tell whether it went anywhere.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) epochs: u64,
    pub(crate) lost_to_another: u64,
    pub(crate) outdated: u64,
    pub(crate) retries: u64,
    pub(crate) crashes: u64,
    pub(crate) wipes: u64,
    pub(crate) taught: u64,
    pub(crate) ended_well: u64,
}

fn run(seed: u64, bug: Option<Bug>, watches_memory: bool) -> Result<Seen, String> {
    let mut world = World::new(seed, bug, watches_memory);
    for _ in 0..STEPS {
        world.step()?;
    }
    world.end_well()?;
    world.seen.epochs = world.decided.len() as u64;
    Ok(world.seen)
}

#[test]
fn at_most_one_record_follows_another() {
    let mut all = Seen::default();
    for seed in 0..RUNS {
        let seen = run(seed, None, true).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        all.epochs += seen.epochs;
        all.lost_to_another += seen.lost_to_another;
        all.outdated += seen.outdated;
        all.retries += seen.retries;
        all.crashes += seen.crashes;
        all.wipes += seen.wipes;
        all.taught += seen.taught;
        all.ended_well += seen.ended_well;
    }
    eprintln!("{all:?}");
    assert!(all.epochs > RUNS * 4, "chains of several records: {all:?}");
    assert!(all.ended_well > RUNS * 8 / 10, "the others lost a majority of disks: {all:?}");
    for count in [all.lost_to_another, all.outdated, all.retries, all.wipes, all.taught] {
        assert!(count > RUNS / 10, "every path is taken: {all:?}");
    }
}

fn assert_found(bug: Bug, watches_memory: bool) {
    let broken = |seed| run(seed, Some(bug), watches_memory).err().map(|error| (seed, error));
    let found = (0..RUNS_WITH_BUG_MAX).find_map(broken);
    eprintln!("{bug:?}: {found:?}");
    assert!(found.is_some(), "{bug:?} was not found");
}

#[test]
fn deliberate_bugs_are_found() {
    for bug in [
        Bug::AnswersBeforeSync,
        Bug::AcceptedForgotten,
        Bug::WipedKeepsId,
        Bug::BallotAgain,
        Bug::AcceptedUnheard,
        Bug::CountedTwice,
    ] {
        assert_found(bug, true);
    }
}

/// Why a disk must not forget: sooner or later two records follow one.
#[test]
fn forgotten_answers_end_in_two_records() {
    for bug in [Bug::AnswersBeforeSync, Bug::AcceptedForgotten, Bug::WipedKeepsId] {
        assert_found(bug, false);
    }
}
