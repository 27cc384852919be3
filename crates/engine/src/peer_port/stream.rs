//! The receiving end of a lane's stream: takes a batch, executes it, sends the replies, repeats,
//! until the other end closes the stream or this node stops.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::envelope::{self, Kind};
use quorate_protocol::handshake::{Answer, NoCommonVersion, Opening, Versions, is_opener_proof};
use quorate_protocol::message::{Refusal, Reply, WithPayload};
use quorate_protocol::name::NodeId;
use quorate_protocol::wire::{self, FrameError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::limits::room::Room;
use crate::limits::sizes::LARGE_BYTES;
use crate::node::Node;
use crate::peer::framed::{AROUND_BYTES, IDLE_MS, Stream, StreamError, longest, payload_bytes_max};
use crate::peer::handshake;
use crate::peer_port::batch::Batch;
use crate::peer_port::receive::{self, Refused, check_identity, cut_off, frame_to};

/// Answers one batch after another, until the other end closes the stream, or `stop` is cancelled
/// and the batch in progress is answered.
///
/// # Errors
/// [`StreamError`] if the stream broke or carried something else than batches.
pub async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Arc<Node>,
    stream: &mut Stream<S>,
    stop: &CancellationToken,
) -> Result<(), StreamError> {
    match accept(node, stream, stop).await? {
        true => answer_batches(node, stream, stop).await,
        false => Ok(()),
    }
}

/// The same on a stream that [`accept`] has let in.
///
/// # Errors
/// Those of [`answer_all`].
pub async fn answer_batches<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Arc<Node>,
    stream: &mut Stream<S>,
    stop: &CancellationToken,
) -> Result<(), StreamError> {
    while let Some((frame, room)) = next_frame(node, stream, stop).await? {
        let (protocol, end) = (stream.protocol(), stream.other_end());
        let received = match receive::receive(node, frame, protocol, end).await {
            Ok(received) => received,
            Err(refused) => {
                // Close the stream; the peer must reconnect.
                stream.write(&envelope::refusal(refused.why())).await?;
                return Ok(());
            }
        };
        stream.trust();
        let from = received.header.from;
        let mut batch = Batch::new(node, received, room.is_some());
        loop {
            let part = working(node, stream, from, batch.next()).await?;
            write_part(node, stream, from, part.replies, part.is_last).await?;
            if part.is_last {
                break;
            }
        }
    }
    Ok(())
}

/// Answers the opening of a stream. Returns whether both ends have agreed on a protocol version, and the
/// other one has proved the cluster's key if that version asks for it. Nothing but a handshake is held in
/// memory.
///
/// # Errors
/// Those of [`answer_all`].
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Node,
    stream: &mut Stream<S>,
    stop: &CancellationToken,
) -> Result<bool, StreamError> {
    let Some(said) = said(node, stream, stop).await? else { return Ok(false) };
    let checked = Opening::decode(&said).and_then(|opening| {
        opening.who.check(&node.header)?;
        check_identity(node, stream.other_end(), opening.who.from)?;
        Ok(opening)
    });
    let checked = match checked {
        Ok(opening) => cut_off(node, opening.who.from).await.map(|()| opening),
        Err(error) => Err(error.into()),
    };
    let opening = match checked {
        Ok(opening) => opening,
        Err(refused) => return refuse(stream, refused.why()).await,
    };
    let (from, answer) = (opening.who.from, Answer::to(&opening, node.config.versions()));
    let has_token = node.keys.accepts_token(&opening.who.token);
    if answer.chosen.is_some() && !answer.proves() && !has_token {
        return refuse(stream, &FrameError::Token { from }.to_string()).await;
    }
    let answered = answer.to_bytes(&said, &node.keys, &handshake::nonce(&*node.host.chance));
    stream.write(&answered).await?;
    if answer.proves() {
        let Some(proof) = self::said(node, stream, stop).await? else { return Ok(false) };
        let answered = &answered[envelope::PREFIX_BYTES..];
        if !is_opener_proof(&proof, &said, answered, &node.keys) {
            return refuse(stream, &FrameError::Token { from }.to_string()).await;
        }
        stream.has_proved(from);
    }
    // Whoever has no key can say anything of anybody's versions.
    if stream.other_end().proved.is_some() || has_token {
        note_versions(node, &opening, answer);
    }
    answer.chosen.iter().for_each(|chosen| stream.agree(*chosen));
    Ok(answer.chosen.is_some())
}

/// What the other end says before its first frame; `None` if nothing comes in time, or the node stops.
async fn said<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Node,
    stream: &mut Stream<S>,
    stop: &CancellationToken,
) -> Result<Option<Bytes>, StreamError> {
    let patience = Duration::from_millis(node.config.timeouts.header_ms);
    let said = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(None),
        said = timeout(patience, handshake::said(stream)) => said,
    };
    match said {
        Ok(Ok(said)) => Ok(Some(said)),
        Ok(Err(error)) => refuse_no_frame(stream, error).await,
        Err(_) => Ok(None),
    }
}

