//! All randomness of a simulation: one generator, seeded once.
//!
//! Xoshiro256++ with a fixed algorithm, not `StdRng`, so that a seed means the same in every
//! release.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// The only source of randomness of a simulation.
pub(crate) struct Dice {
    rng: Xoshiro256PlusPlus,
}

impl Dice {
    /// Seeds the dice: equal seeds give equal rolls.
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        self.rng.random_range(low..=high)
    }

    /// True with a probability of `percent` in a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 99) < percent
    }

    /// An index below `len`, which must not be zero.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.rng.random_range(0..len)
    }
}
