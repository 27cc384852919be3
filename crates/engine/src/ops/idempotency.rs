//! Recently seen idempotency keys: the same key with different content is a client error (422).
//!
//! That a *retry* mints nothing twice does not depend on this memory: the write id travels with the
//! sibling. The memory only tells a reused key from a retry, for a bounded time and number of keys.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use quorate_protocol::object::WriteId;
use quorate_protocol::time::Uptime;

/// A hash of `Idempotency-Key`, bucket and key.
type Name = [u8; 16];

/// The memory of recent keys.
pub struct Idempotency {
    keys_max: usize,
    remember_ms: u64,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    writes: HashMap<Name, WriteId>,
    oldest_first: VecDeque<(Uptime, Name)>,
}

impl Idempotency {
    /// An empty memory for at most `keys_max` keys, each for `remember_ms` milliseconds.
    pub fn new(keys_max: usize, remember_ms: u64) -> Self {
        Self { keys_max, remember_ms, seen: Mutex::default() }
    }

    /// Remembers that `name` belongs to `write`. Returns `true` if it is new or belongs to that
    /// write already; `false` means that the client has used its key for a different request.
    pub fn remember(&self, name: Name, write: WriteId, now: Uptime) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((at, oldest)) = seen.oldest_first.front().copied() {
            let expired = now.since(at) >= self.remember_ms;
            if !expired && seen.oldest_first.len() < self.keys_max.max(1) {
                break;
            }
            seen.oldest_first.pop_front();
            seen.writes.remove(&oldest);
        }
        if let Some(known) = seen.writes.get(&name) {
            return *known == write;
        }
        if self.keys_max > 0 {
            seen.writes.insert(name, write);
            seen.oldest_first.push_back((now, name));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_key_is_told_from_a_retry_while_remembered() {
        let memory = Idempotency::new(2, 1000);
        let (a, b) = (WriteId([1; 16]), WriteId([2; 16]));
        assert!(memory.remember([1; 16], a, Uptime(0)));
        assert!(memory.remember([1; 16], a, Uptime(500)), "a retry");
        assert!(!memory.remember([1; 16], b, Uptime(500)), "another request");
        assert!(memory.remember([1; 16], b, Uptime(1000)), "forgotten by time");
        assert!(memory.remember([2; 16], a, Uptime(1000)));
        assert!(memory.remember([3; 16], a, Uptime(1000)), "pushes the oldest out");
        assert!(memory.remember([1; 16], a, Uptime(1000)), "forgotten by number");
    }
}