/// Shows operators which versions a peer speaks, and tells them once if none is common.
fn note_versions(node: &Node, opening: &Opening, answer: Answer) {
    let (peer, theirs, ours) = (opening.who.from, opening.versions, answer.versions);
    let health = node.peers.health(peer);
    let is_news = health.is_some_and(|health| health.word().speaks(theirs, answer.chosen));
    if is_news && answer.chosen.is_none() {
        let error = NoCommonVersion { peer, theirs, ours };
        tracing::error!(%peer, %error, "the peer cannot talk to this node");
    }
}

/// Tells the other end in words why the stream is not opened.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    why: &str,
) -> Result<bool, StreamError> {
    stream.write(&envelope::refusal(why)).await?;
    Ok(false)
}

/// Tells the other end why what it sent is not read, if it might read that.
async fn refuse_no_frame<S: AsyncRead + AsyncWrite + Unpin, T>(
    stream: &mut Stream<S>,
    error: StreamError,
) -> Result<T, StreamError> {
    if matches!(error, StreamError::TooLarge { .. } | StreamError::UnknownKind) {
        stream.write(&envelope::refusal(&error.to_string())).await?;
    }
    Err(error)
}

/// The next batch, and the memory reserved for a large one; `None` if none has begun to arrive when
/// the node stops or the idle timeout expires.
async fn next_frame<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Node,
    stream: &mut Stream<S>,
    stop: &CancellationToken,
) -> Result<Option<(Bytes, Option<Room>)>, StreamError> {
    // A new stream must send its first batch at once; only a used one may idle.
    let timeouts = &node.config.timeouts;
    let idle_ms = if stream.is_trusted() { IDLE_MS } else { timeouts.header_ms };
    let begun = tokio::select! {
        biased; // check for the stop before the next batch
        () = stop.cancelled() => return Ok(None),
        begun = timeout(Duration::from_millis(idle_ms), stream.wait()) => begun,
    };
    match begun {
        Ok(begun) => begun?,
        Err(_) => return Ok(None),
    }
    match read_frame(node, stream).await {
        Ok(Ok(frame)) => Ok(Some(frame)),
        Ok(Err(refused)) => {
            stream.write(&envelope::refusal(refused.why())).await?;
            Ok(None)
        }
        Err(error) => refuse_no_frame(stream, error).await,
    }
}

