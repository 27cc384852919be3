//! Hybrid-logical time: a wall clock that never runs behind the stamps it has seen.
//!
//! 48 bits of milliseconds since 1970 and 16 bits of a logical counter in one ordered number.
//! Stamps choose the winner in `lww` buckets and show when a value was written; they never decide
//! causality, and none is refused: after a stamp from far in the future the logical part counts on
//! from there ([`crate::skew`] keeps wrong clocks from making them). Source: Kulkarni et al.,
//! "Logical Physical Clocks", OPODIS 2014.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::WallTime;

const COUNTER_BITS: u32 = 16;

/// One hybrid-logical instant.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp(#[serde(with = "postcard::fixint::le")] pub u64);

impl Stamp {
    /// The first stamp of a millisecond.
    pub fn at(now: WallTime) -> Self {
        Self(now.0.min(u64::MAX >> COUNTER_BITS) << COUNTER_BITS)
    }

    /// The least stamp that is not before `now` and greater than `seen`.
    pub fn after(seen: Self, now: WallTime) -> Self {
        Self(seen.0.saturating_add(1)).max(Self::at(now))
    }

    /// The wall-clock part.
    pub fn wall_time(self) -> WallTime {
        WallTime(self.0 >> COUNTER_BITS)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.wall_time().0, self.0 & ((1 << COUNTER_BITS) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_greater_than_all_it_covers_even_if_the_clock_stands_still() {
        let first = Stamp::after(Stamp::default(), WallTime(5));
        let second = Stamp::after(first, WallTime(5));
        let third = Stamp::after(second, WallTime(3));
        assert!(first < second && second < third);
        assert_eq!(third.wall_time(), WallTime(5));
    }
}
