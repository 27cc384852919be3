//! Bucket properties: how many replicas, how many answers, and what to do about conflicts.
//!
//! [`crate::bucket_table`] says how all nodes come to the same ones.

use serde::{Deserialize, Serialize};

use crate::data_type::DataType;
use crate::feed::RETENTION_S;
use crate::lifetime::LIFETIME_S_MAX;
use crate::quorum::Count;

/// What a client is shown when writes conflict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflicts {
    /// All siblings; the client resolves them.
    #[default]
    Siblings,
    /// The last write by hybrid-logical time. Applied when answering; merge still keeps siblings.
    Lww,
    /// There are none: values are counters, and so on for the others ([`DataType`]). Once a bucket has a
    /// type it keeps it.
    Counter,
    /// Values are sets.
    Set,
    /// Values are flags.
    Flag,
    /// Values are maps.
    Map,
    /// Values are registers.
    #[serde(rename = "register_lww")]
    RegisterLww,
    /// Values are estimates.
    Hll,
}

impl Conflicts {
    /// The type of the bucket's values; `None` if they are a client's bytes.
    pub fn data_type(self) -> Option<DataType> {
        match self {
            Self::Siblings | Self::Lww => None,
            Self::Counter => Some(DataType::Counter),
            Self::Set => Some(DataType::Set),
            Self::Flag => Some(DataType::Flag),
            Self::Map => Some(DataType::Map),
            Self::RegisterLww => Some(DataType::RegisterLww),
            Self::Hll => Some(DataType::Hll),
        }
    }

    /// Of two that were set for one bucket the one that it has: a type stays, whatever is set later.
    /// `self` is what was set last. Two types meet only if they were set on both sides of a network
    /// partition.
    #[must_use]
    pub fn unless_typed(self, earlier: Self) -> Self {
        if self.data_type() >= earlier.data_type() { self } else { earlier }
    }
}

impl From<DataType> for Conflicts {
    fn from(data_type: DataType) -> Self {
        match data_type {
            DataType::Counter => Self::Counter,
            DataType::Set => Self::Set,
            DataType::Flag => Self::Flag,
            DataType::Map => Self::Map,
            DataType::RegisterLww => Self::RegisterLww,
            DataType::Hll => Self::Hll,
        }
    }
}

/// The properties of a bucket, complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Properties {
    /// Replicas of each key: as many as are asked for. A cluster of fewer nodes keeps one on each of them
    /// ([`crate::layout::Layout::homes`]).
    pub n: u16,
    /// Answers that a read needs.
    pub r: Count,
    /// Acknowledgements that a write needs.
    pub w: Count,
    /// What happens to conflicting writes, or the type by which they are merged.
    pub conflicts: Conflicts,
    /// Whether fallbacks count when home replicas are down.
    pub sloppy: bool,
    /// The lifetime of values whose write gives none, in seconds; `None`: they do not expire. It is set for
    /// a bucket, and is no default that nodes compare.
    #[serde(skip)]
    pub expires_in_s: Option<u32>,
    /// For how long changes can be read in the bucket's feed, in seconds; `None`: it has none. It is set for
    /// a bucket too.
    #[serde(skip)]
    pub feed_retention_s: Option<u32>,
}

impl Default for Properties {
    fn default() -> Self {
        Self {
            n: 3,
            r: Count::Quorum,
            w: Count::Quorum,
            conflicts: Conflicts::Siblings,
            sloppy: true,
            expires_in_s: None,
            feed_retention_s: None,
        }
    }
}

/// What was set explicitly for a bucket; a field that is `None` follows the node's defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Code", into = "Code")]
pub struct Settings {
    /// Replicas of each key.
    pub n: Option<u16>,
    /// Answers that a read needs.
    pub r: Option<Count>,
    /// Acknowledgements that a write needs.
    pub w: Option<Count>,
    /// What happens to conflicting writes.
    pub conflicts: Option<Conflicts>,
    /// Whether fallbacks count.
    pub sloppy: Option<bool>,
    /// The lifetime of values whose write gives none, in seconds; `None`: they do not expire.
    pub expires_in_s: Option<u32>,
    /// For how long changes can be read in its feed, in seconds; `None`: it has none.
    pub feed_retention_s: Option<u32>,
}

