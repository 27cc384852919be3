//! Deliberate bugs (mutations): a test that cannot fail proves nothing.
//!
//! Each sits in the simulator's own glue or store, where a real node could have it, and is switched
//! on by name. The tests require that the oracle finds each within a few hundred seeds.

use std::str::FromStr;

/// A deliberate bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// A replica acknowledges before its sync.
    EarlyAck,
    /// A finished sync acknowledges also what was written after it began.
    SyncCoversLater,
    /// The coordinator sends only the new sibling, with its joined clock.
    BareSibling,
    /// The incarnation is not renewed after a crash that forgot writes.
    ActorSurvivesCrash,
    /// The actor of a hint row outlives the row.
    ActorSurvivesHintDrop,
    /// A write's answer carries a context although siblings remain that its client did not see.
    UnseenContext,
    /// A read's context comes from the node's own row, not from what the answer shows.
    ContextOfOwnRow,
    /// A fallback without a hint answers "absent".
    EmptyFallbackCounts,
    /// Merge keeps siblings that the other side's clock covers.
    MergeKeepsCovered,
    /// One acknowledgement is credited to a second node too.
    AckCountedTwice,
    /// Hints count as acknowledgements of a strict write.
    HintsCountInStrict,
    /// A write that a silent node may have minted is reported as `not_applied`.
    NotAppliedLie,
    /// A node that lost its disk answers reads before it is filled.
    DiskLossReadyAtOnce,
    /// A hint is dropped although it changed since it was sent.
    HintDroppedThoughChanged,
    /// A hint is dropped when it is sent, not when it is acknowledged.
    HintDroppedOnSend,
    /// A forwarded write gets a new write id on every attempt.
    WriteIdForgotten,
    /// A Merkle leaf is written in a separate batch, after its row's.
    LeafNotUpdated,
    /// A Merkle leaf is read as last synced and written back as a whole: of two concurrent changes
    /// to it, one is lost.
    LeafReadThenWritten,
    /// Anti-entropy overwrites what has arrived since it read.
    RepairFromStaleRead,
    /// A node that holds a hint for a key confirms its tombstone: the hint is delivered after the
    /// reap.
    HintNotCounted,
    /// Objects are accepted however long they were in flight.
    StaleTaken,
    /// The reaper counts a silent node as having confirmed.
    ReapWithoutFullProof,
    /// A copied disk keeps the incarnation it was copied with.
    CloneKeepsIncarnation,
    /// A node that a peer rejects as behind carries on regardless.
    BehindIgnored,
    /// A crash loses all records of how far peers were durable.
    PeersForgotten,
    /// A node that came back with rows too old takes them back once it is filled.
    AsideTakenBack,
    /// An unowned row is dropped as soon as one home replica holds it.
    HandedOverToOne,
    /// A row that was handed over is dropped although n was raised since and the node owns it
    /// again.
    DroppedThoughOwned,
    /// A node that must fill trusts the trees of a peer whose rows are still in other trees.
    TreesTrustedInDoubt,
    /// When n is changed back, rows that were moved in between are lost track of.
    ReversalForgotten,
    /// A node does not record that it dropped what it held for others, and confirms a tombstone.
    DropUnnoted,
}

/// Each mutation, its name on the command line, and a short description.
pub const MUTATIONS: [(Mutation, &str, &str); 31] = [
    (Mutation::EarlyAck, "early-ack", "a replica acknowledges before its sync"),
    (
        Mutation::SyncCoversLater,
        "sync-covers-later",
        "a sync acknowledges writes made after it began",
    ),
    (Mutation::BareSibling, "bare-sibling", "only the new sibling is sent with the joined clock"),
    (Mutation::ActorSurvivesCrash, "actor-survives-crash", "mints on a row that forgot its dots"),
    (
        Mutation::ActorSurvivesHintDrop,
        "actor-survives-hint-drop",
        "the actor outlives its hint row",
    ),
    (Mutation::UnseenContext, "unseen-context", "a context for siblings the client did not see"),
    (
        Mutation::ContextOfOwnRow,
        "context-of-own-row",
        "a read's context is that of the node's own row",
    ),
    (
        Mutation::EmptyFallbackCounts,
        "empty-fallback-counts",
        "a fallback without a hint answers absent",
    ),
    (Mutation::MergeKeepsCovered, "merge-keeps-covered", "merge keeps covered siblings"),
    (Mutation::AckCountedTwice, "ack-counted-twice", "one ack is credited to two nodes"),
    (Mutation::HintsCountInStrict, "hints-count-in-strict", "hints count in a strict quorum"),
    (Mutation::NotAppliedLie, "not-applied-lie", "an unknown outcome is reported as not_applied"),
    (
        Mutation::DiskLossReadyAtOnce,
        "disk-loss-ready-at-once",
        "an empty disk answers reads at once",
    ),
    (
        Mutation::HintDroppedThoughChanged,
        "hint-dropped-though-changed",
        "a changed hint is dropped",
    ),
    (
        Mutation::HintDroppedOnSend,
        "hint-dropped-on-send",
        "a hint is dropped before it is acknowledged",
    ),
    (Mutation::WriteIdForgotten, "write-id-forgotten", "a forwarded write changes its write id"),
    (Mutation::LeafNotUpdated, "leaf-not-updated", "a leaf is not written in its row's batch"),
    (
        Mutation::LeafReadThenWritten,
        "leaf-read-then-written",
        "of two concurrent changes to a leaf, one is lost",
    ),
    (
        Mutation::RepairFromStaleRead,
        "repair-from-stale-read",
        "anti-entropy overwrites what arrived since it read",
    ),
    (
        Mutation::HintNotCounted,
        "hint-delivered-after-reap",
        "a node confirms a tombstone although it holds a hint",
    ),
    (Mutation::StaleTaken, "stale-taken", "objects are accepted however long they were in flight"),
    (
        Mutation::ReapWithoutFullProof,
        "reap-without-full-proof",
        "a silent node need not confirm a tombstone",
    ),
    (
        Mutation::CloneKeepsIncarnation,
        "clone-keeps-incarnation",
        "a copied disk mints under its old incarnation",
    ),
    (
        Mutation::BehindIgnored,
        "behind-ignored",
        "a node that came back behind carries on regardless",
    ),
    (Mutation::PeersForgotten, "peers-forgotten", "a crash loses what was known of peers' disks"),
    (Mutation::AsideTakenBack, "aside-taken-back", "rows too old to be trusted are taken back"),
    (
        Mutation::HandedOverToOne,
        "handed-over-to-one",
        "an unowned row is dropped when one home has it",
    ),
    (
        Mutation::DroppedThoughOwned,
        "dropped-though-owned",
        "a row is dropped although the node owns it again",
    ),
    (
        Mutation::TreesTrustedInDoubt,
        "trees-trusted-in-doubt",
        "a filling node trusts trees that prove nothing",
    ),
    (
        Mutation::ReversalForgotten,
        "reversal-forgotten",
        "changing n back leaves rows in the wrong trees",
    ),
    (Mutation::DropUnnoted, "drop-unnoted", "a node that dropped a hint still confirms"),
];

impl FromStr for Mutation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = MUTATIONS.iter().find(|(_, known, _)| *known == name);
        known
            .map(|(mutation, ..)| *mutation)
            .ok_or_else(|| format!("no mutation {name:?}; see --mutations"))
    }
}
