//! Request headers, parsed once into what they mean, and the names of ours.

use axum::http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use quorate_protocol::message::Condition;
use quorate_protocol::object::{Metadata, Version};

use super::path::hex_digit;
use super::problem::Problem;

/// What a client saw, given with every answer that shows it and sent back with the next write.
pub(super) const CONTEXT: HeaderName = HeaderName::from_static("quorate-context");
/// How many siblings the key has.
pub(super) const SIBLINGS: HeaderName = HeaderName::from_static("quorate-siblings");
/// How many distinct nodes acknowledged the write.
pub(super) const ACKS: HeaderName = HeaderName::from_static("quorate-acks");
/// How many of those keep it as a hint.
pub(super) const HINTS: HeaderName = HeaderName::from_static("quorate-hints");
/// Names a request, in the answer and on every line of the log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Makes a write safe to repeat.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The prefix of the client's own metadata.
pub(super) const META_PREFIX: &str = "quorate-meta-";

/// The most `Quorate-Meta-*` headers, and their names and values together in bytes.
pub(super) const META_COUNT_MAX: usize = 32;
pub(super) const META_BYTES_MAX: usize = 4096;
/// The longest `Content-Type`, in bytes.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// The longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;
/// The most entity tags in one condition.
const ETAGS_MAX: usize = 64;

/// What a value has that came without a `Content-Type`.
pub(super) const CONTENT_TYPE_DEFAULT: &str = "application/octet-stream";

/// A header that may occur once.
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

/// What a PUT says of its value: `Content-Type` and `Quorate-Meta-*`.
///
/// # Errors
/// 400 that names the header.
pub(super) fn metadata(headers: &HeaderMap) -> Result<Metadata, Problem> {
    let content_type = match single(headers, &CONTENT_TYPE)? {
        None => CONTENT_TYPE_DEFAULT,
        Some(value) => {
            let text = value.to_str().map_err(|_| not_a_content_type())?;
            check_content_type(text)?
        }
    };
    Ok(Metadata { content_type: content_type.to_owned(), user: user_metadata(headers)? })
}

/// Checks a media type as far as it must be sound to be given back as a header.
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

/// `Quorate-Meta-*`: names without the prefix, sorted.
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
            let detail = "there may be 32 Quorate-Meta-* headers with 4096 bytes in all";
            return Err(wrong(detail));
        }
        user.push((short.to_owned(), text.to_owned()));
    }
    user.sort_unstable(); // header order means nothing, and must not make two retries differ
    Ok(user)
}

/// The condition of a write: `If-None-Match: *` or `If-Match`.
///
/// # Errors
/// 400 that names the header if it is malformed, repeated, or both are given.
pub(super) fn condition(headers: &HeaderMap) -> Result<Option<Condition>, Problem> {
    let none_match = single(headers, &IF_NONE_MATCH)?;
    let matches = single(headers, &IF_MATCH)?;
    match (none_match, matches) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(Problem::bad_header("If-None-Match", "cannot be combined with If-Match"))
        }
        (Some(value), None) if value.as_bytes() == b"*" => Ok(Some(Condition::Absent)),
        (Some(_), None) => {
            Err(Problem::bad_header("If-None-Match", "can only be * on a request that writes"))
        }
        (None, Some(value)) if value.as_bytes() == b"*" => Ok(Some(Condition::Present)),
        (None, Some(value)) => {
            let tags = etags("If-Match", value)?;
            let strong = tags.iter().filter(|tag| !tag.weak);
            Ok(Some(Condition::Version(strong.filter_map(|tag| version_of(tag.text)).collect())))
        }
    }
}

/// `If-None-Match` of a request that reads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoneMatch<'a> {
    /// `*`: anything alive matches.
    Any,
    /// The texts of the tags, without quotes.
    Tags(Vec<&'a str>),
}

