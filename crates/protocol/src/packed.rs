//! Many objects in one payload: a list of keys and lengths in the message's head, and the encodings
//! concatenated in its payload.

use bytes::{Bytes, BytesMut};

use crate::name::Key;

/// The keys of the objects in a payload, in order, each with its object's length in bytes.
pub type Lengths = Vec<(Key, u32)>;

/// Concatenates objects, each shorter than 4 GiB (no node accepts a longer one).
pub fn pack(objects: Vec<(Key, Bytes)>) -> (Lengths, Bytes) {
    let mut payload = BytesMut::with_capacity(objects.iter().map(|(_, bytes)| bytes.len()).sum());
    let append = |(key, bytes): (Key, Bytes)| {
        payload.extend_from_slice(&bytes);
        (key, bytes.len() as u32)
    };
    let lengths = objects.into_iter().map(append).collect();
    (lengths, payload.freeze())
}

/// Splits a payload into its objects, which share its memory; `None` if the lengths do not match
/// it.
pub fn unpack(lengths: Lengths, mut payload: Bytes) -> Option<Vec<(Key, Bytes)>> {
    let mut objects = Vec::with_capacity(lengths.len());
    for (key, len) in lengths {
        objects.push((key, take(&mut payload, len)?));
    }
    payload.is_empty().then_some(objects)
}

/// Splits off the next `len` bytes of a payload that holds several objects; `None` if it has fewer.
pub fn take(payload: &mut Bytes, len: u32) -> Option<Bytes> {
    let len = len as usize;
    (len <= payload.len()).then(|| payload.split_to(len))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(number: usize) -> Key {
        Key::new("b", number.to_string().as_bytes()).unwrap()
    }

    proptest! {
        #[test]
        fn packed_objects_round_trip(lens in proptest::collection::vec(0_usize..50, 0..20)) {
            let object = |(number, len): (usize, &usize)| {
                (key(number), vec![number as u8; *len].into())
            };
            let objects: Vec<(Key, Bytes)> = lens.iter().enumerate().map(object).collect();
            let (lengths, payload) = pack(objects.clone());
            prop_assert_eq!(unpack(lengths, payload), Some(objects));
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let payload = Bytes::from_static(b"abcde");
        for wrong in [&[2, 2][..], &[2, 4], &[5, u32::MAX], &[]] {
            let lengths = wrong.iter().map(|len| (key(0), *len)).collect();
            assert_eq!(unpack(lengths, payload.clone()), None, "{wrong:?}");
        }
    }
}
