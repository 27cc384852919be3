//! Frames round-trip, and invalid ones are refused with the reason.

use proptest::prelude::*;

use super::*;
use crate::clock::{Actor, Clock, Dot};
use crate::explain::{Event, Events, Kind, Note};
use crate::get::{ReadKind, RowKind};
use crate::handshake::{PROTOCOL_MAX, PROTOCOL_MIN, PROTOCOL_PROVES};
use crate::layout::LayoutHash;
use crate::message::{
    Condition, Data, DataReply, Message, QueryReply, Refusal, Repair, Reply, Write, WriteAnswer,
};
use crate::name::Key;
use crate::name::NodeId;
use crate::object::{Metadata, Version, WriteId};
use crate::placement::Epoch;
use crate::proof::PeerKeys;
use crate::put::Role;
use crate::quorum::Count;
use crate::row::Draft;
use crate::stamp::Stamp;
use crate::terms::QuorumOptions;
use crate::time::WallTime;

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn header() -> Header {
    Header {
        cluster_id: "test".to_owned(),
        token: [0; 16],
        from: node("n1"),
        to: node("n2"),
        epoch: Epoch { number: 3, hash: LayoutHash(42) },
        partitions: 1024,
        default_n: 3,
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
        ..Draft::default()
    };
    let write = Write {
        key: Key::new("carts", b"user/7").unwrap(),
        draft,
        has_value: true,
        asked: QuorumOptions { n: None, needed: Some(Count::Exactly(2)), sloppy: Some(true) },
        condition: Some(Condition::Version(vec![Version([3; 16])])),
        delete_seen: false,
        idempotency: Some([4; 16]),
        timeout_ms: 5000,
        return_body: false,
        explain: Some(u64::MAX),
    };
    Message::Data(Data::Forward { operation: 77, write: Box::new(write) })
}

fn explained() -> Message {
    let mut events = Events::default();
    for note in [Note::Nothing, Note::Version(Version([5; 16])), Note::Refusal(Refusal::Busy)] {
        events.push(Event { us: 70_000, kind: Kind::Acked, node: node("n3"), note });
    }
    let answer = Some(WriteAnswer::ConditionFailed);
    Message::Data(Data::Explained { operation: 77, trace: u64::MAX, answer, events })
}

fn messages() -> Vec<WithPayload<Message>> {
    let key = Key::new("carts", "ü".as_bytes()).unwrap();
    let role = Role::Hint { target: node("n3") };
    let mut context = Clock::default();
    context.advance(Dot { actor: Actor(u64::MAX), counter: 300 });
    let payload = Bytes::from_static(b"a payload");
    vec![
        WithPayload {
            head: Message::Data(Data::Store { key: key.clone(), role, read_at: WallTime(7) }),
            payload,
        },
        WithPayload {
            head: Message::Repair(Repair::Deliver {
                hints: vec![(key.clone(), 1), (key.clone(), 2)],
                read_at: WallTime(8),
            }),
            payload: Bytes::from_static(b"abc"),
        },
        WithPayload { head: write(context), payload: Bytes::from_static(b"\0\xff") },
        WithPayload::bare(explained()),
        WithPayload::bare(Message::Data(Data::Read {
            key,
            what: ReadKind::Digest,
            place: RowKind::Hints,
            bytes_max: u32::MAX,
        })),
    ]
}

fn replies() -> Vec<WithPayload<Reply>> {
    let hints = vec![(node("n3"), 4)];
    let inspection = Reply::Query(QueryReply::Inspection { own: Some(5), ready: true, hints });
    vec![
        WithPayload::bare(Reply::Data(DataReply::Stored)),
        WithPayload { head: inspection, payload: Bytes::from_static(b"own++hint") },
        WithPayload::bare(Reply::Data(DataReply::Digest(Version([9; 16])))),
        WithPayload::bare(Reply::Refused(Refusal::HintsFull)),
        WithPayload::bare(Reply::Data(DataReply::Large { bytes: 70_000 })),
    ]
}

