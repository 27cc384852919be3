//! What a request is called, in its answer, in log lines and in the audit log.

use std::fmt;

use axum::http::{HeaderMap, HeaderValue};

use super::headers::REQUEST_ID;

/// The longest request ID that is accepted from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// What a request is called: the client's own name for it, or a number, which is no text until it is shown.
#[derive(Clone, Debug)]
pub(super) enum RequestId {
    /// The client's, which is fit for a log line.
    Given(HeaderValue),
    /// Ours, shown as 16 hexadecimal digits.
    Drawn(u64),
}

impl RequestId {
    /// A new one.
    pub(super) fn new() -> Self {
        Self::Drawn(rand::random())
    }

    /// The client's, if it is fit for a log line, or a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        given_id(headers).map_or_else(Self::new, Self::Given)
    }

    /// As a header.
    pub(super) fn header(&self) -> HeaderValue {
        let number = match self {
            Self::Given(id) => return id.clone(),
            Self::Drawn(number) => number,
        };
        let mut digits = [0; 16];
        for (i, digit) in digits.iter_mut().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * i)) as usize & 15];
        }
        HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("unnamed"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.header().to_str().unwrap_or_default())
    }
}

/// The client's own request ID, if it is fit for a log line.
fn given_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(&REQUEST_ID)?;
    let bytes = id.as_bytes();
    let fits = !bytes.is_empty() && bytes.len() <= REQUEST_ID_BYTES_MAX;
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (fits && bytes.iter().all(allowed)).then(|| id.clone())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_ids_fit_for_a_log_line_are_taken_over() {
        let given = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
            given_id(&headers).is_some()
        };
        assert!(given("a.B_7-x") && given(&"a".repeat(64)));
        assert!(!given("") && !given("a b") && !given("ü") && !given(&"a".repeat(65)));
        assert!(!given("a\"b") && !given("a=b"));
    }

    #[test]
    fn new_ids_are_short_and_differ() {
        let (one, two) = (RequestId::new().header(), RequestId::new().header());
        assert_eq!(one.len(), 16);
        assert!(one != two && one.as_bytes().iter().all(u8::is_ascii_hexdigit));
    }
}
