//! The head of an answer: parses it and determines the body's length. Two lengths, an unknown
//! coding or an invalid number are errors: guessing would misread the answers that follow. Source:
//! RFC 9112, section 6.3.

use std::ops::Range;

use crate::http::Error;

/// The most header fields of an answer.
const HEADERS_MAX: usize = 64;

/// The ranges of the name and the value of a header in the input.
pub(crate) type HeaderRanges = (Range<usize>, Range<usize>);

/// How the end of a body is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// The head of an answer, parsed.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// The length of the head itself.
    pub(crate) bytes: usize,
    pub(crate) framing: Framing,
    /// Whether the connection may be reused.
    pub(crate) keep_alive: bool,
}

/// Parses a head if it is complete, and stores the ranges of its headers in `ranges`.
pub(crate) fn parse_head(
    input: &[u8],
    ranges: &mut Vec<HeaderRanges>,
    method: &str,
) -> Result<Option<Head>, Error> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    let bytes = match answer.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Error::Malformed("head")),
    };
    let status = answer.code.ok_or(Error::Malformed("status"))?;
    let base = input.as_ptr() as usize;
    let range = |part: &[u8]| {
        let start = part.as_ptr() as usize - base;
        start..start + part.len()
    };
    ranges.clear();
    ranges.extend(answer.headers.iter().map(|it| (range(it.name.as_bytes()), range(it.value))));
    let mut keep_alive = answer.version == Some(1);
    for header in answer.headers.iter().filter(|it| it.name.eq_ignore_ascii_case("connection")) {
        keep_alive &= !header.value.eq_ignore_ascii_case(b"close");
    }
    let framing = match (method, status) {
        ("HEAD", _) | (_, 100..=199 | 204 | 304) => Framing::Length(0),
        _ => framing(answer.headers)?,
    };
    keep_alive &= framing != Framing::UntilClose;
    Ok(Some(Head { status, bytes, framing, keep_alive }))
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, Error> {
    let mut found = None;
    for header in headers {
        let framing = if header.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(header.value).unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
                return Err(Error::Malformed("Content-Length"));
            }
            Framing::Length(digits.parse().map_err(|_| Error::Malformed("Content-Length"))?)
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !header.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Error::Malformed("Transfer-Encoding"));
            }
            Framing::Chunked
        } else {
            continue;
        };
        if found.replace(framing).is_some_and(|before| before != framing) {
            return Err(Error::Malformed("two lengths"));
        }
    }
    Ok(found.unwrap_or(Framing::UntilClose))
}
