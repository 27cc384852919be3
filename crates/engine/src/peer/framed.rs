//! Frames on a byte stream between two nodes (`protocol::envelope`). Writing a frame takes one
//! system call; reading a small one takes one too. Timeouts are up to the caller.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use quorate_protocol::envelope::{self, Kind, PREFIX_BYTES};
use quorate_protocol::name::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::config::Config;

/// How long a peer's connection may be idle, in milliseconds; longer than the limit on the sending
/// side, so that no request meets a connection that is just being closed.
pub const IDLE_MS: u64 = 120_000;

/// Read-ahead buffer: most frames arrive with one read, and a short read shows that nothing more is
/// buffered.
const READ_AHEAD_BYTES: usize = 16 << 10;
/// With less free space than this the buffer grows before a read.
const ROOM_BYTES_MIN: usize = 4 << 10;
/// A buffer that a large frame has grown beyond this is freed.
const KEPT_BYTES_MAX: usize = 64 << 10;
/// Largest single write, in bytes: a slow receiver then shows progress between writes.
const WRITTEN_BYTES_MAX: usize = 256 << 10;
/// A transfer slower than this in the long run counts as stalled, in bytes a second.
pub const PACE_BYTES_MIN: u64 = 32 << 10;

/// Allowance for everything in a frame besides one message's payload, in bytes.
pub const AROUND_BYTES: usize = 64 << 10;

/// The longest frame that a node accepts, on a stream or in a POST, in bytes.
pub fn frame_bytes_max(config: &Config) -> usize {
    // Repair may carry more siblings than a client write may leave, so the limit is above the
    // client's.
    let bytes_max = 2 * config.limits.object_bytes_max + config.peers.batch_bytes_max + (1 << 20);
    bytes_max.min(u32::MAX as usize)
}

/// The longest payload of one reply.
pub fn payload_bytes_max(config: &Config) -> usize {
    frame_bytes_max(config) - AROUND_BYTES
}

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other end closed the stream between two frames.
    #[error("the stream was closed")]
    Closed,
    /// The other end closed the stream in the middle of a frame.
    #[error("the stream was closed in the middle of a frame")]
    CutOff,
    /// The announced length exceeds the limit.
    #[error("the frame is too large: {len} bytes, the limit is {max}")]
    TooLarge {
        /// The announced length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The announced kind is unknown.
    #[error("a frame of an unknown kind")]
    UnknownKind,
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How many bytes a stream has moved, in either direction, and when it last did. Timeouts watch
/// this while the stream is busy.
#[derive(Clone, Debug)]
pub struct Moves(Arc<Moved>);

#[derive(Debug)]
struct Moved {
    begun: Instant,
    bytes: AtomicU64,
    /// Microseconds after `begun`.
    last_us: AtomicU64,
}

impl Moves {
    fn new() -> Self {
        let (bytes, last_us) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Moved { begun: Instant::now(), bytes, last_us }))
    }

    fn moved(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Relaxed);
        self.0.last_us.store(self.0.begun.elapsed().as_micros() as u64, Relaxed);
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// When bytes last moved.
    pub fn last(&self) -> Instant {
        self.0.begun + Duration::from_micros(self.0.last_us.load(Relaxed))
    }
}

/// How long `bytes` may take at the slowest acceptable rate ([`PACE_BYTES_MIN`]).
pub fn longest(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1000) / PACE_BYTES_MIN)
}

/// What is known of the node at the other end of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct OtherEnd {
    /// It has proved the cluster's key for this stream.
    pub proved: Option<NodeId>,
    /// Its certificate names it; `None` without TLS.
    pub shown: Option<NodeId>,
}

