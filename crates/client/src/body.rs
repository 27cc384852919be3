//! Bodies of writes: bytes, or a stream of known length that is never held as a whole.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::BoxStream;
use http_body::{Body, Frame, SizeHint};

use crate::value::{Metadata, Value};

/// The most bytes handed to the connection at a time, so that progress shows.
const CHUNK_BYTES: usize = 64 << 10;

type Chunks = BoxStream<'static, io::Result<Bytes>>;

/// A value to be written: bytes or a stream, with metadata. Everything that is a [`Value`] becomes one
/// by `into()`.
#[derive(Clone)]
pub struct NewValue {
    pub(crate) metadata: Metadata,
    pub(crate) source: Source,
}

/// Where the bytes come from.
#[derive(Clone)]
pub(crate) enum Source {
    /// All here.
    Bytes(Bytes),
    /// A stream, made for each attempt; `None` when it cannot be made again.
    Stream { length: u64, make: Arc<dyn Fn() -> Option<Chunks> + Send + Sync> },
}

impl NewValue {
    /// A stream of exactly `length` bytes. `make` is called for every attempt, so that a lost write can
    /// be retried; it must give the same bytes every time, as a retry with other bytes is another write.
    ///
    /// ```
    /// # use quorate_client::{NewValue, ReadStream, testing::DevCluster};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let cluster = DevCluster::start()?;
    /// # let files = cluster.client()?.bucket("files");
    /// use bytes::Bytes;
    /// use futures_util::stream;
    ///
    /// let pieces = || stream::iter((0..1024).map(|_| Ok(Bytes::from_static(&[7; 1024]))));
    /// let value = NewValue::stream(1024 * 1024, pieces);
    /// files.put_blind("mebibyte", value).content_type("image/x-sevens").await?;
    ///
    /// if let ReadStream::Value(mut value) = files.get("mebibyte").stream().await? {
    ///     let mut length = 0;
    ///     while let Some(piece) = value.chunk().await? {
    ///         length += piece.len();
    ///     }
    ///     assert_eq!(length, 1024 * 1024);
    /// }
    /// # else { panic!() }
    /// # Ok(())
    /// # }
    /// ```
    pub fn stream<S, F>(length: u64, make: F) -> Self
    where
        F: Fn() -> S + Send + Sync + 'static,
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let make = move || -> Option<Chunks> { Some(Box::pin(make())) };
        let source = Source::Stream { length, make: Arc::new(make) };
        Self { metadata: Metadata::default(), source }
    }

    /// A stream of exactly `length` bytes that exists once: the write is sent once, and not retried
    /// after its first byte was taken.
    pub fn stream_once<S>(length: u64, stream: S) -> Self
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let once: Mutex<Option<Chunks>> = Mutex::new(Some(Box::pin(stream)));
        let make = move || once.lock().unwrap_or_else(PoisonError::into_inner).take();
        let source = Source::Stream { length, make: Arc::new(make) };
        Self { metadata: Metadata::default(), source }
    }

    /// With these instead of its metadata, index entries among it.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }
}

impl fmt::Debug for NewValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.source.length();
        f.debug_struct("NewValue")
            .field("metadata", &self.metadata)
            .field("length", &length)
            .finish()
    }
}

impl<V: Into<Value>> From<V> for NewValue {
    fn from(value: V) -> Self {
        let Value { bytes, metadata } = value.into();
        Self { metadata, source: Source::Bytes(bytes) }
    }
}

impl Source {
    /// No bytes.
    pub(crate) const EMPTY: Self = Self::Bytes(Bytes::new());

    /// How many bytes.
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stream { length, .. } => *length,
        }
    }

    /// The body of one attempt; `None` if there is no other.
    pub(crate) fn body(&self, progress: &Progress) -> Option<reqwest::Body> {
        let rest = match self {
            Self::Bytes(bytes) if bytes.len() <= CHUNK_BYTES => return Some(bytes.clone().into()),
            Self::Bytes(bytes) => Rest::Bytes(bytes.clone()),
            Self::Stream { make, .. } => Rest::Stream(Mutex::new(make()?)),
        };
        Some(reqwest::Body::wrap(Upload::new(self.length(), rest, progress.clone())))
    }
}

/// How the body of an attempt gets on.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<(Instant, Option<String>)>>);

