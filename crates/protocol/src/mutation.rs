//! Deliberate bugs (mutations): a test that cannot fail proves nothing.
//!
//! Each sits where a real node could have it, behind `if mutated(Mutation::…)`. Only the simulator
//! compiles them in, with the feature `mutations`, and switches one on for a run, which the oracle
//! must then find broken. Without that feature, as a node is built, [`mutated`] is the constant
//! `false`, and nothing of them is left; a node refuses to be compiled with it ([`COMPILED_IN`]).

use std::str::FromStr;

/// Whether the mutations are compiled in.
pub const COMPILED_IN: bool = cfg!(feature = "mutations");

/// Defines each mutation once: its variant, its name on the command line, and what is wrong with it.
macro_rules! mutations {
    ($($variant:ident, $name:literal, $what:literal;)*) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutation {
            $(#[doc = $what] $variant,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What is wrong with it, in a few words.
            pub fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }
    };
}

mutations! {
    // Durability.
    EarlyAck, "early-ack", "a replica acknowledges before its sync";
    CoordinatorEarlyAck, "coordinator-early-ack", "the coordinator counts itself before its sync";
    SyncCoversLater, "sync-covers-later", "a sync also counts for a batch that was written after it";
    FailedSyncAcked, "failed-sync-acked", "a sync that failed is taken for one that did not";
    HintAckedEarly, "hint-acked-early", "delivered hints are acknowledged before a sync";
    // Causality.
    BareSibling, "bare-sibling", "only the new sibling is sent with the joined clock";
    ActorSurvivesCrash, "actor-survives-crash", "mints on a row that forgot its dots";
    ActorSurvivesHintDrop, "actor-survives-hint-drop", "the actor of a hint row outlives the row";
    CloneKeepsIncarnation, "clone-keeps-incarnation", "a copied disk keeps its incarnation";
    UnseenContext, "unseen-context", "a context for siblings the client did not see";
    ContextOfOwnRow, "context-of-own-row", "a read's context covers also what the entry node holds";
    MergeKeepsCovered, "merge-keeps-covered", "merge keeps siblings that the other side's clock covers";
    WriteIdForgotten, "write-id-forgotten", "a forwarded write gets a new write id each time";
    // Data types.
    IncrementRetried, "increment-retried", "an increment is forwarded again after a silent node";
    CounterEntryAdded, "counter-entry-added", "a greater share of a counter is added beside the lesser one";
    NewActorCopiesTotal, "new-actor-copies-total", "a counter's new actor begins with another's share";
    RemoveDropsUnseen, "remove-drops-unseen", "a remove also drops adds that its client has not seen";
    ContextJoined, "context-joined", "a remove claims all of its client's context, not what it removes";
    OvertakenIgnored, "overtaken-ignored", "a condition holds although another write overtook it";
    // Quorums.
    AckCountedTwice, "ack-counted-twice", "one acknowledgement is credited to two nodes";
    ReplicaCountedTwice, "replica-counted-twice", "one replica counts twice in a read";
    HintsCountInStrict, "hints-count-in-strict", "hints count in a strict quorum";
    EmptyFallbackCounts, "empty-fallback-counts", "a fallback without a hint answers \"absent\"";
    NotAppliedLie, "not-applied-lie", "an unknown outcome is reported as not_applied";
    // Hints and handoff.
    HintDroppedThoughChanged, "hint-dropped-though-changed", "a hint is dropped though it has changed";
    HintDroppedUnacked, "hint-dropped-unacked", "a hint is dropped when it is sent";
    // Anti-entropy and filling.
    LeafNotUpdated, "leaf-not-updated", "a leaf is not written in its row's batch";
    LeafReadThenWritten, "leaf-read-then-written", "of two changes to a leaf in one batch one is lost";
    DiskLossReadyAtOnce, "disk-loss-ready-at-once", "a node answers reads before it is filled";
    FillCountsUnmerged, "fill-counts-unmerged", "a fill counts a home replica that it has not merged";
    TreesTrustedInDoubt, "trees-trusted-in-doubt", "trees count as fitting while rows are in others";
    // Changes of n.
    HandedOverToOne, "handed-over-to-one", "an unowned row is dropped once one home replica holds it";
    DroppedThoughOwned, "dropped-though-owned", "a row is dropped though the node owns it again";
    ReversalForgotten, "reversal-forgotten", "a change of n and back leaves rows where they were moved";
    RaiseForgotten, "raise-forgotten", "a home replica that a raised n made answers at once";
    // Deletes.
    HintNotCounted, "hint-not-counted", "a node that holds a hint confirms a tombstone";
    StaleTaken, "stale-taken", "objects are accepted however long they were in flight";
    ReapWithoutFullProof, "reap-without-full-proof", "a silent node counts as having confirmed";
    DropUnnoted, "drop-unnoted", "a node that dropped a hint still confirms";
    // Expiry.
    ExpiredDropped, "expired-dropped", "a row whose values have expired is dropped, with its clock";
    TombstoneCoversLater, "tombstone-covers-later", "the tombstone of an expiry covers what has not expired";
    LifetimeRestarts, "lifetime-restarts", "a replica counts a value's lifetime from when it gets it";
    ExpiredShown, "expired-shown", "a read shows what has expired until it is removed";
    // The feed.
    PositionOfAnotherHome, "position-of-another-home", "a feed takes its place in one log for that in all";
    FillNotLogged, "fill-not-logged", "what a filling node receives is in no log of its own";
    StalledPartitionSkipped, "stalled-partition-skipped", "a page of a feed is complete whoever answered";
    // Secondary indexes.
    IndexOfCovered, "index-of-covered", "the index entries of values that are gone are kept";
    IndexOutsideBatch, "index-outside-batch", "index entries are written before the batch of their row";
    // Nodes that come back behind.
    BehindIgnored, "behind-ignored", "a node that a peer rejects as behind carries on";
    PeersForgotten, "peers-forgotten", "a start forgets what was known of peers' disks";
    AsideTakenBack, "aside-taken-back", "rows too old to be trusted are taken back";
    // Backups.
    BackupDropsHints, "backup-drops-hints", "hints leave a node while nodes are copied";
    RestoreKeepsActors, "restore-keeps-actors", "a restored copy mints as the disk that was copied";
    RestoreReapsAtOnce, "restore-reaps-at-once", "a restored node confirms what it has not compared";
    // Changes of the layout.
    JointWriteOldOnly, "joint-write-old-only", "while the layout changes, W of the old one are enough";
    JointWriteNewOnly, "joint-write-new-only", "while the layout changes, W of the new one are enough";
    JointReadOldOnly, "joint-read-old-only", "while the layout changes, R of the old one are enough";
    JointReadNewOnly, "joint-read-new-only", "while the layout changes, R of the new one are enough";
    OldEpochAccepted, "old-epoch-accepted", "what was sent by an older record is executed";
    AcksOfTwoEpochs, "acks-of-two-epochs", "one quorum counts answers of two epochs";
    PageBeforeDrained, "page-before-drained", "rows are told while writes of an older record go on";
    FillFromOneHome, "fill-from-one-home", "a new home replica receives from one old one only";
    FinishBeforeFilled, "finish-before-filled", "a change ends before all new home replicas are filled";
    NewHomeReadyAtOnce, "new-home-ready-at-once", "a new home replica trusts rows of an earlier time";
    ReapWithoutJoiner, "reap-without-joiner", "a reap does not ask the nodes that are joining";
    HintOfRemovedDropped, "hint-of-removed-dropped", "hints for a node that has left are dropped";
    WipedAcceptorVotes, "wiped-acceptor-votes", "a disk votes that has forgotten what it voted";
    VoteNotSynced, "record-promise-not-synced", "a vote on a record is told before it is stored";
    TwoRecordsOneEpoch, "two-records-one-epoch", "a proposer overrides what may have been decided";
    MintAgain, "mint-again-after-outdated", "a write that begins again is minted again";
    LeavingKeepsHints, "leaving-keeps-hints", "a node that leaves keeps hints although it may be let go";
    RemovedDiskReturns, "removed-disk-returns", "a node that was removed goes on, and is listened to";
    SwornDeadHeard, "sworn-dead-heard", "a node sworn dead takes part until the change is over";
    // Tokens.
    RevokedTokenReturns, "revoked-token-returns", "a node takes a revoked token back from one that missed it";
    StaleTokensTrusted, "stale-tokens-trusted", "a node takes tokens without a majority for long";
}

/// There is no mutation of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a mutation; --mutations lists them")]
pub struct UnknownMutation;

impl FromStr for Mutation {
    type Err = UnknownMutation;

    fn from_str(name: &str) -> Result<Self, UnknownMutation> {
        let named = |mutation: &&Self| mutation.name() == name;
        Self::ALL.iter().find(named).copied().ok_or(UnknownMutation)
    }
}

#[cfg(feature = "mutations")]
mod active {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Switches a mutation on for this thread, or all off.
    pub fn mutate(mutation: Option<Mutation>) {
        ACTIVE.set(mutation);
    }

    /// Whether this mutation is switched on.
    pub fn mutated(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use self::active::{mutate, mutated};

/// Whether this mutation is switched on: never, in a node.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mutated(_: Mutation) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        assert_eq!(names.len(), Mutation::ALL.len());
        assert!(Mutation::ALL.iter().all(|mutation| mutation.name().parse() == Ok(*mutation)));
        assert_eq!("no-such-mutation".parse::<Mutation>(), Err(UnknownMutation));
    }
}
