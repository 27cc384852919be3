//! A filter between a client's socket and hyper: it holds back a request's head until it is
//! complete and well-formed, and passes no byte of the next request before hyper asks for it.
//!
//! On its own, hyper drops a `#` and everything after it from a target (the request would be about
//! another key), answers unparsable requests with an empty 400 or 431, and has a single timer for
//! slow heads and for idle connections. Here each case gets its own response
//! (docs/decisions/0015-heads-before-hyper.md).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::http::framing::{HEAD_BYTES_MAX, HeadError, Message, inspect, may_end_head};
use crate::http::idle::{Crowd, IDLE_AFTER, Idle};
use crate::http::port::App;

/// How long, and how many bytes, to keep reading from a refused connection: closing it with unread
/// bytes resets it, and the client would see the reset instead of the response.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 << 20;

/// Client timeouts that nothing else enforces, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For a complete head, from its first byte or from the start of the connection.
    pub(crate) head_ms: u64,
    /// For the first byte of a head after the last response.
    pub(crate) idle_ms: u64,
}

/// A connection whose heads are inspected.
pub(crate) struct Heads<S, A> {
    stream: S,
    app: A,
    patience: Patience,
    phase: Phase,
    /// Bytes that hyper has not asked for yet.
    held: BytesMut,
    /// How many of them were inspected and contain no complete head.
    looked_at: usize,
    has_served: bool,
    wait: Option<Wait>,
    crowd: Arc<Crowd>,
    /// The response to write before the connection is shut down.
    refusal: Option<Refusal>,
}

enum Phase {
    /// Between requests, or within a head.
    Head,
    /// Within a request that is passed to hyper.
    Message(Message),
    /// End of stream is reported to hyper.
    Ended,
}

/// How long a connection has waited for a complete head.
struct Wait {
    what: Waiting,
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// Set while it counts as idle.
    idle: Option<Idle>,
}

/// What such a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Nothing,
    First,
    Next,
    RestOfHead,
}

struct Refusal {
    answer: BytesMut,
    /// Started once the response is written.
    linger: Option<Pin<Box<Sleep>>>,
    lingered_bytes: usize,
}

impl<S, A> Heads<S, A> {
    /// Inspects the heads of a connection, with a timeout for each.
    pub(crate) fn new(stream: S, app: A, patience: Patience, crowd: Arc<Crowd>) -> Self {
        Self {
            stream,
            app,
            patience,
            phase: Phase::Head,
            held: BytesMut::new(),
            looked_at: 0,
            has_served: false,
            wait: None,
            crowd,
            refusal: None,
        }
    }

