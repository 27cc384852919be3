//! What every message and reply is on the wire, in each protocol version, and what becomes of bytes that are
//! none of them.
//!
//! The bytes are in `testscripts/messages`, one file for each version: a release must go on writing and
//! reading them. `UPDATE_GOLDENFILES=1` rewrites the files; only what a new version changed may differ.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::access::Scope;
use crate::bucket_table::Table;
use crate::exchange::Page;
use crate::explain::{Event, Events, Kind, Note};
use crate::feed::{self, Position};
use crate::generation::{Remembered, Start};
use crate::get::{ReadKind, RowKind};
use crate::handshake::{PROTOCOL_MAX, PROTOCOL_MIN};
use crate::hex::hex;
use crate::index::{Hit, IndexName, IndexPage, IndexRange, IndexValue};
use crate::layout::Partition;
use crate::lifetime::Lifetime;
use crate::listing::KeyPage;
use crate::name::{Bucket, Key, NodeId};
use crate::object::{Metadata, Version, WriteId};
use crate::put::Role;
use crate::record::{ClusterRecord, DiskId, RecordMember};
use crate::row::Draft;
use crate::stamp::Stamp;
use crate::synod;
use crate::terms::QuorumOptions;
use crate::time::WallTime;
use crate::token::{Secret, Token, TokenId};
use crate::token_table;
use crate::tree::{LeafSet, Root, Tree};

/// A first cluster record, of one node.
fn record() -> ClusterRecord {
    let n1 = node("n1");
    let (zone, peer_addr) = ("z".to_owned(), "h:1".to_owned());
    let disk = DiskId(7);
    let member =
        RecordMember { node: n1, disk, seat: n1, zone, weight: 1, peer_addr, client_addr: None };
    ClusterRecord::first("c", 1, 8, vec![member]).unwrap()
}

fn request() -> synod::Request {
    let instance = synod::Instance::after(&record()).unwrap();
    let ballot = synod::Ballot { round: 1, node: node("n1"), nonce: 300 };
    synod::Request { instance, ballot, ask: synod::Ask::Prepare }
}

fn response() -> synod::Response {
    let synod::Request { instance, ballot, .. } = request();
    synod::Response { instance, ballot, answer: synod::Answer::Outdated(record()) }
}

/// Two tokens, of which one was revoked.
fn tokens() -> token_table::Table {
    let mut table = token_table::Table::default();
    for number in 1..3u8 {
        let token = Token {
            created: table.next(node("n1"), WallTime(300)),
            hash: Secret::new([number; 32]).hash(),
            name: "t".to_owned(),
            scopes: vec![Scope::everything()],
            expires: Some(WallTime(9)),
            rate_per_s: Some(300),
            by: Some(TokenId::of(7)),
        };
        table.merge(&token_table::Table::making(TokenId::of(number.into()), token));
    }
    let revoked = table.next(node("n2"), WallTime(400));
    let revoking = table.revoking(TokenId::of(1), revoked).unwrap();
    table.merge(&revoking);
    table
}

