//! Request targets: buckets and keys, percent-encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::Error;

/// What is escaped: all but the unreserved characters of RFC 3986. Slashes too, or the URL parser
/// would take `.` and `..` between them for steps in a tree.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// The longest bucket, in bytes.
const BUCKET_BYTES_MAX: usize = 128;
/// The longest key, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// Text as a part of a path or the value of a parameter.
pub(crate) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

/// `{route}/{bucket}`.
///
/// # Errors
/// [`Error::Invalid`] if no bucket can have this name.
pub(crate) fn of_bucket(route: &str, bucket: &str) -> Result<String, Error> {
    let is_known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let fits = (1..=BUCKET_BYTES_MAX).contains(&bucket.len()) && bucket.bytes().all(is_known);
    if !fits || is_step(bucket) {
        let detail =
            format!("must be 1 to {BUCKET_BYTES_MAX} of A-Z a-z 0-9 . _ -, not {bucket:?}");
        return Err(Error::invalid("bucket", crate::problem::cut(&detail)));
    }
    Ok(format!("{route}/{bucket}"))
}

/// `{route}/{bucket}/{key}`.
///
/// # Errors
/// [`Error::Invalid`] if no bucket or key can have this name.
pub(crate) fn of_key(route: &str, bucket: &str, key: &str) -> Result<String, Error> {
    let path = of_bucket(route, bucket)?;
    if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains('\0') {
        let detail = format!("must be 1 to {KEY_BYTES_MAX} bytes without NUL");
        return Err(Error::invalid("key", detail));
    }
    if is_step(key) {
        // Every URL parser reads these two as a step in a tree, escaped or not.
        let detail = format!("{key:?} cannot be sent in a URL by this client");
        return Err(Error::invalid("key", detail));
    }
    Ok(format!("{path}/{}", escaped(key)))
}

fn is_step(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_pass_the_url_parser_unchanged() {
        for key in ["a", "a/b", "../x", "/a//b/", "a/./b", "x/..", "ü %2F?#", "a+b", "~-_."] {
            let path = of_key("/kv", "b", key).unwrap();
            let url = reqwest::Url::parse("http://h:1").unwrap().join(&path).unwrap();
            assert_eq!(url.path(), path, "{key}");
            let back = percent_encoding::percent_decode_str(&path["/kv/b/".len()..]);
            assert_eq!(back.decode_utf8().unwrap(), key);
        }
    }

    #[test]
    fn what_cannot_be_named_is_refused() {
        for bucket in ["", "a/b", "ü", "..", ".", "a b", &"b".repeat(129)] {
            assert!(of_key("/kv", bucket, "k").is_err(), "{bucket}");
        }
        for key in ["", "..", ".", "a\0", &"k".repeat(1025)] {
            assert!(of_key("/kv", "b", key).is_err(), "{key}");
        }
    }
}
