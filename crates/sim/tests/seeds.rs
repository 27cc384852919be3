//! Tests of the simulator itself: a seed repeats, a correct cluster passes, and every mutation is
//! found.

use quorate_sim::mutations::{MUTATIONS, Mutation};
use quorate_sim::run::{Nodes, Run, run};
use quorate_sim::seeds::SeedRange;

/// Every mutation must be found within this many seeds, as README.md says too.
const SEEDS_PER_MUTATION: u64 = 300;
/// The limit for mutations that need several rare events at once.
const SEEDS_PER_RARE_MUTATION: u64 = 3000;

fn run_seeds(count: u64, mutation: Option<Mutation>, threads: usize) -> quorate_sim::seeds::Report {
    let nodes = Nodes::Mirror(mutation);
    SeedRange { first: 1, count, nodes, threads }.run(|_| {})
}

fn mirror(seed: u64, keep_lines: bool) -> Run {
    run(seed, Nodes::Mirror(None), keep_lines)
}

#[test]
fn seeds_of_the_shipping_node_are_clean() {
    let range = SeedRange { first: 1, count: 200, nodes: Nodes::Shipping, threads: 2 };
    let report = range.run(|_| {});
    assert_eq!(report.failure, None);
    assert_eq!(report.seeds, 200);
}

#[test]
fn a_seed_of_the_shipping_node_repeats_itself() {
    for seed in 1..40 {
        let first = run(seed, Nodes::Shipping, false);
        let second = run(seed, Nodes::Shipping, true);
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert!(first.events > 10, "seed {seed}");
    }
}

#[test]
fn seeds_without_a_mutation_are_clean() {
    let report = run_seeds(300, None, 2);
    assert_eq!(report.failure, None);
    assert_eq!(report.seeds, 300);
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 1..30 {
        let (first, second) = (mirror(seed, false), mirror(seed, true));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(mirror(1, false).hash, mirror(2, false).hash);
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let alone = run_seeds(60, Some(Mutation::AckCountedTwice), 1).failure;
    assert!(alone.is_some());
    assert_eq!(run_seeds(60, Some(Mutation::AckCountedTwice), 3).failure, alone);
    assert_eq!(run_seeds(40, None, 1), run_seeds(40, None, 3));
}

#[test]
fn every_mutation_is_listed_once() {
    for (mutation, name, _) in MUTATIONS {
        assert_eq!(name.parse(), Ok(mutation));
        assert_eq!(MUTATIONS.iter().filter(|(p, n, _)| *p == mutation || *n == name).count(), 1);
    }
    assert!("no-such-mutation".parse::<Mutation>().is_err());
}

fn is_found(mutation: Mutation) {
    let found = run_seeds(SEEDS_PER_MUTATION, Some(mutation), 2).failure;
    assert!(found.is_some(), "{mutation:?} was not found within {SEEDS_PER_MUTATION} seeds");
}

/// Needs a copied disk that comes back while all other nodes lose power, and a delete in between.
#[test]
fn finds_peers_forgotten() {
    assert!(
        run_seeds(SEEDS_PER_RARE_MUTATION, Some(Mutation::PeersForgotten), 2).failure.is_some()
    );
}

/// Needs a change of n that is reverted while rows are moved, and no later change.
#[test]
fn finds_trees_trusted_in_doubt() {
    assert!(
        run_seeds(SEEDS_PER_RARE_MUTATION, Some(Mutation::TreesTrustedInDoubt), 2)
            .failure
            .is_some()
    );
}

macro_rules! mutations_are_found {
    ($($test:ident: $mutation:ident,)*) => {
        $(#[test]
        fn $test() {
            is_found(Mutation::$mutation);
        })*
    };
}

mutations_are_found! {
    finds_aside_taken_back: AsideTakenBack,
    finds_early_ack: EarlyAck,
    finds_sync_covers_later: SyncCoversLater,
    finds_bare_sibling: BareSibling,
    finds_actor_survives_crash: ActorSurvivesCrash,
    finds_actor_survives_hint_drop: ActorSurvivesHintDrop,
    finds_unseen_context: UnseenContext,
    finds_context_of_own_row: ContextOfOwnRow,
    finds_empty_fallback_counts: EmptyFallbackCounts,
    finds_merge_keeps_covered: MergeKeepsCovered,
    finds_ack_counted_twice: AckCountedTwice,
    finds_hints_count_in_strict: HintsCountInStrict,
    finds_not_applied_lie: NotAppliedLie,
    finds_disk_loss_ready_at_once: DiskLossReadyAtOnce,
    finds_hint_dropped_though_changed: HintDroppedThoughChanged,
    finds_hint_dropped_on_send: HintDroppedOnSend,
    finds_write_id_forgotten: WriteIdForgotten,
    finds_leaf_not_updated: LeafNotUpdated,
    finds_leaf_read_then_written: LeafReadThenWritten,
    finds_repair_from_stale_read: RepairFromStaleRead,
    finds_hint_not_counted: HintNotCounted,
    finds_stale_taken: StaleTaken,
    finds_reap_without_full_proof: ReapWithoutFullProof,
    finds_clone_keeps_incarnation: CloneKeepsIncarnation,
    finds_behind_ignored: BehindIgnored,
    finds_handed_over_to_one: HandedOverToOne,
    finds_dropped_though_owned: DroppedThoughOwned,
    finds_reversal_forgotten: ReversalForgotten,
    finds_drop_unnoted: DropUnnoted,
}
