//! The wire format: frames of many messages, each with the sender's identity in front.
//!
//! ```text
//! magic "QRMQ" 4 | protocol version u16 | header length u16 | checksum u64 | header | message*
//! message: head length u32 | payload length u32 | [trace 24] | head (postcard) | payload
//! ```
//! A message of a sampled operation says to which trace it belongs: the highest bit of its head length is
//! set, and trace (16 bytes) and span (8) follow. The others are not a byte longer for it.
//!
//! All numbers are little-endian. The checksum (xxh3) covers everything after it. The header names
//! the cluster, both ends and the layout; a receiver refuses a frame for another cluster, protocol
//! version or node, or with a different layout, with an error that names both sides.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::append::append;
use crate::context::equal_in_constant_time;
use crate::envelope;
use crate::layout::LayoutHash;
use crate::message::WithPayload;
use crate::name::NodeId;
use crate::trace_context::TraceContext;

/// The version of the peer protocol this release speaks.
pub const PROTOCOL_VERSION: u16 = 6;
/// The most messages one frame may hold: bounds what a receiver decodes before it answers.
pub const MESSAGES_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"QRMQ";
const PREFIX_BYTES: usize = 4 + 2 + 2 + 8;
const HEADER_LENGTH_AT: usize = 4 + 2;
const MESSAGE_PREFIX_BYTES: usize = 8;
/// Set in a head length: a trace context comes before the head.
const IS_TRACED: u32 = 1 << 31;

/// The sender and receiver of a frame, and what both must agree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The cluster's id.
    pub cluster_id: String,
    /// Proof of the cluster's key.
    pub token: [u8; 16],
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's layout version.
    pub layout_version: u64,
    /// The sender's layout.
    pub layout_hash: LayoutHash,
    /// The sender's number of partitions.
    pub partitions: u32,
    /// The sender's n of buckets without settings of their own. Like the layout it decides where
    /// keys are.
    pub default_n: u16,
}

