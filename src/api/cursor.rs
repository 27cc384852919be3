//! Cursors: where the next page of a listing begins, opaque to clients.
//!
//! A cursor is not a secret. The checksum in it only detects cursors that were damaged or mixed up.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::problem::Problem;

/// Bytes of a cursor before its position: a checksum over the listing it belongs to.
const TIE_BYTES: usize = 8;

/// A cursor for this position in the listing that `listing` tells from others.
pub(super) fn of(listing: &[u8], position: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&tie(listing, position)[..], position].concat())
}

/// What `decode` makes of the position of a cursor.
///
/// # Errors
/// 400 if it is damaged, or belongs to another listing.
pub(super) fn open<T>(
    cursor: &str,
    listing: &[u8],
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, Problem> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (tied, position) = bytes.split_at_checked(TIE_BYTES)?;
        if tied != tie(listing, position) {
            return None;
        }
        decode(position)
    };
    read().ok_or_else(|| {
        let detail = "is damaged or belongs to another listing; send it back unchanged";
        Problem::bad_parameter("cursor", detail)
    })
}

fn tie(listing: &[u8], position: &[u8]) -> [u8; TIE_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(listing.len() as u64).to_le_bytes());
    hasher.update(listing);
    hasher.update(position);
    let mut tie = [0; TIE_BYTES];
    tie.copy_from_slice(&hasher.finalize().as_bytes()[..TIE_BYTES]);
    tie
}