/// One end of a stream of frames.
pub struct Stream<S> {
    io: S,
    received: BytesMut,
    frame_bytes_max: usize,
    /// Whether the other end is authenticated: only then are announced lengths trusted.
    is_known: bool,
    end: OtherEnd,
    /// The protocol version of its frames; 0 until the ends have agreed on one.
    protocol: u16,
    moves: Moves,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream<S> {
    /// Frames on `io`; a longer one than `frame_bytes_max` is refused.
    pub fn new(io: S, frame_bytes_max: usize) -> Self {
        let (received, is_known, end) = (BytesMut::new(), false, OtherEnd::default());
        Self { io, received, frame_bytes_max, is_known, end, protocol: 0, moves: Moves::new() }
    }

    /// The other end is authenticated: from now on buffers are allocated for the length it
    /// announces.
    pub fn trust(&mut self) {
        self.is_known = true;
    }

    /// Whether the other end is authenticated.
    pub fn is_trusted(&self) -> bool {
        self.is_known
    }

    /// The other end, which says that it is this node, has proved the cluster's key.
    pub fn has_proved(&mut self, node: NodeId) {
        self.end.proved = Some(node);
    }

    /// The other end showed a certificate of this node, and has its key.
    pub fn showed(&mut self, node: NodeId) {
        self.end.shown = Some(node);
    }

    /// What is known of the node at the other end.
    pub fn other_end(&self) -> OtherEnd {
        self.end
    }

    /// The ends have agreed on a protocol version.
    pub fn agree(&mut self, protocol: u16) {
        self.protocol = protocol;
    }

    /// The protocol version of the stream's frames; 0 until the ends have agreed on one.
    pub fn protocol(&self) -> u16 {
        self.protocol
    }

    /// The stream's transfer counters.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// Whether the other end is silent, as it must be until it is sent a frame: it has neither
    /// closed the stream nor sent anything unsolicited. Costs no system call unless something has
    /// arrived.
    pub fn is_silent(&mut self) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        // Nothing waits here, so there is no task to wake.
        let mut context = Context::from_waker(Waker::noop());
        let read = Pin::new(&mut self.io).poll_read(&mut context, &mut byte);
        read.is_pending()
    }

    /// Writes a frame with its prefix.
    pub async fn write(&mut self, enveloped: &[u8]) -> io::Result<()> {
        for mut piece in enveloped.chunks(WRITTEN_BYTES_MAX) {
            while !piece.is_empty() {
                let written = self.io.write(piece).await?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.moves.moved(written);
                piece = &piece[written..];
            }
        }
        self.io.flush().await
    }

    /// Waits until the next frame begins. Cancel-safe.
    pub async fn wait(&mut self) -> Result<(), StreamError> {
        if self.received.is_empty() { self.fill(PREFIX_BYTES).await } else { Ok(()) }
    }

    /// The kind and length that the next frame announces, without consuming it. Cancel-safe.
    pub async fn announced(&mut self) -> Result<(Kind, usize), StreamError> {
        let prefix = loop {
            match self.received.first_chunk::<PREFIX_BYTES>() {
                Some(prefix) => break *prefix,
                None => self.fill(PREFIX_BYTES - self.received.len()).await?,
            }
        };
        let (kind, len) = envelope::parse(prefix).ok_or(StreamError::UnknownKind)?;
        if len > self.frame_bytes_max {
            return Err(StreamError::TooLarge { len, max: self.frame_bytes_max });
        }
        Ok((kind, len))
    }

    /// The first `len` bytes of the next frame, or all of it if it is shorter. Cancel-safe.
    pub async fn peek(&mut self, len: usize) -> Result<&[u8], StreamError> {
        let (_, whole) = self.announced().await?;
        let end = PREFIX_BYTES + len.min(whole);
        while self.received.len() < end {
            self.fill(end - self.received.len()).await?;
        }
        Ok(&self.received[PREFIX_BYTES..end])
    }

    /// Reads the next frame; it shares the buffer it was read into. Cancel-safe.
    pub async fn read(&mut self) -> Result<(Kind, Bytes), StreamError> {
        let (kind, len) = self.announced().await?;
        let end = PREFIX_BYTES + len;
        while self.received.len() < end {
            self.fill(end - self.received.len()).await?;
        }
        let mut frame = self.received.split_to(end);
        frame.advance(PREFIX_BYTES);
        if end > KEPT_BYTES_MAX {
            self.received = BytesMut::from(&self.received[..]);
        }
        Ok((kind, frame.freeze()))
    }