/// Settings as they are encoded. Those of a bucket without a lifetime and a feed are what earlier
/// releases write and read: the two variants of [`Replicas`] that they know are an `Option` to them.
#[derive(Serialize, Deserialize)]
struct Code {
    n: Replicas,
    r: Option<Count>,
    w: Option<Count>,
    conflicts: Option<Conflicts>,
    sloppy: Option<bool>,
}

#[derive(Serialize, Deserialize)]
enum Replicas {
    Unset,
    Set(u16),
    AndLifetime { n: Option<u16>, expires_in_s: u32 },
    AndFeed { n: Option<u16>, expires_in_s: Option<u32>, feed_retention_s: u32 },
}

impl From<Settings> for Code {
    fn from(settings: Settings) -> Self {
        let Settings { n, r, w, conflicts, sloppy, expires_in_s, feed_retention_s } = settings;
        let n = match (n, expires_in_s, feed_retention_s) {
            (n, expires_in_s, Some(feed_retention_s)) => {
                Replicas::AndFeed { n, expires_in_s, feed_retention_s }
            }
            (n, Some(expires_in_s), None) => Replicas::AndLifetime { n, expires_in_s },
            (Some(n), None, None) => Replicas::Set(n),
            (None, None, None) => Replicas::Unset,
        };
        Self { n, r, w, conflicts, sloppy }
    }
}

impl From<Code> for Settings {
    fn from(code: Code) -> Self {
        let Code { n, r, w, conflicts, sloppy } = code;
        let (n, expires_in_s, feed_retention_s) = match n {
            Replicas::Unset => (None, None, None),
            Replicas::Set(n) => (Some(n), None, None),
            Replicas::AndLifetime { n, expires_in_s } => (n, Some(expires_in_s), None),
            Replicas::AndFeed { n, expires_in_s, feed_retention_s } => {
                (n, expires_in_s, Some(feed_retention_s))
            }
        };
        Self { n, r, w, conflicts, sloppy, expires_in_s, feed_retention_s }
    }
}

/// Why properties are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// `n` is zero or above the number of nodes.
    #[error("n must be from 1 to the number of nodes ({nodes}), not {n}")]
    Replicas {
        /// The n asked for.
        n: u16,
        /// Nodes in the layout.
        nodes: u16,
    },
    /// `r` or `w` is above n, or above the number of nodes.
    #[error("{name} must be from 1 to n ({n}), not {count}")]
    Count {
        /// Which of the two.
        name: &'static str,
        /// The count asked for.
        count: u16,
        /// The bucket's n.
        n: u16,
    },
    /// `expires_in_s` is zero or too long.
    #[error("expires_in_s must be from 1 to {LIFETIME_S_MAX}, not {seconds}")]
    Lifetime {
        /// The lifetime asked for, in seconds.
        seconds: u32,
    },
    /// `feed_retention_s` is too short or too long.
    #[error(
        "feed_retention_s must be from {} to {}, not {seconds}",
        RETENTION_S.start(),
        RETENTION_S.end()
    )]
    Retention {
        /// The time asked for, in seconds.
        seconds: u32,
    },
    /// Values would have both a type and an end.
    #[error("expires_in_s: the values of a bucket with a type do not expire")]
    TypedLifetime,
}

impl Settings {
    /// The complete properties. A count above n needs all n: that can be a default, which is not made for
    /// this n. How many nodes there are plays no part: which tree a row is in follows from n, and must not
    /// change as the cluster grows.
    pub fn over(&self, defaults: &Properties) -> Properties {
        let n = self.n.unwrap_or(defaults.n).max(1);
        let cap = |count: Count| if count.of(n) > n { Count::All } else { count };
        Properties {
            n,
            r: cap(self.r.unwrap_or(defaults.r)),
            w: cap(self.w.unwrap_or(defaults.w)),
            conflicts: self.conflicts.unwrap_or(defaults.conflicts),
            sloppy: self.sloppy.unwrap_or(defaults.sloppy),
            expires_in_s: self.expires_in_s.or(defaults.expires_in_s),
            feed_retention_s: self.feed_retention_s.or(defaults.feed_retention_s),
        }
    }

