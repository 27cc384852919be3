//! Request headers, parsed once, and the names of our own.

use axum::http::header::{CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use quorate_protocol::lifetime::{LIFETIME_S_MAX, Lifetime};
use quorate_protocol::object::Metadata;

use super::index_entries;
use super::problem::Problem;

/// The causal context: part of every response that shows values, sent back with the next write.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("quorate-context");
/// How many siblings the key has.
pub(super) const SIBLINGS: HeaderName = HeaderName::from_static("quorate-siblings");
/// How many distinct nodes acknowledged the write.
pub(super) const ACKS: HeaderName = HeaderName::from_static("quorate-acks");
/// How many of those keep it as a hint.
pub(super) const HINTS: HeaderName = HeaderName::from_static("quorate-hints");
/// How long the written value lives.
pub(super) const EXPIRES_IN: HeaderName = HeaderName::from_static("quorate-expires-in");
/// When the value that is shown expires.
pub(super) const EXPIRES_AT: HeaderName = HeaderName::from_static("quorate-expires-at");
/// The key has no value because what it had has expired.
pub(super) const EXPIRED: HeaderName = HeaderName::from_static("quorate-expired");
/// The epoch of the layout that the node follows: part of every response, so that clients notice a change
/// of the members.
pub(super) const EPOCH: HeaderName = HeaderName::from_static("quorate-epoch");
/// The request ID, in the response and on every log line.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Makes a write safe to retry.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The prefix of client metadata.
pub(super) const META_PREFIX: &str = "quorate-meta-";

/// The most `Quorate-Meta-*` headers, and the most bytes of their names and values together.
pub(super) const META_COUNT_MAX: usize = 32;
pub(super) const META_BYTES_MAX: usize = 4096;
/// The longest `Content-Type`, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// The longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// Other representation headers that are stored with a value and returned: without them its bytes
/// could not be interpreted. They are stored with the client's metadata, under a name that no
/// header can have.
const KEPT: [HeaderName; 3] = [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_DISPOSITION];
/// The prefix of such a name.
const KEPT_MARK: &str = ":";
/// The longest such header, in bytes.
const KEPT_BYTES_MAX: usize = 255;

/// The type of a value that was written without a `Content-Type`.
pub(super) const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// A header that may occur at most once.
///
/// # Errors
/// 400 that names the header if it is repeated.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Problem::bad_header(name.as_str(), "is given more than once"));
    }
    Ok(first)
}

/// The text of `Quorate-Context`, not yet verified.
///
/// # Errors
/// 400 if it is repeated or not ASCII.
pub(super) fn context(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = single(headers, &CONTEXT)? else { return Ok(None) };
    let text =
        value.to_str().map_err(|_| Problem::bad_header("Quorate-Context", "is not ASCII"))?;
    Ok(Some(text))
}

/// `Idempotency-Key`.
///
/// # Errors
/// 400 unless it is 1 to 255 visible ASCII characters.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let Some(value) = single(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = !bytes.is_empty() && bytes.len() <= IDEMPOTENCY_KEY_BYTES_MAX;
    if !fits || !bytes.iter().all(u8::is_ascii_graphic) {
        let detail = "must be 1 to 255 visible ASCII characters";
        return Err(Problem::bad_header("Idempotency-Key", detail));
    }
    Ok(Some(bytes))
}

/// `Quorate-Expires-In`; without it, what the bucket says.
///
/// # Errors
/// 400 unless it is a number of seconds within its range, or `never`.
pub(super) fn lifetime(headers: &HeaderMap) -> Result<Lifetime, Problem> {
    let Some(value) = single(headers, &EXPIRES_IN)? else { return Ok(Lifetime::OfBucket) };
    let text = value.as_bytes();
    if text == b"never" {
        return Ok(Lifetime::Unlimited);
    }
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = std::str::from_utf8(text).ok().filter(|_| is_number);
    let seconds = number.and_then(|number| number.parse().ok());
    match seconds.filter(|seconds| (1..=LIFETIME_S_MAX).contains(seconds)) {
        Some(seconds) => Ok(Lifetime::Limited { seconds }),
        None => {
            let detail = format!("must be seconds, from 1 to {LIFETIME_S_MAX}, or never");
            Err(Problem::bad_header("Quorate-Expires-In", &detail))
        }
    }
}