/// Why a frame was refused. None of its messages was executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame, truncated, or corrupted in transit.
    #[error("the frame is damaged: {0}")]
    Damaged(&'static str),
    /// A different protocol version.
    #[error("the sender speaks peer protocol {theirs}, this node {ours}")]
    ProtocolVersion {
        /// The sender's.
        theirs: u16,
        /// This node's.
        ours: u16,
    },
    /// A different cluster.
    #[error("the sender belongs to cluster {theirs:?}, this node to {ours:?}")]
    Cluster {
        /// The sender's.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// The sender does not have the cluster's key.
    #[error("{from} does not have a key of this cluster; check cluster_keys on both")]
    Token {
        /// The sender, as it claims.
        from: NodeId,
    },
    /// The frame is for another node.
    #[error("the frame is for {to}, this node is {ours}; check the peer addresses in the layout")]
    Receiver {
        /// The receiver it names.
        to: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// The sender is not in this node's layout.
    #[error("{from} is not in this node's layout")]
    Stranger {
        /// The sender, as it claims.
        from: NodeId,
    },
    /// A different n for buckets without settings of their own.
    #[error("{from} has defaults.n = {theirs}, this node {ours}; all nodes must have the same")]
    DefaultN {
        /// The sender.
        from: NodeId,
        /// Its default.
        theirs: u16,
        /// This node's.
        ours: u16,
    },
    /// A different layout.
    #[error("{from} has layout {theirs}, this node {ours}")]
    Layout {
        /// The sender.
        from: NodeId,
        /// Its version, hash and partitions.
        theirs: String,
        /// This node's.
        ours: String,
    },
}

/// A frame being written.
pub struct FrameWriter {
    bytes: BytesMut,
    count: usize,
}

impl FrameWriter {
    /// Starts a frame.
    pub fn new(header: &Header) -> Self {
        let mut bytes = BytesMut::with_capacity(2048);
        bytes.put_slice(&[0; envelope::PREFIX_BYTES]); // so that a stream needs no second buffer
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(PROTOCOL_VERSION);
        bytes.put_u16_le(0);
        bytes.put_u64_le(0);
        let header_at = bytes.len();
        append(header, &mut bytes);
        let header_len = (bytes.len() - header_at) as u16;
        let length_at = envelope::PREFIX_BYTES + HEADER_LENGTH_AT;
        bytes[length_at..length_at + 2].copy_from_slice(&header_len.to_le_bytes());
        Self { bytes, count: 0 }
    }

    /// Appends a message.
    pub fn push<T: Serialize>(&mut self, head: &T, payload: &[u8]) {
        self.push_traced(None, head, payload);
    }

    /// Appends a message of an operation that `by` asks for, if that is sampled.
    pub fn push_traced<T: Serialize>(
        &mut self,
        by: Option<TraceContext>,
        head: &T,
        payload: &[u8],
    ) {
        self.bytes.reserve(MESSAGE_PREFIX_BYTES + 128 + payload.len());
        self.push_head(by, head, payload.len());
        self.bytes.put_slice(payload);
    }

    /// Appends a message without its payload.
    fn push_head<T: Serialize>(&mut self, by: Option<TraceContext>, head: &T, payload_len: usize) {
        let at = self.bytes.len();
        self.bytes.put_u64_le(0);
        let mark = by.map_or(0, |by| {
            self.bytes.put_slice(&by.to_bytes());
            IS_TRACED
        });
        let head_at = self.bytes.len();
        append(head, &mut self.bytes);
        let head_len = (self.bytes.len() - head_at) as u32 | mark;
        self.bytes[at..at + 4].copy_from_slice(&head_len.to_le_bytes());
        self.bytes[at + 4..at + 8].copy_from_slice(&(payload_len as u32).to_le_bytes());
        self.count += 1;
    }

    /// The bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len() - envelope::PREFIX_BYTES
    }

    /// Whether no message was pushed yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many messages were pushed.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The finished frame.
    pub fn finish(self) -> Bytes {
        let mut enveloped = self.finish_for_stream(envelope::Kind::Frame);
        enveloped.advance(envelope::PREFIX_BYTES);
        enveloped
    }

    /// The finished frame with the prefix that it needs on a stream.
    pub fn finish_for_stream(mut self, kind: envelope::Kind) -> Bytes {
        let prefix = envelope::prefix(kind, self.len());
        let (room, frame) = self.bytes.split_at_mut(envelope::PREFIX_BYTES);
        room.copy_from_slice(&prefix);
        let checksum = xxhash_rust::xxh3::xxh3_64(&frame[PREFIX_BYTES..]);
        frame[8..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
        self.bytes.freeze()
    }
}

/// A frame of one message with the prefix that it needs on a stream, in two pieces: all that comes
/// before the payload, and the payload itself, which is not copied. `by` as in
/// [`FrameWriter::push_traced`].
pub fn large_frame<T: Serialize>(
    header: &Header,
    by: Option<TraceContext>,
    head: &T,
    payload: Bytes,
    kind: envelope::Kind,
) -> [Bytes; 2] {
    let mut frame = FrameWriter::new(header);
    frame.push_head(by, head, payload.len());
    let prefix = envelope::prefix(kind, frame.len() + payload.len());
    let (room, before) = frame.bytes.split_at_mut(envelope::PREFIX_BYTES);
    room.copy_from_slice(&prefix);
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(&before[PREFIX_BYTES..]);
    hash.update(&payload);
    before[8..PREFIX_BYTES].copy_from_slice(&hash.digest().to_le_bytes());
    [frame.bytes.freeze(), payload]
}

/// The longest header that [`peek`] waits for, in bytes: several times the longest real one.
const HEADER_BYTES_MAX: usize = 1024;

/// Decodes the header from the first bytes of a frame, before the rest has arrived and without
/// verifying the checksum: enough to refuse an unauthorised sender. If more bytes are needed, `Err`
/// says how many.
///
/// # Errors
/// As [`decode`].
pub fn peek(start: &[u8]) -> Result<Result<Header, FrameError>, usize> {
    let Some(prefix) = start.first_chunk::<PREFIX_BYTES>() else { return Err(PREFIX_BYTES) };
    if prefix[..4] != MAGIC {
        return Ok(Err(FrameError::Damaged("no magic number")));
    }
    let theirs = u16::from_le_bytes([prefix[4], prefix[5]]);
    if theirs != PROTOCOL_VERSION {
        return Ok(Err(FrameError::ProtocolVersion { theirs, ours: PROTOCOL_VERSION }));
    }
    let header_len = usize::from(u16::from_le_bytes([prefix[6], prefix[7]]));
    if header_len > HEADER_BYTES_MAX {
        return Ok(Err(FrameError::Damaged("the header is too long")));
    }
    let end = PREFIX_BYTES + header_len;
    let Some(header) = start.get(PREFIX_BYTES..end) else { return Err(end) };
    Ok(postcard::from_bytes(header).map_err(|_| FrameError::Damaged("unreadable header")))
}

/// Decodes a frame; payloads are slices of `bytes`, not copies.
///
/// # Errors
/// [`FrameError::Damaged`] or [`FrameError::ProtocolVersion`]. The header is *not* checked against
/// this node: see [`Header::check`] and [`decode_if`].
pub fn decode<T: DeserializeOwned>(
    bytes: Bytes,
) -> Result<(Header, Vec<WithPayload<T>>), FrameError> {
    let Frame { header, messages, traces: _ } = decode_if(bytes, |_| Ok(()))?;
    Ok((header, messages))
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<T> {
    /// Its header.
    pub header: Header,
    /// Its messages, in order.
    pub messages: Vec<WithPayload<T>>,
    /// Which of them, counted from 0 and in order, belong to sampled operations, and what asks for those.
    pub traces: Vec<(usize, TraceContext)>,
}

/// As [`decode`], but decodes no message before `check` has accepted the header, and tells traces.
///
/// # Errors
/// As [`decode`], or what `check` says.
pub fn decode_if<T: DeserializeOwned>(
    mut bytes: Bytes,
    check: impl FnOnce(&Header) -> Result<(), FrameError>,
) -> Result<Frame<T>, FrameError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(FrameError::Damaged("truncated in the prefix"));
    }
    if bytes[..4] != MAGIC {
        return Err(FrameError::Damaged("no magic number"));
    }
    bytes.advance(4);
    let theirs = bytes.get_u16_le();
    if theirs != PROTOCOL_VERSION {
        return Err(FrameError::ProtocolVersion { theirs, ours: PROTOCOL_VERSION });
    }
    let header_len = usize::from(bytes.get_u16_le());
    let checksum = bytes.get_u64_le();
    if xxhash_rust::xxh3::xxh3_64(&bytes) != checksum {
        return Err(FrameError::Damaged("the checksum does not match"));
    }
    if bytes.len() < header_len {
        return Err(FrameError::Damaged("truncated in the header"));
    }
    let header = bytes.split_to(header_len);
    let (header, rest) =
        postcard::take_from_bytes(&header).map_err(|_| FrameError::Damaged("unreadable header"))?;
    if !rest.is_empty() {
        return Err(FrameError::Damaged("bytes left over after the header"));
    }
    check(&header)?;
    let (mut messages, mut traces) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        if messages.len() == MESSAGES_MAX {
            return Err(FrameError::Damaged("too many messages"));
        }
        let (message, by) = decode_message(&mut bytes)?;
        if let Some(by) = by {
            traces.push((messages.len(), by));
        }
        messages.push(message);
    }
    Ok(Frame { header, messages, traces })
}

