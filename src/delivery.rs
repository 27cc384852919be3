//! The receiving end of handoff: merges pages of hints that others kept for this node.
//!
//! That is background work as filling a partition is, done in the same way and within the same share of a
//! core: the node may have been away for hours, and those who ask it meanwhile come first. The sender waits
//! for the answer before it reads its next page, so it is never faster than this node.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::message::{Refusal, Reply};
use quorate_protocol::name::Key;
use quorate_protocol::object::Object;
use quorate_protocol::stamp::Millis;
use quorate_storage::{Error, MERGE_BATCH_ROWS};

use crate::chores;
use crate::hints::ROOM_ROWS_MAX;
use crate::node::Node;
use crate::replica::{may_merge, refusal_of};

/// Hints, by their place in the message.
type Hints = Vec<(u16, Key, Bytes)>;

/// Merges hints in pieces. Those of the reply are durable.
pub(crate) async fn take(
    node: &Arc<Node>,
    hints: Vec<(Key, u32)>,
    payload: Bytes,
    read_at: Millis,
) -> Reply {
    let Some(mut hints) = split(hints, payload) else {
        return Reply::Refused(Refusal::Malformed);
    };
    let mut refused = Vec::new();
    while !hints.is_empty() {
        let rest = hints.split_off(MERGE_BATCH_ROWS.min(hints.len()));
        let some = std::mem::replace(&mut hints, rest);
        let merging =
            chores::run_paced(node, &node.fill_pace, move |node| merge(node, some, read_at));
        match merging.await {
            Ok(Ok(mut some)) => refused.append(&mut some),
            Ok(Err(reply)) => return reply,
            Err(error) => return Reply::Refused(refusal_of(&error)),
        }
    }
    match node.store.durable().await {
        Ok(_) => Reply::Delivered { refused },
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}

/// Cuts the payload into objects; `None` if the lengths are not those of the payload, or there are too many.
fn split(hints: Vec<(Key, u32)>, mut payload: Bytes) -> Option<Hints> {
    if hints.len() > ROOM_ROWS_MAX {
        return None;
    }
    let mut objects = Vec::with_capacity(hints.len());
    for (place, (key, len)) in (0..).zip(hints) {
        if payload.len() < len as usize {
            return None;
        }
        objects.push((place, key, payload.split_to(len as usize)));
    }
    payload.is_empty().then_some(objects)
}

/// Merges some hints in one batch: those that are refused, each for itself, or what to answer to all of them.
///
/// # Errors
/// The store's.
fn merge(
    node: &Node,
    hints: Hints,
    read_at: Millis,
) -> Result<Result<Vec<(u16, Refusal)>, Reply>, Error> {
    let now = node.now();
    let (mut rows, mut refused) = (Vec::with_capacity(hints.len()), Vec::new());
    for (place, key, bytes) in hints {
        let Ok(object) = Object::decode(bytes.clone()) else {
            refused.push((place, Refusal::Malformed));
            continue;
        };
        match may_merge(node, &key, &object, read_at, now) {
            Ok(()) => rows.push((node.home(&key), key, bytes)),
            Err(Reply::Refused(why)) => refused.push((place, why)),
            Err(reply) => return Ok(Err(reply)),
        }
    }
    node.store.merge_page(rows, now)?;
    Ok(Ok(refused))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_does_not_fit_is_no_list_of_hints() {
        let hints = |lens: &[u32]| {
            lens.iter().map(|len| (Key::new("b", b"k").unwrap(), *len)).collect::<Vec<_>>()
        };
        let payload = Bytes::from_static(b"abcde");
        let cut = split(hints(&[2, 0, 3]), payload.clone()).unwrap();
        let cut: Vec<_> = cut.iter().map(|(place, _, bytes)| (*place, &bytes[..])).collect();
        assert_eq!(cut, [(0, &b"ab"[..]), (1, b""), (2, b"cde")]);
        for wrong in [&[2, 2][..], &[2, 4], &[5, u32::MAX], &[]] {
            assert_eq!(split(hints(wrong), payload.clone()), None, "{wrong:?}");
        }
        assert_eq!(split(hints(&[0; ROOM_ROWS_MAX + 1]), Bytes::new()), None);
    }
}
