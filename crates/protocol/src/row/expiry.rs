//! The removal of what has expired, at its minter.

use super::{Coordinator, Draft, MintError, Minted, Row};
use crate::data_type::Part;
use crate::mutation::{Mutation, mutated};
use crate::object::{Metadata, Sibling};
use crate::time::WallTime;

impl Row {
    /// Replaces all siblings that expired by `due` with one tombstone, whose context is exactly their dots:
    /// a sibling that has not expired stays, and a late copy of one that has is covered.
    ///
    /// The tombstone says that it comes from an expiry, so that it is no sibling beside a value. It takes
    /// the greatest stamp of what it removes: a later one would win over values that were written after
    /// those, in a bucket where the last write does.
    ///
    /// # Errors
    /// [`MintError::Overtaken`] if no value has expired here.
    pub(super) fn remove_expired(
        &mut self,
        due: WallTime,
        draft: &Draft,
        by: &Coordinator,
    ) -> Result<Minted, MintError> {
        let covers_all = mutated(Mutation::TombstoneCoversLater);
        let has_expired = |s: &Sibling| s.expires.is_some_and(|at| at <= due);
        if !self.object.siblings.iter().any(|s| has_expired(s) && !s.is_tombstone()) {
            return Err(MintError::Overtaken);
        }
        let tenure = self.tenure_for(by, &draft.context);
        let (gone, kept): (Vec<Sibling>, Vec<Sibling>) =
            self.object.siblings.drain(..).partition(|s| has_expired(s) || covers_all);
        let dot = self.object.clock.next_of(tenure.actor);
        self.object.siblings = kept;
        self.object.siblings.push(Sibling {
            dot,
            part: Part::Value,
            value: None,
            metadata: Metadata::default(),
            stamp: gone.iter().map(|s| s.stamp).max().unwrap_or_default(),
            expires: gone.iter().filter_map(|s| s.expires).max(),
            writer: by.node,
            write_id: draft.write_id,
        });
        self.object.siblings.sort_unstable_by_key(|s| s.dot);
        self.object.clock.advance(dot);
        self.touch(by.now);
        self.tenure = Some(tenure);
        Ok(Minted::New(dot))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::bucket::Conflicts;
    use crate::clock::{Actor, Clock};
    use crate::lifetime::Lifetime;
    use crate::name::NodeId;
    use crate::object::WriteId;
    use crate::row::{Incarnation, Limits};
    use crate::view::View;

    const LIMITS: Limits = Limits { siblings_max: 9, object_bytes_max: 99 };
    const TEN_S: Lifetime = Lifetime::Limited { seconds: 10 };

    fn by(now: u64) -> Coordinator {
        Coordinator {
            node: NodeId::parse("n1").unwrap(),
            incarnation: Incarnation(1),
            fresh_actor: Actor(10),
            now: WallTime(now),
        }
    }

    /// A value that saw nothing, minted at `now`.
    fn put(row: &mut Row, value: &'static str, lifetime: Lifetime, now: u64) {
        let draft = Draft {
            write_id: WriteId(xxhash_rust::xxh3::xxh3_128(value.as_bytes()).to_le_bytes()),
            value: Some(Bytes::from_static(value.as_bytes())),
            lifetime,
            ..Draft::default()
        };
        row.mint(&draft, &by(now), &LIMITS).unwrap();
    }

    fn remove(row: &mut Row, due: u64, now: u64) -> Result<Minted, MintError> {
        let draft = Draft {
            write_id: WriteId(u128::from(now).to_le_bytes()),
            removes_expired: Some(WallTime(due)),
            ..Draft::default()
        };
        row.mint(&draft, &by(now), &LIMITS)
    }

    fn values(row: &Row) -> Vec<&[u8]> {
        row.object.siblings.iter().filter_map(|s| s.value.as_deref()).collect()
    }

    #[test]
    fn exactly_what_has_expired_is_removed() {
        let mut row = Row::default();
        put(&mut row, "stays", Lifetime::Unlimited, 0);
        put(&mut row, "a", TEN_S, 1);
        put(&mut row, "b", TEN_S, 2);
        assert_eq!(row.object.next_expiry(), Some(WallTime(10_001)));
        let before = row.clone();
        assert_eq!(remove(&mut row, 10_000, 20_000), Err(MintError::Overtaken));
        assert_eq!(row, before);
        assert!(matches!(remove(&mut row, 10_001, 20_000), Ok(Minted::New(_))));
        assert_eq!(
            (values(&row), row.object.next_expiry()),
            (vec![&b"stays"[..], b"b"], Some(WallTime(10_002)))
        );
        assert!(remove(&mut row, 10_002, 20_001).is_ok());
        assert_eq!(
            (values(&row), row.object.siblings.len()),
            (vec![&b"stays"[..]], 2),
            "one tombstone"
        );
        assert!(!row.object.is_conflict());
        assert_eq!(
            remove(&mut row, u64::MAX, 20_002),
            Err(MintError::Overtaken),
            "nothing is left"
        );
        assert_eq!(row.object.check(), Ok(()));
    }

    /// A late copy of an expired value is covered; one that was written beside it stays.
    #[test]
    fn what_was_removed_does_not_come_back() {
        let mut row = Row::default();
        put(&mut row, "a", TEN_S, 1);
        let (late, mut elsewhere) = (row.object.clone(), row.clone());
        elsewhere.tenure = None; // another node's
        let another = Coordinator { fresh_actor: Actor(11), ..by(3) };
        let beside =
            Draft { write_id: WriteId([3; 16]), value: Some("new".into()), ..Draft::default() };
        elsewhere.mint(&beside, &another, &LIMITS).unwrap();
        remove(&mut row, 10_001, 20_000).unwrap();
        assert!(!row.merge(&late, WallTime(20_001)));
        assert!(row.object.is_deleted());
        assert!(row.merge(&elsewhere.object, WallTime(20_002)));
        assert_eq!(values(&row), [b"new"]);
        let context = Clock::default();
        let rewrite = Draft {
            context,
            write_id: WriteId([4; 16]),
            value: Some("a".into()),
            ..Draft::default()
        };
        row.mint(&rewrite, &by(20_003), &LIMITS).unwrap();
        assert_eq!(values(&row).len(), 2);
    }

    /// In a bucket where the last write wins, the tombstone must not win over one that followed.
    #[test]
    fn the_tombstone_is_as_old_as_what_it_removes() {
        let mut row = Row::default();
        put(&mut row, "a", TEN_S, 1);
        put(&mut row, "later", Lifetime::Unlimited, 5);
        remove(&mut row, 10_001, 20_000).unwrap();
        let View::One(last) = View::of(&row.object, Conflicts::Lww, WallTime(20_000)) else {
            panic!()
        };
        assert_eq!(last.value.as_deref(), Some(&b"later"[..]));
        let mut lost = Row::default();
        put(&mut lost, "earlier", Lifetime::Unlimited, 1);
        put(&mut lost, "a", TEN_S, 5);
        for now in [10_005, 20_000] {
            assert_eq!(View::of(&lost.object, Conflicts::Lww, WallTime(now)), View::Deleted);
            drop(remove(&mut lost, 10_005, 20_000));
        }
    }

    #[test]
    fn only_values_expire() {
        let mut row = Row::default();
        let delete = Draft { lifetime: TEN_S, ..Draft::default() };
        row.mint(&delete, &by(1), &LIMITS).unwrap();
        assert!(!row.object.has_expiry());
    }
}
