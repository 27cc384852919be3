//! How many reads may be hedged.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many reads may be hedged: one in ten over time, so that company for slow replicas does not double
/// the load when all of them are slow because there is too much of it.
#[derive(Debug, Default)]
pub(crate) struct HedgeBudget(AtomicU64);

/// What one hedge costs, in reads.
const READS_PER_HEDGE: u64 = 10;
/// The most that can be saved up, in reads.
const READS_SAVED_MAX: u64 = 1000;

impl HedgeBudget {
    /// A read begins. Returns whether it may hedge.
    pub(super) fn earn(&self) -> bool {
        let saved = self.0.load(Relaxed);
        if saved < READS_SAVED_MAX {
            self.0.fetch_add(1, Relaxed);
        }
        saved >= READS_PER_HEDGE
    }

    /// A read has hedged.
    pub(super) fn spend(&self) {
        let less = |saved: u64| Some(saved.saturating_sub(READS_PER_HEDGE));
        // The closure always gives a value, so this cannot fail.
        let _ = self.0.fetch_update(Relaxed, Relaxed, less);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_in_ten_may_hedge() {
        let budget = HedgeBudget::default();
        let mut hedged = 0;
        for _ in 0..1000 {
            if budget.earn() {
                budget.spend();
                hedged += 1;
            }
        }
        assert!((80..=100).contains(&hedged), "{hedged}");
    }
}
