//! The siblings of a conflict as `multipart/mixed`, for clients that want raw bytes (RFC 2046).

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use quorate_protocol::object::Sibling;

use super::pieces::{Piece, Pieces};
use super::represent;

const DOT: HeaderName = HeaderName::from_static("quorate-dot");
/// `true` on a sibling that is a tombstone.
const DELETED: HeaderName = HeaderName::from_static("quorate-deleted");

/// Whether `Accept` prefers `multipart/mixed` to JSON. JSON wins a tie, and if neither is
/// acceptable.
pub(super) fn is_preferred(accept: Option<&HeaderValue>) -> bool {
    let Some(accept) = accept.and_then(|value| value.to_str().ok()) else { return false };
    quality(accept, "multipart", "mixed") > quality(accept, "application", "json")
}

/// The quality that `Accept` gives a type, in thousandths: that of its most specific range.
fn quality(accept: &str, main: &str, sub: &str) -> u32 {
    let mut best = (0, 0); // specificity, quality
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let (range_main, range_sub) =
            parts.next().unwrap_or_default().split_once('/').unwrap_or_default();
        let specific = match (range_main, range_sub) {
            (m, s) if m.eq_ignore_ascii_case(main) && s.eq_ignore_ascii_case(sub) => 3,
            (m, "*") if m.eq_ignore_ascii_case(main) => 2,
            ("*", "*") => 1,
            _ => continue,
        };
        let q = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let q = q.map_or(Some(1.0), |q| q.parse::<f32>().ok()).unwrap_or(0.0);
        if specific > best.0 {
            best = (specific, (q.clamp(0.0, 1.0) * 1000.0) as u32);
        }
    }
    best.1
}

/// Every sibling as a part of its own.
pub(super) fn response(siblings: &[&Sibling]) -> Response {
    let boundary = boundary(siblings);
    let mut pieces = Vec::with_capacity(2 * siblings.len() + 1);
    let mut around = Vec::new();
    for sibling in siblings {
        let mut headers = HeaderMap::new();
        represent::describe(&mut headers, sibling, represent::written_s(sibling.stamp));
        headers.insert(DOT, ascii(sibling.dot.to_string()));
        if sibling.is_tombstone() {
            headers.remove(CONTENT_TYPE);
            headers.insert(DELETED, HeaderValue::from_static("true"));
        }
        around.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        for (name, value) in &headers {
            around.extend_from_slice(name.as_str().as_bytes());
            around.extend_from_slice(b": ");
            around.extend_from_slice(value.as_bytes());
            around.extend_from_slice(b"\r\n");
        }
        around.extend_from_slice(b"\r\n");
        pieces.push(Piece::Plain(std::mem::take(&mut around).into()));
        pieces.extend(sibling.value.clone().map(Piece::Plain));
        around.extend_from_slice(b"\r\n");
    }
    around.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    pieces.push(Piece::Plain(around.into()));
    let mut response = Response::new(Pieces::body(pieces));
    let content_type = ascii(format!("multipart/mixed; boundary={boundary}"));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// A delimiter that occurs in no value: a hash over all values, which none of them can contain. The
/// same siblings give the same bytes on every node, as a strong entity tag requires.
fn boundary(siblings: &[&Sibling]) -> String {
    let mut hasher = blake3::Hasher::new();
    for sibling in siblings {
        hasher.update(sibling.dot.to_string().as_bytes());
        hasher.update(sibling.value.as_deref().unwrap_or_default());
    }
    format!("quorate-{}", &hasher.finalize().to_hex()[..32])
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_unless_multipart_is_preferred() {
        let prefers = |accept: &str| is_preferred(Some(&HeaderValue::from_str(accept).unwrap()));
        for accept in [
            "multipart/mixed",
            "Multipart/Mixed;q=0.5",
            "multipart/*",
            "multipart/mixed, */*;q=0.1",
            "application/json;q=0.2, multipart/mixed;q=0.3",
        ] {
            assert!(prefers(accept), "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "image/png",
            "application/json, multipart/mixed",
            "multipart",
            "multipart/mixed;q=0",
            "multipart/mixed;q=x",
            "multipart/mixed;q=NaN",
            ";;,,/",
        ] {
            assert!(!prefers(accept), "{accept}");
        }
        assert!(!is_preferred(None));
    }
}
