//! What a client is shown of an object, and which context it gets.
//!
//! The rule behind this file: **a client only gets contexts of what it has seen.** Otherwise its
//! next PUT would silently drop siblings that it never read.

use crate::bucket::Conflicts;
use crate::clock::Dot;
use crate::context::Context;
use crate::mutation::{Mutation, mutated};
use crate::object::{Object, Sibling};
use crate::time::WallTime;

/// An object as a bucket's conflict policy shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View<'a> {
    /// Never written.
    Absent,
    /// All siblings are tombstones, or have expired.
    Deleted,
    /// One value.
    One(&'a Sibling),
    /// Values (and deletes) that did not see each other.
    Many(Vec<&'a Sibling>),
    /// A typed value: no siblings to choose from ([`crate::data_type::Value`]).
    Typed,
}

impl<'a> View<'a> {
    /// Views an object under a conflict policy, at `now` by the reader's wall clock.
    pub fn of(object: &'a Object, conflicts: Conflicts, now: WallTime) -> Self {
        let now = if mutated(Mutation::ExpiredShown) { WallTime(0) } else { now };
        if object.is_absent() {
            return Self::Absent;
        }
        let is_value = |sibling: &Sibling| !sibling.is_part() && !sibling.is_tombstone();
        if object.has_parts() && !object.siblings.iter().any(is_value) {
            return Self::Typed;
        }
        if conflicts == Conflicts::Lww {
            return match object.last_write() {
                // What the last write replaced does not come back when that expires.
                Some(sibling) if !sibling.is_tombstone() && !sibling.is_over(now) => {
                    Self::One(sibling)
                }
                Some(_) | None => Self::Deleted,
            };
        }
        if object.is_deleted() {
            return Self::Deleted;
        }
        match object.shown_at(now).as_slice() {
            siblings if siblings.iter().all(|sibling| sibling.is_tombstone()) => Self::Deleted,
            [sibling] => Self::One(sibling),
            siblings => Self::Many(siblings.to_vec()),
        }
    }
}

/// The context for a client that was shown all of the object.
pub fn context_of(object: &Object) -> Context {
    Context { clock: object.clock.clone(), stamp: object.stamp_max() }
}

/// The context for a client that wrote `dot` and was not shown the object: only if its write is the only
/// sibling that a reader would be shown. A write that has expired already, or that was superseded before it
/// was repeated, may have left another's value as the only one.
pub fn context_after_write(object: &Object, dot: Dot, now: WallTime) -> Option<Context> {
    let own = object.siblings.iter().find(|sibling| sibling.dot == dot)?;
    match object.shown_at(now)[..] {
        // A request that was carried out twice is shown once, under either dot.
        [only] if only.write_id == own.write_id => Some(context_of(object)),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::Actor;
    use crate::data_type::Part;
    use crate::name::NodeId;
    use crate::object::{Metadata, WriteId};
    use crate::stamp::Stamp;

    const NOW: WallTime = WallTime(50);

    fn dot(of: u64) -> Dot {
        Dot { actor: Actor(of), counter: 1 }
    }

    fn object(values: &[Option<&'static str>]) -> Object {
        let mut object = Object::default();
        for (i, value) in values.iter().enumerate() {
            let dot = dot(i as u64 + 1);
            object.clock.advance(dot);
            object.siblings.push(Sibling {
                dot,
                part: Part::Value,
                value: value.map(|v| Bytes::from_static(v.as_bytes())),
                metadata: Metadata::default(),
                stamp: Stamp(100 - i as u64),
                expires: None,
                writer: NodeId::parse("n1").unwrap(),
                write_id: WriteId([i as u8; 16]),
            });
        }
        object
    }

    #[test]
    fn only_tombstones_are_deleted_but_next_to_a_value_they_conflict() {
        let view = |values: &[Option<&'static str>]| {
            let object = object(values);
            match View::of(&object, Conflicts::Siblings, NOW) {
                View::Absent => "absent".to_owned(),
                View::Deleted => "deleted".to_owned(),
                View::One(_) => "one".to_owned(),
                View::Many(siblings) => format!("{} siblings", siblings.len()),
                View::Typed => "typed".to_owned(),
            }
        };
        assert_eq!(view(&[]), "absent");
        assert_eq!(view(&[None, None]), "deleted");
        assert_eq!(view(&[Some("a")]), "one");
        assert_eq!(view(&[Some("a"), None]), "2 siblings");
    }

    #[test]
    fn lww_shows_the_greatest_stamp_and_merge_keeps_the_rest() {
        let object = object(&[Some("later"), Some("earlier")]);
        let View::One(sibling) = View::of(&object, Conflicts::Lww, NOW) else { panic!("not one") };
        assert_eq!(sibling.value.as_deref(), Some(&b"later"[..]));
        assert_eq!(object.siblings.len(), 2);
    }

    #[test]
    fn a_writer_that_left_siblings_behind_gets_no_context() {
        assert!(context_after_write(&object(&[Some("a")]), dot(1), NOW).is_some());
        assert!(context_after_write(&object(&[Some("a"), Some("b")]), dot(2), NOW).is_none());
    }

    #[test]
    fn a_writer_whose_value_is_not_the_one_that_is_left_gets_no_context() {
        let superseded = object(&[Some("a")]);
        assert!(context_after_write(&superseded, dot(2), NOW).is_none());
        let expired = expiring(&[Some("a"), Some("b")]);
        assert!(context_after_write(&expired, dot(1), NOW).is_none());
        let mut twice = object(&[Some("a"), Some("a")]);
        twice.siblings[1].write_id = twice.siblings[0].write_id;
        assert!(context_after_write(&twice, dot(1), NOW).is_some());
        assert!(context_after_write(&twice, dot(2), NOW).is_some());
    }

    /// The first value expires at 50, the others never.
    fn expiring(values: &[Option<&'static str>]) -> Object {
        let mut object = object(values);
        object.siblings[0].expires = Some(NOW);
        object
    }

    #[test]
    fn what_has_expired_is_not_shown_and_is_no_conflict() {
        let one = expiring(&[Some("a")]);
        let before = WallTime(49);
        for conflicts in [Conflicts::Siblings, Conflicts::Lww] {
            assert!(matches!(View::of(&one, conflicts, before), View::One(_)));
            assert_eq!(View::of(&one, conflicts, NOW), View::Deleted);
        }
        let two = expiring(&[Some("a"), Some("b")]);
        assert!(matches!(View::of(&two, Conflicts::Siblings, before), View::Many(_)));
        let View::One(left) = View::of(&two, Conflicts::Siblings, NOW) else { panic!("not one") };
        assert_eq!(left.value.as_deref(), Some(&b"b"[..]));
        assert!(
            context_after_write(&two, dot(2), before).is_none()
                && context_after_write(&two, dot(2), NOW).is_some()
        );
        let beside_a_delete = expiring(&[Some("a"), None]);
        assert_eq!(View::of(&beside_a_delete, Conflicts::Siblings, NOW), View::Deleted);
    }

    /// "a" is the last write: once it has expired, "b", which lost to it, must not be shown.
    #[test]
    fn what_the_last_write_replaced_does_not_come_back_when_that_expires() {
        let object = expiring(&[Some("a"), Some("b")]);
        assert_eq!(View::of(&object, Conflicts::Lww, NOW), View::Deleted);
    }

    #[test]
    fn the_tombstone_of_an_expiry_is_no_sibling_even_by_a_clock_that_is_behind() {
        let object = expiring(&[None, Some("b")]);
        let behind = WallTime(0);
        assert!(matches!(View::of(&object, Conflicts::Siblings, behind), View::One(_)));
        assert_eq!(View::of(&object, Conflicts::Lww, behind), View::Deleted);
        assert!(!object.is_conflict());
    }
}
