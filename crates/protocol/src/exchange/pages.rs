//! Comparing two pages of keys: how far both are complete, and where they differ.

use std::cmp::Ordering;

use super::Difference;
use crate::name::Key;
use crate::object::Version;
use crate::tree::leaf_of;

/// Up to which key a page is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Horizon {
    Nothing,
    To(Key),
    End,
}

impl Horizon {
    pub(super) fn min(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (Self::End, _) => other,
            (_, Self::End) => self,
            (Self::To(a), Self::To(b)) if row_order(a, b).is_le() => self,
            (Self::To(_), Self::To(_)) => other,
        }
    }

    pub(super) fn holds(&self, key: &Key) -> bool {
        match self {
            Self::Nothing => false,
            Self::To(last) => row_order(key, last).is_le(),
            Self::End => true,
        }
    }
}

/// The order of rows within a partition: by leaf, then by key.
pub fn row_order(a: &Key, b: &Key) -> Ordering {
    leaf_of(a).cmp(&leaf_of(b)).then_with(|| a.cmp(b))
}

/// How many keys there are on either side, and those on which the two disagree.
pub(super) fn differences(
    ours: impl Iterator<Item = (Key, Version)>,
    theirs: impl Iterator<Item = (Key, Version)>,
) -> (u64, Vec<Difference>) {
    let (mut ours, mut theirs) = (ours.peekable(), theirs.peekable());
    let (mut compared, mut found) = (0, Vec::new());
    loop {
        let order = match (ours.peek(), theirs.peek()) {
            (None, None) => return (compared, found),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => row_order(a, b),
        };
        let our_row = if order.is_le() { ours.next() } else { None };
        let their_row = if order.is_ge() { theirs.next() } else { None };
        let version = |row: &Option<(Key, Version)>| row.as_ref().map_or(Version::ABSENT, |r| r.1);
        let (our_version, their_version) = (version(&our_row), version(&their_row));
        compared += 1;
        if let Some((key, _)) = our_row.or(their_row)
            && our_version != their_version
        {
            found.push(Difference { key, ours: our_version, theirs: their_version });
        }
    }
}
