//! What is stored under one key: a clock and the siblings that no write has superseded yet. The siblings of
//! a typed value are its parts ([`crate::data_type`]).
//!
//! Merge is commutative, associative and idempotent, and applies no policy: it never collapses
//! siblings. Source: Almeida et al. (DAIS 2014), section 5; DeCandia et al., "Dynamo" (SOSP 2007),
//! 4.4.

mod encoding;

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Dot};
use crate::data_type::Part;
use crate::hex::hex;
use crate::mutation::{Mutation, mutated};
use crate::name::NodeId;
use crate::stamp::Stamp;
use crate::time::WallTime;

pub use self::encoding::SIBLINGS_DECODE_MAX;

/// Identifies one client request, so that a retry is recognised. Random, or a hash of the request.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct WriteId(pub [u8; 16]);

/// A 128-bit hash of an object's clock and sorted dots: equal versions are equal objects.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Version(pub [u8; 16]);

impl Version {
    /// The version of an object that was never written.
    pub const ABSENT: Self = Self([0; 16]);

    /// 32 hexadecimal digits.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

/// What a client says about a value in addition to its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    /// The media type, as sent. Empty on a tombstone.
    pub content_type: String,
    /// `Quorate-Meta-*` headers: lower-case name without the prefix, and value.
    pub user: Vec<(String, String)>,
}

/// One value (or a delete) that no other known write has superseded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sibling {
    /// The name of the write.
    pub dot: Dot,
    /// Whether it is a value, or which part of a typed one.
    pub part: Part,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The client's metadata; a part of a typed value has none.
    pub metadata: Metadata,
    /// When it was written, in hybrid-logical time.
    pub stamp: Stamp,
    /// From when on it is not shown ([`crate::lifetime`]); `None` for never. A tombstone has it if it took
    /// the place of values that had expired.
    pub expires: Option<WallTime>,
    /// The node that minted it (informational; no decision depends on it).
    pub writer: NodeId,
    /// The client request that it came from.
    pub write_id: WriteId,
}

impl Sibling {
    /// Whether this sibling is a delete.
    pub fn is_tombstone(&self) -> bool {
        self.value.is_none()
    }

    /// Whether this has expired by `now`, or took the place of what had.
    pub fn is_over(&self, now: WallTime) -> bool {
        self.expires.is_some_and(|at| at <= now || self.is_tombstone())
    }

    /// Whether this is a part of a typed value rather than a value of its own.
    pub fn is_part(&self) -> bool {
        self.part != Part::Value
    }
}

/// All that is known of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Object {
    /// Every write this object includes or supersedes.
    pub clock: Clock,
    /// Sorted by dot; each dot is covered by the clock.
    pub siblings: Vec<Sibling>,
}

/// The bytes are not an object; no part of them may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are truncated or cannot be decoded.
    #[error("the object's bytes are damaged or truncated")]
    Damaged,
    /// The bytes decode, but violate an invariant.
    #[error("the object breaks an invariant: {0}")]
    Invalid(&'static str),
    /// Written by a newer release, in another format.
    #[error("the object has format {0}, which only a newer release can read")]
    Format(u8),
    /// Written by a newer release: a kind of value that this one does not have.
    #[error("the object is of kind {0}, which only a newer release can read")]
    Kind(u8),
    /// A newer release wrote the row around the object.
    #[error("the row has format {0}, which only a newer release can read")]
    RowFormat(u16),
}

impl DecodeError {
    /// Whether a newer release could decode the bytes: they are not damaged.
    pub fn is_newer(self) -> bool {
        match self {
            Self::Damaged | Self::Invalid(_) => false,
            Self::Format(_) | Self::Kind(_) | Self::RowFormat(_) => true,
        }
    }
}

impl Object {
    /// Joins another replica's object. Commutative, associative, idempotent. A sibling survives if
    /// both sides have it, or if one has it and the other's clock does not cover it.
    pub fn merge(&mut self, other: &Object) {
        if self == other {
            return;
        }
        let is_kept = |s: &Sibling| other.has(s.dot) || !other.clock.covers(s.dot);
        self.siblings.retain(|s| is_kept(s) || mutated(Mutation::MergeKeepsCovered));
        for sibling in &other.siblings {
            if !self.clock.covers(sibling.dot) {
                self.siblings.push(sibling.clone());
            }
        }
        self.siblings.sort_unstable_by_key(|s| s.dot);
        self.clock.join(&other.clock);
        assert!(self.clock.covers_all(&other.clock), "a merge dropped claims");
        assert_eq!(self.check(), Ok(()), "a merge broke an invariant");
    }

    /// Whether merging `other` would add values.
    pub fn lacks_values_of(&self, other: &Self) -> bool {
        other.siblings.iter().any(|s| !s.is_tombstone() && !self.clock.covers(s.dot))
    }

