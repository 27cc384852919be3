//! Request paths: the bucket is the first segment after the route, the key is all the rest.
//!
//! The raw path is decoded by hand and exactly once, because routers do too much: they would merge
//! empty segments, resolve `..` or treat `%2F` as a separator. In a key all of these are plain
//! text. Source: RFC 3986, 2.1 and 3.3; docs/design.md, "HTTP contract".

use std::borrow::Cow;

use quorate_protocol::name::{Bucket, Key};

use super::problem::Problem;

/// The key in the part of a path after its route, such as `carts/user%2F7`.
///
/// # Errors
/// 400 `bad_path` with the reason: a bad escape, or a bucket or key outside its limits.
pub(super) fn key(rest: &str) -> Result<Key, Problem> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = bucket_text(bucket)?;
    let key = decode("key", key)?;
    Key::new(&bucket, &key).map_err(|error| Problem::bad_path(error.to_string()))
}

/// The bucket and the key in the part of a path after its route, decoded but not checked; `None` if that is
/// not possible. For who may do what: [`key`] and [`bucket`] say what is wrong.
pub(super) fn place(rest: &str) -> Option<(Cow<'_, str>, Cow<'_, [u8]>)> {
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    Some((bucket_text(bucket).ok()?, percent_decode(key)?))
}

/// The bucket in the part of a path after its route, such as `carts`.
///
/// # Errors
/// 400 `bad_path` with the reason.
pub(super) fn bucket(rest: &str) -> Result<Bucket, Problem> {
    let bucket = bucket_text(rest)?;
    Bucket::parse(&bucket).map_err(|error| Problem::bad_path(error.to_string()))
}

fn bucket_text(raw: &str) -> Result<Cow<'_, str>, Problem> {
    match decode("bucket", raw)? {
        Cow::Borrowed(_) => Ok(Cow::Borrowed(raw)), // no escapes
        Cow::Owned(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Cow::Owned(text)),
            Err(_) => Err(Problem::bad_path("the bucket is not valid UTF-8 after decoding")),
        },
    }
}

fn decode<'a>(what: &str, raw: &'a str) -> Result<Cow<'a, [u8]>, Problem> {
    percent_decode(raw).ok_or_else(|| {
        Problem::bad_path(format!("the {what} has a % without two hexadecimal digits after it"))
    })
}

/// Decodes `%XX` escapes; `None` if one is incomplete or not hexadecimal. `+` stays a plus.
pub(super) fn percent_decode(raw: &str) -> Option<Cow<'_, [u8]>> {
    let raw = raw.as_bytes();
    let Some(first) = raw.iter().position(|b| *b == b'%') else {
        return Some(Cow::Borrowed(raw));
    };
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let [byte, tail @ ..] = rest {
        if *byte != b'%' {
            decoded.push(*byte);
            rest = tail;
            continue;
        }
        let [high, low, tail @ ..] = tail else { return None };
        decoded.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
        rest = tail;
    }
    Some(Cow::Owned(decoded))
}

/// The value of one hexadecimal digit of either case.
pub(super) fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Result<(String, String), String> {
        let uri: axum::http::Uri = path.parse().unwrap();
        match key(uri.path().strip_prefix("/kv/").unwrap()) {
            Ok(key) => Ok((key.bucket().to_owned(), key.key().to_owned())),
            Err(problem) => Err(problem.detail().to_owned()),
        }
    }

    #[test]
    fn a_key_is_all_that_follows_the_bucket() {
        let is = |path, key: &str| assert_eq!(parsed(path), Ok(("b".into(), key.into())), "{path}");
        is("/kv/b/key", "key");
        is("/kv/b/a/b/c", "a/b/c");
        is("/kv/b/a%2Fb%2fc", "a/b/c");
        is("/kv/b//a//b/", "/a//b/");
        is("/kv/b/../../etc/passwd", "../../etc/passwd");
        is("/kv/b/.", ".");
        is("/kv/b/%2e%2E", "..");
        is("/kv/b/a+b%20c", "a+b c");
        is("/kv/b/%C3%BC", "ü");
        is("/kv/b/100%25", "100%");
        is("/kv/%62/key", "key");
    }

    #[test]
    fn each_bad_path_is_named() {
        let wrong = |path: &str, why: &str| {
            let detail = parsed(path).unwrap_err();
            assert!(detail.contains(why), "{path}: {detail}");
        };
        wrong("/kv/b", "key is empty");
        wrong("/kv/b/", "key is empty");
        wrong("/kv/", "a bucket is");
        wrong("/kv//key", "a bucket is");
        wrong("/kv/a%20b/key", "a bucket is");
        wrong("/kv/a%2Fb/key", "a bucket is");
        wrong("/kv/../key", "a bucket is");
        wrong("/kv/%FF/key", "bucket is not valid UTF-8");
        wrong("/kv/b/%", "key has a %");
        wrong("/kv/b/%4", "key has a %");
        wrong("/kv/b/%zz", "key has a %");
        wrong("/kv/b/%+1", "key has a %");
        wrong("/kv/%1/key", "bucket has a %");
        wrong("/kv/b/a%00b", "NUL");
        wrong("/kv/b/%FF%FE", "not valid UTF-8");
        wrong(&format!("/kv/b/{}", "k".repeat(1025)), "longer than 1024");
        wrong(&format!("/kv/{}/k", "b".repeat(129)), "a bucket is");
    }

    #[test]
    fn limits_count_decoded_bytes() {
        assert!(parsed(&format!("/kv/b/{}", "%C3%BC".repeat(512))).is_ok());
        assert!(parsed(&format!("/kv/b/{}", "%C3%BC".repeat(513))).is_err());
        assert!(parsed(&format!("/kv/{}/k", "b".repeat(128))).is_ok());
    }
}
