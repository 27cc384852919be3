//! Checks an HTTP/1.1 request before hyper sees it: whether its head is well-formed, and where the
//! request ends (RFC 9112, sections 2, 3, 6 and 7).
//!
//! Pure: bytes in, a verdict out. `heads` does the I/O.

use std::mem::MaybeUninit;

use axum::http::Uri;
use httparse::Status;

/// The longest request head (request line and headers), in bytes. Leaves room for the longest
/// context.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// The most headers of a request; the default of hyper, which parses the head again.
pub(crate) const HEADERS_MAX: usize = 100;
/// The longest request target, in bytes. Leaves room for headers within [`HEAD_BYTES_MAX`].
const TARGET_BYTES_MAX: usize = 60 << 10;

/// Why a request head is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// The request target is invalid; the reason, and what to send instead.
    Target(String),
    /// The target is longer than this many bytes.
    TargetTooLong(usize),
    /// Not the head of an HTTP/1.1 request; the reason.
    Malformed(&'static str),
    /// The head has more than this many bytes.
    TooLarge(usize),
    /// The head has more than this many headers.
    TooManyHeaders(usize),
    /// The head did not arrive within this many milliseconds.
    TooSlow(u64),
}

/// A request whose head is complete and well-formed, and how much of it is still to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    head_left: usize,
    body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    /// This many bytes left.
    Sized(u64),
    Chunked(Chunks),
    /// Everything that follows: it is not HTTP, or its end is unknown.
    Endless,
}

impl Message {
    /// For a connection that is not inspected.
    pub(crate) fn endless() -> Self {
        Self { head_left: 0, body: Body::Endless }
    }

    /// Consumes the bytes that belong to this request, and returns how many.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let head = bytes.len().min(self.head_left);
        self.head_left -= head;
        head + match &mut self.body {
            Body::Sized(left) => {
                let rest = (bytes.len() - head) as u64;
                let mine = rest.min(*left);
                *left -= mine;
                mine as usize
            }
            Body::Chunked(chunks) => chunks.take(&bytes[head..]),
            Body::Endless => bytes.len() - head,
        }
    }

    /// Whether the next byte belongs to another request.
    pub(crate) fn is_whole(&self) -> bool {
        self.head_left == 0
            && match &self.body {
                Body::Sized(left) => *left == 0,
                Body::Chunked(chunks) => chunks.state == Chunk::End,
                Body::Endless => false,
            }
    }
}

/// Inspects the start of a request; `None` if its head is incomplete.
///
/// # Errors
/// [`HeadError`]: the connection must be closed.
pub(crate) fn inspect(bytes: &[u8]) -> Result<Option<Message>, HeadError> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let head_left = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(_) => return Err(too_large(bytes)),
        Err(error) => return Err(malformed(bytes, error)),
    };
    check_target(request.path.unwrap_or_default())?;
    let body = body_of(request.version == Some(1), request.headers)?;
    Ok(Some(Message { head_left, body }))
}

/// Whether a head may end in these bytes. A cheap check before [`inspect`].
pub(crate) fn may_end_head(bytes: &[u8]) -> bool {
    let is_end = |at: usize| matches!(bytes[at + 1..], [b'\n', ..] | [b'\r', b'\n', ..]);
    let mut newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    newlines.any(|(at, _)| is_end(at))
}

fn too_large(bytes: &[u8]) -> HeadError {
    match first_line(bytes).len() {
        0..=TARGET_BYTES_MAX => HeadError::TooLarge(HEAD_BYTES_MAX),
        _ => HeadError::TargetTooLong(TARGET_BYTES_MAX),
    }
}

