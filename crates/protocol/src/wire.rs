//! The wire format: frames of many messages, each with the sender's identity in front.
//!
//! ```text
//! magic "QRMQ" 4 | protocol version u16 | header length u16 | checksum u64 | header | message*
//! message: head length u32 | payload length u32 | head (postcard) | payload
//! ```
//! All numbers are little-endian. The checksum (xxh3) is over everything behind it. The header names the
//! cluster, both ends and the layout; a receiver refuses a frame of another cluster, another protocol
//! version, another node, or another layout of the same version, with an error that names both sides.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::context::equal_in_constant_time;
use crate::envelope;
use crate::layout::LayoutHash;
use crate::message::WithPayload;
use crate::name::NodeId;

/// The version of the peer protocol this release speaks.
pub const PROTOCOL_VERSION: u16 = 2;
/// The most messages one frame may hold.
pub const MESSAGES_MAX: usize = 4096;

const MAGIC: [u8; 4] = *b"QRMQ";
const PREFIX_BYTES: usize = 4 + 2 + 2 + 8;
const MESSAGE_PREFIX_BYTES: usize = 8;

/// Who sends a frame to whom, and what both must agree on.
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
}

/// Why a frame was refused. Nothing of it was carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a frame, cut off, or changed on the way.
    #[error("the frame is damaged: {0}")]
    Damaged(&'static str),
    /// Another protocol version.
    #[error("the sender speaks peer protocol {theirs}, this node {ours}")]
    ProtocolVersion {
        /// The sender's.
        theirs: u16,
        /// This node's.
        ours: u16,
    },
    /// Another cluster.
    #[error("the sender is of cluster {theirs:?}, this node of {ours:?}")]
    Cluster {
        /// The sender's.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// The sender does not have the cluster's key.
    #[error("{from} does not have a key of this cluster; check cluster_keys on both")]
    Token {
        /// The sender, as it says.
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
        /// The sender, as it says.
        from: NodeId,
    },
    /// Another layout.
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
        let header = postcard::to_stdvec(header).unwrap_or_default(); // writing to a Vec cannot fail
        let mut bytes = BytesMut::with_capacity(2048);
        bytes.put_slice(&[0; envelope::PREFIX_BYTES]); // so that a stream needs no second buffer
        bytes.put_slice(&MAGIC);
        bytes.put_u16_le(PROTOCOL_VERSION);
        bytes.put_u16_le(header.len() as u16);
        bytes.put_u64_le(0);
        bytes.put_slice(&header);
        Self { bytes, count: 0 }
    }

    /// Appends a message.
    pub fn push<T: Serialize>(&mut self, head: &T, payload: &[u8]) {
        let at = self.bytes.len();
        self.bytes.reserve(MESSAGE_PREFIX_BYTES + 128 + payload.len());
        self.bytes.put_u64_le(0);
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = match postcard::to_extend(head, Appender(bytes)) {
            Ok(Appender(bytes)) => bytes,
            Err(_) => unreachable!("appending to a buffer cannot fail"),
        };
        let head_len = (self.bytes.len() - at - MESSAGE_PREFIX_BYTES) as u32;
        self.bytes[at..at + 4].copy_from_slice(&head_len.to_le_bytes());
        self.bytes[at + 4..at + 8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        self.bytes.put_slice(payload);
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

/// Reads a frame; payloads are slices of `bytes`, not copies.
///
/// # Errors
/// [`FrameError::Damaged`] or [`FrameError::ProtocolVersion`]. The header is *not* checked against this
/// node: see [`Header::check`].
pub fn decode<T: DeserializeOwned>(
    mut bytes: Bytes,
) -> Result<(Header, Vec<WithPayload<T>>), FrameError> {
    if bytes.len() < PREFIX_BYTES {
        return Err(FrameError::Damaged("cut off in the prefix"));
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
        return Err(FrameError::Damaged("the checksum does not fit"));
    }
    if bytes.len() < header_len {
        return Err(FrameError::Damaged("cut off in the header"));
    }
    let header = bytes.split_to(header_len);
    let (header, rest) =
        postcard::take_from_bytes(&header).map_err(|_| FrameError::Damaged("unreadable header"))?;
    if !rest.is_empty() {
        return Err(FrameError::Damaged("a header longer than it says"));
    }
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        if messages.len() == MESSAGES_MAX {
            return Err(FrameError::Damaged("too many messages"));
        }
        messages.push(decode_message(&mut bytes)?);
    }
    Ok((header, messages))
}

fn decode_message<T: DeserializeOwned>(bytes: &mut Bytes) -> Result<WithPayload<T>, FrameError> {
    if bytes.len() < MESSAGE_PREFIX_BYTES {
        return Err(FrameError::Damaged("cut off between messages"));
    }
    let (head_len, payload_len) = (bytes.get_u32_le() as usize, bytes.get_u32_le() as usize);
    if bytes.len() < head_len.saturating_add(payload_len) {
        return Err(FrameError::Damaged("cut off in a message"));
    }
    let head = bytes.split_to(head_len);
    let (head, rest) =
        postcard::take_from_bytes(&head).map_err(|_| FrameError::Damaged("unreadable message"))?;
    if !rest.is_empty() {
        return Err(FrameError::Damaged("a message longer than it says"));
    }
    Ok(WithPayload { head, payload: bytes.split_to(payload_len) })
}

impl Header {
    /// Checks a received header against this node: `mine` is the header this node would send, `tokens`
    /// are those of every configured key, `knows` tells whether a node is in the layout.
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
            let (theirs, ours) = (self.layout(), mine.layout());
            return Err(FrameError::Layout { from: self.from, theirs, ours });
        }
        if !knows(self.from) {
            return Err(FrameError::Stranger { from: self.from });
        }
        Ok(())
    }

    fn layout(&self) -> String {
        let Self { layout_version, layout_hash, partitions, .. } = self;
        format!("{layout_version} ({layout_hash}, {partitions} partitions)")
    }
}

