//! Which key comes next: all equally often (uniform), a few much more often than the rest
//! (zipfian), or one after the other. Keys are numbers here; the cluster hashes their names, so
//! keys of similar popularity are not neighbours on the ring.
//!
//! Zipfian by the method of Gray et al., "Quickly Generating Billion-Record Synthetic Databases"
//! (SIGMOD 1994), with the skew that YCSB uses.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::value::mix;

/// The skew: key number i is requested in proportion to 1 / (i + 1)^0.99.
const THETA: f64 = 0.99;

/// The order in which keys are requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// Every key as often as any other, at random.
    Uniform,
    /// A few keys much more often than the rest, at random.
    Zipfian,
    /// One after the other.
    Sequential,
}

impl Order {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Order::Uniform => "uniform",
            Order::Zipfian => "zipfian",
            Order::Sequential => "sequential",
        }
    }
}

/// Chooses keys for all connections.
#[derive(Debug)]
pub(crate) struct KeyChooser {
    keys: u64,
    order: Order,
    zipf: Zipf,
    next: AtomicU64,
}

impl KeyChooser {
    /// A chooser among `keys` keys, at least one. Takes time proportional to them if zipfian.
    pub(crate) fn new(keys: u64, order: Order) -> Self {
        let ranks = if order == Order::Zipfian { keys } else { 1 };
        KeyChooser { keys: keys.max(1), order, zipf: Zipf::new(ranks), next: AtomicU64::new(0) }
    }

    /// The next key.
    pub(crate) fn key(&self, dice: &mut Dice) -> u64 {
        match self.order {
            Order::Uniform => dice.below(self.keys),
            Order::Zipfian => self.zipf.rank(dice.fraction()),
            Order::Sequential => self.next_in_turn(),
        }
    }

    /// The next key in sequence, whatever the order is.
    pub(crate) fn next_in_turn(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) % self.keys
    }
}

/// Ranks of a zipfian distribution.
#[derive(Debug)]
struct Zipf {
    ranks: f64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    fn new(ranks: u64) -> Self {
        let zeta: f64 = (1..=ranks).map(|rank| (rank as f64).powf(-THETA)).sum();
        let zeta_2 = 1.0 + 0.5_f64.powf(THETA);
        let ranks = ranks as f64;
        let eta = (1.0 - (2.0 / ranks).powf(1.0 - THETA)) / (1.0 - zeta_2 / zeta);
        Zipf { ranks, zeta, eta }
    }

    /// The rank, from 0, at this fraction (0 to less than 1) of all requests.
    fn rank(&self, fraction: f64) -> u64 {
        let share = fraction * self.zeta;
        if share < 1.0 {
            return 0;
        }
        if share < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let place = (self.eta * fraction - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        ((self.ranks * place) as u64).min(self.ranks as u64 - 1)
    }
}

/// Random numbers that are cheap and the same in every run (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(mix(seed))
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(1);
        mix(self.0)
    }

    /// 0 to `end` - 1; the modulo bias does not matter at these sizes.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// 0 to less than 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(keys: u64, order: Order, draws: u64) -> Vec<u64> {
        let (chooser, mut dice) = (KeyChooser::new(keys, order), Dice::new(7));
        let mut counts = vec![0; keys as usize];
        (0..draws).for_each(|_| counts[chooser.key(&mut dice) as usize] += 1);
        counts
    }

    #[test]
    fn uniform_asks_for_every_key_about_as_often() {
        let counts = counts(100, Order::Uniform, 100_000);
        assert!(counts.iter().all(|it| (800..1200).contains(it)), "{counts:?}");
    }

    #[test]
    fn zipfian_asks_for_each_rank_in_proportion() {
        let counts = counts(1000, Order::Zipfian, 1_000_000);
        let zeta: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-THETA)).sum();
        for rank in [0, 1, 9, 99] {
            let expected = 1e6 * f64::from(rank + 1).powf(-THETA) / zeta;
            let found = counts[rank as usize] as f64;
            assert!((found / expected - 1.0).abs() < 0.25, "rank {rank}: {found}, {expected}");
        }
        assert!(counts[999] > 0);
    }

    #[test]
    fn the_fewest_keys_work_in_every_order() {
        for order in [Order::Uniform, Order::Zipfian, Order::Sequential] {
            assert_eq!(counts(1, order, 10), [10]);
            assert!(counts(2, order, 100).iter().all(|it| *it > 10));
        }
        assert_eq!(counts(5, Order::Sequential, 15), [3; 5]);
    }
}