fn frame<T: Head>(messages: &[WithPayload<T>]) -> Bytes {
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header());
    for message in messages {
        writer.push(&message.head, &message.payload);
    }
    assert_eq!(writer.count(), messages.len());
    writer.finish()
}

/// The frame with a matching checksum, as a malicious sender would compute it.
fn resealed(frame: &[u8]) -> Bytes {
    let mut frame = frame.to_vec();
    let checksum = xxhash_rust::xxh3::xxh3_64(&frame[PREFIX_BYTES..]);
    frame[8..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
    frame.into()
}

#[test]
fn frames_round_trip() {
    assert_eq!(decode(frame(&messages()), Versions::ALL), Ok((header(), messages())));
    assert_eq!(decode(frame(&replies()), Versions::ALL), Ok((header(), replies())));
    assert_eq!(decode::<Reply>(frame::<Reply>(&[]), Versions::ALL), Ok((header(), Vec::new())));
}

#[test]
fn a_sampled_message_names_its_trace_and_the_others_pay_nothing() {
    let by = TraceContext::new([7; 16], [9; 8]).unwrap();
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header());
    for (number, message) in messages().iter().enumerate() {
        writer.push_traced((number % 2 == 1).then_some(by), &message.head, &message.payload);
    }
    let bytes = writer.finish();
    let sampled = messages().len() / 2;
    assert_eq!(bytes.len(), frame(&messages()).len() + sampled * TraceContext::BYTES);
    let decoded = decode_if::<Message>(bytes.clone(), Versions::ALL, |_| Ok(())).unwrap();
    let expected: Vec<_> = (0..messages().len()).filter(|n| n % 2 == 1).map(|n| (n, by)).collect();
    assert_eq!((&decoded.traces, &decoded.messages), (&expected, &messages()));
    for end in PREFIX_BYTES..bytes.len() {
        // Without a panic; at the end of a message it is a shorter frame.
        drop(decode_if::<Message>(resealed(&bytes[..end]), Versions::ALL, |_| Ok(())));
    }
    let large = large_frame(
        PROTOCOL_MAX,
        &header(),
        Some(by),
        &messages()[0].head,
        messages()[0].payload.clone(),
        envelope::Kind::Frame,
    );
    let whole = Bytes::from(large.concat()).slice(envelope::PREFIX_BYTES..);
    assert_eq!(decode_if::<Message>(whole, Versions::ALL, |_| Ok(())).unwrap().traces, [(0, by)]);
}

#[test]
fn a_trace_of_zeros_is_none() {
    let by = TraceContext::new([7; 16], [9; 8]).unwrap();
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header());
    writer.push_traced(Some(by), &Message::Repair(Repair::Room), b"");
    let mut bytes = writer.finish().to_vec();
    // The header's token is sevens, too.
    let at = bytes.windows(16).rposition(|window| window == [7; 16]).unwrap();
    bytes[at..at + 16].fill(0);
    let decoded = decode_if::<Message>(resealed(&bytes), Versions::ALL, |_| Ok(())).unwrap();
    assert_eq!((decoded.messages.len(), decoded.traces), (1, Vec::new()));
}

#[test]
fn on_a_stream_the_same_frame_has_a_prefix() {
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header());
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
fn a_truncated_frame_is_refused_wherever_it_is_cut() {
    let frame = frame(&messages());
    for len in 0..frame.len() {
        assert!(decode::<Message>(frame.slice(..len), Versions::ALL).is_err(), "{len}");
    }
    // Cut between two messages and resealed it is a valid shorter frame; otherwise still damaged.
    for len in PREFIX_BYTES..frame.len() {
        if let Ok((_, fewer)) = decode::<Message>(resealed(&frame[..len]), Versions::ALL) {
            assert_eq!(fewer, messages()[..fewer.len()]);
        }
    }
}

