//! `GET /keys/{bucket}`: the live keys of a bucket, in order, page by page.

use axum::body::Bytes;
use axum::extract::Request;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_protocol::listing::ListRequest;
use quorate_protocol::name::{Bucket, Key};
use serde_json::json;

use super::gate::Gate;
use super::problem::Problem;
use super::represent;
use super::route::Answer;
use quorate_engine::ops::keys::{self, Page};

/// Default page size.
const LIMIT_DEFAULT: usize = 100;
/// Bytes of a cursor before the key: a checksum over the listing it belongs to.
const TIE_BYTES: usize = 8;

/// `GET /keys/{bucket}?prefix=&limit=&cursor=`.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let bucket = gate.bucket(request.uri())?;
    let mut params = gate.params(request.uri())?;
    let prefix = params.prefix.take().unwrap_or_default();
    let cursor = params.cursor.as_deref();
    let after = cursor.map(|cursor| key_of(cursor, &bucket, &prefix)).transpose()?;
    let mut pass = gate.enter(&params)?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT).min(usize::from(keys::LIMIT_MAX)) as u16;
    let question = ListRequest { bucket, prefix, after, limit };
    pass.begin();
    let Page { keys, next, is_complete } = keys::list(&gate.node, &question).await;
    pass.end();
    Ok(represent::json(&json!({
        "bucket": question.bucket,
        "keys": keys.iter().map(Key::key).collect::<Vec<&str>>(),
        "cursor": next.map(|key| cursor_of(&key, &question.prefix)),
        "complete": is_complete,
    })))
}

/// The start of the next page, opaque to clients.
fn cursor_of(key: &Key, prefix: &str) -> String {
    let mut cursor = tie(key, prefix).to_vec();
    cursor.extend_from_slice(key.as_bytes());
    URL_SAFE_NO_PAD.encode(cursor)
}

fn key_of(cursor: &str, bucket: &Bucket, prefix: &str) -> Result<Key, Problem> {
    let read = || {
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (tied, key) = bytes.split_at_checked(TIE_BYTES)?;
        let key = Key::from_bytes(Bytes::copy_from_slice(key)).ok()?;
        (tied == tie(&key, prefix) && key.bucket() == bucket.as_str()).then_some(key)
    };
    read().ok_or_else(|| {
        let detail = "is damaged or belongs to another listing; send it back unchanged";
        Problem::bad_parameter("cursor", detail)
    })
}

/// Not a secret: it only detects cursors that were damaged or mixed up.
fn tie(key: &Key, prefix: &str) -> [u8; TIE_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(prefix.len() as u64).to_le_bytes());
    hasher.update(prefix.as_bytes());
    hasher.update(key.as_bytes());
    let mut tie = [0; TIE_BYTES];
    tie.copy_from_slice(&hasher.finalize().as_bytes()[..TIE_BYTES]);
    tie
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_listing_only() {
        let bucket = |name: &str| Bucket::parse(name).unwrap();
        let key = Key::new("carts", "user/ü".as_bytes()).unwrap();
        let cursor = cursor_of(&key, "user/");
        assert_eq!(key_of(&cursor, &bucket("carts"), "user/").unwrap(), key);
        assert!(key_of(&cursor, &bucket("carts"), "user").is_err());
        assert!(key_of(&cursor, &bucket("carts"), "").is_err());
        assert!(key_of(&cursor, &bucket("other"), "user/").is_err());
        for cut in 0..cursor.len() {
            assert!(key_of(&cursor[..cut], &bucket("carts"), "user/").is_err(), "cut at {cut}");
        }
        for bad in ["!", "AAAA", "AAAAAAAAAAAA"] {
            assert!(key_of(bad, &bucket("carts"), "user/").is_err(), "{bad}");
        }
    }
}
