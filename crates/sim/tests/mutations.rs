//! Every deliberate bug in the node is found (`quorate_protocol::mutation`): by random seeds here, or by
//! the hand-made histories of `tests/histories.rs`.

use std::collections::BTreeSet;

use quorate_protocol::mutation::Mutation;
use quorate_sim::Focus;
use quorate_sim::histories::HISTORIES;
use quorate_sim::seeds::SeedRange;

/// A mutation must be found within this many seeds, as README.md says too.
const SEEDS: u64 = 300;
/// The limit for mutations that need several rare events at once, most of them of seeds that are about
/// those, from a first one on.
const SEEDS_OF_RARE: u64 = 1000;
/// The limit for those that other mechanisms hide: they are looked for on demand (`--ignored`).
const SEEDS_OF_HIDDEN: u64 = 20_000;

fn first_found(
    mutation: Mutation,
    (first, count, focus): (u64, u64, Option<Focus>),
    threads: usize,
) -> Option<u64> {
    let range = SeedRange { first, count, focus, mutation: Some(mutation), threads };
    range.run(|_| {}).failure.map(|(seed, _)| seed)
}

fn is_found(mutation: Mutation, among: (u64, u64, Option<Focus>)) {
    let found = first_found(mutation, among, 2);
    assert!(found.is_some(), "{} was not found among {among:?} seeds", mutation.name());
}

macro_rules! mutations_are_found {
    (often { $($test:ident: $mutation:ident,)* }
     rarely { $($rare_test:ident: $rare:ident about $focus:expr, from $first:expr,)* }
     hidden { $($hidden_test:ident: $hidden:ident about $about:expr,)* }) => {
        $(#[test]
        fn $test() {
            is_found(Mutation::$mutation, (1, SEEDS, None));
        })*
        $(#[test]
        fn $rare_test() {
            is_found(Mutation::$rare, ($first, SEEDS_OF_RARE, $focus));
        })*
        $(#[test]
        #[ignore = "minutes long: nodes drain before they tell what they hold, which hides it"]
        fn $hidden_test() {
            is_found(Mutation::$hidden, (1, SEEDS_OF_HIDDEN, $about));
        })*

        #[test]
        fn each_has_a_test() {
            let by_hand = HISTORIES.iter().flat_map(|history| history.finds);
            let tested = [$(Mutation::$mutation,)* $(Mutation::$rare,)* $(Mutation::$hidden,)*];
            let tested: BTreeSet<Mutation> =
                by_hand.map(|(mutation, _)| *mutation).chain(tested).collect();
            assert_eq!(tested, Mutation::ALL.iter().copied().collect());
        }
    };
}

mutations_are_found! {
    often {
        early_ack: EarlyAck,
        coordinator_early_ack: CoordinatorEarlyAck,
        sync_covers_later: SyncCoversLater,
        failed_sync_acked: FailedSyncAcked,
        hint_acked_early: HintAckedEarly,
        bare_sibling: BareSibling,
        actor_survives_hint_drop: ActorSurvivesHintDrop,
        unseen_context: UnseenContext,
        merge_keeps_covered: MergeKeepsCovered,
        write_id_forgotten: WriteIdForgotten,
        overtaken_ignored: OvertakenIgnored,
        ack_counted_twice: AckCountedTwice,
        replica_counted_twice: ReplicaCountedTwice,
        hints_count_in_strict: HintsCountInStrict,
        empty_fallback_counts: EmptyFallbackCounts,
        not_applied_lie: NotAppliedLie,
        leaf_not_updated: LeafNotUpdated,
        leaf_read_then_written: LeafReadThenWritten,
        fill_counts_unmerged: FillCountsUnmerged,
        trees_trusted_in_doubt: TreesTrustedInDoubt,
        handed_over_to_one: HandedOverToOne,
        raise_forgotten: RaiseForgotten,
        drop_unnoted: DropUnnoted,
        behind_ignored: BehindIgnored,
    }
    rarely {
        actor_survives_crash: ActorSurvivesCrash about None, from 1,
        context_of_own_row: ContextOfOwnRow about Some(Focus::Requests), from 1,
        reversal_forgotten: ReversalForgotten about Some(Focus::Counts), from 1,
        increment_retried: IncrementRetried about Some(Focus::Types), from 1,
        counter_entry_added: CounterEntryAdded about Some(Focus::Types), from 1,
        new_actor_copies_total: NewActorCopiesTotal about Some(Focus::Types), from 1,
        remove_drops_unseen: RemoveDropsUnseen about Some(Focus::Types), from 1,
        context_joined: ContextJoined about Some(Focus::Types), from 1,
        expired_dropped: ExpiredDropped about Some(Focus::Expiry), from 1,
        tombstone_covers_later: TombstoneCoversLater about Some(Focus::Expiry), from 1,
        lifetime_restarts: LifetimeRestarts about Some(Focus::Expiry), from 1,
        expired_shown: ExpiredShown about Some(Focus::Expiry), from 1,
        position_of_another_home: PositionOfAnotherHome about Some(Focus::Feeds), from 1,
        stalled_partition_skipped: StalledPartitionSkipped about Some(Focus::Feeds), from 1,
        index_of_covered: IndexOfCovered about Some(Focus::Indexes), from 1,
        index_outside_batch: IndexOutsideBatch about Some(Focus::Indexes), from 1,
        hint_dropped_though_changed: HintDroppedThoughChanged about Some(Focus::Links), from 1,
        hint_dropped_unacked: HintDroppedUnacked about Some(Focus::Links), from 1,
        reap_without_full_proof: ReapWithoutFullProof about Some(Focus::Links), from 1,
        dropped_though_owned: DroppedThoughOwned about Some(Focus::Counts), from 1,
        aside_taken_back: AsideTakenBack about Some(Focus::Copies), from 1,
        joint_write_old_only: JointWriteOldOnly about Some(Focus::Layouts), from 1,
        joint_write_new_only: JointWriteNewOnly about Some(Focus::Layouts), from 1,
        joint_read_new_only: JointReadNewOnly about Some(Focus::Layouts), from 1,
        new_home_ready_at_once: NewHomeReadyAtOnce about Some(Focus::Layouts), from 1,
        reap_without_joiner: ReapWithoutJoiner about Some(Focus::Layouts), from 1,
        hint_not_counted: HintNotCounted about Some(Focus::Copies), from 1,
    }
    hidden {
        acks_of_two_epochs: AcksOfTwoEpochs about Some(Focus::Layouts),
    }
}

#[test]
fn the_seed_that_finds_it_does_not_depend_on_the_number_of_threads() {
    let alone = first_found(Mutation::FailedSyncAcked, (1, SEEDS, None), 1);
    assert!(alone.is_some());
    assert_eq!(first_found(Mutation::FailedSyncAcked, (1, SEEDS, None), 3), alone);
}
