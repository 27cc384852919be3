//! Answers that hold memory for as long as they are being sent.
//!
//! A value that was read stays charged to its operation until the client has taken it: a large body is
//! handed to the connection piece by piece, and the permit goes with the last piece. Else clients that
//! ask for large values and read slowly would hold memory that nobody counts.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use crate::admission::Permit;

/// Up to this many bytes a body goes out at once, in bytes.
const PIECE_BYTES: usize = 64 << 10;

/// Keeps the permit until the answer's body was sent, if it is large.
pub(super) fn until_sent(answer: Response, permit: Permit) -> Response {
    if answer.body().size_hint().lower() <= PIECE_BYTES as u64 {
        return answer;
    }
    answer.map(|body| Body::new(Held { body, rest: Bytes::new(), _permit: permit }))
}

struct Held {
    body: Body,
    /// Taken from `body`, not yet given on.
    rest: Bytes,
    _permit: Permit,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end @ (Some(Err(_)) | None) => return Poll::Ready(end),
            }
        }
        let piece = PIECE_BYTES.min(self.rest.len());
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.saturating_add(body.lower()));
        if let Some(upper) = body.upper() {
            hint.set_upper(rest.saturating_add(upper));
        }
        hint
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::admission::Admission;

    #[tokio::test]
    async fn a_large_body_goes_out_whole_in_pieces_and_keeps_its_permit_to_the_end() {
        let admission = Admission::with_bounds(1, 1 << 20);
        let value: Vec<u8> = (0..3 * PIECE_BYTES + 1).map(|i| (i % 251) as u8).collect();
        let answer = Response::new(Body::from(value.clone()));
        let mut answer = until_sent(answer, admission.operation().unwrap());
        let mut got = Vec::new();
        while got.len() < value.len() {
            assert_eq!(answer.body().size_hint().exact(), Some((value.len() - got.len()) as u64));
            assert_eq!(admission.operations(), 1);
            let piece = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES);
            got.extend_from_slice(&piece);
        }
        assert!(got == value && answer.body().is_end_stream());
        drop(answer);
        assert_eq!(admission.operations(), 0);
    }

    #[test]
    fn a_small_body_gives_its_permit_back_at_once() {
        let admission = Admission::with_bounds(1, 1 << 20);
        let small = Response::new(Body::from("small"));
        let _answer = until_sent(small, admission.operation().unwrap());
        assert_eq!(admission.operations(), 0);
    }
}
