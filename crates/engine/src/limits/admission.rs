//! Admission control: concurrent operations, and bytes of values held for them.
//!
//! Past a limit a request is refused at once, never queued: a queue would only make every response
//! late. A refusal costs next to nothing, so admitted work still completes (see Hanmer, "Patterns
//! for Fault Tolerant Software", 2007: *Fresh Work Before Stale*, *Shed Load*).
//!
//! Bytes are charged before they are read, as they arrive. A [`Charge`] can be tied to the bytes
//! themselves ([`Charge::hold`]): they count until the last slice of them is dropped, be it in a
//! queue to a peer or in a response to a slow client. Large values leave 1/8 of the memory to small
//! ones. When memory is short, responses that no client reads are aborted ([`Slow`]).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::config::Limits;
use crate::limits::sizes::LARGE_BYTES;
use crate::limits::upload_pace::Pace;

/// The share of memory reserved for small values, as a divisor.
const SMALL_SHARE: usize = 8;
/// The minimum interval between scans for stuck responses, in milliseconds.
const LOOK_EVERY_MS: u64 = 100;

/// Counts work in flight, up to its limits. Cheap to clone.
#[derive(Clone)]
pub struct Admission(Arc<Counters>);

struct Counters {
    operations: AtomicUsize,
    operations_max: usize,
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Bytes announced by clients and still to come.
    promised: AtomicUsize,
    /// The limit on announced bytes.
    pace: Pace,
    refused: AtomicU64,
    given_up: AtomicU64,
    /// Responses being sent.
    slow: Mutex<Vec<Weak<dyn Slow>>>,
    begun: Instant,
    /// Earliest time of the next scan of `slow`, in milliseconds after `begun`.
    look_at_ms: AtomicU64,
}

/// Something that holds bytes until a client has read them.
pub trait Slow: Send + Sync {
    /// Drops the bytes if none were read for long. Returns whether it did.
    fn give_up_if_stuck(&self) -> bool;
}

/// The node is at a limit; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    /// The limit of concurrent operations is reached.
    #[error("{0} operations are in progress, the limit of this node")]
    Operations(usize),
    /// The limit of bytes held for operations is reached.
    #[error("the values of the operations in progress would exceed {0} bytes")]
    Bytes(usize),
}

impl Admission {
    /// Admits up to `operations_max` operations that together hold up to `operation_bytes_max`
    /// bytes.
    pub fn new(limits: &Limits) -> Self {
        Self::with_bounds(limits.operations_max, limits.operation_bytes_max)
    }

    /// Likewise, with these limits.
    pub fn with_bounds(operations_max: usize, bytes_max: usize) -> Self {
        Self(Arc::new(Counters {
            operations: AtomicUsize::new(0),
            operations_max,
            bytes: AtomicUsize::new(0),
            bytes_max,
            promised: AtomicUsize::new(0),
            pace: Pace::new(bytes_max - bytes_max / SMALL_SHARE),
            refused: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            slow: Mutex::default(),
            begun: Instant::now(),
            look_at_ms: AtomicU64::new(0),
        }))
    }

