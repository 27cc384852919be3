//! Conditional requests: what a client states it has seen, by entity tag or by date (RFC 9110, 13).
//!
//! A condition is honoured or rejected, never ignored: the client relies on it.

use std::time::SystemTime;

use axum::http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use quorate_protocol::message::Condition;
use quorate_protocol::object::Version;

use super::headers::single;
use super::path::hex_digit;
use super::problem::Problem;

/// The most entity tags in one condition, to bound the work per request.
const ETAGS_MAX: usize = 64;

/// The condition of a write: `If-None-Match: *` or `If-Match`.
///
/// # Errors
/// 400 that names the header if it is malformed, repeated, or both are given.
pub(super) fn condition(headers: &HeaderMap) -> Result<Option<Condition>, Problem> {
    refuse_dates(headers, &[IF_UNMODIFIED_SINCE, IF_MODIFIED_SINCE])?;
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

/// The conditions of a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReadConditions<'a> {
    /// `If-Match`: 412 unless the representation is one of these.
    matches: Option<Tags<'a>>,
    /// `If-None-Match`: 304 if the representation is one of these.
    none_match: Option<Tags<'a>>,
    /// `If-Modified-Since`, in seconds since 1970: 304 if not modified since. Ignored if
    /// `If-None-Match` is given, which is more exact.
    modified_since: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Tags<'a> {
    /// `*`: matches any live value.
    Any,
    /// The tags, without quotes.
    These(Vec<Etag<'a>>),
}

impl Tags<'_> {
    fn contain(&self, text: &str, weak_too: bool) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.iter().any(|tag| tag.text == text && (weak_too || !tag.weak)),
        }
    }
}

impl<'a> ReadConditions<'a> {
    /// Parses those of a GET or HEAD.
    ///
    /// # Errors
    /// 400 if one is malformed, repeated, or not supported here.
    pub(super) fn parse(headers: &'a HeaderMap) -> Result<Self, Problem> {
        if !headers.keys().any(is_condition) {
            return Ok(Self::default()); // the usual case
        }
        refuse_dates(headers, &[IF_UNMODIFIED_SINCE])?;
        let tags = |name: HeaderName, shown| match single(headers, &name)? {
            Some(value) if value.as_bytes() == b"*" => Ok::<_, Problem>(Some(Tags::Any)),
            Some(value) => Ok(Some(Tags::These(etags(shown, value)?))),
            None => Ok(None),
        };
        // An unparsable date is ignored, as RFC 9110 requires: the response is then a full one.
        let since = single(headers, &IF_MODIFIED_SINCE)?.and_then(|value| value.to_str().ok());
        let since = since.and_then(|text| httpdate::parse_http_date(text).ok());
        Ok(Self {
            matches: tags(IF_MATCH, "If-Match")?,
            none_match: tags(IF_NONE_MATCH, "If-None-Match")?,
            modified_since: since
                .and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok())
                .map(|since| since.as_secs()),
        })
    }

    /// Whether `If-Match` is given and does not match `tag` (`None`: there is no representation).
    pub(super) fn fails(&self, tag: Option<&str>) -> bool {
        match (&self.matches, tag) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(tags), Some(tag)) => !tags.contain(tag, false),
        }
    }

    /// Whether the client already has the representation with this tag, written at this time
    /// (seconds since 1970).
    pub(super) fn has(&self, tag: &str, written_s: Option<u64>) -> bool {
        match &self.none_match {
            Some(tags) => tags.contain(tag, true),
            None => self.modified_since.zip(written_s).is_some_and(|(since, at)| at <= since),
        }
    }

    /// Whether `If-None-Match` names tags: the client got them with an earlier response.
    pub(super) fn names_tags(&self) -> bool {
        matches!(self.none_match, Some(Tags::These(_)))
    }
}

/// Rejects a request with conditions where none is supported.
///
/// # Errors
/// 400 that names the header.
pub(super) fn refuse_all(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.keys().find(|name| is_condition(name)) {
        Some(name) => Err(Problem::bad_header(name.as_str(), "is not honoured by this request")),
        None => Ok(()),
    }
}

fn is_condition(name: &HeaderName) -> bool {
    [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, IF_MODIFIED_SINCE].contains(name)
}

/// A date in seconds is too coarse to guard a write: two writes may fall within one second.
fn refuse_dates(headers: &HeaderMap, names: &[HeaderName]) -> Result<(), Problem> {
    match names.iter().find(|name| headers.contains_key(*name)) {
        Some(name) => {
            let detail = "is not honoured, as a date cannot tell two writes within one second apart; \
                          use If-Match with the ETag";
            Err(Problem::bad_header(name.as_str(), detail))
        }
        None => Ok(()),
    }
}

#[derive(Debug, PartialEq, Eq)]
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

/// The version in one of our entity tags, whatever the representation; `None` for a foreign tag.
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
    use super::super::headers::tests::headers;
    use super::*;

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
        let tags = ReadConditions::parse(&given).unwrap();
        assert!(tags.has("a", None) && tags.has("b-json", None) && !tags.has("b", Some(0)));
        assert!(tags.names_tags() && !tags.fails(None));
        let any = headers(&[("if-none-match", "*")]);
        let any = ReadConditions::parse(&any).unwrap();
        assert!(any.has("a", None) && !any.names_tags());

        let only = headers(&[("if-match", "\"a\", W/\"b\"")]);
        let only = ReadConditions::parse(&only).unwrap();
        assert!(!only.fails(Some("a")) && only.fails(Some("b")) && only.fails(None));
        let any = headers(&[("if-match", "*")]);
        let any = ReadConditions::parse(&any).unwrap();
        assert!(!any.fails(Some("a")) && any.fails(None));
    }

    #[test]
    fn dates_are_honoured_by_reads_and_refused_by_writes() {
        let date = "Thu, 01 Jan 1970 00:01:40 GMT";
        let given = headers(&[("if-modified-since", date)]);
        let since = ReadConditions::parse(&given).unwrap();
        assert!(since.has("a", Some(100)) && !since.has("a", Some(101)) && !since.has("a", None));
        let both = headers(&[("if-modified-since", date), ("if-none-match", "\"b\"")]);
        assert!(!ReadConditions::parse(&both).unwrap().has("a", Some(1)));
        let odd = headers(&[("if-modified-since", "yesterday")]);
        assert!(!ReadConditions::parse(&odd).unwrap().has("a", Some(1)));
        for name in ["if-modified-since", "if-unmodified-since"] {
            let given = headers(&[(name, date)]);
            assert!(condition(&given).unwrap_err().detail().starts_with(name));
            assert!(refuse_all(&given).is_err());
        }
        assert!(ReadConditions::parse(&headers(&[("if-unmodified-since", date)])).is_err());
        assert!(refuse_all(&headers(&[("accept", "*/*")])).is_ok());
    }
}
