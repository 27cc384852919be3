//! The inputs that fuzzing found to differ, and what is one change away from them: every run of the tests
//! repeats them.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Takes bytes.
type Check = fn(&[u8]);

/// The inputs of a check: one a line, in hexadecimal.
fn inputs(dir: &str, check: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let file = dir.join(format!("corpus/{check}.hex"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    let inputs: Vec<Vec<u8>> = text.lines().map(unhex).collect();
    assert!(inputs.len() >= 20, "{check}: {} inputs", inputs.len());
    inputs
}

fn unhex(line: &str) -> Vec<u8> {
    let digits = (0..line.len() / 2).map(|at| &line[2 * at..2 * at + 2]);
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The inputs as they are. `dir` is the directory of the fuzzers, within the crate.
pub(crate) fn corpus(dir: &str, checks: &[(&str, Check)]) {
    for (name, check) in checks {
        inputs(dir, name).iter().for_each(|bytes| check(bytes));
    }
}

/// So many inputs of each check with some bytes changed, and cut short.
pub(crate) fn changed(dir: &str, checks: &[(&str, Check)], cases: u32) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) };
    for (name, check) in checks {
        let inputs = inputs(dir, name);
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
        let inputs = (prop::sample::select(inputs), changes, any::<prop::sample::Index>());
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
