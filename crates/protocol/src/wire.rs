//! The wire format: frames of many messages, each with the sender's identity in front.
//!
//! ```text
//! magic "QRMQ" 4 | protocol version u16 | header length u16 | checksum u64 | header | message*
//! message: head length u32 | payload length u32 | [trace 24] | head | payload
//! ```
//! A message of a sampled operation says to which trace it belongs: the highest bit of its head length is
//! set, and trace (16 bytes) and span (8) follow. The others are not a byte longer for it.
//!
//! All numbers are little-endian. The checksum (xxh3) covers everything after it. The header names
//! the cluster, both ends and the layout; a receiver refuses a frame for another cluster or node, of a
//! protocol version that its stream does not have ([`crate::handshake`]), or with a different layout, with
//! an error that names both sides. [`crate::message::head`] defines heads.

mod header;

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub use self::header::{FrameError, Header, Proof};
use crate::envelope;
use crate::handshake::Versions;
use crate::message::WithPayload;
use crate::message::head::Head;
use crate::trace_context::TraceContext;

/// The most messages one frame may hold: bounds what a receiver decodes before it answers.
pub const MESSAGES_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"QRMQ";
const PREFIX_BYTES: usize = 4 + 2 + 2 + 8;
const HEADER_LENGTH_AT: usize = 4 + 2;
const MESSAGE_PREFIX_BYTES: usize = 8;
/// Set in a head length: a trace context comes before the head.
const IS_TRACED: u32 = 1 << 31;

/// A frame being written.
pub struct FrameWriter {
    protocol: u16,
    bytes: BytesMut,
    count: usize,
}

impl FrameWriter {
    /// Starts a frame of a protocol version.
    pub fn new(protocol: u16, header: &Header) -> Self {
        let mut bytes = BytesMut::with_capacity(2048);
        bytes.put_slice(&[0; envelope::PREFIX_BYTES]); // so that a stream needs no second buffer
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(protocol);
        bytes.put_u16_le(0);
        bytes.put_u64_le(0);
        let header_at = bytes.len();
        header.encode(protocol, &mut bytes);
        let header_len = (bytes.len() - header_at) as u16;
        let length_at = envelope::PREFIX_BYTES + HEADER_LENGTH_AT;
        bytes[length_at..length_at + 2].copy_from_slice(&header_len.to_le_bytes());
        Self { protocol, bytes, count: 0 }
    }

    /// Appends a message.
    pub fn push<T: Head>(&mut self, head: &T, payload: &[u8]) {
        self.push_traced(None, head, payload);
    }

    /// Appends a message of an operation that `by` asks for, if that is sampled.
    pub fn push_traced<T: Head>(&mut self, by: Option<TraceContext>, head: &T, payload: &[u8]) {
        self.bytes.reserve(MESSAGE_PREFIX_BYTES + 128 + payload.len());
        self.push_head(by, head, payload.len());
        self.bytes.put_slice(payload);
    }

    /// Appends a message without its payload.
    fn push_head<T: Head>(&mut self, by: Option<TraceContext>, head: &T, payload_len: usize) {
        let at = self.bytes.len();
        self.bytes.put_u64_le(0);
        let mark = by.map_or(0, |by| {
            self.bytes.put_slice(&by.to_bytes());
            IS_TRACED
        });
        let head_at = self.bytes.len();
        head.encode(self.protocol, &mut self.bytes);
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
pub fn large_frame<T: Head>(
    protocol: u16,
    header: &Header,
    by: Option<TraceContext>,
    head: &T,
    payload: Bytes,
    kind: envelope::Kind,
) -> [Bytes; 2] {
    let mut frame = FrameWriter::new(protocol, header);
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
pub fn peek(start: &[u8], versions: Versions) -> Result<Result<Header, FrameError>, usize> {
    let Some(prefix) = start.first_chunk::<PREFIX_BYTES>() else { return Err(PREFIX_BYTES) };
    if prefix[..4] != MAGIC {
        return Ok(Err(FrameError::Damaged("no magic number")));
    }
    let theirs = u16::from_le_bytes([prefix[4], prefix[5]]);
    if !versions.contains(theirs) {
        return Ok(Err(FrameError::ProtocolVersion { theirs, ours: versions }));
    }
    let header_len = usize::from(u16::from_le_bytes([prefix[6], prefix[7]]));
    if header_len > HEADER_BYTES_MAX {
        return Ok(Err(FrameError::Damaged("the header is too long")));
    }
    let end = PREFIX_BYTES + header_len;
    let Some(header) = start.get(PREFIX_BYTES..end) else { return Err(end) };
    Ok(Header::decode(theirs, header).map(|(header, _)| header))
}

/// Decodes a frame of one of `versions`; payloads are slices of `bytes`, not copies. A message with a tag
/// that this release does not know is no error: it comes as one that says so.
///
/// # Errors
/// [`FrameError::Damaged`] or [`FrameError::ProtocolVersion`]. The header is *not* checked against
/// this node: see [`Header::check`] and [`decode_if`].
pub fn decode<T: Head>(
    bytes: Bytes,
    versions: Versions,
) -> Result<(Header, Vec<WithPayload<T>>), FrameError> {
    let Frame { header, messages, .. } = decode_if(bytes, versions, |_| Ok(()))?;
    Ok((header, messages))
}

/// A decoded frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame<T> {
    /// Its protocol version; replies are of the same.
    pub protocol: u16,
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
pub fn decode_if<T: Head>(
    mut bytes: Bytes,
    versions: Versions,
    check: impl FnOnce(&Header) -> Result<(), FrameError>,
) -> Result<Frame<T>, FrameError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(FrameError::Damaged("truncated in the prefix"));
    }
    if bytes[..4] != MAGIC {
        return Err(FrameError::Damaged("no magic number"));
    }
    bytes.advance(4);
    let protocol = bytes.get_u16_le();
    if !versions.contains(protocol) {
        return Err(FrameError::ProtocolVersion { theirs: protocol, ours: versions });
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
    let (header, left_over) = Header::decode(protocol, &header)?;
    if left_over > 0 {
        return Err(FrameError::Damaged("bytes left over after the header"));
    }
    check(&header)?;
    let (mut messages, mut traces) = (Vec::new(), Vec::new());
    while !bytes.is_empty() {
        if messages.len() == MESSAGES_MAX {
            return Err(FrameError::Damaged("too many messages"));
        }
        let (message, by) = decode_message(protocol, &mut bytes)?;
        if let Some(by) = by {
            traces.push((messages.len(), by));
        }
        messages.push(message);
    }
    Ok(Frame { protocol, header, messages, traces })
}

/// The next message, and what asks for it, if that is sampled.
fn decode_message<T: Head>(
    protocol: u16,
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
    let head = T::decode(protocol, &bytes[..head_len])
        .map_err(|_| FrameError::Damaged("unreadable message"))?;
    bytes.advance(head_len);
    Ok((WithPayload { head, payload: bytes.split_to(payload_len) }, by))
}

fn take_trace(bytes: &mut Bytes) -> Result<Option<TraceContext>, FrameError> {
    let trace = bytes.first_chunk::<{ TraceContext::BYTES }>().copied();
    let trace = trace.ok_or(FrameError::Damaged("truncated in a trace context"))?;
    bytes.advance(TraceContext::BYTES);
    Ok(TraceContext::from_bytes(trace))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
