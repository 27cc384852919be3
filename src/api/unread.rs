//! Tracks whether a request's body was read to its end.
//!
//! Until it was, the connection cannot be reused. A response sent without reading the body (a
//! rejection to a client that waits for `100 Continue`) therefore ends the connection, and must
//! announce that.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

/// Observes one body.
#[derive(Clone, Default)]
pub(super) struct Unread {
    is_read: Arc<AtomicBool>,
}

impl Unread {
    /// Wraps a body to observe its end.
    pub(super) fn watch<B>(&self, body: B) -> Watched<B> {
        Watched { body, is_read: self.is_read.clone() }
    }

    /// Whether the end has not been read.
    pub(super) fn is_so(&self) -> bool {
        !self.is_read.load(Ordering::Relaxed)
    }
}

/// A body that reports its end.
pub(super) struct Watched<B> {
    body: B,
    is_read: Arc<AtomicBool>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || (matches!(frame, Some(Ok(_))) && self.body.is_end_stream()) {
            self.is_read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
