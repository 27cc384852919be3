//! Bugs planted on purpose: a test that cannot fail is no test.
//!
//! Each sits in the simulator's own glue or store, at the place where a real node could have it,
//! and is switched on by name. The tests require that the oracle finds each within a few
//! hundred seeds.

use std::str::FromStr;

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// A replica acknowledges before its sync.
    EarlyAck,
    /// A finished sync acknowledges also what was written after it began.
    SyncCoversLater,
    /// The coordinator sends only the new sibling beside its joined clock.
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
    /// A Merkle leaf is written in a batch of its own, after its row's.
    LeafNotUpdated,
    /// A Merkle leaf is read where it was last synced, and written back as a whole: of two keys
    /// that change it at once, one is forgotten.
    LeafReadThenWritten,
    /// Anti-entropy writes what it read before, whatever has arrived since.
    RepairFromStaleRead,
    /// A node that keeps a hint of a key confirms its tombstone: the hint is delivered after the
    /// reap.
    HintNotCounted,
    /// Objects are taken however long they were on their way.
    StaleTaken,
    /// The reaper takes the silence of a node for a confirmation.
    ReapWithoutFullProof,
    /// A copy of a disk goes on under the incarnation it was copied with.
    CloneKeepsIncarnation,
    /// A node that is told that it came back behind goes on all the same.
    BehindIgnored,
    /// A crash takes all that a node knew of how far its peers were durable.
    PeersForgotten,
    /// A node that came back too old takes its rows back once it is filled.
    AsideTakenBack,
    /// A row that a node does not own is dropped as soon as one home replica holds it.
    HandedOverToOne,
    /// A row that was handed over is dropped though n was raised meanwhile and it is the node's own again.
    DroppedThoughOwned,
    /// A node that has to be filled believes the trees of a peer whose rows are in other trees.
    TreesTrustedInDoubt,
    /// When n is changed back, rows that were moved in between are forgotten.
    ReversalForgotten,
    /// A node does not note that it dropped what it held for others, and confirms a tombstone.
    DropUnnoted,
}

/// A plant, its name on the command line, and what it does in a few words.
pub const PLANTS: [(Plant, &str, &str); 31] = [
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
    (Plant::LeafNotUpdated, "leaf-not-updated", "a leaf is not written in its row's batch"),
    (
        Plant::LeafReadThenWritten,
        "leaf-read-then-written",
        "of two keys of one leaf at once, the leaf forgets one",
    ),
    (
        Plant::RepairFromStaleRead,
        "repair-from-stale-read",
        "anti-entropy overwrites what arrived since it read",
    ),
    (
        Plant::HintNotCounted,
        "hint-delivered-after-reap",
        "a node confirms a tombstone though it keeps a hint",
    ),
    (Plant::StaleTaken, "stale-taken", "objects are taken however long they were on their way"),
    (
        Plant::ReapWithoutFullProof,
        "reap-without-full-proof",
        "a silent node need not confirm a tombstone",
    ),
    (
        Plant::CloneKeepsIncarnation,
        "clone-keeps-incarnation",
        "a copied disk mints under its old incarnation",
    ),
    (Plant::BehindIgnored, "behind-ignored", "a node that came back behind goes on all the same"),
    (Plant::PeersForgotten, "peers-forgotten", "a crash takes what was known of peers' disks"),
    (Plant::AsideTakenBack, "aside-taken-back", "rows too old to be believed are taken back"),
    (
        Plant::HandedOverToOne,
        "handed-over-to-one",
        "an unowned row is dropped when one home has it",
    ),
    (
        Plant::DroppedThoughOwned,
        "dropped-though-owned",
        "a row is dropped though n made it the node's own again",
    ),
    (
        Plant::TreesTrustedInDoubt,
        "trees-trusted-in-doubt",
        "equal trees prove to a node that fills what they do not",
    ),
    (Plant::ReversalForgotten, "reversal-forgotten", "n changed back leaves rows in wrong trees"),
    (Plant::DropUnnoted, "drop-unnoted", "a dropped hint does not keep its node from confirming"),
];

impl FromStr for Plant {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = PLANTS.iter().find(|(_, known, _)| *known == name);
        known.map(|(plant, ..)| *plant).ok_or_else(|| format!("no plant {name:?}; see --plants"))
    }
}