/// Explains why bytes are not the start of a valid head.
fn malformed(bytes: &[u8], error: httparse::Error) -> HeadError {
    use httparse::Error as E;
    let what = match error {
        E::TooManyHeaders => return HeadError::TooManyHeaders(HEADERS_MAX),
        E::HeaderName => "a header's name has an invalid character",
        E::HeaderValue => "a header's value has a control character",
        E::NewLine => "a line ends without a line feed",
        E::Status | E::Token | E::Version => return malformed_line(first_line(bytes)),
    };
    HeadError::Malformed(what)
}

fn malformed_line(line: &[u8]) -> HeadError {
    let what =
        "the request line must be a method, a target and HTTP/1.1, separated by single spaces";
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target @ .., version] = words.as_slice() else {
        return HeadError::Malformed(what);
    };
    let is_request = version.starts_with(b"HTTP/1.") && method.iter().all(u8::is_ascii_uppercase);
    match target {
        [target] if is_request => match std::str::from_utf8(target) {
            Ok(target) => check_target(target).err().unwrap_or(HeadError::Malformed(what)),
            Err(_) => HeadError::Target(must_be_escaped("a byte that is not UTF-8")),
        },
        [_, _, ..] if is_request => HeadError::Target(must_be_escaped("a space")),
        _ => HeadError::Malformed(what),
    }
}

fn first_line(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len());
    let line = bytes[start..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// A target must be fully escaped; an invalid one is never guessed at. An unescaped `#`, for
/// example, would name another key than the client meant.
fn check_target(target: &str) -> Result<(), HeadError> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(HeadError::TargetTooLong(TARGET_BYTES_MAX));
    }
    let is_plain = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'%' | b'-' | b'_' | b'.' | b'=')
    };
    if target.starts_with('/') && target.bytes().all(|b| is_plain(b) || b == b'?' || b == b'&') {
        return Ok(()); // the usual case
    }
    if target.contains('#') {
        return Err(HeadError::Target(must_be_escaped("a # (written %23)")));
    }
    match target.parse::<Uri>() {
        Ok(_) => Ok(()),
        Err(_) => {
            let odd = |c: &char| c.is_control() || " <>`\\^\"{}|".contains(*c);
            let what = match target.chars().find(odd) {
                Some(odd) => format!("{odd:?}"),
                None => "a character not allowed in a URI".to_owned(),
            };
            Err(HeadError::Target(must_be_escaped(&what)))
        }
    }
}

fn must_be_escaped(what: &str) -> String {
    format!("the request target has {what} in it that must be percent-encoded; nothing was done")
}

/// The length of the body, by the rules that hyper uses, but for what could be understood in two ways.
fn body_of(is_http_11: bool, headers: &[httparse::Header<'_>]) -> Result<Body, HeadError> {
    let mut length: Option<u64> = None;
    let mut is_chunked = false;
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let Some(found) = number(header.value) else {
                return Err(HeadError::Malformed("Content-Length is not a number"));
            };
            if length.is_some_and(|known| known != found) {
                return Err(HeadError::Malformed(
                    "Content-Length is given twice with different values",
                ));
            }
            length = Some(found);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            let only = header.value.trim_ascii().eq_ignore_ascii_case(b"chunked");
            if !only || is_chunked || !is_http_11 {
                let what = "Transfer-Encoding can only be chunked, once, and only in HTTP/1.1";
                return Err(HeadError::Malformed(what));
            }
            is_chunked = true;
        }
    }
    match (is_chunked, length) {
        // A proxy that goes by the other one sees another request in what follows (RFC 9112, 6.1).
        (true, Some(_)) => {
            Err(HeadError::Malformed("Content-Length and Transfer-Encoding cannot both be given"))
        }
        (true, None) => Ok(Body::Chunked(Chunks::default())),
        (false, length) => Ok(Body::Sized(length.unwrap_or(0))),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok().filter(|number| *number < u64::MAX - 2) // hyper reserves the highest values
}

