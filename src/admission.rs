//! How much work the node takes on at once: operations, and bytes of values held for them.
//!
//! Past a bound a request is refused at once, never queued: a queue would only make every answer late.
//! Refused work costs next to nothing, so the work that was taken on still gets done (see Hanmer,
//! "Patterns for Fault Tolerant Software", 2007: *Fresh Work Before Stale*, *Shed Load*).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::Limits;

/// Counts what is in progress, up to its bounds. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Counters>);

struct Counters {
    operations: AtomicUsize,
    operations_max: usize,
    bytes: AtomicUsize,
    bytes_max: usize,
    refused: AtomicU64,
}

/// The node is at a bound; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    /// As many operations as allowed are in progress.
    #[error("{0} operations are in progress, as many as this node takes on at once")]
    Operations(usize),
    /// As many bytes as allowed are held for operations in progress.
    #[error("the values of the operations in progress would pass {0} bytes")]
    Bytes(usize),
}

impl Admission {
    /// Admits up to `operations_max` operations that hold up to `operation_bytes_max` bytes together.
    pub fn new(limits: &Limits) -> Self {
        Self::with_bounds(limits.operations_max, limits.operation_bytes_max)
    }

    /// Admits up to so many operations that hold up to so many bytes together.
    pub(crate) fn with_bounds(operations_max: usize, bytes_max: usize) -> Self {
        Self(Arc::new(Counters {
            operations: AtomicUsize::new(0),
            operations_max,
            bytes: AtomicUsize::new(0),
            bytes_max,
            refused: AtomicU64::new(0),
        }))
    }

    /// Takes on one more operation.
    ///
    /// # Errors
    /// [`Overload::Operations`] if there are as many as allowed.
    pub fn operation(&self) -> Result<Permit, Overload> {
        if !take(&self.0.operations, 1, self.0.operations_max) {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Overload::Operations(self.0.operations_max));
        }
        Ok(Permit { counters: Arc::clone(&self.0), bytes: 0, goes_on_for: None })
    }

    /// Operations in progress.
    pub fn operations(&self) -> usize {
        self.0.operations.load(Ordering::Relaxed)
    }

    /// Bytes of values held for them.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Requests refused since the start.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }
}

/// One operation in progress and the bytes it holds, until dropped.
pub struct Permit {
    counters: Arc<Counters>,
    bytes: usize,
    goes_on_for: Option<Duration>,
}

impl Permit {
    /// Charges more bytes to the operation.
    ///
    /// # Errors
    /// [`Overload::Bytes`] if the node holds too many; nothing is charged then.
    pub fn add_bytes(&mut self, bytes: usize) -> Result<(), Overload> {
        if !take(&self.counters.bytes, bytes, self.counters.bytes_max) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Overload::Bytes(self.counters.bytes_max));
        }
        self.bytes += bytes;
        Ok(())
    }

    /// The operation starts, and goes on for up to so long even if its client hangs up: a permit that
    /// is dropped before [`Permit::finished`] counts until then.
    pub fn started(&mut self, longest: Duration) {
        self.goes_on_for = Some(longest);
    }

    /// The operation is over.
    pub fn finished(&mut self) {
        self.goes_on_for = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (counters, bytes) = (Arc::clone(&self.counters), self.bytes);
        let give_back = move || {
            counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
            counters.operations.fetch_sub(1, Ordering::Relaxed);
        };
        match (self.goes_on_for, tokio::runtime::Handle::try_current()) {
            (Some(longest), Ok(runtime)) => {
                runtime.spawn(async move {
                    tokio::time::sleep(longest).await;
                    give_back();
                });
            }
            (Some(_), Err(_)) | (None, _) => give_back(),
        }
    }
}

/// Adds `more` to `counter` unless that would pass `max`.
fn take(counter: &AtomicUsize, more: usize, max: usize) -> bool {
    let add = |now: usize| now.checked_add(more).filter(|sum| *sum <= max);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_exact_and_given_back() {
        let admission = Admission::with_bounds(2, 10);
        let (mut one, two) = (admission.operation().unwrap(), admission.operation().unwrap());
        assert_eq!(admission.operation().err(), Some(Overload::Operations(2)));
        assert_eq!(one.add_bytes(10), Ok(()));
        assert_eq!(one.add_bytes(1), Err(Overload::Bytes(10)));
        assert_eq!(one.add_bytes(usize::MAX), Err(Overload::Bytes(10)));
        drop(one);
        assert_eq!((admission.operations(), admission.bytes(), admission.refused()), (1, 0, 3));
        assert!(admission.operation().is_ok());
        drop(two);
        assert_eq!(admission.operations(), 0);
    }

    #[tokio::test]
    async fn an_abandoned_operation_keeps_its_permit_until_it_is_certainly_over() {
        let admission = Admission::with_bounds(2, 10);
        let patience = Duration::from_millis(50);
        let mut permit = admission.operation().unwrap();
        permit.started(patience);
        permit.finished();
        drop(permit);
        assert_eq!(admission.operations(), 0);
        let abandoned = tokio::time::Instant::now();
        let mut permit = admission.operation().unwrap();
        permit.started(patience);
        drop(permit);
        while admission.operations() > 0 {
            assert!(abandoned.elapsed() < Duration::from_secs(10));
            tokio::task::yield_now().await;
        }
        assert!(abandoned.elapsed() >= patience);
    }
}
