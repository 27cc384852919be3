//! The first exchange on a new stream: both ends learn which protocol versions the other speaks, agree on
//! one, and prove to each other that they have the cluster's key (`protocol::handshake`).

use quorate_protocol::envelope::{Kind, PREFIX_BYTES};
use quorate_protocol::handshake::{
    Answer, HANDSHAKE_BYTES_MAX, NoCommonVersion, Opening, Versions, Who, opener_proof,
};
use quorate_protocol::proof::{Nonce, PeerKeys};
use quorate_protocol::wire::Header;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::host::Chance;
use crate::peer::connection::{Failure, TransportContext, shown};
use crate::peer::framed::{Stream, StreamError};
use crate::peer::member::Peer;

/// A nonce.
pub fn nonce(chance: &dyn Chance) -> Nonce {
    chance.draw_bytes()
}

/// What a node says when it opens a stream.
pub struct Introduction<'a> {
    /// The header of its frames to the other end.
    pub header: &'a Header,
    /// The protocol versions that it speaks.
    pub versions: Versions,
    /// Its keys.
    pub keys: &'a PeerKeys,
    /// A number that it never used before.
    pub nonce: Nonce,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The versions that the other end speaks.
    pub versions: Versions,
    /// The version of all frames on the stream; `None` if there is none in common.
    pub chosen: Option<u16>,
}

/// Introduces this node on a new stream; the other end has proved its key when this returns, if the version
/// that they agree on asks for it. Nothing is executed.
///
/// # Errors
/// [`Failure`]: the other end refused, has no key of the cluster, or did not answer properly.
pub async fn introduce<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    ours: &Introduction<'_>,
) -> Result<Agreement, Failure> {
    let not_sent = |error: &dyn ToString| Failure::NotSent(error.to_string());
    let who = Who::of(ours.header, ours.versions);
    let opening = Opening { versions: ours.versions, who, nonce: Some(ours.nonce) }.to_bytes();
    stream.write(&opening).await.map_err(|error| not_sent(&error))?;
    let (kind, answered) = stream.read().await.map_err(|error| not_sent(&error))?;
    match kind {
        Kind::Handshake => {}
        Kind::Refusal => return Err(Failure::Refused(shown(&answered))),
        Kind::Frame | Kind::Part => return Err(not_sent(&StreamError::UnknownKind)),
    }
    let answer = Answer::decode(&answered).map_err(|error| not_sent(&error))?;
    if answer.chosen.is_some_and(|chosen| !ours.versions.contains(chosen)) {
        return Err(not_sent(&"the peer chose a protocol version that was not offered"));
    }
    if answer.proves() {
        let opening = &opening[PREFIX_BYTES..];
        if !Answer::is_proved(opening, &answered, ours.keys) {
            let why =
                "what answers does not have a key of this cluster; check cluster_keys on both";
            return Err(Failure::Refused(why.to_owned()));
        }
        let proof = opener_proof(opening, &answered, ours.keys);
        stream.write(&proof).await.map_err(|error| not_sent(&error))?;
    }
    answer.chosen.iter().for_each(|chosen| stream.agree(*chosen));
    Ok(Agreement { versions: answer.versions, chosen: answer.chosen })
}

/// Opens a stream to a peer: both ends are known to each other then.
///
/// # Errors
/// [`Failure`]: the peer refused, has no version in common, or did not answer properly.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
    peer: &Peer,
    line: &TransportContext,
) -> Result<(), Failure> {
    let (header, ours) = (peer.header(), line.versions);
    let nonce = nonce(&*line.chance);
    let introduction = Introduction { header: &header, versions: ours, keys: &line.keys, nonce };
    let Agreement { versions, chosen } = introduce(stream, &introduction).await?;
    let is_news = peer.health.word().speaks(versions, chosen);
    if chosen.is_none() {
        let none = NoCommonVersion { peer: peer.node, theirs: versions, ours };
        return Err(Failure::Incompatible { none, is_news });
    }
    Ok(())
}

/// Reads what the other end of a new stream says before its first frame. Cancel-safe.
///
/// # Errors
/// [`StreamError`] if the stream broke, or something else came.
pub async fn said<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<S>,
) -> Result<bytes::Bytes, StreamError> {
    let (kind, len) = stream.announced().await?;
    if kind != Kind::Handshake {
        return Err(StreamError::UnknownKind);
    }
    if len > HANDSHAKE_BYTES_MAX {
        return Err(StreamError::TooLarge { len, max: HANDSHAKE_BYTES_MAX });
    }
    Ok(stream.read().await?.1)
}