/// Parses a chunked body up to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Chunks {
    state: Chunk,
    /// The remaining bytes of the chunk.
    size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Chunk {
    #[default]
    Size,
    /// After the size, up to the end of the line.
    Extension,
    Data,
    /// The line end after the data.
    DataEnd,
    /// At the start of a trailer line; an empty one is the end.
    Trailers,
    /// In a trailer line.
    Trailer,
    End,
    /// Invalid chunking: hyper rejects it too, and reads no further requests on this connection.
    Lost,
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.state != Chunk::End {
            match self.state {
                Chunk::Lost => return bytes.len(),
                Chunk::Data => {
                    let rest = (bytes.len() - at) as u64;
                    let mine = rest.min(self.size);
                    self.size -= mine;
                    at += mine as usize;
                    if self.size == 0 {
                        self.state = Chunk::DataEnd;
                    }
                }
                Chunk::Size
                | Chunk::Extension
                | Chunk::DataEnd
                | Chunk::Trailers
                | Chunk::Trailer
                | Chunk::End => {
                    self.state = self.after(bytes[at]);
                    at += 1;
                }
            }
        }
        at
    }

    fn after(&mut self, byte: u8) -> Chunk {
        match (self.state, byte) {
            (Chunk::Size | Chunk::Extension, b'\n') => match self.size {
                0 => Chunk::Trailers,
                _ => Chunk::Data,
            },
            (Chunk::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                match self.size.checked_mul(16) {
                    Some(size) => {
                        self.size = size | u64::from(digit);
                        Chunk::Size
                    }
                    None => Chunk::Lost,
                }
            }
            (Chunk::Size, b'\r' | b' ' | b'\t' | b';') | (Chunk::Extension, _) => Chunk::Extension,
            (Chunk::DataEnd, b'\r') => Chunk::DataEnd,
            (Chunk::DataEnd, b'\n') => Chunk::Size,
            (Chunk::Trailers, b'\r') => Chunk::Trailers,
            (Chunk::Trailers, b'\n') => Chunk::End,
            (Chunk::Trailer, b'\n') => Chunk::Trailers,
            (Chunk::Trailers | Chunk::Trailer, _) => Chunk::Trailer,
            (Chunk::Size | Chunk::DataEnd | Chunk::Data | Chunk::End | Chunk::Lost, _) => {
                Chunk::Lost
            }
        }
    }
}