/// Reads a frame that has begun to arrive, once its sender is authenticated and there is memory for
/// it.
async fn read_frame<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Node,
    stream: &mut Stream<S>,
) -> Result<Result<(Bytes, Option<Room>), Refused>, StreamError> {
    let patience = Duration::from_millis(node.config.timeouts.body_ms);
    let beat = beat(node);
    // Most frames have arrived completely by now.
    let (len, mut from) = match timeout(patience, sender(node, stream)).await {
        Ok(Ok(Ok(said))) => said,
        Ok(Ok(Err(refused))) => return Ok(Err(refused)),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    };
    let is_large = len > node.config.peers.batch_bytes_max + AROUND_BYTES;
    let room = if is_large {
        let room = node.bounds.room.take(len);
        Some(match from {
            Some(from) => working(node, stream, from, room).await?,
            None => room.await,
        })
    } else {
        None
    };
    let (begun, moves) = (Instant::now(), stream.moves().clone());
    let mut seen = moves.bytes();
    let bytes_before = seen;
    loop {
        match timeout(beat, stream.read()).await {
            Ok(Ok((Kind::Frame, frame))) => return Ok(Ok((frame, room))),
            Ok(Ok((Kind::Refusal | Kind::Part | Kind::Handshake, _))) => {
                return Err(StreamError::UnknownKind);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
        let moved = moves.bytes();
        if begun.elapsed() > patience + longest(moved - bytes_before) {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        // Shows a slow sender that its bytes arrive.
        if moved != seen
            && let Some(from) = &mut from
        {
            stream.write(&sign_of_life(node, stream.protocol(), *from)).await?;
        }
        seen = moves.bytes();
    }
}

/// The length of the next frame, and its sender if that had to be checked: for an unauthenticated
/// peer, and for a large frame.
async fn sender<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Node,
    stream: &mut Stream<S>,
) -> Result<Result<(usize, Option<NodeId>), Refused>, StreamError> {
    let (kind, len) = stream.announced().await?;
    if kind != Kind::Frame {
        return Err(StreamError::UnknownKind);
    }
    if stream.is_trusted() && len <= LARGE_BYTES {
        return Ok(Ok((len, None)));
    }
    let (mut needed, versions) = (0, Versions::only(stream.protocol()));
    let end = stream.other_end();
    loop {
        let start = stream.peek(needed).await?;
        match wire::peek(start, versions) {
            Ok(header) => {
                let checked = header.and_then(|header| receive::check(node, &header, end));
                return Ok(checked.map(|from| (len, Some(from))).map_err(Refused::from));
            }
            // Too short for a header: decoding will report what is wrong with it.
            Err(_) if start.len() == len => return Ok(Ok((len, None))),
            Err(more) => needed = more,
        }
    }
}

/// Waits for work on a batch, and sends the other end a sign of life now and then. Work that makes
/// no progress for too long stops sending them: the disk may hang.
async fn working<S: AsyncRead + AsyncWrite + Unpin, T>(
    node: &Node,
    stream: &mut Stream<S>,
    from: NodeId,
    work: impl Future<Output = T>,
) -> Result<T, StreamError> {
    let mut work = std::pin::pin!(work);
    let begun = Instant::now();
    let patience = Duration::from_millis(node.config.timeouts.request_ms);
    loop {
        match timeout(beat(node), work.as_mut()).await {
            Ok(done) => return Ok(done),
            Err(_) if begun.elapsed() < patience => {
                stream.write(&sign_of_life(node, stream.protocol(), from)).await?;
            }
            Err(_) => {}
        }
    }
}

/// How often a node sends a sign of life while it works on a batch: several times within the other
/// end's timeout.
fn beat(node: &Node) -> Duration {
    Duration::from_millis((node.config.timeouts.replica_ms / 2).max(1))
}

/// A part without replies.
fn sign_of_life(node: &Node, protocol: u16, to: NodeId) -> Bytes {
    frame_to(node, protocol, to).finish_for_stream(Kind::Part)
}

/// Sends replies, in as many frames as needed: a large one gets a frame of its own, so that holding
/// it keeps nothing else in memory. The port enforces that the other end reads them
/// (its `stall_ms`).
async fn write_part<S: AsyncRead + AsyncWrite + Unpin>(
    node: &Node,
    stream: &mut Stream<S>,
    to: NodeId,
    replies: Vec<WithPayload<Reply>>,
    is_last: bool,
) -> Result<(), StreamError> {
    let part_bytes_max = node.config.peers.batch_bytes_max;
    let payload_bytes_max = payload_bytes_max(&node.config);
    let protocol = stream.protocol();
    let mut frame = frame_to(node, protocol, to);
    let mut replies = replies.into_iter().peekable();
    while let Some(mut reply) = replies.next() {
        if reply.payload.len() > payload_bytes_max {
            tracing::error!(bytes = reply.payload.len(), %to, "a reply is too large to send");
            reply = WithPayload::bare(Reply::Refused(Refusal::Failed));
        }
        let is_large = reply.payload.len() > LARGE_BYTES;
        if !frame.is_empty() && (is_large || frame.len() + reply.payload.len() > part_bytes_max) {
            let part = std::mem::replace(&mut frame, frame_to(node, protocol, to));
            stream.write(&part.finish_for_stream(Kind::Part)).await?;
        }
        if !is_large {
            frame.push(&reply.head, &reply.payload);
            continue;
        }
        let ends_here = is_last && replies.peek().is_none();
        let kind = if ends_here { Kind::Frame } else { Kind::Part };
        let header = node.header_to(to);
        for piece in wire::large_frame(protocol, &header, None, &reply.head, reply.payload, kind) {
            stream.write(&piece).await?;
        }
        if ends_here {
            return Ok(());
        }
    }
    let kind = if is_last { Kind::Frame } else { Kind::Part };
    if is_last || !frame.is_empty() {
        stream.write(&frame.finish_for_stream(kind)).await?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use quorate_protocol::handshake::PROTOCOL_MAX;
    use quorate_protocol::message::DataReply;
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn many_large_replies_go_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let node = crate::testing::node(dir.path(), "n1", &["n1", "n2"]);
        let n2 = NodeId::parse("n2").unwrap();
        let (near, far) = duplex(1 << 20);
        let (mut near, mut far) = (Stream::new(near, usize::MAX), Stream::new(far, 1 << 21));
        near.agree(PROTOCOL_MAX);
        let sizes = [700_000, 700_000, 10, 2_000_000, 10, 10];
        let reply = |bytes| WithPayload {
            head: Reply::Data(DataReply::Object),
            payload: vec![7; bytes].into(),
        };
        let writing = async {
            let replies = sizes.map(reply).into();
            write_part(&node, &mut near, n2, replies, true).await.unwrap();
        };
        let reading = async {
            let (mut kinds, mut read) = (Vec::new(), Vec::new());
            while kinds.last() != Some(&Kind::Frame) {
                let (kind, frame) = far.read().await.unwrap();
                kinds.push(kind);
                read.append(&mut wire::decode::<Reply>(frame, Versions::ALL).unwrap().1);
            }
            (kinds, read)
        };
        let ((), (kinds, read)) = tokio::join!(writing, reading);
        assert_eq!(kinds, [Kind::Part, Kind::Part, Kind::Part, Kind::Part, Kind::Frame]);
        assert_eq!(read, sizes.map(reply));
    }
}
