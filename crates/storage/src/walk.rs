//! Walking over the entries of a column in key order, which every scan does.

use bytes::Bytes;
use quorate_protocol::name::Key;

use crate::backend::Range;
use crate::columns::{Column, key_of};
use crate::error::Error;
use crate::options::Place;
use crate::store::Store;

impl Store {
    /// Encoded rows of one place, limited in number and bytes.
    pub(crate) fn rows(
        &self,
        place: Place,
        after: Option<&Key>,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<(Key, Bytes)>, Error> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let after = after.map(|key| place.row_key(key));
        self.walk(place.column(), &place.prefix(), after.as_deref(), |row_key, row| {
            bytes += row.len();
            if found.len() == limit || (bytes > bytes_max && !found.is_empty()) {
                return Ok(false);
            }
            let key = key_of(place.column(), row_key, place.key_at())?;
            found.push((key, Bytes::copy_from_slice(row)));
            Ok(true)
        })?;
        Ok(found)
    }

    /// Calls `visit` with each entry whose key begins with `prefix` and is greater than `after`,
    /// until it returns `false`.
    pub(crate) fn walk(
        &self,
        column: Column,
        prefix: &[u8],
        after: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let start = after.map_or(prefix.to_vec(), |after| next_of(after).max(prefix.to_vec()));
        self.engine.entries(column, Range::from(start, prefix))?.visit(visit)
    }
}

/// The least key greater than this one.
pub(crate) fn next_of(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// The least key greater than all that begin with `prefix`; `None` if there is none.
pub(crate) fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_after_its_prefix() {
        assert_eq!(end_of(&[0, 5]), Some(vec![0, 6]));
        assert_eq!(end_of(&[0, 255]), Some(vec![1]));
        assert_eq!(end_of(b"n1\0"), Some(b"n1\x01".to_vec()));
        assert_eq!(end_of(&[255, 255]), None);
        assert_eq!(end_of(&[]), None);
    }
}
