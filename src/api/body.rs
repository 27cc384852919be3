//! Request bodies: read whole, bounded in bytes and in time.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout, timeout_at};

use super::headers;
use super::problem::{Kind, Problem};
use quorate_engine::limits::admission::{Permit, Promise};

/// Limits on draining an unwanted body so that the client can read the response, in bytes and
/// milliseconds. Past either the connection is closed.
const DISCARD_BYTES_MAX: usize = 16 << 20;
const DISCARD_MS_MAX: u64 = 1_000;

/// How often the rate of a body is checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While a body arrives at this rate or faster, its rest stays announced to admission, in bytes per
/// second.
const EXPECTED_PACE: u64 = 256 << 10;
/// Below this rate a body is aborted when memory is short, in bytes per second.
const PACE_WITHOUT_ROOM: u64 = 32 << 10;
/// Below this rate a body is aborted once `timeouts.body_ms` has passed, in bytes per second.
const PACE_MIN: u64 = 8 << 10;

/// Reads a body of at most `bytes_max` bytes within `body_ms`, or longer while it arrives at
/// [`PACE_MIN`] or faster. Its memory is charged to `permit` as it arrives, for as long as it is
/// held.
///
/// # Errors
/// 413 before or while reading, 408 when it is too slow, 400 when it is cut off, 503 when the node
/// already holds too many bytes.
pub(super) async fn read(
    body: &mut Body,
    bytes_max: usize,
    body_ms: u64,
    permit: &mut Permit,
) -> Result<Bytes, Problem> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > bytes_max {
        return Err(too_large(bytes_max));
    }
    let begun = Instant::now();
    let mut coming = Coming {
        bytes_max,
        announced,
        time: Duration::from_millis(body_ms),
        begun,
        looked: (begun, 0),
        promise: permit.expect(announced)?,
        first: Bytes::new(),
        joined: Vec::new(),
    };
    while let Some(chunk) = coming.next(body, permit).await? {
        coming.add(chunk, permit)?;
    }
    Ok(permit.hold(coming.whole()))
}

/// A body being received. A body of one chunk, the usual case for small ones, is not copied.
struct Coming {
    bytes_max: usize,
    announced: usize,
    /// Time limit; past it [`PACE_MIN`] applies.
    time: Duration,
    begun: Instant,
    /// Time of the last check, and the bytes received by then.
    looked: (Instant, usize),
    /// The bytes still to come, as announced to admission.
    promise: Option<Promise>,
    first: Bytes,
    joined: Vec<u8>,
}

impl Coming {
    fn len(&self) -> usize {
        self.first.len().max(self.joined.len())
    }

    /// The next chunk; `None` at the end.
    async fn next(&mut self, body: &mut Body, permit: &Permit) -> Result<Option<Bytes>, Problem> {
        loop {
            let look_at = self.looked.0 + LOOK_EVERY.min(self.time);
            let frame = match timeout_at(look_at, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame,
                Err(_) => {
                    self.look(permit)?;
                    continue;
                }
            };
            let frame = frame.map_err(|_| {
                Problem::new(Kind::BadBody, "body cut off: it ended before its announced end")
            })?;
            // Trailers are ignored.
            if let Ok(chunk) = frame.into_data() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Aborts a body that arrives too slowly, and withdraws the announcement of a lagging one.
    fn look(&mut self, permit: &Permit) -> Result<(), Problem> {
        let (at, len) = self.looked;
        self.looked = (Instant::now(), self.len());
        let ms = at.elapsed().as_millis().max(1) as u64;
        let pace = (self.len() - len) as u64 * 1000 / ms;
        if pace < EXPECTED_PACE {
            self.promise = None;
        }
        let is_late = self.begun.elapsed() >= self.time && pace < PACE_MIN;
        if is_late || (self.len() > 0 && permit.is_pressed() && pace < PACE_WITHOUT_ROOM) {
            let detail = "the body did not arrive in time; nothing was written";
            return Err(Problem::new(Kind::BodyTooSlow, detail));
        }
        Ok(())
    }

    fn add(&mut self, chunk: Bytes, permit: &mut Permit) -> Result<(), Problem> {
        let total = self.len() + chunk.len();
        if total > self.bytes_max {
            return Err(too_large(self.bytes_max));
        }
        if let Some(promise) = &mut self.promise {
            promise.less(chunk.len());
        }
        permit.add_bytes(chunk.len())?;
        if self.len() == 0 {
            self.first = chunk;
            return Ok(());
        }
        if self.joined.is_empty() {
            self.joined.reserve(self.announced.max(total));
            self.joined.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.joined.extend_from_slice(&chunk);
        Ok(())
    }

    fn whole(self) -> Bytes {
        if self.joined.is_empty() { self.first } else { Bytes::from(self.joined) }
    }
}

fn too_large(bytes_max: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("the body may have at most {bytes_max} bytes"))
        .fact("max", bytes_max)
}

/// Drains the body of a rejected request, within bounds. Closing a connection with unread bytes
/// resets it, and the client would see the reset instead of the response.
pub(super) async fn discard(parts: &Parts, body: &mut Body) {
    if body.is_end_stream() || parts.headers.contains_key(EXPECT) {
        return; // a client that waits for "100 Continue" has not sent the body
    }
    let all = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > DISCARD_BYTES_MAX {
                break;
            }
        }
    };
    let _in_time = timeout(Duration::from_millis(DISCARD_MS_MAX), all).await;
}