#[cfg(test)]
mod random;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refused(head: &str) -> HeadError {
        inspect(head.as_bytes()).unwrap_err()
    }

    fn target(target: &str) -> Option<HeadError> {
        inspect(format!("GET {target} HTTP/1.1\r\n\r\n").as_bytes()).err()
    }

    /// How many bytes of a connection belong to its first request, the same for every split into
    /// reads.
    fn first_request(bytes: &[u8]) -> Option<usize> {
        let message = inspect(bytes).unwrap()?;
        let mut at_once = message.clone();
        let taken = at_once.take(bytes);
        let mut in_pieces = message;
        let by_piece: usize = bytes.iter().map(|byte| in_pieces.take(&[*byte])).sum();
        assert_eq!((taken, at_once.is_whole()), (by_piece, in_pieces.is_whole()));
        at_once.is_whole().then_some(taken)
    }

    #[test]
    fn targets_are_taken_as_they_stand_or_not_at_all() {
        for good in [
            "/kv/b/k?r=1&n=2",
            "/kv/b/%23",
            "/kv/b/a+b'c()*,;:@!$~",
            "/kv/b/ü",
            "/kv/b/{a}|\"b\"",
            "*",
            "http://other/livez",
        ] {
            assert_eq!(target(good), None, "{good}");
        }
        let wrong = |bad: &str, what: &str| match target(bad) {
            Some(HeadError::Target(why)) => assert!(why.contains(what), "{bad}: {why}"),
            other => panic!("{bad}: {other:?}"),
        };
        wrong("/kv/b/user#1", "%23");
        wrong("/kv/b/user#", "%23");
        wrong("/kv/b/k?r=1#x", "%23");
        wrong("#", "%23");
        wrong("http://x/kv/b/k#1", "%23");
        wrong("/kv/b/a b", "a space");
        wrong("/kv/b/a b c", "a space");
        wrong("/kv/b/<", "'<'");
        wrong("/kv/b/`", "'`'");
        wrong("/kv/b/k?prefix=<", "'<'");
        wrong("kv/b/k^", "'^'");
        assert_eq!(
            inspect(b"GET /\xff HTTP/1.1\r\n\r\n").err(),
            Some(HeadError::Target(must_be_escaped("a byte that is not UTF-8")))
        );
        let long = format!("/{}", "k".repeat(TARGET_BYTES_MAX));
        assert_eq!(target(&long), Some(HeadError::TargetTooLong(TARGET_BYTES_MAX)));
    }

    #[test]
    fn heads_are_bounded_and_named() {
        let many = "X: y\r\n".repeat(HEADERS_MAX + 1);
        let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(refused(&many), HeadError::TooManyHeaders(HEADERS_MAX));
        let large = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(refused(&large), HeadError::TooLarge(HEAD_BYTES_MAX));
        assert_eq!(refused(&format!("{large}\r\n\r\n")), HeadError::TooLarge(HEAD_BYTES_MAX));
        let endless = format!("GET /{}", "k".repeat(HEAD_BYTES_MAX));
        assert_eq!(refused(&endless), HeadError::TargetTooLong(TARGET_BYTES_MAX));
        for garbage in ["\u{16}\u{3}\u{1}", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\r\n\r\n"] {
            assert!(matches!(refused(garbage), HeadError::Malformed(_)), "{garbage:?}");
        }
        for header in [
            "X\0Y: 1",
            "X: \u{1}",
            "Content-Length: -1",
            "Content-Length: ",
            "Content-Length: 99999999999999999999999",
            "Content-Length: 1\r\nContent-Length: 2",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        ] {
            let head = format!("PUT / HTTP/1.1\r\n{header}\r\n\r\n");
            assert!(matches!(refused(&head), HeadError::Malformed(_)), "{header:?}");
        }
        let old = "PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(matches!(refused(old), HeadError::Malformed(_)));
    }

    #[test]
    fn a_request_ends_where_its_body_does() {
        let next = "GET /next HTTP/1.1\r\n\r\n";
        for request in [
            "GET / HTTP/1.1\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\n\n",
            "PUT / HTTP/1.1\r\ncontent-length: 5\r\n\r\n12345",
            "PUT / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nGET /",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\n12345\r\nA;x=y\r\n0123456789\r\n\
             00\r\n\r\n",
            "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\n\n\r\n0\r\nX: y\r\nZ: 0\r\n\r\n",
        ] {
            let all = format!("{request}{next}");
            assert_eq!(first_request(all.as_bytes()), Some(request.len()), "{request:?}");
            for end in 0..request.len() {
                let whole = first_request(&request.as_bytes()[..end]);
                assert_eq!(whole, None, "{:?}", &request[..end]);
            }
        }
    }

    #[test]
    fn what_is_not_chunked_never_ends() {
        for body in ["xyz\r\n", "5\r\n12345x", "ffffffffffffffffff\r\n"] {
            let bytes = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /#");
            let mut message = inspect(bytes.as_bytes()).unwrap().unwrap();
            assert_eq!(message.take(bytes.as_bytes()), bytes.len(), "{body:?}");
            assert!(!message.is_whole());
        }
    }

    #[test]
    fn the_end_of_a_head_is_seen() {
        for end in ["a\r\n\r\nb", "a\n\nb", "\n\r\n"] {
            assert!(may_end_head(end.as_bytes()), "{end:?}");
        }
        for no_end in ["", "\n", "a\r\n\r", "a\nb\r\n", "\r\n"] {
            assert!(!may_end_head(no_end.as_bytes()), "{no_end:?}");
        }
    }
}