/// The header's length is outside the checksum: a wrong one must not swallow messages.
#[test]
fn a_wrong_header_length_is_refused() {
    let whole = frame(&messages());
    let right = u16::from_le_bytes([whole[6], whole[7]]);
    for len in (0..=whole.len() as u16).filter(|len| *len != right) {
        let mut bytes = whole.to_vec();
        bytes[6..8].copy_from_slice(&len.to_le_bytes());
        assert!(decode::<Message>(bytes.into(), Versions::ALL).is_err(), "{len}");
    }
}

#[test]
fn another_protocol_is_named() {
    let mut bytes = frame(&messages()).to_vec();
    bytes[4] = 99;
    let error = FrameError::ProtocolVersion { theirs: 99, ours: Versions::ALL };
    assert_eq!(decode::<Message>(bytes.clone().into(), Versions::ALL), Err(error));
    bytes[0] = b'X';
    let error = FrameError::Damaged("no magic number");
    assert_eq!(decode::<Message>(bytes.into(), Versions::ALL), Err(error));
}

#[test]
fn too_many_messages_are_refused() {
    let most = vec![WithPayload::bare(Reply::Data(DataReply::Stored)); MESSAGES_MAX];
    assert_eq!(decode::<Reply>(frame(&most), Versions::ALL).unwrap().1.len(), MESSAGES_MAX);
    let more = vec![WithPayload::bare(Reply::Data(DataReply::Stored)); MESSAGES_MAX + 1];
    let error = FrameError::Damaged("too many messages");
    assert_eq!(decode::<Reply>(frame(&more), Versions::ALL), Err(error));
}

/// An unsorted clock would make a coordinator drop siblings that no client has seen.
#[test]
fn a_broken_clock_in_a_message_is_refused() {
    let mut context = Clock::default();
    context.advance(Dot { actor: Actor(0x0101_0101_0101_0101), counter: 1 });
    context.advance(Dot { actor: Actor(0x0202_0202_0202_0202), counter: 1 });
    let whole = frame(&[WithPayload::bare(write(context))]).to_vec();
    let first = whole.windows(8).position(|window| window == [1; 8]).unwrap();
    let mut broken = whole.clone();
    broken[first..first + 8].copy_from_slice(&[3; 8]);
    assert!(decode::<Message>(resealed(&whole), Versions::ALL).is_ok());
    let error = FrameError::Damaged("unreadable message");
    assert_eq!(decode::<Message>(resealed(&broken), Versions::ALL), Err(error));
}

