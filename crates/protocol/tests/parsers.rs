//! The fuzzers' checks over their corpus and what is one change away from it, so that every run of the tests
//! repeats what fuzzing has found (`scripts/fuzz.sh`).

#![allow(clippy::unwrap_used, missing_docs)]

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[path = "../fuzz/checks.rs"]
mod checks;

/// The inputs of a check that fuzzing found to differ: one a line, in hexadecimal.
fn corpus(check: &str) -> Vec<Vec<u8>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/corpus/{check}.hex"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    text.lines().map(unhex).collect()
}

fn unhex(line: &str) -> Vec<u8> {
    let digits = (0..line.len() / 2).map(|at| &line[2 * at..2 * at + 2]);
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn the_corpus_is_read_or_refused() {
    for (name, check) in checks::ALL {
        let corpus = corpus(name);
        assert!(corpus.len() >= 20, "{name}: {} inputs", corpus.len());
        corpus.iter().for_each(|bytes| check(bytes));
    }
}

#[test]
fn changed_bytes_are_read_or_refused() {
    let config =
        ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) };
    for (name, check) in checks::ALL {
        let corpus = corpus(name);
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
        let inputs = (prop::sample::select(corpus), changes, any::<prop::sample::Index>());
        TestRunner::new(config.clone())
            .run(&inputs, |(mut bytes, changes, cut)| {
                let len = bytes.len();
                for (at, byte) in changes.into_iter().filter(|_| len > 0) {
                    let at = at.index(len);
                    bytes[at] = byte;
                }
                check(&bytes);
                check(&bytes[..cut.index(bytes.len() + 1)]);
                Ok(())
            })
            .unwrap();
    }
}
