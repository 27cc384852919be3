//! Keeps rows from leaving this node for a while.
//!
//! The nodes of a cluster are copied one after the other. A hint that is delivered, or an unowned row that
//! is handed over, moves in between: its old place may be copied after it was dropped, and its new place
//! before it arrived. So that nothing acknowledged falls through, all nodes first keep what they would drop,
//! then they are copied. What is kept for longer than needed is delivered again, which changes nothing.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use quorate_protocol::mutation::{Mutation, mutated};
use tokio::time::Instant;

/// How long drops may be held, at most.
pub const HOLD_MAX: Duration = Duration::from_secs(600);

/// Until when nothing is dropped.
#[derive(Debug, Default)]
pub struct Hold(RwLock<Option<Instant>>);

impl Hold {
    /// Holds drops for so long from now on, at most [`HOLD_MAX`]; zero ends it. Once it returns no drop that
    /// began before is under way. Blocks for as long as such a drop takes.
    pub fn hold(&self, time: Duration) {
        let until = Instant::now() + time.min(HOLD_MAX);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Whether drops are held now.
    pub fn is_held(&self) -> bool {
        is_ahead(*self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Drops something, unless drops are held: then it stays, and `None` is returned. Blocks.
    pub fn unless_held<T>(&self, drop: impl FnOnce() -> T) -> Option<T> {
        let until = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (!is_ahead(*until)).then(drop)
    }
}

fn is_ahead(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until > Instant::now()) && !mutated(Mutation::BackupDropsHints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_dropped_while_it_holds() {
        let hold = Hold::default();
        assert_eq!((hold.is_held(), hold.unless_held(|| 7)), (false, Some(7)));
        hold.hold(Duration::from_secs(60));
        assert_eq!((hold.is_held(), hold.unless_held(|| 7)), (true, None));
        hold.hold(Duration::ZERO);
        assert_eq!((hold.is_held(), hold.unless_held(|| 7)), (false, Some(7)));
        hold.hold(Duration::from_millis(1));
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(!hold.is_held(), "forgotten");
        hold.hold(Duration::MAX);
        let until = hold.0.read().unwrap_or_else(PoisonError::into_inner);
        assert!(until.is_some_and(|until| until <= Instant::now() + HOLD_MAX), "bounded");
    }
}