/// Refuses `Quorate-Expires-In` on what writes no value.
///
/// # Errors
/// 400 that names it.
pub(super) fn refuse_lifetime(headers: &HeaderMap, why: &str) -> Result<(), Problem> {
    match headers.contains_key(&EXPIRES_IN) {
        true => Err(Problem::bad_header("Quorate-Expires-In", why)),
        false => Ok(()),
    }
}

/// The metadata that a PUT gives its value: `Content-Type`, the other representation headers, and
/// `Quorate-Meta-*`.
///
/// # Errors
/// 400 that names the header.
pub(super) fn metadata(headers: &HeaderMap) -> Result<Metadata, Problem> {
    refuse_unknown_content(headers)?;
    let content_type = match single(headers, &CONTENT_TYPE)? {
        None => CONTENT_TYPE_DEFAULT,
        Some(value) => {
            let text = value.to_str().map_err(|_| not_a_content_type())?;
            check_content_type(text)?
        }
    };
    let mut user = user_metadata(headers)?;
    for name in &KEPT {
        if let Some(value) = single(headers, name)? {
            let text = value
                .to_str()
                .ok()
                .filter(|text| (1..=KEPT_BYTES_MAX).contains(&text.len()) && !text.contains('\t'));
            let detail = "must be 1 to 255 ASCII characters";
            let text = text.ok_or_else(|| Problem::bad_header(name.as_str(), detail))?;
            user.push(([KEPT_MARK, name.as_str()].concat(), text.to_owned()));
        }
    }
    user.sort_unstable(); // header order has no meaning, and must not make two retries differ
    Ok(Metadata { content_type: content_type.to_owned(), user })
}

/// The header stored under this metadata name, which is no index entry; `None` for the client's own metadata.
pub(super) fn kept_name(name: &str) -> Option<&str> {
    name.strip_prefix(KEPT_MARK)
}

/// Rejects headers that would change what the value means and are neither honoured nor stored. RFC
/// 9110, 14.5 requires this for `Content-Range`: the rest of the value would be lost.
fn refuse_unknown_content(headers: &HeaderMap) -> Result<(), Problem> {
    for name in headers.keys().filter(|name| name.as_str().starts_with("content-")) {
        let is_known = matches!(name.as_str(), "content-type" | "content-length");
        if name.as_str() == "content-range" {
            let detail = "partial writes are not supported; send the whole value without it";
            return Err(Problem::bad_header("Content-Range", detail));
        }
        if !is_known && !KEPT.contains(name) {
            let detail = "is not supported: it would be neither used nor stored with the value";
            return Err(Problem::bad_header(name.as_str(), detail));
        }
    }
    Ok(())
}

/// Checks that a media type can be returned as a header.
///
/// # Errors
/// 400 that names `Content-Type`.
pub(super) fn check_content_type(text: &str) -> Result<&str, Problem> {
    let fits = !text.is_empty() && text.len() <= CONTENT_TYPE_BYTES_MAX;
    let sound = text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if fits && sound { Ok(text) } else { Err(not_a_content_type()) }
}

fn not_a_content_type() -> Problem {
    Problem::bad_header("Content-Type", "must be 1 to 255 ASCII characters")
}

