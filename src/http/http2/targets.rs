//! Finds targets with a `#`. The HTTP/2 library drops it and everything after it, as `http::Uri` does, so
//! that the request would be about another key; and it tells no one
//! (docs/decisions/0015-heads-before-hyper.md).
//!
//! Heads are compressed against those before them, so that all must be read: by the same library's decoder, a
//! second time, beside what the connection reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream as _;
use h2::Codec;
use h2::frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::http::framing::HEAD_BYTES_MAX;

/// What is wrong with such a target.
pub(super) const FRAGMENT: &str = "a request on this connection had a # in its target, which must be written \
    %23; nothing was done, and the connection takes no more requests";
/// What a client sends first (RFC 9113, 3.4), in bytes.
const PREFACE_BYTES: usize = 24;
/// The head of a frame (RFC 9113, 4.1), in bytes: its length in three, and its type in the next.
const FRAME_HEAD_BYTES: usize = 9;
/// The types of frames that carry heads: HEADERS and CONTINUATION.
const HEADERS: [u8; 2] = [0x1, 0x9];

/// Whether a target of a connection had a fragment. Which one is not known where requests are answered, so
/// that all that come after it are refused.
#[derive(Clone, Default)]
pub(super) struct Fragments(CancellationToken);

impl Fragments {
    /// Whether one had.
    pub(super) fn are_found(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until one has.
    pub(super) async fn found(&self) {
        self.0.cancelled().await;
    }
}

/// A connection whose targets are looked at before they are passed on.
pub(super) struct Targets<S> {
    stream: S,
    frames: Frames,
    fragments: Fragments,
}

impl<S> Targets<S> {
    /// At the start of a connection.
    pub(super) fn new(stream: S, fragments: Fragments) -> Self {
        Self { stream, frames: Frames::new(), fragments }
    }
}

/// The frames that have come in.
struct Frames {
    /// What is left of the preface, and of the frame that is being received, in bytes.
    preface_left: usize,
    payload_left: usize,
    /// The part of a frame's head that has arrived.
    head: BytesMut,
    is_headers: bool,
    decoder: Codec<Fed, Bytes>,
}

impl Frames {
    fn new() -> Self {
        let mut decoder = Codec::new(Fed::default());
        decoder.set_max_recv_header_list_size(HEAD_BYTES_MAX);
        let head = BytesMut::with_capacity(FRAME_HEAD_BYTES);
        Self { preface_left: PREFACE_BYTES, payload_left: 0, head, is_headers: false, decoder }
    }

    /// Receives bytes. Returns whether a target in a head that is complete now has a fragment.
    ///
    /// # Errors
    /// If a head cannot be decoded: what comes after it could not be, either.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let mut is_found = false;
        let preface = self.preface_left.min(bytes.len());
        self.preface_left -= preface;
        bytes.advance(preface);
        while !bytes.is_empty() {
            if self.payload_left == 0 {
                let part = (FRAME_HEAD_BYTES - self.head.len()).min(bytes.len());
                self.head.extend_from_slice(&bytes[..part]);
                bytes.advance(part);
                let [a, b, c, kind, ..] = self.head[..] else { continue };
                if self.head.len() < FRAME_HEAD_BYTES {
                    continue;
                }
                self.payload_left = u32::from_be_bytes([0, a, b, c]) as usize;
                self.is_headers = HEADERS.contains(&kind);
                if self.is_headers {
                    self.decoder.get_mut().0.extend_from_slice(&self.head);
                }
                self.head.clear();
            }
            let part = self.payload_left.min(bytes.len());
            self.payload_left -= part;
            if self.is_headers {
                self.decoder.get_mut().0.extend_from_slice(&bytes[..part]);
                is_found |= self.decode()?;
            }
            bytes.advance(part);
        }
        Ok(is_found)
    }

    fn decode(&mut self) -> io::Result<bool> {
        let mut is_found = false;
        let mut context = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut self.decoder).poll_next(&mut context) {
            match frame.map_err(h2::Error::from) {
                Ok(Frame::Headers(head)) => {
                    let path = head.into_parts().0.path;
                    is_found |= path.is_some_and(|path| path.contains('#'));
                }
                Ok(_) => {}
                // Of one request, which the connection refuses, too.
                Err(error) if error.is_reset() => {}
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            }
        }
        Ok(is_found)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Targets<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = out.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
        if this.frames.take(&out.filled()[start..])? {
            this.fragments.0.cancel();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Targets<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// What the decoder reads: bytes that were put there.
#[derive(Default)]
struct Fed(BytesMut);

impl AsyncRead for Fed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending; // it is asked again when there is more
        }
        let part = self.0.len().min(out.remaining());
        out.put_slice(&self.0.split_to(part));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Fed {
    /// Nothing is written: it only decodes.
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
