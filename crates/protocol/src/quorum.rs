//! N, R and W: how many replicas there are, how many must answer a read and how many a write.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many of N, as written in requests and settings: a number, or `one`, `quorum` (a majority),
/// `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// One replica.
    One,
    /// More than half of N.
    Quorum,
    /// All N.
    All,
    /// Exactly this many (1 or more).
    Exactly(u16),
}

/// The text or number is not a valid count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from 1, or one of: one, quorum, all")]
pub struct CountError;

impl Count {
    /// Parses `one`, `quorum`, `all` or a number from 1 (digits only: no sign, no space).
    ///
    /// # Errors
    /// [`CountError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, CountError> {
        match text {
            "one" => Ok(Self::One),
            "quorum" => Ok(Self::Quorum),
            "all" => Ok(Self::All),
            digits if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                match digits.parse::<u16>() {
                    Ok(0) | Err(_) => Err(CountError),
                    Ok(count) => Ok(Self::Exactly(count)),
                }
            }
            _ => Err(CountError),
        }
    }

    /// How many of `n` this is. An explicit number may exceed `n`.
    pub fn of(self, n: u16) -> u16 {
        match self {
            Self::One => 1,
            Self::Quorum => n / 2 + 1,
            Self::All => n,
            Self::Exactly(count) => count,
        }
    }

    /// How many of `n` replicas have to be asked so that one of them has each write that this many have
    /// acknowledged: N − W + 1.
    pub fn intersecting(self, n: u16) -> u16 {
        n.saturating_sub(self.of(n).max(1)) + 1
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !serializer.is_human_readable() {
            return serializer.serialize_u16(match self {
                Self::One => u16::MAX - 2,
                Self::Quorum => u16::MAX - 1,
                Self::All => u16::MAX,
                Self::Exactly(count) => *count,
            });
        }
        match self {
            Self::One => serializer.serialize_str("one"),
            Self::Quorum => serializer.serialize_str("quorum"),
            Self::All => serializer.serialize_str("all"),
            Self::Exactly(count) => serializer.serialize_u16(*count),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Count;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a whole number from 1, or one of: one, quorum, all")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
                Count::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<Count, E> {
                match u16::try_from(count) {
                    Ok(0) | Err(_) => Err(E::custom(CountError)),
                    Ok(count) => Ok(Count::Exactly(count)),
                }
            }
            fn visit_i64<E: serde::de::Error>(self, count: i64) -> Result<Count, E> {
                u64::try_from(count)
                    .map_err(|_| E::custom(CountError))
                    .and_then(|c| self.visit_u64(c))
            }
        }
        if deserializer.is_human_readable() {
            return deserializer.deserialize_any(Visitor);
        }
        match u16::deserialize(deserializer)? {
            0 => Err(serde::de::Error::custom(CountError)),
            count if count == u16::MAX - 2 => Ok(Self::One),
            count if count == u16::MAX - 1 => Ok(Self::Quorum),
            u16::MAX => Ok(Self::All),
            count => Ok(Self::Exactly(count)),
        }
    }
}

/// The numbers of one request, valid by construction: `1 <= needed <= n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// How many home replicas are asked.
    pub n: u16,
    /// How many of them (or of fallbacks in their place) must answer.
    pub needed: u16,
}

/// Why N and R (or W) are incompatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum QuorumError {
    /// `n` is above what the bucket keeps.
    #[error("n={n} is more than the bucket's n={max}; a request may only lower it")]
    TooManyReplicas {
        /// The n asked for.
        n: u16,
        /// The bucket's n.
        max: u16,
    },
    /// More answers are needed than replicas are asked.
    #[error("{needed} of n={n} replicas cannot answer")]
    MoreThanN {
        /// Answers needed.
        needed: u16,
        /// Replicas asked.
        n: u16,
    },
}

impl Quorum {
    /// The quorum of one request on a bucket with `bucket_n` replicas.
    ///
    /// # Errors
    /// [`QuorumError`] unless `1 <= needed <= n <= bucket_n`.
    pub fn new(bucket_n: u16, n: Option<Count>, needed: Count) -> Result<Self, QuorumError> {
        let n = n.map_or(bucket_n, |count| count.of(bucket_n));
        if n > bucket_n {
            return Err(QuorumError::TooManyReplicas { n, max: bucket_n });
        }
        let needed = needed.of(n);
        if needed > n {
            return Err(QuorumError::MoreThanN { needed, n });
        }
        Ok(Self { n, needed })
    }
}

/// The progress of an operation that needs some number of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Enough answers are in.
    Reached,
    /// Not yet enough, but the outstanding answers could suffice.
    Pending,
    /// Even if every outstanding node answers, it will not be enough.
    Impossible,
}

/// The verdict on `needed` answers when `have` are in and `possible` more may come.
pub fn verdict(needed: u16, have: u16, possible: u16) -> Verdict {
    if have >= needed {
        Verdict::Reached
    } else if have.saturating_add(possible) >= needed {
        Verdict::Pending
    } else {
        Verdict::Impossible
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers() {
        assert_eq!(Count::parse("quorum").unwrap().of(3), 2);
        assert_eq!(Count::parse("quorum").unwrap().of(4), 3);
        assert_eq!(Count::parse("all").unwrap().of(5), 5);
        assert_eq!(Count::parse("2"), Ok(Count::Exactly(2)));
        for bad in ["", "0", "-1", "+1", " 1", "1.0", "two", "65536", "ALL"] {
            assert_eq!(Count::parse(bad), Err(CountError), "{bad:?}");
        }
    }

    #[test]
    fn counts_round_trip_in_binary() {
        for count in [Count::One, Count::Quorum, Count::All, Count::Exactly(3)] {
            let bytes = postcard::to_stdvec(&count).unwrap();
            assert_eq!(postcard::from_bytes::<Count>(&bytes).unwrap(), count);
        }
    }

    #[test]
    fn a_request_may_lower_n_but_not_raise_it() {
        let q = |n, needed| Quorum::new(3, n, needed);
        assert_eq!(q(None, Count::Quorum), Ok(Quorum { n: 3, needed: 2 }));
        assert_eq!(q(Some(Count::Exactly(2)), Count::All), Ok(Quorum { n: 2, needed: 2 }));
        assert_eq!(
            q(Some(Count::Exactly(4)), Count::One),
            Err(QuorumError::TooManyReplicas { n: 4, max: 3 })
        );
        assert_eq!(
            q(Some(Count::One), Count::Exactly(2)),
            Err(QuorumError::MoreThanN { needed: 2, n: 1 })
        );
    }

    /// The verdict against a naive count over every small case.
    #[test]
    fn the_verdict_agrees_with_trying_every_outcome() {
        for needed in 1..6u16 {
            for have in 0..6u16 {
                for possible in 0..6u16 {
                    let outcomes: Vec<bool> =
                        (0..=possible).map(|more| have + more >= needed).collect();
                    let expected = match (outcomes[0], outcomes.contains(&true)) {
                        (true, _) => Verdict::Reached,
                        (false, true) => Verdict::Pending,
                        (false, false) => Verdict::Impossible,
                    };
                    assert_eq!(verdict(needed, have, possible), expected);
                }
            }
        }
    }
}