/// Checks that a body that must be JSON does not declare another type. A missing `Content-Type` is
/// taken as JSON.
///
/// # Errors
/// 415, with the type to send.
pub(super) fn check_json_type(parts: &Parts) -> Result<(), Problem> {
    if parts.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        let detail = "send the body as it is, without a Content-Encoding";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    if parts.headers.contains_key(CONTENT_RANGE) {
        return Err(Problem::bad_header("Content-Range", "send the whole body, without it"));
    }
    let Some(value) = headers::single(&parts.headers, &CONTENT_TYPE)? else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let essence = text.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let detail = "send the body with Content-Type: application/json";
    Err(Problem::new(Kind::UnsupportedMediaType, detail))
}

/// Parses a JSON body, an object. Left to itself serde takes an array for one, field by field.
///
/// # Errors
/// 400 with the position and the reason.
pub(super) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::new(Kind::BadBody, "the JSON must be an object"));
    }
    serde_json::from_slice(body).map_err(|error| Problem::new(Kind::BadBody, error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use axum::http::Request;
    use futures_util::stream;

    use super::*;
    use quorate_engine::limits::admission::Admission;

    fn chunked(chunks: &[&'static str]) -> Body {
        let chunks: Vec<Result<Bytes, Infallible>> =
            chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        Body::from_stream(stream::iter(chunks))
    }

    async fn read_all(mut body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
        let admission = Admission::with_bounds(1, 100);
        let mut permit = admission.operation().unwrap();
        read(&mut body, bytes_max, 100, &mut permit).await
    }

    #[tokio::test]
    async fn chunks_are_joined_and_the_limit_is_exact() {
        assert_eq!(read_all(chunked(&[]), 0).await.unwrap(), "");
        assert_eq!(read_all(chunked(&["", "ab", "", "cd", "e"]), 5).await.unwrap(), "abcde");
        let kind = |result: Result<Bytes, Problem>| result.unwrap_err().kind();
        assert_eq!(kind(read_all(chunked(&["ab", "cd", "ef"]), 5).await), Kind::TooLarge);
        assert_eq!(kind(read_all(Body::from("abcdef"), 5).await), Kind::TooLarge);
    }

    #[tokio::test]
    async fn one_chunk_is_not_copied() {
        let value = Bytes::from_static(b"a value");
        let read = read_all(Body::from(value.clone()), 100).await.unwrap();
        assert_eq!(read.as_ptr(), value.as_ptr());
    }

    #[tokio::test]
    async fn a_body_past_what_the_node_may_hold_is_refused() {
        let refused = read_all(Body::from(vec![0; 101]), 1_000).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Overloaded);
        let chunk = &"0123456789".repeat(6);
        let chunks: Vec<Result<Bytes, Infallible>> =
            vec![Ok(Bytes::from(chunk.clone())), Ok(Bytes::from(chunk.clone()))];
        let refused = read_all(Body::from_stream(stream::iter(chunks)), 1_000).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Overloaded);
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let body = Body::from_stream(stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(read_all(body, 5).await.unwrap_err().kind(), Kind::BodyTooSlow);
    }

    #[test]
    fn only_json_passes_for_json() {
        let check = |content_type: Option<&str>| {
            let mut request = Request::builder();
            if let Some(content_type) = content_type {
                request = request.header(CONTENT_TYPE, content_type);
            }
            check_json_type(&request.body(()).unwrap().into_parts().0)
        };
        assert!(check(None).is_ok());
        assert!(check(Some("Application/JSON; charset=utf-8")).is_ok());
        let refused = check(Some("application/x-www-form-urlencoded")).unwrap_err();
        assert_eq!(refused.kind(), Kind::UnsupportedMediaType);
    }
}