/// `Quorate-Meta-*`, names without the prefix, and the entries of `Quorate-Index-*`: sorted.
///
/// # Errors
/// 400 that names the header.
pub(super) fn user_metadata(headers: &HeaderMap) -> Result<Vec<(String, String)>, Problem> {
    let mut user: Vec<(String, String)> = Vec::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let Some(short) = name.as_str().strip_prefix(META_PREFIX) else { continue };
        let wrong = |detail: &str| Problem::bad_header(name.as_str(), detail);
        if short.is_empty() {
            return Err(wrong("has no name after Quorate-Meta-"));
        }
        if user.iter().any(|(known, _)| known == short) {
            return Err(wrong("is given more than once"));
        }
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| wrong("is not UTF-8"))?;
        bytes += short.len() + text.len();
        if user.len() == META_COUNT_MAX || bytes > META_BYTES_MAX {
            let detail = "at most 32 Quorate-Meta-* headers with 4096 bytes in all";
            return Err(wrong(detail));
        }
        user.push((short.to_owned(), text.to_owned()));
    }
    user.extend(index_entries::from_headers(headers)?);
    user.sort_unstable();
    Ok(user)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// Headers with these names and values.
    pub(in crate::api) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_lifetime_is_seconds_or_never() {
        let of = |text: &str| lifetime(&headers(&[("Quorate-Expires-In", text)])).ok();
        assert_eq!(lifetime(&HeaderMap::new()).ok(), Some(Lifetime::OfBucket));
        assert_eq!(of("never"), Some(Lifetime::Unlimited));
        assert_eq!(of("1"), Some(Lifetime::Limited { seconds: 1 }));
        assert_eq!(of("3162240000"), Some(Lifetime::Limited { seconds: LIFETIME_S_MAX }));
        for bad in
            ["", "0", "-1", "+1", "1.5", "1s", "3162240001", "99999999999", "Never", "\u{660}"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
        let twice = headers(&[("Quorate-Expires-In", "1"), ("Quorate-Expires-In", "1")]);
        assert!(lifetime(&twice).is_err());
    }

    #[test]
    fn metadata_is_kept_in_order_and_bounded() {
        let given = headers(&[("Quorate-Meta-B", "2"), ("quorate-meta-a", "ü"), ("Accept", "*/*")]);
        let metadata = metadata(&given).unwrap();
        assert_eq!(metadata.content_type, CONTENT_TYPE_DEFAULT);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(metadata.user, [pair("a", "ü"), pair("b", "2")]);
    }

    #[test]
    fn bad_metadata_is_named() {
        let wrong =
            |pairs: &[(&str, &str)]| metadata(&headers(pairs)).unwrap_err().detail().to_owned();
        assert!(wrong(&[("quorate-meta-", "x")]).contains("no name"));
        let twice = wrong(&[("quorate-meta-a", "1"), ("Quorate-Meta-A", "2")]);
        assert_eq!(twice, "quorate-meta-a: is given more than once");
        assert!(wrong(&[("quorate-meta-a", &"x".repeat(4096))]).contains("4096 bytes"));
        let names: Vec<String> = (0..33).map(|i| format!("quorate-meta-{i}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert!(wrong(&many).contains("32 Quorate-Meta"));
        let types = [("content-type", "a/b"), ("content-type", "c/d")];
        assert_eq!(wrong(&types), "content-type: is given more than once");
        assert!(wrong(&[("content-type", "")]).starts_with("Content-Type: must be"));
        assert!(wrong(&[("content-type", &"x".repeat(256))]).starts_with("Content-Type: must be"));
        assert!(wrong(&[("content-type", "tëxt/plain")]).starts_with("Content-Type: must be"));
    }

    #[test]
    fn what_a_value_needs_to_be_understood_is_kept_or_refused() {
        let kept = metadata(&headers(&[("Content-Encoding", "gzip"), ("Quorate-Meta-A", "1")]));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let kept = kept.unwrap().user;
        assert_eq!(kept, [pair(":content-encoding", "gzip"), pair("a", "1")]);
        assert_eq!(kept_name(&kept[0].0), Some("content-encoding"));
        assert_eq!(kept_name(&kept[1].0), None);
        for (name, value) in [
            ("Content-Range", "bytes 0-1/2"),
            ("Content-MD5", "x"),
            ("Content-Encoding", ""),
            ("Content-Language", "ü"),
            ("Content-Disposition", &"x".repeat(256)),
        ] {
            let detail = metadata(&headers(&[(name, value)])).unwrap_err().detail().to_owned();
            assert!(detail.to_lowercase().starts_with(&name.to_lowercase()), "{detail}");
        }
        let twice = [("Content-Encoding", "gzip"), ("Content-Encoding", "br")];
        assert!(metadata(&headers(&twice)).is_err());
    }

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        let key = |value: &str| idempotency_key(&headers(&[("idempotency-key", value)])).is_ok();
        assert!(key("a") && key(&"k".repeat(255)));
        assert!(!key("") && !key("a b") && !key("ü") && !key(&"k".repeat(256)));
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }
}
