//! Whether a node that starts may go on where it stopped, or came back behind: with an older backup, a
//! copy, or a disk that forgot what it had promised.
//!
//! Each start of a node has a number, recorded before anything else, and a nonce. Peers remember both,
//! and how far the node's store said to be durable. A node is *behind* if what it brings is less than
//! what is remembered: a lower number (an old backup), the same number under another nonce (two copies
//! of one backup), or a store that opened with less than was durable before. It then fills as if its
//! disk were new: its rows stay (an acknowledged write may be only there), but it answers reads of no
//! partition before it has merged with the other home replicas.
//!
//! Rows as old as the grace of deletes are another matter: what they hold may have been deleted and
//! reaped since, and would come back from the dead. Such a node drops its rows first. Until then no row
//! of it is safe to spread; while it is younger, nothing it holds can have been reaped, because a reap needs
//! every node to have held the tombstone for a whole grace (see [`crate::reap`]).

use serde::{Deserialize, Serialize};

use crate::stamp::Millis;

/// One start of a node, as it tells its peers. The default, number 0, is that of somebody who is no node
/// and is not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which start of the node it is, from 1.
    pub number: u64,
    /// A random number drawn at this start.
    pub nonce: u64,
    /// The sequence number of the last change that the store had when it was opened.
    pub opened_at: u64,
    /// That of the last change known to be durable as configured.
    pub durable_at: u64,
    /// The number of the last start at which the node was empty or behind, and filled; 0 if none was.
    /// What the store held before says nothing about what it holds since.
    pub filled_at: u64,
}

impl Start {
    /// Whether the node fills since this start.
    pub fn fills(&self) -> bool {
        self.filled_at == self.number && self.number != 0
    }
}

/// What a peer remembers of a node's starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The number of its last start.
    pub number: u64,
    /// Its nonce.
    pub nonce: u64,
    /// How far it was durable.
    pub durable_at: u64,
}

/// What a peer makes of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node goes on; remember this.
    GoesOn(Remembered),
    /// The node is behind what is remembered. It must fill under a greater number.
    Behind(Remembered),
    /// It would be behind, but the start that is remembered is alive: a copy of a disk, or a second node of
    /// that name. It must wait until the other one is gone, or end.
    Taken,
}

/// Judges what a node says of its start by what is remembered of it. `is_alive` says whether the remembered
/// start was heard a moment ago.
pub fn judge(remembered: Option<Remembered>, start: Start, is_alive: bool) -> Verdict {
    let Start { number, nonce, opened_at, durable_at, filled_at } = start;
    let said = Remembered { number, nonce, durable_at };
    let Some(known) = remembered else { return Verdict::GoesOn(said) };
    let goes_on = if number == known.number {
        nonce == known.nonce
    } else {
        // Sequences can be compared only on one and the same disk; an old copy brings an old `filled_at`.
        number > known.number && (filled_at > known.number || opened_at >= known.durable_at)
    };
    if !goes_on && is_alive && nonce != known.nonce {
        return Verdict::Taken;
    }
    if !goes_on {
        return Verdict::Behind(known);
    }
    // Hellos may overtake each other; what was durable stays durable.
    let durable_at =
        if number == known.number { durable_at.max(known.durable_at) } else { durable_at };
    Verdict::GoesOn(Remembered { durable_at, ..said })
}

/// Whether a node that is behind may keep its rows: `alive_at` is the last time that its store recorded
/// to have been in use.
pub fn may_keep_rows(alive_at: Millis, now: Millis, grace_ms: u64) -> bool {
    // A quarter for clocks that disagree, as everywhere (see `reap`).
    now.since(alive_at) < grace_ms - grace_ms / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(number: u64, nonce: u64, opened_at: u64, durable_at: u64) -> Start {
        Start { number, nonce, opened_at, durable_at, filled_at: 0 }
    }

    fn after(starts: &[Start]) -> Option<Remembered> {
        starts.iter().fold(None, |remembered, start| match judge(remembered, *start, false) {
            Verdict::GoesOn(next) => Some(next),
            Verdict::Behind(known) => panic!("{start:?} is behind {known:?}"),
            Verdict::Taken => panic!("{start:?} is a second one"),
        })
    }

    #[test]
    fn starts_that_follow_each_other_go_on() {
        let known = after(&[start(1, 7, 0, 50), start(1, 7, 0, 90), start(2, 8, 90, 120)]);
        assert_eq!(known, Some(Remembered { number: 2, nonce: 8, durable_at: 120 }));
        let late = after(&[start(2, 8, 90, 120), start(2, 8, 90, 100)]);
        assert_eq!(late, Some(Remembered { number: 2, nonce: 8, durable_at: 120 }));
    }

    #[test]
    fn backups_clones_and_forgetful_disks_are_behind() {
        let known = after(&[start(5, 7, 100, 200)]);
        let behind = [
            ("an old backup", start(4, 9, 80, 80)),
            ("a copy running beside the original", start(5, 8, 100, 200)),
            ("a backup of this run", start(6, 9, 150, 150)),
            ("a wiped disk", start(1, 9, 0, 1)),
        ];
        for (what, start) in behind {
            assert!(matches!(judge(known, start, false), Verdict::Behind(_)), "{what}");
        }
        let fills = Start { filled_at: 6, ..start(6, 9, 0, 1) };
        assert_eq!(
            judge(known, fills, false),
            Verdict::GoesOn(Remembered { number: 6, nonce: 9, durable_at: 1 })
        );
        let stale = Start { filled_at: 5, ..start(5, 9, 0, 1) };
        assert!(
            matches!(judge(known, stale, false), Verdict::Behind(_)),
            "it must take a greater number"
        );
        let later = Start { filled_at: 6, ..start(8, 4, 60, 60) };
        let goes_on = matches!(judge(known, later, false), Verdict::GoesOn(_));
        assert!(goes_on, "it filled while the judge was away, and its new disk counts from 0");
        let copy = Start { filled_at: 4, ..start(6, 9, 150, 150) };
        assert!(
            matches!(judge(known, copy, false), Verdict::Behind(_)),
            "filled before what is remembered"
        );
    }

    #[test]
    fn a_copy_beside_the_living_original_waits() {
        let known = after(&[start(5, 7, 100, 200)]);
        let copy = start(6, 9, 150, 150);
        assert_eq!(judge(known, copy, true), Verdict::Taken);
        assert!(matches!(judge(known, copy, false), Verdict::Behind(_)), "the original is gone");
        assert_eq!(judge(known, start(1, 9, 0, 1), true), Verdict::Taken, "an empty disk too");
        let next = start(6, 8, 200, 200);
        assert!(matches!(judge(known, next, true), Verdict::GoesOn(_)), "an ordinary restart");
    }

    #[test]
    fn only_rows_younger_than_the_grace_are_kept() {
        assert!(may_keep_rows(Millis(1000), Millis(1700), 1000));
        assert!(!may_keep_rows(Millis(1000), Millis(1750), 1000));
        assert!(may_keep_rows(Millis(1000), Millis(500), 1000), "a clock that was set back");
    }
}
