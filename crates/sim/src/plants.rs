//! Bugs planted on purpose: a test that cannot fail is no test.
//!
//! Each sits in the simulator's own glue or store, at the place where a real node could have it,
//! and is switched on by name. The tests require that the oracle finds each within a hundred seeds.

use std::str::FromStr;

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// A replica acknowledges before its sync.
    EarlyAck,
    /// A finished sync acknowledges also what was written after it began.
    SyncCoversLater,
    /// The minter sends only the new sibling beside its joined clock.
    BareSibling,
    /// The incarnation is not renewed after a crash that forgot writes.
    ActorSurvivesCrash,
    /// The actor of a hint row is kept beyond the row.
    ActorSurvivesHintDrop,
    /// A write's answer carries a context although siblings are left that its client did not see.
    UnseenContext,
    /// A read's context comes from this node's own row instead of what was shown.
    ContextOfOwnRow,
    /// A fallback without a hint answers "absent".
    EmptyFallbackCounts,
    /// Merge keeps siblings that the other side's clock covers.
    MergeKeepsCovered,
    /// One acknowledgement is credited to a second node too.
    AckCountedTwice,
    /// Hints count as acknowledgements of a strict write.
    HintsCountInStrict,
    /// A write that a silent node may have minted is called `not_applied`.
    NotAppliedLie,
    /// A node whose disk was lost answers reads before it was filled.
    DiskLossReadyAtOnce,
    /// A hint is dropped although it changed since it was sent.
    HintDroppedThoughChanged,
    /// A hint is dropped when it is sent, not when it is acknowledged.
    HintDroppedOnSend,
    /// A forwarded write gets a new write id on every attempt.
    WriteIdForgotten,
}

/// A plant, its name on the command line, and what it does in a few words.
pub const PLANTS: [(Plant, &str, &str); 16] = [
    (Plant::EarlyAck, "early-ack", "a replica acknowledges before its sync"),
    (Plant::SyncCoversLater, "sync-covers-later", "a sync acknowledges writes made after it began"),
    (Plant::BareSibling, "bare-sibling", "only the new sibling is sent beside the joined clock"),
    (Plant::ActorSurvivesCrash, "actor-survives-crash", "mints on a row that forgot its dots"),
    (Plant::ActorSurvivesHintDrop, "actor-survives-hint-drop", "the actor outlives its hint row"),
    (Plant::UnseenContext, "unseen-context", "a context for siblings the client did not see"),
    (
        Plant::ContextOfOwnRow,
        "context-of-own-row",
        "a read's context is that of the node's own row",
    ),
    (Plant::EmptyFallbackCounts, "empty-fallback-counts", "no hint is answered as absent"),
    (Plant::MergeKeepsCovered, "merge-keeps-covered", "merge keeps covered siblings"),
    (Plant::AckCountedTwice, "ack-counted-twice", "one ack is credited to two nodes"),
    (Plant::HintsCountInStrict, "hints-count-in-strict", "hints count in a strict quorum"),
    (Plant::NotAppliedLie, "not-applied-lie", "unknown is called not_applied"),
    (Plant::DiskLossReadyAtOnce, "disk-loss-ready-at-once", "an empty disk answers reads at once"),
    (Plant::HintDroppedThoughChanged, "hint-dropped-though-changed", "a changed hint is dropped"),
    (
        Plant::HintDroppedOnSend,
        "hint-dropped-on-send",
        "a hint is dropped before it is acknowledged",
    ),
    (Plant::WriteIdForgotten, "write-id-forgotten", "a forwarded write changes its write id"),
];

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = PLANTS.iter().find(|(_, known, _)| *known == name);
        known.map(|(plant, ..)| *plant).ok_or_else(|| format!("no plant {name:?}; see --plants"))
    }
}
