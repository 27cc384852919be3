//! Whether a client takes what it has asked for. HTTP/2 has windows of its own: the connection may be read
//! while one response is not, so that a limit on writes to the socket is not enough.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, sleep, sleep_until};

tokio::task_local! {
    /// That of the request whose task runs.
    static PACE: Arc<Pace>;
}

/// Runs the work of a request, whose response is watched.
pub(super) async fn along(pace: Arc<Pace>, work: impl Future<Output = ()>) {
    PACE.scope(pace, work).await;
}

/// How a response is taken.
#[derive(Default)]
pub(super) struct Pace {
    /// Since when a part of it waits to be taken.
    waits: Mutex<Option<Instant>>,
}

impl Pace {
    fn set(&self, waits: Option<Instant>) {
        *self.waits.lock().unwrap_or_else(PoisonError::into_inner) = waits;
    }

    /// Waits until a part of the response was not taken for so long.
    pub(super) async fn stalled_for(&self, stall: Duration) {
        loop {
            let waits = *self.waits.lock().unwrap_or_else(PoisonError::into_inner);
            match waits.map(|since| since + stall) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => sleep_until(due).await,
                None => sleep(stall).await,
            }
        }
    }
}

/// The largest part that is given at a time, in bytes. hyper waits until the client has room for some of a
/// part, and then hands over all of it: once the last one is, the client is not waited for any more.
const PART_BYTES_MAX: usize = 16 << 10;

/// A response's body, in small parts.
pub(super) struct Paced {
    body: Body,
    /// What is left of the last frame of `body`.
    rest: Bytes,
    pace: Option<Arc<Pace>>,
}

impl Paced {
    /// Watches a response, in the task of its request.
    pub(super) fn of(response: Response) -> Response<Self> {
        let pace = PACE.try_with(Arc::clone).ok();
        response.map(|body| {
            let watched = Self { body, rest: Bytes::new(), pace };
            // The head was given: from now on the client is waited for.
            watched.note(Some(Instant::now()));
            watched
        })
    }

    fn note(&self, waits: Option<Instant>) {
        if let Some(pace) = &self.pace {
            pace.set(waits);
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = Pin::new(&mut self.body).poll_frame(cx);
            // What is not there yet is not the client's to take.
            self.note(frame.is_ready().then(Instant::now));
            match ready!(frame) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => return Poll::Ready(ended),
            }
        } else {
            self.note(Some(Instant::now()));
        }
        let part = self.rest.len().min(PART_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        // In this order: the upper bound may not be below the lower one.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}