#[test]
fn a_mismatched_header_names_both_sides() {
    let check = |header: Header| {
        let known = |at: NodeId| at == node("n1") || at == node("n2");
        let proof = Proof::Stream(header.from);
        header.check((&mine(), mine().epoch), proof, known).map_err(|e| e.to_string())
    };
    assert_eq!(check(header()), Ok(()));
    let refused = |header: Header, words: &[&str]| {
        let text = check(header).unwrap_err();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    let other = Header { cluster_id: "other".to_owned(), ..header() };
    refused(other, &["\"other\"", "\"test\""]);
    refused(Header { to: node("n3"), ..header() }, &["for n3", "is n2"]);
    refused(Header { from: node("n9"), ..header() }, &["n9", "layout"]);
    let epoch = Epoch { hash: LayoutHash(43), ..header().epoch };
    refused(Header { epoch, ..header() }, &["2b", "2a"]);
    refused(Header { default_n: 1, ..header() }, &["n1", "defaults.n = 1", "3"]);
    refused(Header { partitions: 512, ..header() }, &["512", "1024"]);
}

#[test]
fn who_sends_a_frame_is_proved_by_its_stream_or_else_by_its_token() {
    let keys = PeerKeys::new(&[[1; 32], [7; 32]]);
    let check = |header: &Header, proof| header.check((&mine(), mine().epoch), proof, |_| true);
    let (n1, n3) = (node("n1"), node("n3"));
    assert_eq!(check(&header(), Proof::Stream(n1)), Ok(()));
    let impostor = FrameError::Impostor { from: n1, opened_by: n3 };
    assert_eq!(check(&header(), Proof::Stream(n3)), Err(impostor));
    let token = PeerKeys::new(&[[7; 32]]).token();
    assert_eq!(check(&Header { token, ..header() }, Proof::Token(&keys)), Ok(()));
    let unproved = Err(FrameError::Token { from: n1 });
    assert_eq!(check(&header(), Proof::Token(&keys)), unproved, "zeros are no token");
    let token = PeerKeys::new(&[[8; 32]]).token();
    assert_eq!(check(&Header { token, ..header() }, Proof::Token(&keys)), unproved);
}

#[test]
fn a_token_is_sent_only_in_versions_that_need_it() {
    let header = Header { token: [7; 16], ..header() };
    for protocol in PROTOCOL_MIN..=PROTOCOL_MAX {
        let frame = FrameWriter::new(protocol, &header).finish();
        let is_there = frame.windows(16).any(|window| window == [7; 16]);
        assert_eq!(is_there, protocol < PROTOCOL_PROVES, "{protocol}");
        let (read, _) = decode::<Reply>(frame, Versions::only(protocol)).unwrap();
        assert_eq!(read.token, if is_there { [7; 16] } else { [0; 16] });
        assert_eq!(Header { token: [7; 16], ..read }, header);
    }
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
            let unsealed = decode::<Message>(Bytes::from(bytes.clone()), Versions::ALL);
            prop_assert!(unsealed.is_err() || bytes == whole);
            if let Some(cut) = cut {
                bytes.truncate(PREFIX_BYTES + cut.index(bytes.len() - PREFIX_BYTES));
            }
            let _ = decode::<Reply>(resealed(&bytes), Versions::ALL);
            if let Ok((_, messages)) = decode::<Message>(resealed(&bytes), Versions::ALL) {
                for message in messages {
                    if let Message::Data(Data::Forward { write, .. }) = message.head {
                        prop_assert!(write.draft.context.is_well_formed());
                    }
                }
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode::<Message>(bytes.clone().into(), Versions::ALL);
        let frame = [&frame(&messages())[..PREFIX_BYTES], &bytes].concat();
        let _ = decode::<Message>(resealed(&frame), Versions::ALL);
        let _ = decode::<Reply>(resealed(&frame), Versions::ALL);
    }
}

#[test]
fn a_large_frame_is_the_same_bytes_in_two_pieces() {
    for message in messages() {
        for kind in [envelope::Kind::Frame, envelope::Kind::Part] {
            let mut writer = FrameWriter::new(PROTOCOL_MAX, &header());
            writer.push(&message.head, &message.payload);
            let pieces = large_frame(
                PROTOCOL_MAX,
                &header(),
                None,
                &message.head,
                message.payload.clone(),
                kind,
            );
            assert_eq!(pieces.concat(), writer.finish_for_stream(kind));
            assert_eq!(pieces[1].as_ptr(), message.payload.as_ptr(), "not copied");
        }
    }
}

#[test]
fn the_first_bytes_name_the_sender() {
    let frame = frame(&messages());
    let mut have = 0;
    let told = loop {
        match peek(&frame[..have], Versions::ALL) {
            Ok(told) => break told,
            Err(needed) => {
                assert!(needed > have);
                have = needed;
            }
        }
    };
    assert_eq!(told, Ok(header()));
    assert!(have < 200, "{have}");
    let mut long = frame[..PREFIX_BYTES].to_vec();
    long[6..8].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(
        matches!(peek(&long, Versions::ALL), Ok(Err(FrameError::Damaged(_)))),
        "does not wait for more"
    );
    assert!(matches!(peek(&[0; 100], Versions::ALL), Ok(Err(FrameError::Damaged(_)))));
}

#[test]
fn a_header_is_checked_before_any_message_is_decoded() {
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header());
    writer.push(&Reply::Data(DataReply::Stored), b"");
    let mut bytes = writer.finish().to_vec();
    bytes.extend([0xff; 40]); // no message
    let stranger = FrameError::Stranger { from: node("n1") };
    let refused = decode_if::<Reply>(resealed(&bytes), Versions::ALL, |_| Err(stranger.clone()));
    assert_eq!(refused, Err(stranger));
}
