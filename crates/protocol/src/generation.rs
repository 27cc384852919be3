//! Restart fencing: whether a node that starts may resume where it stopped, or came back behind,
//! with an older backup, a copy, or a disk that lost acknowledged writes.
//!
//! Each start of a node has a number, recorded before anything else, and a nonce. Peers remember
//! both, and how far the node reported its store to be durable. A node is *behind* if it brings
//! less than its peers remember: a lower number (an old backup), the same number under another
//! nonce (two copies of one backup), or a store that opened with less than was durable before. It
//! then fills as if its disk were new: its rows stay (an acknowledged write may be only there), but
//! it answers reads of no partition before it has merged with the other home replicas.
//!
//! Rows as old as the delete grace are different: what they hold may have been deleted and reaped
//! since, and would be resurrected. Such a node discards its rows first; until then none of them
//! may spread. Younger rows are safe: nothing they hold can have been reaped, because a reap needs
//! every node to have held the tombstone for a whole grace (see [`crate::reap`]).

use serde::{Deserialize, Serialize};

use crate::time::WallTime;

/// One start of a node, as it reports it to its peers. The default, number 0, is for a sender that
/// is not a node and is not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which start of the node it is, from 1.
    pub number: u64,
    /// A random number drawn at this start.
    pub nonce: u64,
    /// The sequence number of the last change in the store when it was opened.
    pub opened_at: u64,
    /// The sequence number of the last change known to be durable as configured.
    pub durable_at: u64,
    /// The number of the last start at which the node was empty or behind, and filled; 0 if none
    /// was. What the store held before that start says nothing about what it holds now.
    pub filled_at: u64,
}

impl Start {
    /// Whether the node has been filling since this start.
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

/// How a peer judges a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The node resumes; remember this.
    GoesOn(Remembered),
    /// The node is behind what is remembered. It must fill under a greater number.
    Behind(Remembered),
    /// It would be behind, but the remembered start is still alive: this is a copy of the disk, or
    /// a second node with the same name. It must wait until the other one is gone, or exit.
    Taken,
}

/// Judges a node's reported start against what is remembered of it. `is_alive` says whether the
/// remembered start was heard from recently.
pub fn judge(remembered: Option<Remembered>, start: Start, is_alive: bool) -> Verdict {
    let Start { number, nonce, opened_at, durable_at, filled_at } = start;
    let said = Remembered { number, nonce, durable_at };
    let Some(known) = remembered else { return Verdict::GoesOn(said) };
    let goes_on = if number == known.number {
        nonce == known.nonce
    } else {
        // Sequence numbers are comparable only on the same disk; an old copy brings an old
        // `filled_at`.
        number > known.number && (filled_at > known.number || opened_at >= known.durable_at)
    };
    if !goes_on && is_alive && nonce != known.nonce {
        return Verdict::Taken;
    }
    if !goes_on {
        return Verdict::Behind(known);
    }
    // Hellos may be reordered; what was durable stays durable.
    let durable_at =
        if number == known.number { durable_at.max(known.durable_at) } else { durable_at };
    Verdict::GoesOn(Remembered { durable_at, ..said })
}

/// Whether a node that is behind may keep its rows. `alive_at` is the last time its store is
/// recorded to have been in use.
pub fn may_keep_rows(alive_at: WallTime, now: WallTime, grace_ms: u64) -> bool {
    // A quarter of the grace is left for clock disagreement, as everywhere (see `reap`).
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
            ("a copy running next to the original", start(5, 8, 100, 200)),
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
        assert!(
            goes_on,
            "it filled while the judging peer was away, and its new disk counts from 0"
        );
        let copy = Start { filled_at: 4, ..start(6, 9, 150, 150) };
        assert!(
            matches!(judge(known, copy, false), Verdict::Behind(_)),
            "filled before what is remembered"
        );
    }

    #[test]
    fn a_copy_waits_while_the_original_is_alive() {
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
        assert!(may_keep_rows(WallTime(1000), WallTime(1700), 1000));
        assert!(!may_keep_rows(WallTime(1000), WallTime(1750), 1000));
        assert!(may_keep_rows(WallTime(1000), WallTime(500), 1000), "a clock that was set back");
    }
}