impl Progress {
    /// Begins now.
    pub(crate) fn begin() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), None))))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Instant, Option<String>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it last moved.
    pub(crate) fn last(&self) -> Instant {
        self.lock().0
    }

    /// Why its stream failed, if it did: that is no fault of the node.
    pub(crate) fn failure(&self) -> Option<String> {
        self.lock().1.clone()
    }

    fn moved(&self) {
        self.lock().0 = Instant::now();
    }

    fn failed(&self, error: io::Error) -> io::Error {
        self.lock().1 = Some(error.to_string());
        error
    }
}

/// A body on its way out.
struct Upload {
    /// How many bytes of the stream are still to come.
    left: u64,
    rest: Rest,
    /// The last piece, until the stream has proved to end there.
    held: Option<Bytes>,
    ended: bool,
    progress: Progress,
}

enum Rest {
    Bytes(Bytes),
    /// In a mutex only because a body must be `Sync`: it is never locked.
    Stream(Mutex<Chunks>),
}

impl Upload {
    fn new(length: u64, rest: Rest, progress: Progress) -> Self {
        Self { left: length, rest, held: None, ended: false, progress }
    }

    fn next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match &mut self.rest {
            Rest::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Rest::Bytes(bytes) => {
                Poll::Ready(Some(Ok(bytes.split_to(bytes.len().min(CHUNK_BYTES)))))
            }
            Rest::Stream(chunks) => {
                let chunks = chunks.get_mut().unwrap_or_else(PoisonError::into_inner);
                chunks.as_mut().poll_next(context)
            }
        }
    }

    fn fail(&mut self, error: io::Error) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.ended = true;
        Poll::Ready(Some(Err(self.progress.failed(error))))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        while !this.ended {
            let chunk = ready!(this.next(context));
            this.progress.moved();
            let Some(chunk) = chunk else {
                if this.left > 0 {
                    let detail = format!("the stream ended {} bytes early", this.left);
                    return this.fail(io::Error::other(detail));
                }
                this.ended = true;
                break;
            };
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => return this.fail(error),
            };
            match this.left.checked_sub(chunk.len() as u64) {
                None => {
                    let detail = "the stream is longer than announced";
                    return this.fail(io::Error::other(detail));
                }
                // With the last byte the node would take the value as whole.
                Some(0) if !chunk.is_empty() => (this.left, this.held) = (0, Some(chunk)),
                Some(_) if chunk.is_empty() => {}
                Some(left) => {
                    this.left = left;
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
            }
        }
        Poll::Ready(this.held.take().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.held.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left + self.held.as_ref().map_or(0, |chunk| chunk.len() as u64))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::StreamExt;
    use futures_util::future::poll_fn;
    use futures_util::stream;

    use super::*;

    async fn drain(source: &Source) -> Result<Vec<u8>, String> {
        let progress = Progress::begin();
        let rest = match source {
            Source::Bytes(bytes) => Rest::Bytes(bytes.clone()),
            Source::Stream { make, .. } => Rest::Stream(Mutex::new(make().ok_or("gone")?)),
        };
        let mut upload = Upload::new(source.length(), rest, progress);
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut upload).poll_frame(context)).await {
            all.extend_from_slice(&frame.map_err(|error| error.to_string())?.into_data().unwrap());
        }
        Ok(all)
    }

    fn chunks(sizes: &'static [usize]) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        stream::iter(sizes).map(|size| Ok(Bytes::from(vec![7; *size])))
    }

    #[tokio::test]
    async fn bytes_go_out_in_pieces_and_whole() {
        let bytes = Bytes::from(vec![1; 3 * CHUNK_BYTES + 1]);
        assert_eq!(drain(&Source::Bytes(bytes.clone())).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_stream_must_be_as_long_as_announced() {
        let of = |length| NewValue::stream(length, || chunks(&[3, 4])).source;
        assert_eq!(drain(&of(7)).await.unwrap().len(), 7);
        assert_eq!(drain(&of(7)).await.unwrap().len(), 7);
        assert!(drain(&of(8)).await.unwrap_err().contains("1 bytes early"));
        assert!(drain(&of(6)).await.unwrap_err().contains("longer"));
        assert!(drain(&of(3)).await.unwrap_err().contains("longer"), "before the last byte is out");
        let empty = NewValue::stream(3, || chunks(&[0, 3, 0])).source;
        assert_eq!(drain(&empty).await.unwrap().len(), 3);
        assert!(drain(&NewValue::stream(0, || chunks(&[])).source).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_stream_that_exists_once_is_sent_once() {
        let source = NewValue::stream_once(3, chunks(&[3])).source;
        assert_eq!(drain(&source).await.unwrap().len(), 3);
        assert_eq!(drain(&source).await.unwrap_err(), "gone");
    }
}
