//! `GET /keys/{bucket}`: the live keys of a bucket, in order, page by page.

use axum::body::Bytes;
use axum::extract::Request;
use quorate_protocol::listing::ListRequest;
use quorate_protocol::name::{Bucket, Key};
use serde_json::json;

use super::gate::Gate;
use super::problem::Problem;
use super::route::Answer;
use super::{cursor, represent};
use quorate_engine::ops::listing::{self, Page};

/// Default page size.
const LIMIT_DEFAULT: usize = 100;

/// `GET /keys/{bucket}?prefix=&limit=&cursor=`.
pub(super) async fn list(gate: Gate, request: Request) -> Answer {
    let bucket = gate.bucket(request.uri())?;
    let mut params = gate.params(request.uri())?;
    let prefix = params.prefix.take().unwrap_or_default();
    let cursor = params.cursor.as_deref();
    let after = cursor.map(|cursor| key_of(cursor, &bucket, &prefix)).transpose()?;
    let mut pass = gate.enter(&params)?;
    let limit = params.limit.unwrap_or(LIMIT_DEFAULT).min(usize::from(listing::LIMIT_MAX)) as u16;
    let question = ListRequest { bucket, prefix, after, limit };
    pass.begin();
    let Page { items, next, is_complete } = listing::list(&gate.node, &question).await;
    pass.end();
    Ok(represent::json(&json!({
        "bucket": question.bucket,
        "keys": items.iter().map(Key::key).collect::<Vec<&str>>(),
        "cursor": next.map(|key| cursor_of(&key, &question.prefix)),
        "complete": is_complete,
    })))
}

/// The start of the next page.
fn cursor_of(key: &Key, prefix: &str) -> String {
    cursor::of(prefix.as_bytes(), key.as_bytes())
}

fn key_of(cursor: &str, bucket: &Bucket, prefix: &str) -> Result<Key, Problem> {
    cursor::open(cursor, prefix.as_bytes(), |position| {
        let key = Key::from_bytes(Bytes::copy_from_slice(position)).ok()?;
        (key.bucket() == bucket.as_str()).then_some(key)
    })
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