fn key() -> Key {
    Key::new("carts", b"user/7").unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn status() -> Box<Status> {
    Box::new(Status {
        formation: Some(Formation([6; 16])),
        ready: true,
        holdings: Default::default(),
        writable: true,
        buckets_hash: u64::MAX,
        release: "1.2.3".to_owned(),
        start: Start { number: 3, nonce: 300, opened_at: 1, durable_at: 70_000, filled_at: 0 },
        common: Default::default(),
        remembers_since: WallTime(9),
        clock: WallTime(1 << 40),
        waits: false,
        attests: true,
        frame_bytes_max: 1 << 24,
        client_addr: "n1:7700".to_owned(),
        hint_bytes: Some(70_000),
    })
}

fn write() -> Box<Write> {
    let draft = Draft {
        context_stamp: Stamp(9),
        metadata: Metadata { content_type: "text/plain".to_owned(), user: Vec::new() },
        write_id: WriteId([1; 16]),
        ..Draft::default()
    };
    Box::new(Write {
        key: key(),
        draft,
        has_value: true,
        asked: QuorumOptions { n: None, needed: None, sloppy: Some(true) },
        condition: Some(Condition::Absent),
        delete_seen: false,
        idempotency: None,
        timeout_ms: 5000,
        return_body: false,
        explain: Some(7),
    })
}

/// Some entries of an index, and one of them.
fn index_entries() -> (IndexRange, Option<Hit>) {
    let index = IndexName::parse("age_i").unwrap();
    let from = Some(IndexValue::Integer(-300));
    let after = Hit { value: IndexValue::Integer(300), key: key() };
    (IndexRange { index, from, to: None }, Some(after))
}

/// One of each message.
fn messages() -> Vec<Message> {
    let (tree, leaves) = (Tree { partition: Partition(7), n: 3 }, LeafSet::all());
    let tombstones = vec![(key(), Version([2; 16]))];
    let bucket = Bucket::parse("carts").unwrap();
    let (range, after) = index_entries();
    let mut events = Events::default();
    events.push(Event { us: 70_000, kind: Kind::Acked, node: node("n3"), note: Note::Nothing });
    let answer = WriteAnswer::Unavailable(Refusal::Busy);
    let explained = Some(WriteAnswer::ConditionFailed);
    vec![
        Data::Store { key: key(), role: Role::Home, read_at: WallTime(300) }.into(),
        Data::Read { key: key(), what: ReadKind::Digest, place: RowKind::Hints, bytes_max: 70_000 }
            .into(),
        Data::Forward { operation: 300, write: write() }.into(),
        Data::Written { operation: 300, answer }.into(),
        Data::Explained { operation: 300, trace: 7, answer: explained, events }.into(),
        Data::Change { operation: 300, write: write() }.into(),
        Data::ForwardExpiring {
            operation: 300,
            lifetime: Lifetime::Limited { seconds: 300 },
            write: write(),
        }
        .into(),
        Repair::Roots { roots: vec![(tree, Root(5))] }.into(),
        Repair::Leaves { tree, to_fill: Some(1) }.into(),
        Repair::List { tree, leaves, after: Some(key()), to_fill: None }.into(),
        Repair::Versions { keys: vec![key()] }.into(),
        Repair::Fetch { rows: Rows::HintsFor(node("n3")), after: None }.into(),
        Repair::Deliver { hints: vec![(key(), 9)], read_at: WallTime(8) }.into(),
        Repair::Room.into(),
        Repair::SyncPoint.into(),
        Repair::Undelivered { nonce: 1, mark: 300 }.into(),
        Repair::Confirm { tombstones: tombstones.clone() }.into(),
        Repair::Reap { tombstones }.into(),
        Repair::Distrusted { decision: Some(Decision::Discard) }.into(),
        Cluster::Hello { status: status() }.into(),
        Cluster::Buckets { table: Table::default(), want_all: true }.into(),
        Cluster::Form { formation: Formation([4; 16]) }.into(),
        Cluster::AskRecord.into(),
        Cluster::Learn { record: Box::new(record()) }.into(),
        Cluster::Vote { request: Box::new(request()) }.into(),
        Cluster::AskMove.into(),
        Cluster::AskHears { node: node("n3") }.into(),
        Cluster::CompareTokens { hash: 300 }.into(),
        Cluster::Tokens { table: tokens(), want_all: true }.into(),
        Query::Inspect { key: key() }.into(),
        Query::Conflicts { bucket: Some(bucket.clone()), after: None, limit: 300 }.into(),
        Query::Keys {
            bucket: bucket.clone(),
            prefix: "user/".to_owned(),
            after: Some(key()),
            limit: 9,
        }
        .into(),
        Query::Feed {
            bucket: bucket.clone(),
            prefix: "user/".to_owned(),
            position: Position { log: 7, after: 300 },
            limit: 300,
        }
        .into(),
        Query::FeedEnds { buckets: vec![bucket.clone()] }.into(),
        Query::Index { bucket, range, after, limit: 300 }.into(),
    ]
}

/// One of each reply.
fn replies() -> Vec<Reply> {
    let versions = vec![Version([1; 16]), Version::ABSENT];
    let page = Page { versions: vec![(key(), Version([3; 16]))], is_end: true };
    let keys = KeyPage {
        items: vec![(key(), Version([3; 16]), true)],
        is_end: false,
        not_ready: vec![Partition(300)],
    };
    let hit = Hit { value: IndexValue::Text("ü".to_owned()), key: key() };
    let index = IndexPage {
        items: vec![(hit, Version([3; 16]), false)],
        is_end: true,
        not_ready: vec![Partition(300)],
    };
    let feed = feed::Page {
        log: 7,
        entries: vec![(300, WallTime(300), key(), Version([3; 16]))],
        upto: 301,
        is_end: true,
        trimmed: (9, WallTime(300)),
        not_ready: vec![Partition(300)],
    };
    let progress = MoveProgress::default();
    let distrusted = Distrusted { rows: 9, unknown: vec![key()], ..Distrusted::default() };
    vec![
        DataReply::Stored.into(),
        DataReply::Object.into(),
        DataReply::Digest(Version([5; 16])).into(),
        DataReply::NoHint.into(),
        DataReply::Large { bytes: 70_000 }.into(),
        DataReply::Accepted.into(),
        RepairReply::Differing { trees: vec![1, 300] }.into(),
        RepairReply::Leaves { differing: LeafSet::all() }.into(),
        RepairReply::Page(page).into(),
        RepairReply::Versions { versions }.into(),
        RepairReply::Rows { rows: vec![(key(), 1)], end: true }.into(),
        RepairReply::Delivered { refused: vec![(3, Refusal::Stale)] }.into(),
        RepairReply::Room { rows: 300 }.into(),
        RepairReply::SyncPoint { nonce: 1, mark: 2 }.into(),
        RepairReply::Undelivered { targets: Some(vec![node("n2")]) }.into(),
        RepairReply::Confirmed { which: vec![true, false] }.into(),
        RepairReply::Reaped { rows: 2 }.into(),
        RepairReply::Distrusted(Box::new(distrusted)).into(),
        ClusterReply::Status(status()).into(),
        ClusterReply::Behind(Remembered { number: 1, nonce: 2, durable_at: 3 }).into(),
        ClusterReply::Buckets { table: Table::default() }.into(),
        ClusterReply::Record { record: Box::new(record()) }.into(),
        ClusterReply::Vote { response: Box::new(response()) }.into(),
        ClusterReply::Move(MoveProgress { partitions: 300, missing: 2, hints: 1, ..progress })
            .into(),
        ClusterReply::Hears { hears: true }.into(),
        ClusterReply::TokensHash(300).into(),
        ClusterReply::Tokens { table: tokens() }.into(),
        QueryReply::Inspection { own: Some(5), ready: true, hints: vec![(node("n3"), 4)] }.into(),
        QueryReply::Conflicts { keys: vec![(key(), 2)] }.into(),
        QueryReply::Keys(keys).into(),
        QueryReply::Feed(Some(feed)).into(),
        QueryReply::FeedEnds(vec![0, 300]).into(),
        QueryReply::Index(index).into(),
        Reply::Refused(Refusal::Unsupported),
        Reply::NotFilled,
    ]
}

fn encoded<T: Head>(protocol: u16, head: &T) -> BytesMut {
    let mut out = BytesMut::new();
    head.encode(protocol, &mut out);
    assert_eq!(out.len(), head.encoded_len(protocol));
    out
}

fn round_trip<T: Head + PartialEq + std::fmt::Debug>(all: &[T], tags: &[&[u8]]) {
    for protocol in PROTOCOL_MIN..=PROTOCOL_MAX {
        let mut seen = BTreeSet::new();
        for head in all {
            let bytes = encoded(protocol, head);
            seen.insert(bytes[0]);
            let again = T::decode(protocol, &bytes).unwrap();
            // What a lower version leaves out is not there any more; the rest is.
            assert_eq!(encoded(protocol, &again), bytes, "{head:?}");
            assert!(protocol < PROTOCOL_MAX || again == *head, "{again:?}");
            for len in 0..bytes.len() {
                let cut = T::decode(protocol, &bytes[..len]);
                assert!(cut.is_err() || encoded(protocol, &cut.unwrap()) == bytes[..len]);
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(T::decode(protocol, &longer), Err(Unreadable), "{head:?}");
        }
        let known: BTreeSet<u8> = tags.iter().flat_map(|tags| tags.iter().copied()).collect();
        assert_eq!(seen, known, "one of each kind");
    }
}

#[test]
fn every_message_and_reply_comes_back_and_no_byte_more() {
    round_trip(&messages(), &[Data::TAGS, Repair::TAGS, Cluster::TAGS, Query::TAGS]);
    let own: &[u8] = &[REFUSED, NOT_FILLED];
    round_trip(
        &replies(),
        &[DataReply::TAGS, RepairReply::TAGS, ClusterReply::TAGS, QueryReply::TAGS, own],
    );
}

/// A tag that another release gave a message is refused, whatever follows it, and is no other message.
#[test]
fn an_unknown_tag_is_told_from_damage() {
    let tags = [Data::TAGS, Repair::TAGS, Cluster::TAGS, Query::TAGS].concat();
    for protocol in PROTOCOL_MIN..=PROTOCOL_MAX {
        for tag in 0..=u8::MAX {
            for fields in [&b""[..], &[0; 40], &[0xff; 40]] {
                let head = [&[tag], fields].concat();
                let decoded = Message::decode(protocol, &head);
                let unknown = Ok(Message::Unknown(tag));
                assert_eq!(decoded == unknown, !tags.contains(&tag), "{tag:#x} {decoded:?}");
            }
        }
        assert_eq!(Message::decode(protocol, &[]), Err(Unreadable));
        assert_eq!(Reply::decode(protocol, &[]), Err(Unreadable));
        assert_eq!(Reply::decode(protocol, &[0xff, 1, 2]), Ok(Reply::Unknown(0xff)));
    }
}

#[test]
fn the_bytes_of_every_version_stay_what_they_are() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts/messages");
    for protocol in PROTOCOL_MIN..=PROTOCOL_MAX {
        let mut text =
            format!("# Every message and reply in protocol version {protocol}, in hexadecimal.\n");
        let mut line = |name: String, bytes: BytesMut| {
            let name = name.split([' ', '{', '(']).next().unwrap_or_default().to_owned();
            writeln!(text, "{name} {}", hex(&bytes)).unwrap();
        };
        for message in messages() {
            line(variant(&format!("{message:?}")), encoded(protocol, &message));
        }
        for reply in replies() {
            line(format!("reply-{}", variant(&format!("{reply:?}"))), encoded(protocol, &reply));
        }
        let file = dir.join(format!("v{protocol}.txt"));
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&file, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "{file:?}");
    }
}