/// `If-None-Match` of a GET or HEAD, if there is one.
///
/// # Errors
/// 400 if it is malformed or repeated.
pub(super) fn none_match(headers: &HeaderMap) -> Result<Option<NoneMatch<'_>>, Problem> {
    let Some(value) = single(headers, &IF_NONE_MATCH)? else { return Ok(None) };
    if value.as_bytes() == b"*" {
        return Ok(Some(NoneMatch::Any));
    }
    let tags = etags("If-None-Match", value)?;
    Ok(Some(NoneMatch::Tags(tags.into_iter().map(|tag| tag.text).collect())))
}

struct Etag<'a> {
    weak: bool,
    text: &'a str,
}

fn etags<'a>(header: &str, value: &'a HeaderValue) -> Result<Vec<Etag<'a>>, Problem> {
    let wrong = || Problem::bad_header(header, "must be * or a list of quoted entity tags");
    let text = value.to_str().map_err(|_| wrong())?;
    let mut tags = Vec::new();
    for item in text.split(',') {
        let item = item.trim();
        let (weak, quoted) = match item.strip_prefix("W/") {
            Some(rest) => (true, rest),
            None => (false, item),
        };
        let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        let text = inner.filter(|text| !text.contains('"')).ok_or_else(wrong)?;
        if tags.len() == ETAGS_MAX {
            return Err(Problem::bad_header(header, "has more than 64 entity tags"));
        }
        tags.push(Etag { weak, text });
    }
    Ok(tags)
}

/// The version in one of our entity tags, whichever representation it is of; `None` if it is not ours.
fn version_of(tag: &str) -> Option<Version> {
    let hex = tag.split('-').next().unwrap_or_default().as_bytes();
    if hex.len() != 32 {
        return None;
    }
    let mut version = [0; 16];
    for (byte, digits) in version.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = hex_digit(digits[0])? << 4 | hex_digit(digits[1])?;
    }
    Some(Version(version))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
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
    fn idempotency_keys_are_visible_ascii() {
        let key = |value: &str| idempotency_key(&headers(&[("idempotency-key", value)])).is_ok();
        assert!(key("a") && key(&"k".repeat(255)));
        assert!(!key("") && !key("a b") && !key("ü") && !key(&"k".repeat(256)));
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn conditions_of_writes() {
        let of = |pairs: &[(&str, &str)]| condition(&headers(pairs));
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(of(&[("if-none-match", "*")]).unwrap(), Some(Condition::Absent));
        assert_eq!(of(&[("if-match", "*")]).unwrap(), Some(Condition::Present));
        let version = Version([0xab; 16]);
        let hex = version.to_hex();
        for tag in [hex.clone(), format!("{hex}-json"), format!("{hex}-00000000000000ff-1")] {
            let found = of(&[("if-match", &format!("\"other\", \"{tag}\""))]).unwrap();
            assert_eq!(found, Some(Condition::Version(vec![version])), "{tag}");
        }
        let weak = of(&[("if-match", &format!("W/\"{hex}\""))]).unwrap();
        assert_eq!(weak, Some(Condition::Version(vec![])));
        for bad in ["", "x", "\"a", "\"a\" \"b\"", "\"a\",", "*,\"a\""] {
            assert!(of(&[("if-match", bad)]).is_err(), "{bad}");
        }
        assert!(of(&[("if-none-match", "\"a\"")]).is_err());
        assert!(of(&[("if-none-match", "*"), ("if-match", "*")]).is_err());
        assert!(of(&[("if-match", "*"), ("if-match", "*")]).is_err());
    }

    #[test]
    fn conditions_of_reads() {
        let given = headers(&[("if-none-match", "W/\"a\", \"b-json\"")]);
        assert_eq!(none_match(&given).unwrap(), Some(NoneMatch::Tags(vec!["a", "b-json"])));
        let any = headers(&[("if-none-match", "*")]);
        assert_eq!(none_match(&any).unwrap(), Some(NoneMatch::Any));
    }
}
