//! The hedging budget.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Hedging budget: at most one read in ten on average, so that hedges cannot double the load when
/// all replicas are slow because of overload.
#[derive(Debug, Default)]
pub struct HedgeBudget(AtomicU64);

/// What one hedge costs, in reads.
const READS_PER_HEDGE: u64 = 10;
/// The most credit that can accumulate, in reads: allows a burst of 100 hedges.
const READS_SAVED_MAX: u64 = 1000;

impl HedgeBudget {
    /// Credits one read. Returns whether it may hedge.
    pub(super) fn earn(&self) -> bool {
        let saved = self.0.load(Relaxed);
        if saved < READS_SAVED_MAX {
            self.0.fetch_add(1, Relaxed);
        }
        saved >= READS_PER_HEDGE
    }

    /// Charges one hedge.
    pub(super) fn spend(&self) {
        let less = |saved: u64| Some(saved.saturating_sub(READS_PER_HEDGE));
        // The closure always returns `Some`, so this cannot fail.
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