    /// Admits one more operation.
    ///
    /// # Errors
    /// [`Overload::Operations`] at the limit.
    pub fn operation(&self) -> Result<Permit, Overload> {
        if !take(&self.0.operations, 1, self.0.operations_max) {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Overload::Operations(self.0.operations_max));
        }
        let charge = Charge { counters: Arc::clone(&self.0), bytes: 0 };
        Ok(Permit { charge, goes_on_for: None })
    }

    /// Reserves memory for bytes that are about to be read.
    ///
    /// # Errors
    /// [`Overload::Bytes`] if there is not enough.
    pub fn charge(&self, bytes: usize) -> Result<Charge, Overload> {
        let mut charge = Charge { counters: Arc::clone(&self.0), bytes: 0 };
        charge.grow_to(bytes)?;
        Ok(charge)
    }

    /// Charges bytes that are already in memory, if they are large, until their last slice is
    /// dropped.
    ///
    /// # Errors
    /// [`Overload::Bytes`] if that exceeds the limit.
    pub fn charged(&self, bytes: Bytes) -> Result<Bytes, Overload> {
        if bytes.len() <= LARGE_BYTES {
            return Ok(bytes);
        }
        Ok(self.charge(bytes.len())?.hold(bytes))
    }

    /// Likewise for bytes that are needed in any case: they may exceed the limit, and new work is
    /// refused until enough is released.
    pub fn held(&self, bytes: Bytes) -> Bytes {
        if bytes.len() <= LARGE_BYTES {
            return bytes;
        }
        self.0.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let charge = Charge { counters: Arc::clone(&self.0), bytes: bytes.len() };
        charge.hold(bytes)
    }

    /// Registers a response that a client reads at its own pace. It may be aborted when memory is
    /// short.
    pub fn watch(&self, slow: &Arc<impl Slow + 'static>) {
        let mut all = self.0.slow();
        if all.len() == all.capacity() {
            all.retain(|slow| slow.strong_count() > 0);
        }
        let slow: Weak<dyn Slow> = Arc::downgrade(&(slow.clone() as Arc<dyn Slow>));
        all.push(slow);
    }

    /// Records the end of a write of `bytes` that began then and had `allowed` time: its duration
    /// adjusts how many bytes other clients may announce.
    pub fn written(&self, bytes: usize, began: Instant, allowed: Duration) {
        self.0.pace.ended(bytes, began, allowed);
    }

    /// How many bytes of large values clients may have in flight now.
    pub fn pace_bytes(&self) -> usize {
        self.0.pace.bytes()
    }

    /// Whether so much memory is taken that it may run short.
    pub fn is_filling(&self) -> bool {
        self.bytes() > self.0.bytes_max / 4
    }

    /// Operations in flight.
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

    /// Responses aborted since the start because no client read them.
    pub fn given_up(&self) -> u64 {
        self.0.given_up.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Reserves `more` bytes for a holder that then has `all`.
    fn take_bytes(&self, more: usize, all: usize) -> bool {
        let share = self.bytes_max / SMALL_SHARE;
        let is_large = all > LARGE_BYTES;
        let bound = if is_large { self.bytes_max - share } else { self.bytes_max };
        // A value larger than the whole limit is admitted when it is the only large one.
        let room = |now: usize| {
            let sum = now.checked_add(more)?;
            let is_alone = is_large && all > bound && now <= share + (all - more);
            (sum <= bound || is_alone).then_some(sum)
        };
        self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    /// Aborts stuck responses. Returns whether there were any.
    fn give_up_slow(&self) -> bool {
        let now_ms = self.begun.elapsed().as_millis() as u64;
        let look_at = |next: u64| (now_ms >= next).then_some(now_ms + LOOK_EVERY_MS);
        let is_due = self.look_at_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, look_at);
        if is_due.is_err() {
            return false;
        }
        let all: Vec<Arc<dyn Slow>> = self.slow().iter().filter_map(Weak::upgrade).collect();
        let given_up = all.iter().filter(|slow| slow.give_up_if_stuck()).count();
        self.given_up.fetch_add(given_up as u64, Ordering::Relaxed);
        given_up > 0
    }

    fn slow(&self) -> MutexGuard<'_, Vec<Weak<dyn Slow>>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reserved bytes; released on drop.
pub struct Charge {
    counters: Arc<Counters>,
    bytes: usize,
}

impl Charge {
    /// Reserves more, up to `bytes` in all.
    ///
    /// # Errors
    /// [`Overload::Bytes`] if there is not enough; the existing charge is kept.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Overload> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else {
            return Ok(());
        };
        let counters = &self.counters;
        let mut has_room = counters.take_bytes(more, bytes);
        if !has_room && counters.give_up_slow() {
            has_room = counters.take_bytes(more, bytes);
        }
        if !has_room {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Overload::Bytes(counters.bytes_max));
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Releases what is not needed.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(less) = self.bytes.checked_sub(bytes) {
            self.counters.bytes.fetch_sub(less, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }

    /// Ties the charge to bytes: it is released with the last slice of them.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Charged { bytes, _charge: self })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.counters.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// One operation in flight and the bytes it holds; released on drop.
pub struct Permit {
    charge: Charge,
    goes_on_for: Option<Duration>,
}

impl Permit {
    /// Ties the charged bytes to `bytes`, if large: they count until the last slice is dropped.
    pub fn hold(&mut self, bytes: Bytes) -> Bytes {
        if bytes.len() <= LARGE_BYTES {
            return bytes;
        }
        let charged = std::mem::take(&mut self.charge.bytes);
        let charge = Charge { counters: Arc::clone(&self.charge.counters), bytes: charged };
        charge.hold(bytes)
    }

    /// Whether nearly all memory for large values is taken.
    pub fn is_pressed(&self) -> bool {
        let counters = &self.charge.counters;
        counters.bytes.load(Ordering::Relaxed) > counters.bytes_max / 4 * 3
    }

    /// Announces bytes that a client is about to send. Ok if there will be room for them, unless
    /// unannounced bodies grow in between.
    ///
    /// # Errors
    /// [`Overload::Bytes`] if not.
    pub fn expect(&self, bytes: usize) -> Result<Option<Promise>, Overload> {
        if bytes <= LARGE_BYTES {
            return Ok(None); // small bodies have reserved memory
        }
        let counters = &self.charge.counters;
        let share = counters.bytes_max / SMALL_SHARE;
        let promised = counters.promised.fetch_add(bytes, Ordering::Relaxed);
        let promise = Promise { counters: Arc::clone(counters), bytes };
        let others = counters.bytes.load(Ordering::Relaxed).saturating_add(promised);
        let bound = counters.pace.bytes();
        // One upload is always admitted, however low the limit.
        if others.saturating_add(bytes) <= bound || others <= share.min(bound / 2) {
            return Ok(Some(promise));
        }
        counters.refused.fetch_add(1, Ordering::Relaxed);
        Err(Overload::Bytes(bound))
    }

    /// Charges more bytes to the operation.
    ///
    /// # Errors
    /// [`Overload::Bytes`] at the limit; nothing is charged then.
    pub fn add_bytes(&mut self, bytes: usize) -> Result<(), Overload> {
        self.charge.grow_to(self.charge.bytes.saturating_add(bytes))
    }

    /// The operation starts, and continues for up to `longest` even if its client disconnects: a
    /// permit dropped before [`Permit::finished`] counts until then.
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
        let (counters, bytes) = (Arc::clone(&self.charge.counters), self.charge.bytes);
        self.charge.bytes = 0; // released below
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

/// Bytes that a client announced and that have not arrived yet. No memory is held for them, but
/// until they arrive other clients are not admitted in their place.
pub struct Promise {
    counters: Arc<Counters>,
    bytes: usize,
}

impl Promise {
    /// This many of them have arrived, or will not.
    pub fn less(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.counters.promised.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.less(self.bytes);
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
        drop(one);
        assert_eq!((admission.operations(), admission.bytes(), admission.refused()), (1, 0, 2));
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

    #[test]
    fn what_is_large_leaves_room_for_what_is_small() {
        let admission = Admission::with_bounds(9, 8 << 20);
        let large: Vec<_> = (0..7).map(|_| admission.charge(1 << 20).unwrap()).collect();
        assert!(admission.charge(1 << 20).is_err());
        assert!(admission.charge(LARGE_BYTES).is_ok());
        let mut growing = admission.charge(LARGE_BYTES).unwrap();
        assert!(growing.grow_to(LARGE_BYTES + 1).is_err());
        drop((large, growing));
        assert_eq!(admission.bytes(), 0);
    }

    #[test]
    fn what_is_larger_than_all_room_goes_alone() {
        let admission = Admission::with_bounds(9, 8 << 20);
        let small = admission.charge(LARGE_BYTES).unwrap();
        let mut giant = admission.charge(10 << 20).unwrap();
        assert!(giant.grow_to(20 << 20).is_ok(), "the only large one may grow");
        assert!(admission.charge(10 << 20).is_err() && admission.charge(1).is_err());
        giant.shrink_to(1 << 20);
        assert!(admission.charge(1 << 20).is_ok());
        drop((small, giant));
        assert_eq!(admission.bytes(), 0);
    }

    #[test]
    fn bytes_count_until_their_last_slice_is_gone() {
        let admission = Admission::with_bounds(9, 8 << 20);
        let held = admission.charged(Bytes::from(vec![7; 1 << 20])).unwrap();
        let slice = held.slice(10..20);
        drop(held);
        assert_eq!(admission.bytes(), 1 << 20);
        assert_eq!(slice, [7; 10][..]);
        drop(slice);
        assert_eq!(admission.bytes(), 0);
        let forced: Vec<_> =
            (0..20).map(|_| admission.held(Bytes::from(vec![7; 1 << 20]))).collect();
        assert!(admission.charge(1).is_err());
        drop(forced);
        assert!(admission.charge(1).is_ok());
    }

    #[test]
    fn what_nobody_takes_is_given_up_when_there_is_no_room() {
        struct Stuck(Mutex<Option<Charge>>);
        impl Slow for Stuck {
            fn give_up_if_stuck(&self) -> bool {
                self.0.lock().unwrap().take().is_some()
            }
        }
        let admission = Admission::with_bounds(9, 8 << 20);
        let stuck = Arc::new(Stuck(Mutex::new(Some(admission.charge(7 << 20).unwrap()))));
        admission.watch(&stuck);
        assert!(admission.charge(1 << 20).is_ok());
        assert!(stuck.0.lock().unwrap().is_none());
        assert_eq!((admission.given_up(), admission.refused()), (1, 0));
    }
}
