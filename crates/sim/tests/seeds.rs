//! Tests of the simulator itself: the node passes, and a seed repeats.

use quorate_sim::run::run;
use quorate_sim::seeds::SeedRange;

fn seeds(first: u64, count: u64, threads: usize) -> quorate_sim::seeds::Report {
    SeedRange { first, count, mutation: None, threads }.run(|_| {})
}

#[test]
fn seeds_are_clean() {
    let report = seeds(1, 200, 2);
    assert_eq!(report.failure, None);
    assert_eq!(report.seeds, 200);
}

#[test]
fn a_seed_repeats_itself() {
    for seed in 1..40 {
        let first = run(seed, None, false);
        let second = run(seed, None, true);
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
        assert!(first.events > 10, "seed {seed}");
    }
}

#[test]
fn seeds_differ() {
    assert_ne!(run(1, None, false).hash, run(2, None, false).hash);
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    assert_eq!(seeds(1, 40, 1), seeds(1, 40, 3));
}