/// The next message, and what asks for it, if that is sampled.
fn decode_message<T: DeserializeOwned>(
    bytes: &mut Bytes,
) -> Result<(WithPayload<T>, Option<TraceContext>), FrameError> {
    if bytes.len() < MESSAGE_PREFIX_BYTES {
        return Err(FrameError::Damaged("truncated between messages"));
    }
    let (head_len, payload_len) = (bytes.get_u32_le(), bytes.get_u32_le() as usize);
    let by = if head_len & IS_TRACED == 0 { None } else { take_trace(bytes)? };
    let head_len = (head_len & !IS_TRACED) as usize;
    if bytes.len() < head_len.saturating_add(payload_len) {
        return Err(FrameError::Damaged("truncated in a message"));
    }
    let head = bytes.split_to(head_len);
    let (head, rest) =
        postcard::take_from_bytes(&head).map_err(|_| FrameError::Damaged("unreadable message"))?;
    if !rest.is_empty() {
        return Err(FrameError::Damaged("bytes left over after a message"));
    }
    Ok((WithPayload { head, payload: bytes.split_to(payload_len) }, by))
}

fn take_trace(bytes: &mut Bytes) -> Result<Option<TraceContext>, FrameError> {
    let trace = bytes.first_chunk::<{ TraceContext::BYTES }>().copied();
    let trace = trace.ok_or(FrameError::Damaged("truncated in a trace context"))?;
    bytes.advance(TraceContext::BYTES);
    Ok(TraceContext::from_bytes(trace))
}

impl Header {
    /// Checks a received header against this node: `mine` is the header this node would send,
    /// `tokens` are those of every configured key, `knows` tells whether a node is in the layout.
    ///
    /// # Errors
    /// The [`FrameError`] that names both sides.
    pub fn check(
        &self,
        mine: &Header,
        tokens: &[[u8; 16]],
        knows: impl Fn(NodeId) -> bool,
    ) -> Result<(), FrameError> {
        if self.cluster_id != mine.cluster_id {
            let (theirs, ours) = (self.cluster_id.clone(), mine.cluster_id.clone());
            return Err(FrameError::Cluster { theirs, ours });
        }
        if !tokens.iter().any(|token| equal_in_constant_time(token, &self.token)) {
            return Err(FrameError::Token { from: self.from });
        }
        if self.to != mine.from {
            return Err(FrameError::Receiver { to: self.to, ours: mine.from });
        }
        if self.layout() != mine.layout() {
            let (theirs, ours) = (self.describe_layout(), mine.describe_layout());
            return Err(FrameError::Layout { from: self.from, theirs, ours });
        }
        if !knows(self.from) {
            return Err(FrameError::Stranger { from: self.from });
        }
        if self.default_n != mine.default_n {
            let (theirs, ours) = (self.default_n, mine.default_n);
            return Err(FrameError::DefaultN { from: self.from, theirs, ours });
        }
        Ok(())
    }

    /// What must be equal for two nodes to have the same layout.
    fn layout(&self) -> (u64, LayoutHash, u32) {
        (self.layout_version, self.layout_hash, self.partitions)
    }

    fn describe_layout(&self) -> String {
        let Self { layout_version, layout_hash, partitions, .. } = self;
        format!("{layout_version} ({layout_hash}, {partitions} partitions)")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
