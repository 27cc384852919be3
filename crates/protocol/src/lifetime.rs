//! How long values live.
//!
//! The node that mints a write says when its value expires, once: that moment is part of the sibling, the
//! same on every replica, and never computed again ([`crate::object::Sibling::expires`]). From then on no
//! read shows it. It stays stored until the first home replica removes it by an ordinary write
//! ([`crate::row::Draft::removes_expired`]): no node drops anything by its own clock alone.

use serde::{Deserialize, Serialize};

use crate::time::WallTime;

/// The longest life that can be asked for, in seconds: 100 years.
pub const LIFETIME_S_MAX: u32 = 100 * 366 * 24 * 3600;

/// How long the value of a write lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lifetime {
    /// As long as its bucket says.
    #[default]
    OfBucket,
    /// Until it is overwritten or deleted.
    Unlimited,
    /// So many seconds from when it is minted.
    Limited {
        /// From 1 to [`LIFETIME_S_MAX`].
        seconds: u32,
    },
}

impl Lifetime {
    /// The lifetime in a bucket with this one, in seconds; `None`: values do not expire.
    #[must_use]
    pub fn in_bucket(self, seconds: Option<u32>) -> Self {
        match (self, seconds) {
            (Self::OfBucket, Some(seconds)) => Self::Limited { seconds },
            (Self::OfBucket, None) => Self::Unlimited,
            (asked, _) => asked,
        }
    }

    /// What is left of the life of a value that expires then, in whole seconds, at least one.
    pub fn until(expires: Option<WallTime>, now: WallTime) -> Self {
        let Some(at) = expires else { return Self::Unlimited };
        let seconds = at.since(now).div_ceil(1000).clamp(1, LIFETIME_S_MAX.into());
        Self::Limited { seconds: seconds as u32 }
    }

    /// When a value that is minted now expires; `None` for never.
    pub fn end(self, now: WallTime) -> Option<WallTime> {
        match self {
            Self::OfBucket | Self::Unlimited => None,
            Self::Limited { seconds } => Some(now.plus(u64::from(seconds) * 1000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_says_how_long_it_lives_or_its_bucket_does() {
        let end = |lifetime: Lifetime, bucket| lifetime.in_bucket(bucket).end(WallTime(500));
        let ten = Lifetime::Limited { seconds: 10 };
        assert_eq!(end(Lifetime::OfBucket, None), None);
        assert_eq!(end(Lifetime::OfBucket, Some(3)), Some(WallTime(3_500)));
        assert_eq!(end(Lifetime::Unlimited, Some(3)), None);
        assert_eq!(end(ten, Some(3)), Some(WallTime(10_500)));
        assert_eq!(Lifetime::OfBucket.end(WallTime(500)), None);
        let until = |at| Lifetime::until(at, WallTime(500));
        assert_eq!((until(None), until(Some(WallTime(10_001)))), (Lifetime::Unlimited, ten));
        assert_eq!(until(Some(WallTime(7))), Lifetime::Limited { seconds: 1 });
    }
}
