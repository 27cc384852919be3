//! A lane's connection to its peer: a stream that is opened on demand, carries one batch at a time
//! and is dropped on the first error, because a late answer would be taken for that of the next
//! batch.

use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::envelope::Kind;
use quorate_protocol::handshake::Versions;
use quorate_protocol::message::{Reply, WithPayload};
use quorate_protocol::wire;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::host::Io;
use crate::peer::connection::{Failure, TransportContext, shown};
use crate::peer::framed::{Moves, Stream, StreamError, longest};
use crate::peer::handshake;
use crate::peer::member::Peer;

/// A stream idle for longer is not reused: the peer may be about to close it
/// ([`crate::peer::framed::IDLE_MS`]), and a batch sent on a closing stream is lost.
const IDLE_MAX: Duration = Duration::from_secs(90);
/// How often the callers of a batch are told that it is making progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// The longest total time of a batch on which nothing but signs of life moves.
const WHOLE_MAX: Duration = Duration::from_secs(30);

/// What a lane sends on.
#[derive(Default)]
pub struct Link {
    /// The stream, and when it was last used. Empty while a batch is in flight, so that a cancelled
    /// one leaves no stream behind.
    idle: Option<(Stream<Box<dyn Io>>, Instant)>,
}

impl Link {
    /// Opens a stream unless there is one that can be used, and returns its protocol version.
    pub async fn connect(&mut self, peer: &Peer, line: &TransportContext) -> Result<u16, Failure> {
        if line.faults.cuts_out(peer.node) {
            sleep(line.timeout).await;
            return Err(Failure::Silent("cut off by the fault hook".to_owned()));
        }
        let stream = match self.usable() {
            Some(stream) => stream,
            None => match timeout(line.timeout, open(peer, line)).await {
                Ok(opened) => opened?,
                Err(_) => return Err(Failure::NotSent("no connection in time".to_owned())),
            },
        };
        let protocol = stream.protocol();
        self.idle = Some((stream, Instant::now()));
        Ok(protocol)
    }

    /// Sends a batch on the stream of [`Link::connect`] and distributes the replies as they arrive.
    /// `frame` has its prefix already and may be in two pieces. While bytes move, `progress` is called
    /// several times a second.
    pub async fn ask(
        &mut self,
        peer: &Peer,
        line: &TransportContext,
        frame: [Bytes; 2],
        replies: &mut Replies<'_>,
        progress: Option<&(dyn Fn() + Sync)>,
    ) -> Result<(), Failure> {
        let (len, max) = (frame[0].len() + frame[1].len(), line.frame_bytes_max_of(peer));
        if len > max {
            let error = format!("a message of {len} bytes is too large, the limit is {max}");
            return Err(Failure::TooLarge(error));
        }
        let Some((mut stream, _)) = self.idle.take() else {
            return Err(Failure::NotSent("no connection".to_owned()));
        };
        let moves = stream.moves().clone();
        let exchange = exchange(&mut stream, peer, frame, replies);
        while_it_moves(exchange, &moves, line.timeout, progress).await?;
        self.idle = Some((stream, Instant::now()));
        Ok(())
    }

    /// Takes the stream, unless the peer has closed it or may do so any moment.
    fn usable(&mut self) -> Option<Stream<Box<dyn Io>>> {
        let (mut stream, used) = self.idle.take()?;
        (used.elapsed() < IDLE_MAX && stream.is_silent()).then_some(stream)
    }
}

/// Waits for an exchange while its stream makes progress: such a peer is slow, not silent. One
/// below [`stream::PACE_BYTES_MIN`] in the long run counts as silent.
async fn while_it_moves(
    exchange: impl Future<Output = Result<(), Failure>>,
    moves: &Moves,
    patience: Duration,
    progress: Option<&(dyn Fn() + Sync)>,
) -> Result<(), Failure> {
    let (begun, bytes_before) = (Instant::now(), moves.bytes());
    let look_every = patience.min(PROGRESS_EVERY);
    // Without a progress callback there is nothing to check before the timeout can expire.
    let mut look_at = begun + if progress.is_some() { look_every } else { patience };
    let mut exchange = std::pin::pin!(exchange);
    let mut seen = bytes_before;
    loop {
        if let Ok(done) = timeout_at(look_at, exchange.as_mut()).await {
            return done;
        }
        let moved = moves.bytes();
        let still_since = moves.last().max(begun);
        if still_since.elapsed() >= patience {
            return Err(Failure::Silent("no answer in time".to_owned()));
        }
        if begun.elapsed() > WHOLE_MAX + longest(moved - bytes_before) {
            return Err(Failure::Silent("the answer comes too slowly".to_owned()));
        }
        if let (true, Some(progress)) = (moved != seen, progress) {
            progress();
        }
        seen = moved;
        let looked_at = Instant::now();
        look_at = if progress.is_some() { looked_at + look_every } else { still_since + patience };
    }
}

/// The replies to a batch, in the order of its messages.
pub struct Replies<'a> {
    /// How many are still missing.
    pub missing: usize,
    /// Takes the next one.
    pub take: &'a mut (dyn FnMut(WithPayload<Reply>) + Send),
}

/// Opens a stream, or says why that failed.
async fn open(peer: &Peer, line: &TransportContext) -> Result<Stream<Box<dyn Io>>, Failure> {
    let endpoint = peer.endpoint();
    let io = line.wire.dial(peer.node, &endpoint.addr).await.map_err(Failure::NotSent)?;
    let mut stream = Stream::new(io, line.frame_bytes_max);
    stream.trust(); // this node chose the peer
    handshake::open(&mut stream, peer, line).await?;
    Ok(stream)
}

/// Writes a batch and reads the replies. Once the first byte is written, an error counts as
/// silence.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    peer: &Peer,
    frame: [Bytes; 2],
    replies: &mut Replies<'_>,
) -> Result<(), Failure> {
    let silent = |error: StreamError| Failure::Silent(error.to_string());
    for piece in frame {
        // Each piece is dropped once sent: it may be large, and the peer may take long.
        stream.write(&piece).await.map_err(|error| silent(error.into()))?;
    }
    let messages = replies.missing;
    loop {
        let (kind, frame) = stream.read().await.map_err(silent)?;
        peer.traffic.receives(frame.len());
        if kind == Kind::Refusal && replies.missing == messages {
            return Err(Failure::Refused(shown(&frame)));
        }
        let some = decode(peer, stream.protocol(), frame).map_err(Failure::Silent)?;
        let is_whole = kind == Kind::Frame;
        if some.len() > replies.missing || (is_whole && some.len() < replies.missing) {
            let count = messages - replies.missing + some.len();
            return Err(Failure::Silent(format!("{count} replies to {messages} messages")));
        }
        replies.missing -= some.len();
        some.into_iter().for_each(&mut *replies.take);
        if is_whole {
            return Ok(());
        }
    }
}

fn decode(peer: &Peer, protocol: u16, frame: Bytes) -> Result<Vec<WithPayload<Reply>>, String> {
    let decoded = wire::decode::<Reply>(frame, Versions::only(protocol));
    let (header, replies) = decoded.map_err(|error| error.to_string())?;
    if header.from != peer.node {
        return Err(format!("{} answers where {} should be", header.from, peer.node));
    }
    peer.health.word().heard_layout(header.epoch.number, header.epoch.hash.0);
    peer.epochs.saw(peer.node, header.epoch.number);
    Ok(replies)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