/// Lets postcard append to a [`BytesMut`].
struct Appender(BytesMut);

impl Extend<u8> for Appender {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0.extend(bytes);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Actor, Clock, Dot};
    use crate::get::{What, Where};
    use crate::message::{Condition, Message, Refusal, Reply, Write};
    use crate::name::Key;
    use crate::object::{Metadata, Version, WriteId};
    use crate::put::Role;
    use crate::row::Draft;
    use crate::stamp::{Millis, Stamp};

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    fn header() -> Header {
        Header {
            cluster_id: "test".to_owned(),
            token: [7; 16],
            from: node("n1"),
            to: node("n2"),
            layout_version: 3,
            layout_hash: LayoutHash(42),
            partitions: 1024,
        }
    }

    /// The header that the receiver would send.
    fn mine() -> Header {
        Header { from: node("n2"), to: node("n1"), ..header() }
    }

    fn write(context: Clock) -> Message {
        let draft = Draft {
            context,
            context_stamp: Stamp(9),
            metadata: Metadata { content_type: "text/plain".to_owned(), user: Vec::new() },
            write_id: WriteId([1; 16]),
            supersede_all: false,
            unless_overtaken: false,
            value: None,
        };
        let write = Write {
            key: Key::new("carts", b"user/7").unwrap(),
            draft,
            has_value: true,
            n: 3,
            w: 2,
            r: 2,
            sloppy: true,
            condition: Some(Condition::Version(vec![Version([3; 16])])),
            delete_seen: false,
            idempotency: Some([4; 16]),
            timeout_ms: 5000,
            return_body: false,
        };
        Message::Forward { operation: 77, write: Box::new(write) }
    }

    fn messages() -> Vec<WithPayload<Message>> {
        let key = Key::new("carts", "ü".as_bytes()).unwrap();
        let role = Role::Hint { target: node("n3") };
        let mut context = Clock::default();
        context.advance(Dot { actor: Actor(u64::MAX), counter: 300 });
        let payload = Bytes::from_static(b"a payload");
        vec![
            WithPayload {
                head: Message::Store { key: key.clone(), role, read_at: Millis(7) },
                payload,
            },
            WithPayload { head: write(context), payload: Bytes::from_static(b"\0\xff") },
            WithPayload::bare(Message::Read { key, what: What::Digest, place: Where::Hints }),
        ]
    }

    fn replies() -> Vec<WithPayload<Reply>> {
        let hints = vec![(node("n3"), 4)];
        let inspection = Reply::Inspection { own: Some(5), ready: true, hints };
        vec![
            WithPayload::bare(Reply::Stored),
            WithPayload { head: inspection, payload: Bytes::from_static(b"own++hint") },
            WithPayload::bare(Reply::Digest(Version([9; 16]))),
            WithPayload::bare(Reply::Refused(Refusal::HintsFull)),
        ]
    }

    fn frame<T: Serialize>(messages: &[WithPayload<T>]) -> Bytes {
        let mut writer = FrameWriter::new(&header());
        for message in messages {
            writer.push(&message.head, &message.payload);
        }
        assert_eq!(writer.count(), messages.len());
        writer.finish()
    }

    /// The frame with a checksum that fits: a sender that means harm computes it too.
    fn resealed(frame: &[u8]) -> Bytes {
        let mut frame = frame.to_vec();
        let checksum = xxhash_rust::xxh3::xxh3_64(&frame[PREFIX_BYTES..]);
        frame[8..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
        frame.into()
    }

    #[test]
    fn frames_come_back() {
        assert_eq!(decode(frame(&messages())), Ok((header(), messages())));
        assert_eq!(decode(frame(&replies())), Ok((header(), replies())));
        assert_eq!(decode::<Reply>(frame::<Reply>(&[])), Ok((header(), Vec::new())));
    }

    #[test]
    fn on_a_stream_the_same_frame_has_a_prefix() {
        let mut writer = FrameWriter::new(&header());
        for reply in replies() {
            writer.push(&reply.head, &reply.payload);
        }
        let enveloped = writer.finish_for_stream(envelope::Kind::Part);
        let prefix = enveloped[..envelope::PREFIX_BYTES].try_into().unwrap();
        let whole = frame(&replies());
        assert_eq!(envelope::parse(prefix), Some((envelope::Kind::Part, whole.len())));
        assert_eq!(enveloped.slice(envelope::PREFIX_BYTES..), whole);
    }

    #[test]
    fn a_cut_off_frame_is_refused_wherever_it_is_cut() {
        let frame = frame(&messages());
        for len in 0..frame.len() {
            assert!(decode::<Message>(frame.slice(..len)).is_err(), "{len}");
        }
        // Cut between two messages and sealed again it is a shorter frame, else still damaged.
        for len in PREFIX_BYTES..frame.len() {
            if let Ok((_, fewer)) = decode::<Message>(resealed(&frame[..len])) {
                assert_eq!(fewer, messages()[..fewer.len()]);
            }
        }
    }

    /// The header's length lies before the checksum: a wrong one must not swallow messages.
    #[test]
    fn a_wrong_header_length_is_refused() {
        let whole = frame(&messages());
        let right = u16::from_le_bytes([whole[6], whole[7]]);
        for len in (0..=whole.len() as u16).filter(|len| *len != right) {
            let mut bytes = whole.to_vec();
            bytes[6..8].copy_from_slice(&len.to_le_bytes());
            assert!(decode::<Message>(bytes.into()).is_err(), "{len}");
        }
    }

    #[test]
    fn another_protocol_is_named() {
        let mut bytes = frame(&messages()).to_vec();
        bytes[4] = 9;
        let error = FrameError::ProtocolVersion { theirs: 9, ours: PROTOCOL_VERSION };
        assert_eq!(decode::<Message>(bytes.clone().into()), Err(error));
        bytes[0] = b'X';
        let error = FrameError::Damaged("no magic number");
        assert_eq!(decode::<Message>(bytes.into()), Err(error));
    }

    #[test]
    fn too_many_messages_are_refused() {
        let most = vec![WithPayload::bare(Reply::Stored); MESSAGES_MAX];
        assert_eq!(decode::<Reply>(frame(&most)).unwrap().1.len(), MESSAGES_MAX);
        let more = vec![WithPayload::bare(Reply::Stored); MESSAGES_MAX + 1];
        let error = FrameError::Damaged("too many messages");
        assert_eq!(decode::<Reply>(frame(&more)), Err(error));
    }

    /// A clock that is not sorted would make a minter drop siblings that nobody saw.
    #[test]
    fn a_broken_clock_in_a_message_is_refused() {
        let mut context = Clock::default();
        context.advance(Dot { actor: Actor(0x0101_0101_0101_0101), counter: 1 });
        context.advance(Dot { actor: Actor(0x0202_0202_0202_0202), counter: 1 });
        let whole = frame(&[WithPayload::bare(write(context))]).to_vec();
        let first = whole.windows(8).position(|window| window == [1; 8]).unwrap();
        let mut broken = whole.clone();
        broken[first..first + 8].copy_from_slice(&[3; 8]);
        assert!(decode::<Message>(resealed(&whole)).is_ok());
        let error = FrameError::Damaged("unreadable message");
        assert_eq!(decode::<Message>(resealed(&broken)), Err(error));
    }

    #[test]
    fn a_header_that_does_not_fit_names_both_sides() {
        let check = |header: Header| {
            let known = |at: NodeId| at == node("n1") || at == node("n2");
            header.check(&mine(), &[[1; 16], [7; 16]], known).map_err(|e| e.to_string())
        };
        assert_eq!(check(header()), Ok(()));
        let refused = |header: Header, words: &[&str]| {
            let text = check(header).unwrap_err();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        };
        let other = Header { cluster_id: "other".to_owned(), ..header() };
        refused(other, &["\"other\"", "\"test\""]);
        refused(Header { token: [8; 16], ..header() }, &["n1", "key"]);
        refused(Header { to: node("n3"), ..header() }, &["for n3", "is n2"]);
        refused(Header { from: node("n9"), ..header() }, &["n9", "layout"]);
        refused(Header { layout_hash: LayoutHash(43), ..header() }, &["2b", "2a"]);
        refused(Header { partitions: 512, ..header() }, &["512", "1024"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::with_cases(2000)
        })]

        #[test]
        fn changed_frames_never_panic(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            for whole in [frame(&messages()), frame(&replies())] {
                let mut bytes = whole.to_vec();
                for (at, byte) in &changes {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                let unsealed = decode::<Message>(Bytes::from(bytes.clone()));
                prop_assert!(unsealed.is_err() || bytes == whole);
                if let Some(cut) = cut {
                    bytes.truncate(PREFIX_BYTES + cut.index(bytes.len() - PREFIX_BYTES));
                }
                let _ = decode::<Reply>(resealed(&bytes));
                if let Ok((_, messages)) = decode::<Message>(resealed(&bytes)) {
                    for message in messages {
                        if let Message::Forward { write, .. } = message.head {
                            prop_assert!(write.draft.context.is_well_formed());
                        }
                    }
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Message>(bytes.clone().into());
            let frame = [&frame(&messages())[..PREFIX_BYTES], &bytes].concat();
            let _ = decode::<Message>(resealed(&frame));
            let _ = decode::<Reply>(resealed(&frame));
        }
    }
}
