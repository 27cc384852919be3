//! Counts of partitions that no home replica can vouch for.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Partitions of which no home replica knows the full contents.
#[derive(Debug, Default)]
pub struct Unreceived {
    undecided: AtomicUsize,
    lost: AtomicUsize,
}

impl Unreceived {
    /// Those of which home replicas have set rows aside, and no operator has decided yet.
    pub fn undecided(&self) -> usize {
        self.undecided.load(Relaxed)
    }

    /// Those of which all home replicas have lost their data.
    pub fn lost(&self) -> usize {
        self.lost.load(Relaxed)
    }

    /// Records the current counts.
    pub fn set(&self, undecided: usize, lost: usize) {
        let was_lost = self.lost.swap(lost, Relaxed);
        let was_undecided = self.undecided.swap(undecided, Relaxed);
        if (lost, undecided) != (was_lost, was_undecided) && lost + undecided > 0 {
            tracing::error!(
                lost,
                undecided,
                "partitions whose replicas all lost their data, or came back too old to be believed, are \
                 not served until an operator decides: quorate distrusted"
            );
        }
    }
}