    /// Whether a sibling with this dot is here.
    pub fn has(&self, dot: Dot) -> bool {
        self.siblings.binary_search_by_key(&dot, |s| s.dot).is_ok()
    }

    /// Whether nothing was ever written.
    pub fn is_absent(&self) -> bool {
        self.clock.is_empty()
    }

    /// Whether every sibling is a tombstone (true of an absent object too).
    pub fn is_deleted(&self) -> bool {
        self.siblings.iter().all(Sibling::is_tombstone)
    }

    /// Whether a client must be shown more than one sibling: several, at least one of them live.
    /// Tombstones alone are simply "deleted"; siblings of one request count once; parts of a typed value
    /// are no conflict. What has expired counts until it is removed.
    pub fn is_conflict(&self) -> bool {
        !self.is_deleted() && self.shown().len() > 1
    }

    /// The greatest stamp of the siblings.
    pub fn stamp_max(&self) -> Stamp {
        self.siblings.iter().map(|s| s.stamp).max().unwrap_or_default()
    }

    /// The siblings as clients see them: of several that came from one request (a retried forward)
    /// only the first by dot, since the others are duplicates of the value. Parts of a typed value are not
    /// among them, nor are tombstones of what had expired.
    pub fn shown(&self) -> Vec<&Sibling> {
        if let [only] = self.siblings.as_slice()
            && !only.is_part()
        {
            return vec![only]; // almost always
        }
        let mut requests = BTreeSet::new();
        let is_shown = |s: &&Sibling| !s.is_part() && (!s.is_tombstone() || s.expires.is_none());
        let shown = self.siblings.iter().filter(is_shown);
        shown.filter(|sibling| requests.insert(sibling.write_id)).collect()
    }

    /// Of [`Object::shown`] those that have not expired.
    pub fn shown_at(&self, now: WallTime) -> Vec<&Sibling> {
        let mut shown = self.shown();
        shown.retain(|sibling| !sibling.is_over(now));
        shown
    }

    /// When the first of its values expires; `None` if none does.
    pub fn next_expiry(&self) -> Option<WallTime> {
        let values = self.siblings.iter().filter(|sibling| !sibling.is_tombstone());
        values.filter_map(|sibling| sibling.expires).min()
    }

    /// Whether anything in it has expired by `now`.
    pub fn has_expired(&self, now: WallTime) -> bool {
        self.siblings.iter().any(|sibling| sibling.is_over(now))
    }

    /// Whether any sibling says when it expires.
    pub fn has_expiry(&self) -> bool {
        self.siblings.iter().any(|sibling| sibling.expires.is_some())
    }

    /// Whether there are parts of a typed value.
    pub fn has_parts(&self) -> bool {
        self.siblings.iter().any(Sibling::is_part)
    }

    /// The sibling a `lww` bucket answers with: greatest stamp, then dot.
    pub fn last_write(&self) -> Option<&Sibling> {
        let values = self.siblings.iter().filter(|sibling| !sibling.is_part());
        values.max_by_key(|s| (s.stamp, s.dot))
    }

    /// The total size of all values, in bytes.
    pub fn value_bytes(&self) -> usize {
        self.siblings.iter().filter_map(|s| s.value.as_ref()).map(Bytes::len).sum()
    }

    /// The hash of clock and sorted dots. Digests, ETags and Merkle trees all use it.
    pub fn version(&self) -> Version {
        if self.is_absent() {
            return Version::ABSENT;
        }
        // Copied into one buffer first: for so few bytes that is faster than hashing in several
        // pieces.
        let (claimed, present) = (self.clock.len(), self.siblings.len());
        let mut dots = Vec::with_capacity(16 * (1 + claimed + present));
        dots.extend_from_slice(&(claimed as u64).to_le_bytes());
        self.clock.entries().iter().for_each(|dot| dot.push_to(&mut dots));
        dots.extend_from_slice(&(present as u64).to_le_bytes());
        self.siblings.iter().for_each(|sibling| sibling.dot.push_to(&mut dots));
        Version(xxhash_rust::xxh3::xxh3_128(&dots).to_le_bytes())
    }

    /// Checks the invariants of every object.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] that names the broken one.
    pub fn check(&self) -> Result<(), DecodeError> {
        if !self.clock.is_well_formed() {
            return Err(DecodeError::Invalid("the clock is not sorted"));
        }
        if !self.siblings.windows(2).all(|pair| pair[0].dot < pair[1].dot) {
            return Err(DecodeError::Invalid("the siblings are not sorted"));
        }
        let covered = |s: &Sibling| s.dot.counter > 0 && self.clock.covers(s.dot);
        if !self.siblings.iter().all(covered) {
            return Err(DecodeError::Invalid("the clock does not cover a sibling"));
        }
        Ok(())
    }
}