    /// Checks settings before they are applied in a cluster of `nodes` nodes: what these cannot keep
    /// is not promised.
    ///
    /// # Errors
    /// [`PropertiesError`] that names the property and its range.
    pub fn check(&self, defaults: &Properties, nodes: u16) -> Result<(), PropertiesError> {
        if let Some(n) = self.n
            && (n == 0 || n > nodes)
        {
            return Err(PropertiesError::Replicas { n, nodes });
        }
        if let Some(seconds) = self.expires_in_s {
            if !(1..=LIFETIME_S_MAX).contains(&seconds) {
                return Err(PropertiesError::Lifetime { seconds });
            }
            if self.conflicts.and_then(Conflicts::data_type).is_some() {
                return Err(PropertiesError::TypedLifetime);
            }
        }
        if let Some(seconds) = self.feed_retention_s.filter(|it| !RETENTION_S.contains(it)) {
            return Err(PropertiesError::Retention { seconds });
        }
        let n = self.over(defaults).n.min(nodes.max(1));
        for (name, count) in [("r", self.r), ("w", self.w)] {
            if let Some(count) = count.map(|count| count.of(n))
                && count > n
            {
                return Err(PropertiesError::Count { name, count, n });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_capped_by_n_and_settings_are_checked() {
        let defaults = Properties { w: Count::Exactly(3), ..Properties::default() };
        let one = Settings { n: Some(1), ..Settings::default() }.over(&defaults);
        assert_eq!((one.n, one.r.of(one.n), one.w.of(one.n)), (1, 1, 1));
        let n4 = Settings { n: Some(4), ..Settings::default() };
        let error = n4.check(&defaults, 3);
        assert_eq!(error, Err(PropertiesError::Replicas { n: 4, nodes: 3 }));
        let w4 = Settings { w: Some(Count::Exactly(4)), ..Settings::default() };
        let error = w4.check(&defaults, 5);
        assert_eq!(error, Err(PropertiesError::Count { name: "w", count: 4, n: 3 }));
        let w2 = Settings { w: Some(Count::Exactly(2)), ..Settings::default() };
        let error = w2.check(&defaults, 1);
        assert_eq!(error, Err(PropertiesError::Count { name: "w", count: 2, n: 1 }));
    }

    /// What an earlier release wrote is read, and is written for it as long as it can read it.
    #[test]
    fn settings_without_a_lifetime_and_a_feed_are_encoded_as_before() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Earlier {
            n: Option<u16>,
            r: Option<Count>,
            w: Option<Count>,
            conflicts: Option<Conflicts>,
            sloppy: Option<bool>,
        }
        let encode = |settings: &Settings| postcard::to_stdvec(settings).unwrap_or_default();
        for n in [None, Some(300)] {
            let earlier =
                Earlier { n, r: None, w: Some(Count::All), conflicts: None, sloppy: None };
            let settings = Settings { n, w: Some(Count::All), ..Settings::default() };
            assert_eq!(postcard::to_stdvec(&earlier), Ok(encode(&settings)));
            let expiring = Settings { expires_in_s: Some(70_000), ..settings };
            let fed = Settings { feed_retention_s: Some(70_000), ..settings };
            let both = Settings { feed_retention_s: Some(70_000), ..expiring };
            for settings in [settings, expiring, fed, both] {
                assert_eq!(postcard::from_bytes(&encode(&settings)), Ok(settings));
            }
            for newer in [expiring, fed, both] {
                assert!(postcard::from_bytes::<Earlier>(&encode(&newer)).is_err());
            }
        }
    }

    #[test]
    fn a_lifetime_is_within_its_range_and_of_values_without_a_type() {
        let of = |seconds, conflicts| {
            let settings =
                Settings { expires_in_s: Some(seconds), conflicts, ..Settings::default() };
            settings.check(&Properties::default(), 3)
        };
        assert_eq!((of(1, None), of(LIFETIME_S_MAX, Some(Conflicts::Lww))), (Ok(()), Ok(())));
        for seconds in [0, LIFETIME_S_MAX + 1] {
            assert_eq!(of(seconds, None), Err(PropertiesError::Lifetime { seconds }));
        }
        assert_eq!(of(1, Some(Conflicts::Set)), Err(PropertiesError::TypedLifetime));
        for (seconds, is_valid) in [(59, false), (60, true), (2_592_000, true), (2_592_001, false)]
        {
            let settings = Settings { feed_retention_s: Some(seconds), ..Settings::default() };
            let checked = settings.check(&Properties::default(), 3);
            assert_eq!(checked.is_ok(), is_valid, "{checked:?}");
        }
    }
}
