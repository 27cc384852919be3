//! What must hold of every sequence of bytes that comes from outside: it is read or refused, without a panic
//! and without much memory, and what was read is written as the same bytes, or at least read the same again.
//!
//! Fuzzers call these (`targets/`), and a test over the corpus (`tests/parsers.rs`).

#![allow(dead_code, missing_docs, unreachable_pub)] // a fuzzer uses one of them

use bytes::{Bytes, BytesMut};
use quorate_protocol::access::Pattern;
use quorate_protocol::bucket_table::Table;
use quorate_protocol::context::ContextKeys;
use quorate_protocol::envelope;
use quorate_protocol::handshake::{
    Answer, Opening, PROTOCOL_MAX, PROTOCOL_MIN, Versions, is_opener_proof,
};
use quorate_protocol::message::head::{Head, RawHead};
use quorate_protocol::message::{Message, Reply};
use quorate_protocol::name::{Bucket, Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::quorum::Count;
use quorate_protocol::record::ClusterRecord;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_protocol::token::{Bearer, OperatorKeys};
use quorate_protocol::trace_context::TraceParent;
use quorate_protocol::tree::Leaves;
use quorate_protocol::wire::{self, FrameWriter, Header};

/// Reads bytes.
pub type Check = fn(&[u8]);

/// All of them, each with the name of its corpus.
pub const ALL: [(&str, Check); 6] = [
    ("frames", frames),
    ("handshakes", handshakes),
    ("messages", messages),
    ("objects", objects),
    ("records", records),
    ("texts", texts),
];

/// Frames as they come from a peer: first any bytes, then with what a checksum would keep out.
pub fn frames(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    let _ = wire::peek(bytes, Versions::ALL);
    let _ = wire::decode::<Message>(whole.clone(), Versions::ALL);
    let sealed = sealed(bytes);
    if let Ok(Ok(header)) = wire::peek(&sealed, Versions::ALL) {
        let read = wire::decode::<RawHead>(sealed.clone(), Versions::ALL);
        assert!(read.is_err() || read.is_ok_and(|(again, _)| again == header));
    }
    if let Ok(frame) = wire::decode_if::<RawHead>(sealed, Versions::ALL, |_| Ok(())) {
        let written = written(frame.protocol, &frame.header, &frame);
        let again = wire::decode_if::<RawHead>(written, Versions::ALL, |_| Ok(()));
        assert_eq!(again, Ok(frame));
    }
}

fn written(protocol: u16, header: &Header, frame: &wire::Frame<RawHead>) -> Bytes {
    let mut writer = FrameWriter::new(protocol, header);
    let mut traces = frame.traces.iter().peekable();
    for (at, message) in frame.messages.iter().enumerate() {
        let by = traces.next_if(|(of, _)| *of == at).map(|(_, by)| *by);
        writer.push_traced(by, &message.head, &message.payload);
    }
    writer.finish()
}

/// The bytes with the magic number, a version that is spoken, and the right checksum.
fn sealed(bytes: &[u8]) -> Bytes {
    let mut frame = bytes.to_vec();
    if frame.len() < 16 {
        return frame.into();
    }
    frame[..4].copy_from_slice(b"QRMQ");
    let versions = PROTOCOL_MAX - PROTOCOL_MIN + 1;
    let version = PROTOCOL_MIN + u16::from(frame[4]) % versions;
    frame[4..6].copy_from_slice(&version.to_le_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64(&frame[16..]);
    frame[8..16].copy_from_slice(&checksum.to_le_bytes());
    frame.into()
}

/// What opens a stream.
pub fn handshakes(bytes: &[u8]) {
    let keys = PeerKeys::new(&[[7; 32]]);
    if let Some(prefix) = bytes.first_chunk() {
        let _ = envelope::parse(*prefix);
    }
    let marked = [b"QRHS", bytes].concat();
    for bytes in [bytes, &marked] {
        if let Ok(opening) = Opening::decode(bytes) {
            let again = opening.to_bytes();
            assert_eq!(Opening::decode(&again[envelope::PREFIX_BYTES..]), Ok(opening));
        }
        if let Ok(answer) = Answer::decode(bytes) {
            let again = answer.to_bytes(b"opening", &keys, &[1; 16]);
            assert_eq!(Answer::decode(&again[envelope::PREFIX_BYTES..]), Ok(answer));
        }
        assert!(!Answer::is_proved(b"opening", bytes, &keys), "nobody guesses a proof");
        assert!(!is_opener_proof(bytes, b"opening", b"answer", &keys));
    }
}

/// Messages and replies, in every version.
pub fn messages(bytes: &[u8]) {
    for protocol in PROTOCOL_MIN..=PROTOCOL_MAX {
        message::<Message>(protocol, bytes);
        message::<Reply>(protocol, bytes);
    }
}

fn message<T: Head>(protocol: u16, bytes: &[u8]) {
    let Ok(read) = T::decode(protocol, bytes) else { return };
    let encoded = |head: &T| {
        let mut out = BytesMut::new();
        head.encode(protocol, &mut out);
        out
    };
    let once = encoded(&read);
    assert_eq!(once.len(), read.encoded_len(protocol));
    match T::decode(protocol, &once) {
        Ok(again) => assert_eq!(encoded(&again), once),
        Err(_) => panic!("what was written is not read"),
    }
}

/// Objects, as peers send them, and rows, as they are stored.
pub fn objects(bytes: &[u8]) {
    let whole = Bytes::copy_from_slice(bytes);
    if let Ok(object) = Object::decode(whole.clone()) {
        let again = object.to_bytes();
        // Numbers may have been written longer than needed; nobody does, and it makes no difference.
        assert!(again.len() <= whole.len());
        assert_eq!(Object::decode(again).as_ref(), Ok(&object));
        let mut merged = object.clone();
        merged.merge(&object);
        assert_eq!(merged, object, "merged with itself");
    }
    if let Ok(row) = Row::decode(whole.clone()) {
        let mut again = BytesMut::new();
        row.encode(&mut again);
        assert_eq!(Row::decode(again.freeze()).as_ref(), Ok(&row));
    }
    let (kind, version) = (Row::encoded_kind(&whole), Row::encoded_version(&whole));
    assert!(kind.is_err() || version.is_some());
    let _ = (Row::encoded_since(&whole), Row::encoded_tree(&whole), Row::encoded_object(&whole));
}

/// What nodes agree on.
pub fn records(bytes: &[u8]) {
    if let Ok(record) = ClusterRecord::decode(bytes) {
        assert_eq!(ClusterRecord::decode(&record.encode()).as_ref(), Ok(&record));
    }
    if let Ok(table) = Table::decode(bytes) {
        let mut merged = table.clone();
        for (bucket, record) in table.records() {
            merged.merge(bucket, *record);
        }
        assert_eq!(merged, table, "merged with itself");
    }
    let _ = Leaves::from_bytes(bytes);
}

/// What clients write in paths, parameters and headers.
pub fn texts(bytes: &[u8]) {
    let _ = TraceParent::parse(bytes);
    if let Ok(key) = Key::from_bytes(Bytes::copy_from_slice(bytes)) {
        assert_eq!(Key::from_bytes(Bytes::copy_from_slice(key.as_bytes())).as_ref(), Ok(&key));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(node) = NodeId::parse(text) {
        assert_eq!(node.as_str(), text);
    }
    if let Ok(bucket) = Bucket::parse(text) {
        assert_eq!(bucket.as_str(), text);
    }
    if let Some(pattern) = Pattern::parse(text) {
        assert_eq!(pattern.as_str(), text);
    }
    match Bearer::parse(text) {
        Some(Bearer::Token { id, secret }) => assert_eq!(secret.token(id), text),
        Some(Bearer::Operator(token)) => {
            let keys = OperatorKeys::new("test", &[[7; 32]]);
            assert!(keys.verify(&token, WallTime(0)).is_err(), "nobody guesses a signature");
        }
        None => {}
    }
    let _ = Count::parse(text);
    if let Ok(key) = Key::new("b", b"k") {
        let keys = ContextKeys::new("test", &[[7; 32]]);
        assert!(keys.verify(&key, text).is_err(), "nobody guesses a context");
    }
}
