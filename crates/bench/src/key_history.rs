//! What the generator knows about each key: the last acknowledged write, so that a stale answer is
//! noticed, and whether a delete may have removed the key.
//!
//! Concurrent connections may write one key, and the cluster decides which write wins. So a write
//! counts as the last one only if no other write to the key overlapped it, from its start to its
//! acknowledgement: older values must then not be read any more. A write that failed may still be
//! applied at any later time; after one, no write is known to be the last.

use std::sync::atomic::{AtomicU64, Ordering};

const WRITERS: u64 = 0xffff;
const OVERLAPPED: u64 = 1 << 16;
const MAY_BE_ABSENT: u64 = 1 << 17;
/// A failed write may still be applied later.
const MAY_COME_LATE: u64 = 1 << 18;
const SEQUENCE_SHIFT: u32 = 19;

/// How a write ended, as far as its client can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    Put,
    Delete,
    /// It failed, and may or may not have been applied.
    Unknown,
}

/// The history of one key in one word: writes in flight, three flags, and the sequence number of
/// the last write that is known to be the last one.
#[derive(Debug)]
pub(crate) struct KeyHistory(AtomicU64);

impl KeyHistory {
    /// A key that this run has not written.
    pub(crate) fn new() -> Self {
        KeyHistory(AtomicU64::new(0))
    }

    /// The sequence number (0: none) that answers must not be older than.
    pub(crate) fn sequence(&self) -> u64 {
        self.0.load(Ordering::Relaxed) >> SEQUENCE_SHIFT
    }

    /// Whether an answer may say that there is no such key.
    pub(crate) fn may_be_absent(&self) -> bool {
        self.0.load(Ordering::Relaxed) & MAY_BE_ABSENT != 0
    }

    /// A write starts.
    pub(crate) fn begin(&self, deletes: bool) {
        self.update(|mut word| {
            if word & WRITERS > 0 {
                word |= OVERLAPPED;
            }
            if deletes {
                word |= MAY_BE_ABSENT;
            }
            // At most `--connections` writers, which fit.
            word + 1
        });
    }

    /// The write with this sequence number (up to 2^45) ended.
    pub(crate) fn end(&self, sequence: u64, wrote: Wrote) {
        self.update(|word| {
            let mut word = word - 1;
            if wrote == Wrote::Unknown {
                word |= MAY_COME_LATE;
            } else if word & (OVERLAPPED | MAY_COME_LATE) == 0 {
                let marks = word & (WRITERS | MAY_BE_ABSENT);
                word = marks | sequence << SEQUENCE_SHIFT;
                if wrote == Wrote::Put {
                    word &= !MAY_BE_ABSENT;
                }
            }
            if word & WRITERS == 0 {
                word &= !OVERLAPPED;
            }
            word
        });
    }

    fn update(&self, change: impl Fn(u64) -> u64) {
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| Some(change(it)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_alone_is_the_last_one() {
        let key = KeyHistory::new();
        key.begin(false);
        assert_eq!(key.sequence(), 0);
        key.end(5, Wrote::Put);
        assert_eq!((key.sequence(), key.may_be_absent()), (5, false));
    }

    #[test]
    fn of_writes_at_a_time_none_is_known_to_be_the_last() {
        let key = KeyHistory::new();
        key.begin(false);
        key.begin(false);
        key.end(6, Wrote::Put);
        key.begin(false);
        key.end(5, Wrote::Put);
        key.end(7, Wrote::Put);
        assert_eq!(key.sequence(), 0);
        key.begin(false);
        key.end(8, Wrote::Put);
        assert_eq!(key.sequence(), 8);
    }

    #[test]
    fn a_failed_write_leaves_what_was_known() {
        let key = KeyHistory::new();
        key.begin(false);
        key.end(1, Wrote::Put);
        key.begin(false);
        key.end(2, Wrote::Unknown);
        assert_eq!(key.sequence(), 1);
        key.begin(false);
        key.end(3, Wrote::Put);
        assert_eq!(key.sequence(), 1, "the failed one may come after it");
    }

    #[test]
    fn a_delete_may_be_seen_from_its_start_until_a_put_is_acknowledged() {
        let key = KeyHistory::new();
        key.begin(true);
        assert!(key.may_be_absent());
        key.end(1, Wrote::Delete);
        assert_eq!((key.sequence(), key.may_be_absent()), (1, true));
        key.begin(false);
        assert!(key.may_be_absent());
        key.end(2, Wrote::Put);
        assert!(!key.may_be_absent());
    }
}
