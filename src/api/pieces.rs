//! Response bodies that are produced while they are sent: the text around large values, and the
//! values straight from memory, escaped or encoded on the fly. A response thus needs no copy of its
//! values.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};

use quorate_engine::limits::sizes::LARGE_BYTES;

/// The most input bytes of one piece. A multiple of three, so that base64 needs no padding between
/// pieces.
const PIECE_BYTES: usize = 48 << 10;

/// A section of a body.
pub(super) enum Piece {
    /// Sent unchanged.
    Plain(Bytes),
    /// UTF-8 that becomes part of a JSON string.
    Text(Bytes),
    /// Bytes that become part of a JSON string as base64.
    Base64(Bytes),
}

impl Piece {
    /// Its encoded length in the body, in bytes.
    fn len(&self) -> u64 {
        match self {
            Self::Plain(bytes) => bytes.len() as u64,
            Self::Text(bytes) => bytes.iter().map(|byte| escaped_len(*byte)).sum(),
            Self::Base64(bytes) => bytes.len().div_ceil(3) as u64 * 4,
        }
    }

    /// Takes off the next piece to send; `None` if nothing is left.
    fn next(&mut self) -> Option<Bytes> {
        let (Self::Plain(bytes) | Self::Text(bytes) | Self::Base64(bytes)) = &mut *self;
        if bytes.is_empty() {
            return None;
        }
        let mut end = PIECE_BYTES.min(bytes.len());
        let in_character = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 0xc0 == 0x80);
        match self {
            Self::Plain(bytes) => Some(bytes.split_to(end)),
            Self::Text(bytes) => {
                while in_character(bytes.get(end)) {
                    end -= 1; // at most three times: it is UTF-8
                }
                let text = bytes.split_to(end);
                let quoted = json!(String::from_utf8_lossy(&text)).to_string();
                let len = quoted.len();
                Some(Bytes::from(quoted).slice(1..len - 1))
            }
            Self::Base64(bytes) => Some(STANDARD.encode(bytes.split_to(end)).into()),
        }
    }
}

/// The length of a byte of UTF-8 in a JSON string.
fn escaped_len(byte: u8) -> u64 {
    match byte {
        b'"' | b'\\' | 8 | 9 | 10 | 12 | 13 => 2,
        0..0x20 => 6,
        0x20.. => 1,
    }
}

/// A body made of pieces.
pub(super) struct Pieces {
    left: VecDeque<Piece>,
    len: u64,
}

impl Pieces {
    /// Builds the body.
    pub(super) fn body(pieces: impl IntoIterator<Item = Piece>) -> Body {
        let left: VecDeque<Piece> = pieces.into_iter().collect();
        let len = left.iter().map(Piece::len).sum();
        Body::new(Self { left, len })
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while let Some(first) = self.left.front_mut() {
            if let Some(bytes) = first.next() {
                self.len -= bytes.len() as u64;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            self.left.pop_front();
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.len == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}

/// Large values of a JSON response, in order of appearance. The text holds only placeholders for
/// them.
pub(super) struct Later {
    /// The placeholder: random per response, so no stored value contains it.
    mark: String,
    pieces: Vec<Piece>,
}

impl Later {
    pub(super) fn new() -> Self {
        Self { mark: format!("{:032x}", rand::random::<u128>()), pieces: Vec::new() }
    }

    /// A value as text, or as base64 (then `true`), inline or as a placeholder.
    pub(super) fn value(&mut self, value: &Bytes) -> (Value, bool) {
        let text = std::str::from_utf8(value);
        let is_base64 = text.is_err();
        if value.len() > LARGE_BYTES {
            let piece = if is_base64 { Piece::Base64 } else { Piece::Text };
            self.pieces.push(piece(value.clone()));
            return (json!(self.mark), is_base64);
        }
        let value = text.map_or_else(|_| json!(STANDARD.encode(value)), |text| json!(text));
        (value, is_base64)
    }

    /// The body of a JSON response, with a trailing newline for terminals.
    pub(super) fn body(self, value: &Value) -> Body {
        let text = Bytes::from(format!("{value}\n"));
        if self.pieces.is_empty() {
            return Body::from(text);
        }
        let whole = String::from_utf8_lossy(&text);
        let mut marks = whole.match_indices(&self.mark);
        let mut all = Vec::with_capacity(2 * self.pieces.len() + 1);
        let mut from = 0;
        for piece in self.pieces {
            let Some((at, _)) = marks.next() else { break };
            all.push(Piece::Plain(text.slice(from..at)));
            all.push(piece);
            from = at + self.mark.len();
        }
        all.push(Piece::Plain(text.slice(from..)));
        Pieces::body(all)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn sent(body: Body) -> Vec<u8> {
        let announced = body.size_hint().exact();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(announced, Some(bytes.len() as u64));
        bytes.to_vec()
    }

    /// Values of all kinds, small and large: deferred output equals inline output.
    #[tokio::test]
    async fn what_comes_later_reads_as_if_it_had_come_at_once() {
        let odd = "a\u{1}\n\"\\\t\u{7f}ü€𝄞/".repeat(20_000);
        let values: Vec<Bytes> = vec![
            Bytes::from("small"),
            Bytes::from(odd),
            Bytes::from(vec![0xff; LARGE_BYTES + 1]),
            Bytes::new(),
            Bytes::from((0..300_001).map(|i| (i % 251) as u8).collect::<Vec<_>>()),
            Bytes::from("x".repeat(LARGE_BYTES + 1)),
        ];
        let mut later = Later::new();
        let shown: Vec<Value> = values.iter().map(|value| later.value(value).0).collect();
        assert_eq!(later.pieces.len(), 4);
        let body = sent(later.body(&json!({"values": shown}))).await;
        assert_eq!(body.last(), Some(&b'\n'));
        let read: Value = serde_json::from_slice(&body).unwrap();
        for (value, read) in values.iter().zip(read["values"].as_array().unwrap()) {
            let read = read.as_str().unwrap();
            match std::str::from_utf8(value) {
                Ok(text) => assert!(read == text),
                Err(_) => assert!(STANDARD.decode(read).unwrap() == *value),
            }
        }
    }

    #[tokio::test]
    async fn pieces_follow_each_other() {
        let plain = |text: &'static str| Piece::Plain(Bytes::from_static(text.as_bytes()));
        let body = Pieces::body([plain("a"), plain(""), Piece::Text("\"".into()), plain("b")]);
        assert_eq!(sent(body).await, b"a\\\"b");
        assert_eq!(sent(Pieces::body([])).await, b"");
    }
}
