//! Appends postcard encodings to an existing buffer, without an intermediate one that grows byte by
//! byte and is then copied.

use bytes::{BufMut, BytesMut};
use postcard::ser_flavors::Flavor;
use serde::Serialize;

/// Appends the encoding of `value`.
///
/// # Panics
/// If the type of `value` has a list that does not know its length: none of this crate's has.
pub(crate) fn append<T: Serialize>(value: &T, out: &mut BytesMut) {
    // Postcard refuses only lists of unknown length. Half a record must not be stored or sent.
    postcard::serialize_with_flavor(value, End(out)).expect("postcard into a buffer does not fail");
}

/// A postcard sink that appends to a buffer, which grows as needed.
struct End<'a>(&'a mut BytesMut);

impl Flavor for End<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.put_u8(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.put_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn appending_writes_what_postcard_writes() {
        let value = ("text", 70_000u32, [7u8; 16], Some(vec![1u64, u64::MAX]));
        let mut out = BytesMut::from(&b"before"[..]);
        append(&value, &mut out);
        assert_eq!(out, [&b"before"[..], &postcard::to_stdvec(&value).unwrap()].concat());
    }
}
