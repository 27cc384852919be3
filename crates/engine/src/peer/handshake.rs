//! The first exchange on a new stream: both ends learn which protocol versions the other speaks, and agree
//! on one (`protocol::handshake`).

use quorate_protocol::envelope::Kind;
use quorate_protocol::handshake::{
    Answer, HANDSHAKE_BYTES_MAX, NoCommonVersion, Opening, Versions, Who,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::peer::connection::{Failure, shown};
use crate::peer::framed::{Stream, StreamError};
use crate::peer::member::Peer;

/// Opens a stream to a peer: nothing but a protocol version is agreed on, and nothing is executed.
///
/// # Errors
/// [`Failure`]: the peer refused, has no version in common, or did not answer properly.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    peer: &Peer,
    ours: Versions,
) -> Result<(), Failure> {
    let not_sent = |error: &dyn ToString| Failure::NotSent(error.to_string());
    let opening = Opening { versions: ours, who: Who::of(&peer.header()) };
    stream.write(&opening.to_bytes()).await.map_err(|error| not_sent(&error))?;
    let (kind, bytes) = stream.read().await.map_err(|error| not_sent(&error))?;
    match kind {
        Kind::Handshake => {}
        Kind::Refusal => return Err(Failure::Refused(shown(&bytes))),
        Kind::Frame | Kind::Part => return Err(not_sent(&StreamError::UnknownKind)),
    }
    let answer = Answer::decode(&bytes).map_err(|error| not_sent(&error))?;
    let word = peer.health.word();
    match answer.chosen {
        Some(chosen) if ours.contains(chosen) => {
            word.speaks(answer.versions, Some(chosen));
            stream.agree(chosen);
            Ok(())
        }
        Some(_) => Err(not_sent(&"the peer chose a protocol version that was not offered")),
        None => {
            let theirs = answer.versions;
            Err(Failure::Incompatible {
                none: NoCommonVersion { peer: peer.node, theirs, ours },
                is_news: word.speaks(theirs, None),
            })
        }
    }
}

/// Reads the opening of a stream from the other end. Cancel-safe.
///
/// # Errors
/// [`StreamError`] if the stream broke; the inner error says in words why this is no opening.
pub async fn opening<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
) -> Result<Result<Opening, String>, StreamError> {
    let (kind, len) = stream.announced().await?;
    if kind != Kind::Handshake {
        return Err(StreamError::UnknownKind);
    }
    if len > HANDSHAKE_BYTES_MAX {
        return Err(StreamError::TooLarge { len, max: HANDSHAKE_BYTES_MAX });
    }
    let (_, bytes) = stream.read().await?;
    Ok(Opening::decode(&bytes).map_err(|error| error.to_string()))
}
