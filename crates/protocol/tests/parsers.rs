//! The fuzzers' checks over their corpus and what is one change away from it, so that every run of the tests
//! repeats what fuzzing has found (`scripts/fuzz.sh`).

#![allow(missing_docs)]

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/replay.rs"]
mod replay;

#[test]
fn the_corpus_is_read_or_refused() {
    replay::corpus("fuzz", &checks::ALL);
}

#[test]
fn changed_bytes_are_read_or_refused() {
    replay::changed("fuzz", &checks::ALL, 100_000);
}
