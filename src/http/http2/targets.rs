//! Finds targets with a `#`. The HTTP/2 library drops it and everything after it, as `http::Uri` does, so
//! that the request would be about another key; and it tells no one
//! (docs/decisions/0015-heads-before-hyper.md).
//!
//! Heads are compressed against those before them, so that all must be read: by the same library's decoder, a
//! second time, beside what the connection reads.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream as _;
use h2::Codec;
use h2::frame::Frame;
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, Sink, join, sink};
use tokio_util::io::InspectReader;
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
pub(super) fn watched<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    fragments: Fragments,
) -> impl AsyncRead + AsyncWrite + Unpin {
    let mut frames = Frames::new();
    InspectReader::new(stream, move |bytes: &[u8]| {
        if !fragments.are_found() && frames.take(bytes) {
            fragments.0.cancel();
        }
    })
}

/// The frames that have come in.
struct Frames {
    /// What is left of the preface, and of the frame that is being received, in bytes.
    preface_left: usize,
    payload_left: usize,
    /// The part of a frame's head that has arrived.
    head: BytesMut,
    is_headers: bool,
    decoder: Codec<Join<Fed, Sink>, Bytes>,
}

impl Frames {
    fn new() -> Self {
        let mut decoder = Codec::new(join(Fed::default(), sink())); // it only reads
        decoder.set_max_recv_header_list_size(HEAD_BYTES_MAX);
        let head = BytesMut::with_capacity(FRAME_HEAD_BYTES);
        Self { preface_left: PREFACE_BYTES, payload_left: 0, head, is_headers: false, decoder }
    }

    /// Receives bytes. Returns whether a target in a head that is complete now has a fragment, or cannot be
    /// told: then no later one can be, either.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
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
                    self.decoder.get_mut().reader_mut().0.extend_from_slice(&self.head);
                }
                self.head.clear();
            }
            let part = self.payload_left.min(bytes.len());
            self.payload_left -= part;
            if self.is_headers {
                self.decoder.get_mut().reader_mut().0.extend_from_slice(&bytes[..part]);
                is_found |= self.decode();
            }
            bytes.advance(part);
        }
        is_found
    }

    fn decode(&mut self) -> bool {
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
                Err(_) => return true, // the connection ends by it, too
            }
        }
        is_found
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
