//! Response bodies that hold memory until they are sent.
//!
//! A large body is handed to the connection in pieces, and the operation stays in flight until the
//! last one. Its bytes stay charged while they are held
//! ([`quorate_engine::limits::admission::Charge::hold`]). Clients that request large values and do not read
//! them must not starve others: when memory is short, bodies from which nothing was read for
//! [`STUCK_AFTER`] are aborted and their connections closed.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

use quorate_engine::limits::admission::{Admission, Permit, Slow};

/// Bodies up to this length are sent as one piece, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// A body from which no piece was read for this long may be aborted when memory is short.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Keeps the permit until the response body is sent, if it is large.
pub(super) fn until_sent(answer: Response, admission: &Admission, permit: Permit) -> Response {
    if answer.body().size_hint().lower() <= PIECE_BYTES as u64 {
        return answer;
    }
    answer.map(|body| {
        let state = State { body: Some(body), rest: Bytes::new(), taken_at: Instant::now() };
        let sending = Arc::new(Sending(Mutex::new(state)));
        admission.watch(&sending);
        Body::new(PermitBody { sending, admission: admission.clone(), _permit: permit })
    })
}

/// The connection's handle to a body.
struct PermitBody {
    sending: Arc<Sending>,
    admission: Admission,
    _permit: Permit,
}

/// The state shared with admission, which may abort it.
struct Sending(Mutex<State>);

struct State {
    /// `None` once aborted.
    body: Option<Body>,
    /// Read from `body`, not yet handed to the connection.
    rest: Bytes,
    taken_at: Instant,
}

impl Sending {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slow for Sending {
    fn give_up_if_stuck(&self) -> bool {
        let mut state = self.lock();
        if state.taken_at.elapsed() < STUCK_AFTER || state.body.is_none() {
            return false;
        }
        (state.body, state.rest) = (None, Bytes::new());
        true
    }
}

impl HttpBody for PermitBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = self.sending.lock();
        state.taken_at = Instant::now();
        while state.rest.is_empty() {
            let Some(body) = &mut state.body else {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => state.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end @ (Some(Err(_)) | None) => return Poll::Ready(end),
            }
        }
        let piece = PIECE_BYTES.min(state.rest.len());
        let piece = state.rest.split_to(piece);
        // A slice that the connection holds keeps the whole value alive. If memory may run short it
        // gets a copy, so that dropping the rest frees memory.
        let piece =
            if self.admission.is_filling() { Bytes::copy_from_slice(&piece) } else { piece };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        let state = self.sending.lock();
        state.rest.is_empty() && state.body.as_ref().is_some_and(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.sending.lock();
        let body = state.body.as_ref().map(HttpBody::size_hint).unwrap_or_default();
        let rest = state.rest.len() as u64;
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

    #[tokio::test]
    async fn a_large_body_goes_out_whole_in_pieces_and_keeps_its_permit_to_the_end() {
        let admission = Admission::with_bounds(1, 1 << 20);
        let value: Vec<u8> = (0..3 * PIECE_BYTES + 1).map(|i| (i % 251) as u8).collect();
        let answer = Response::new(Body::from(value.clone()));
        let mut answer = until_sent(answer, &admission, admission.operation().unwrap());
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
        let _answer = until_sent(small, &admission, admission.operation().unwrap());
        assert_eq!(admission.operations(), 0);
    }

    /// Even while the connection still holds a piece.
    #[tokio::test]
    async fn what_nobody_takes_makes_room_for_others() {
        let admission = Admission::with_bounds(9, 4 << 20);
        let value = admission.charged(Bytes::from(vec![7; 3 << 20])).unwrap();
        let answer = Response::new(Body::from(value));
        let mut answer = until_sent(answer, &admission, admission.operation().unwrap());
        let piece = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(admission.charge(2 << 20).is_err(), "it is being read");
        tokio::time::sleep(STUCK_AFTER).await;
        assert!(admission.charge(2 << 20).is_ok());
        assert!(answer.body_mut().frame().await.unwrap().is_err());
        assert_eq!(piece.len(), PIECE_BYTES);
    }
}