    /// Reads once. The buffer grows by what is missing, but for an unauthenticated sender only by
    /// as much as has already arrived: a length costs nothing to claim.
    async fn fill(&mut self, missing: usize) -> Result<(), StreamError> {
        let believed = if self.is_known { missing } else { self.received.len() };
        let room = self.received.capacity() - self.received.len();
        if room < missing.min(believed).max(ROOM_BYTES_MIN) {
            let most = believed.max(READ_AHEAD_BYTES);
            self.received.reserve(missing.clamp(READ_AHEAD_BYTES, most));
        }
        let is_between = self.received.is_empty();
        match self.io.read_buf(&mut self.received).await? {
            0 if is_between => Err(StreamError::Closed),
            0 => Err(StreamError::CutOff),
            read => {
                self.moves.moved(read);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const FRAME_BYTES_MAX: usize = 1 << 20;

    fn pair() -> (Stream<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(1 << 16);
        (Stream::new(near, FRAME_BYTES_MAX), far)
    }

    fn enveloped(frame: &[u8]) -> Vec<u8> {
        [&envelope::prefix(Kind::Frame, frame.len())[..], frame].concat()
    }

    #[tokio::test]
    async fn frames_come_back_however_they_are_cut() {
        for cut in [1, 2, 3, 7, 1000, 1 << 20] {
            let (mut stream, mut far) = pair();
            let frames: Vec<Vec<u8>> =
                [0, 1, 40, 5000, 300_000, 3].map(|len| vec![len as u8; len]).into();
            let bytes: Vec<u8> = frames.iter().flat_map(|frame| enveloped(frame)).collect();
            let writing = tokio::spawn(async move {
                for piece in bytes.chunks(cut) {
                    far.write_all(piece).await.unwrap();
                }
            });
            for frame in frames {
                assert_eq!(
                    stream.read().await.unwrap(),
                    (Kind::Frame, Bytes::from(frame)),
                    "{cut}"
                );
            }
            writing.await.unwrap();
            assert!(matches!(stream.read().await, Err(StreamError::Closed)));
        }
    }

    #[tokio::test]
    async fn a_silent_end_is_told_from_one_that_closed_or_speaks_out_of_turn() {
        let (mut stream, mut far) = pair();
        assert!(stream.is_silent());
        stream.write(&enveloped(b"question")).await.unwrap();
        far.write_all(&enveloped(b"answer")).await.unwrap();
        assert_eq!(&stream.read().await.unwrap().1[..], b"answer");
        assert!(stream.is_silent());
        far.write_all(b"x").await.unwrap();
        assert!(!stream.is_silent());

        let (mut stream, mut far) = pair();
        far.write_all(&[enveloped(b"answer"), enveloped(b"another")].concat()).await.unwrap();
        stream.read().await.unwrap();
        assert!(!stream.is_silent(), "more was read than was asked for");

        let (mut stream, far) = pair();
        drop(far);
        assert!(!stream.is_silent());
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        let (mut stream, mut far) = pair();
        far.write_all(&envelope::prefix(Kind::Frame, FRAME_BYTES_MAX + 1)).await.unwrap();
        let error = stream.read().await.unwrap_err();
        assert!(matches!(error, StreamError::TooLarge { .. }), "{error}");

        let (mut stream, mut far) = pair();
        far.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        assert!(matches!(stream.read().await, Err(StreamError::UnknownKind)));

        for len in [3, PREFIX_BYTES, 100] {
            let (mut stream, mut far) = pair();
            far.write_all(&enveloped(&[7; 200])[..len]).await.unwrap();
            drop(far);
            assert!(matches!(stream.read().await, Err(StreamError::CutOff)), "{len}");
        }
    }

    #[tokio::test]
    async fn memory_follows_what_came_and_not_what_was_claimed() {
        let (mut stream, mut far) = pair();
        far.write_all(&envelope::prefix(Kind::Frame, FRAME_BYTES_MAX)).await.unwrap();
        far.write_all(&[0; 1000]).await.unwrap();
        assert!(futures_util::poll!(std::pin::pin!(stream.read())).is_pending());
        assert!(stream.received.capacity() <= 2 * READ_AHEAD_BYTES, "a claim alone");

        let (mut stream, mut far) = pair();
        let large = enveloped(&vec![7; FRAME_BYTES_MAX]);
        let writing = tokio::spawn(async move { far.write_all(&large).await.map(|()| far) });
        assert_eq!(stream.read().await.unwrap().1.len(), FRAME_BYTES_MAX);
        assert_eq!(stream.received.capacity(), 0, "nothing is kept of a large frame's buffer");
        drop(writing.await.unwrap().unwrap());
    }
}