/// The name of the innermost variant in a debug text: `Data(Store { … })` is `Store`.
fn variant(debug: &str) -> String {
    let inner = debug
        .split_once('(')
        .filter(|(family, _)| ["Data", "Repair", "Cluster", "Query"].contains(family));
    inner.map_or(debug, |(_, inner)| inner).trim_end_matches(')').to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(4000)
    })]

    /// Whatever is decoded from random bytes says itself what it was decoded from: it was not misread.
    #[test]
    fn random_tags_and_fields_are_never_misread(
        tag in any::<u8>(),
        fields in prop::collection::vec(any::<u8>(), 0..60),
        protocol in PROTOCOL_MIN..=PROTOCOL_MAX,
    ) {
        let head = [&[tag], &fields[..]].concat();
        if let Ok(message) = Message::decode(protocol, &head) {
            prop_assert_eq!(encoded(protocol, &message)[0], tag);
        }
        if let Ok(reply) = Reply::decode(protocol, &head) {
            prop_assert_eq!(encoded(protocol, &reply)[0], tag);
        }
    }

    /// A message of which bytes were changed is another one of its kind, or unreadable.
    #[test]
    fn changed_fields_are_never_misread(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        protocol in PROTOCOL_MIN..=PROTOCOL_MAX,
    ) {
        let messages = messages();
        let mut bytes = encoded(protocol, which.get(&messages));
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(message) = Message::decode(protocol, &bytes) {
            prop_assert_eq!(encoded(protocol, &message)[0], bytes[0]);
        }
    }
}