    /// Passes everything through: for connections that are upgraded from HTTP.
    pub(crate) fn passing_all_on(stream: S, app: A) -> Self {
        let phase = Phase::Message(Message::endless());
        let patience = Patience { head_ms: 0, idle_ms: 0 };
        Self { phase, ..Self::new(stream, app, patience, Arc::default()) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, A: App> Heads<S, A> {
    /// Passes the bytes of the current request to hyper.
    fn pass_on(
        stream: &mut S,
        held: &mut BytesMut,
        message: &mut Message,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if held.is_empty() {
            let start = out.filled().len();
            ready!(Pin::new(stream).poll_read(cx, out))?;
            let mine = message.take(&out.filled()[start..]);
            held.extend_from_slice(&out.filled()[start + mine..]);
            out.set_filled(start + mine);
        } else {
            let room = held.len().min(out.remaining());
            let mine = message.take(&held[..room]);
            out.put_slice(&held[..mine]);
            held.advance(mine);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until a head is complete and its request can be passed on, or until none can follow.
    fn poll_head(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.looked_at < self.held.len() && self.look() {
                return Poll::Ready(Ok(()));
            }
            let start = out.filled().len();
            match Pin::new(&mut self.stream).poll_read(cx, out) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    ready!(self.poll_patience(cx));
                    self.out_of_patience();
                    return Poll::Ready(Ok(()));
                }
            }
            if out.filled().len() == start {
                match self.held.is_empty() {
                    true => self.phase = Phase::Ended,
                    false => {
                        self.refuse(HeadError::Malformed("the connection ended within the head"))
                    }
                }
                return Poll::Ready(Ok(()));
            }
            let fresh = &out.filled()[start..];
            if self.held.is_empty()
                && let Ok(Some(mut message)) = inspect(fresh)
            {
                // Fast path: a complete head, and perhaps the whole request, came in one read. No
                // copy.
                let mine = message.take(fresh);
                self.held.extend_from_slice(&fresh[mine..]);
                out.set_filled(start + mine);
                self.begin(message);
                return Poll::Ready(Ok(()));
            }
            self.held.extend_from_slice(fresh);
            out.set_filled(start);
        }
    }

    /// Inspects the held bytes. Returns whether the connection has left the head phase.
    fn look(&mut self) -> bool {
        // Do not parse a head again for every small read that adds to it.
        let tail = self.looked_at.saturating_sub(2);
        let is_worth_it = self.looked_at == 0
            || self.held.len() > HEAD_BYTES_MAX
            || may_end_head(&self.held[tail..]);
        self.looked_at = self.held.len();
        if !is_worth_it {
            return false;
        }
        match inspect(&self.held) {
            Ok(None) => return false,
            Ok(Some(message)) => self.begin(message),
            Err(error) => self.refuse(error),
        }
        true
    }

    fn begin(&mut self, message: Message) {
        self.phase = Phase::Message(message);
        self.looked_at = 0;
        self.has_served = true;
        if let Some(wait) = &mut self.wait {
            wait.what = Waiting::Nothing;
            wait.idle = None;
        }
    }

    fn waits_for(&self) -> Waiting {
        match (self.held.is_empty(), self.has_served) {
            (false, _) => Waiting::RestOfHead,
            (true, true) => Waiting::Next,
            (true, false) => Waiting::First,
        }
    }

    /// Ready when the current wait times out, or when an idle connection must make room.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let what = self.waits_for();
        let Patience { head_ms, idle_ms } = self.patience;
        let patience = Duration::from_millis(match what {
            Waiting::Next => idle_ms,
            Waiting::Nothing | Waiting::First | Waiting::RestOfHead => head_ms,
        });
        let may_idle = what != Waiting::RestOfHead && patience > IDLE_AFTER;
        let first = if may_idle { IDLE_AFTER } else { patience };
        let wait = self.wait.get_or_insert_with(|| {
            let timer = Box::pin(sleep(first));
            Wait { what, since: Instant::now(), timer, idle: None }
        });
        if wait.what != what {
            (wait.what, wait.since, wait.idle) = (what, Instant::now(), None);
            // A timer that fires early costs one check; resetting it would cost every request.
            let due = wait.since + first;
            if wait.timer.deadline() > due {
                wait.timer.as_mut().reset(due);
            }
        }
        loop {
            if let Some(idle) = &mut wait.idle
                && idle.poll_asked(cx).is_ready()
            {
                return Poll::Ready(());
            }
            ready!(wait.timer.as_mut().poll(cx));
            let due = wait.since + if wait.idle.is_some() { patience } else { first };
            if Instant::now() < due {
                wait.timer.as_mut().reset(due);
            } else if !may_idle || wait.idle.is_some() {
                return Poll::Ready(());
            } else {
                wait.idle = Some(self.crowd.enter());
                wait.timer.as_mut().reset(wait.since + patience);
            }
        }
    }

    fn out_of_patience(&mut self) {
        match self.waits_for() {
            Waiting::RestOfHead => self.refuse(HeadError::TooSlow(self.patience.head_ms)),
            Waiting::Nothing | Waiting::First | Waiting::Next => self.phase = Phase::Ended,
        }
    }

    /// Rejects a request without passing it to hyper. hyper sees the connection end between two
    /// requests, flushes its output and shuts it down: then the response is written.
    fn refuse(&mut self, error: HeadError) {
        let mut answer = self.app.refuse(error);
        if self.held.trim_ascii_start().starts_with(b"HEAD ") {
            let end = answer.windows(4).position(|end| end == b"\r\n\r\n");
            answer.truncate(end.map_or(answer.len(), |end| end + 4));
        }
        let answer = BytesMut::from(&answer[..]);
        self.refusal = Some(Refusal { answer, linger: None, lingered_bytes: 0 });
        self.held.clear();
        self.phase = Phase::Ended;
    }

    /// Writes the response, shuts down the write side, and drains input for a moment.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(refusal) = &mut self.refusal else { return Poll::Ready(Ok(())) };
        while !refusal.answer.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &refusal.answer))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            refusal.answer.advance(written);
        }
        let linger = match &mut refusal.linger {
            Some(linger) => linger,
            None => {
                ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
                refusal.linger.insert(Box::pin(sleep(LINGER)))
            }
        };
        let mut scratch = [0; 4096];
        while refusal.lingered_bytes < LINGER_BYTES_MAX && linger.as_mut().poll(cx).is_pending() {
            let mut read = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
            refusal.lingered_bytes += read.filled().len();
        }
        self.refusal = None;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, A: App> AsyncRead for Heads<S, A> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let start = out.filled().len();
        if matches!(this.phase, Phase::Head) {
            ready!(this.poll_head(cx, out))?;
        }
        if let Phase::Message(message) = &mut this.phase {
            if out.filled().len() == start {
                let (stream, held) = (&mut this.stream, &mut this.held);
                ready!(Self::pass_on(stream, held, message, cx, out))?;
            }
            if message.is_whole() {
                this.phase = Phase::Head;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, A: App> AsyncWrite for Heads<S, A> {
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
        let this = self.get_mut();
        ready!(this.poll_refusal(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}
