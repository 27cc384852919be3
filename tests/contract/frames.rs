//! Frames on the peer port that no healthy node of the cluster sends are refused by name and change
//! nothing.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use quorate_protocol::envelope::{self, PREFIX_BYTES};
use quorate_protocol::explain::{Event, Events, Kind, Note};
use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::handshake::{Answer, Opening, PROTOCOL_MAX, Versions, Who, opener_proof};
use quorate_protocol::layout::{Layout, LayoutHash, Member};
use quorate_protocol::message::head::RawHead;
use quorate_protocol::message::{
    self, Data, DataReply, Formation, Message, Query, QueryReply, Refusal, Repair, Reply, Status,
    WriteAnswer,
};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::placement::Epoch;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::put::Role;
use quorate_protocol::time::WallTime;
use quorate_protocol::wire::{self, FrameWriter, Header};
use serde::Serialize;
use serde_json::json;

use crate::common::http::{Raw, Request};
use crate::common::{CLUSTER_ID, CLUSTER_KEY, Cluster};

fn name(text: &str) -> NodeId {
    NodeId::parse(text).unwrap()
}

/// The header of n2's frames to n1.
fn header(nodes: usize) -> Header {
    let member = |i: usize| {
        let node = name(&format!("n{i}"));
        Member::new(node, node.to_string(), 1)
    };
    let layout = Layout::new(1, 1024, (1..=nodes).map(member).collect()).unwrap();
    Header {
        cluster_id: CLUSTER_ID.to_owned(),
        token: [0; 16],
        from: name("n2"),
        to: name("n1"),
        epoch: Epoch { number: 1, hash: layout.hash() },
        partitions: 1024,
        default_n: 3,
    }
}

fn store(payload: &[u8]) -> (Message, Vec<u8>) {
    let key = Key::new("b", b"k").unwrap();
    (Message::Data(Data::Store { key, role: Role::Home, read_at: now() }), payload.to_vec())
}

/// Hints for a key with objects of these lengths.
fn deliver(lens: &[u32], payload: &[u8]) -> (Message, Vec<u8>) {
    let hints = lens.iter().map(|len| (Key::new("b", b"k").unwrap(), *len)).collect();
    (Message::Repair(Repair::Deliver { hints, read_at: now() }), payload.to_vec())
}

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    WallTime(since.as_millis() as u64)
}

fn frame(header: &Header, messages: &[(Message, Vec<u8>)]) -> Vec<u8> {
    let mut writer = FrameWriter::new(PROTOCOL_MAX, header);
    for (message, payload) in messages {
        writer.push(message, payload);
    }
    writer.finish_for_stream(envelope::Kind::Frame).to_vec()
}

/// A head whose fields are encoded here.
fn raw(fields: &impl Serialize) -> RawHead {
    RawHead(postcard::to_stdvec(fields).unwrap())
}

/// What a node answers to a frame.
#[derive(Debug)]
enum Answered {
    /// It executed the messages.
    Replies(Vec<Reply>, Vec<Bytes>),
    /// It refused the frame in words.
    Refused(String),
    /// It closed the stream.
    Closed,
}

impl Answered {
    fn is_executed(&self) -> bool {
        matches!(self, Self::Replies(..))
    }

    fn words(&self) -> &str {
        if let Self::Refused(words) = self { words } else { "" }
    }
}

/// Sends a frame, with its prefix, on a stream of n2 of its own.
fn send(cluster: &Cluster, frame: &[u8]) -> Answered {
    let mut raw = opened(cluster, frame);
    raw.finish();
    let (mut heads, mut payloads) = (Vec::new(), Vec::new());
    while let Some((kind, bytes)) = envelope_from(&mut raw) {
        if kind == envelope::Kind::Refusal {
            return Answered::Refused(String::from_utf8(bytes).unwrap());
        }
        let (_, replies) = wire::decode::<Reply>(bytes.into(), Versions::ALL).unwrap();
        for reply in replies {
            heads.push(reply.head);
            payloads.push(reply.payload);
        }
        if kind == envelope::Kind::Frame {
            return Answered::Replies(heads, payloads);
        }
    }
    Answered::Closed
}

/// The next envelope on a stream; `None` if it is closed.
fn envelope_from(raw: &mut Raw) -> Option<(envelope::Kind, Vec<u8>)> {
    let prefix = raw.read_exact(PREFIX_BYTES)?;
    let (kind, len) = envelope::parse(prefix.try_into().unwrap()).unwrap();
    Some((kind, raw.read_exact(len)?))
}

#[test]
fn frames_of_strangers_are_refused_and_name_both_sides() {
    let mut cluster = Cluster::start(2);
    let good = header(2);
    let read = [(Message::Query(Query::Inspect { key: Key::new("b", b"k").unwrap() }), Vec::new())];
    assert!(send(&cluster, &frame(&good, &read)).is_executed(), "a good frame is understood");

    let object = Object::default().to_bytes().to_vec();
    let with = |change: &dyn Fn(&mut Header)| {
        let mut header = good.clone();
        change(&mut header);
        frame(&header, &[store(&object)])
    };
    for (frame, why) in [
        (with(&|h| h.cluster_id = "other".to_owned()), "other"),
        (with(&|h| h.to = name("n2")), "n2"),
        (with(&|h| h.from = name("n9")), "a frame of n9 on a stream of n2"),
        (with(&|h| h.epoch.hash = LayoutHash(1)), "layout"),
        (with(&|h| h.partitions = 512), "512"),
    ] {
        let answer = send(&cluster, &frame);
        assert!(answer.words().contains(why), "{why:?} is not in {answer:?}");
    }
    let mut newer = frame(&good, &read);
    newer[PREFIX_BYTES + 4] = 10;
    let answer = send(&cluster, &newer);
    assert!(answer.words().contains("protocol 10"), "{answer:?}");
    cluster.nodes[0].assert_alive();
}

#[test]
fn damaged_frames_are_refused_wherever_they_are_cut_or_changed() {
    let mut cluster = Cluster::start(2);
    let object = Object::default().to_bytes().to_vec();
    let good = frame(&header(2), &[store(&object), store(&object)]);
    let whole = &good[PREFIX_BYTES..];
    let again = |frame: &[u8]| {
        let prefix = envelope::prefix(envelope::Kind::Frame, frame.len());
        send(&cluster, &[&prefix[..], frame].concat())
    };
    assert!(again(whole).is_executed());
    for cut in (0..whole.len()).step_by(3) {
        let answer = again(&whole[..cut]);
        assert!(!answer.words().is_empty(), "cut at {cut}: {answer:?}");
        let mut changed = whole.to_vec();
        changed[cut] ^= 0x40;
        let answer = again(&changed);
        assert!(!answer.words().is_empty(), "changed at {cut}: {answer:?}");
    }
    assert!(!again(&[whole, &[0]].concat()).words().is_empty());
    let noise: Vec<u8> =
        (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(!again(&noise).words().is_empty());
    cluster.nodes[0].assert_alive();
    cluster.nodes[0].get("/kv/b/k").assert_problem(404, "key_not_found");
}

#[test]
fn sound_frames_with_nonsense_in_them_change_nothing() {
    let mut cluster = Cluster::start(2);
    let status = Box::new(Status {
        clock: WallTime(0),
        waits: false,
        formation: Some(Formation([9; 16])),
        ready: true,
        holdings: Default::default(),
        writable: true,
        buckets_hash: 0,
        release: "x".repeat(100_000),
        start: Default::default(),
        common: Default::default(),
        remembers_since: WallTime(0),
        attests: false,
        frame_bytes_max: 0,
        client_addr: "\r\n<script>".to_owned(),
        hint_bytes: Some(u64::MAX),
    });
    for message in [
        store(b""),
        store(b"\x01\xff\xff\xff\xff"),
        store(&[0; 100]),
        store(&vec![0xff; 1 << 20]),
        (
            Message::Data(Data::Store {
                key: Key::new("b", b"k").unwrap(),
                role: Role::Hint { target: name("n9") },
                read_at: now(),
            }),
            Object::default().to_bytes().to_vec(),
        ),
        deliver(&[], b"x"),
        deliver(&[9], b"x"),
        deliver(&[1, u32::MAX], b"x"),
        deliver(&[1; 10_000], &[0; 10_000]),
        deliver(&[1], b"x"),
        (Message::Cluster(message::Cluster::Form { formation: Formation([1; 16]) }), Vec::new()),
        (Message::Cluster(message::Cluster::Hello { status }), Vec::new()),
        (
            Message::Query(Query::Conflicts { bucket: None, after: None, limit: u16::MAX }),
            Vec::new(),
        ),
    ] {
        let what = format!("{:?}", message.0).chars().take(60).collect::<String>();
        let answer = send(&cluster, &frame(&header(2), &[message]));
        assert!(!matches!(answer, Answered::Closed), "{what}");
        cluster.nodes[0].assert_alive();
    }
    let answer = cluster.nodes[0].get("/kv/b/k");
    answer.assert_problem(404, "key_not_found");
    let report = cluster.nodes[0].get("/siblings/b/k").json();
    assert_eq!(report["siblings"], json!([]), "{report}");
    assert_eq!(cluster.nodes[0].send(&Request::put("/kv/b/k", "1")).status, 204);
}

/// A coordinator's events are believed only for a write that was forwarded to it, and no more of them
/// than can be recorded.
#[test]
fn events_that_nobody_asked_for_change_nothing() {
    let mut cluster = Cluster::start(2);
    let node = cluster.nodes[0].client_addr;
    let put = Request::put("/kv/b/k?explain=true", "1").send(node);
    let id = put.header("quorate-explain").unwrap().to_owned();
    let before = Request::get(&format!("/explain/{id}")).send(node).json();
    let trace = u64::from_str_radix(&id, 16).unwrap();
    let event = Event { us: 1, kind: Kind::Quorum, node: name("n2"), note: Note::Nothing };
    let mut events = Events::default();
    (0..1000).for_each(|_| events.push(event));
    for trace in [trace, 7, u64::MAX] {
        for answer in [None, Some(WriteAnswer::IdempotencyKeyReused)] {
            let events = events.clone();
            let message = Message::Data(Data::Explained { operation: 1, trace, answer, events });
            let answer = send(&cluster, &frame(&header(2), &[(message, b"junk".to_vec())]));
            assert!(answer.is_executed(), "{answer:?}");
        }
    }
    // More than a node can record, in the encoding of the message: its tag comes first.
    let too_many = vec![event; 200_000];
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header(2));
    writer.push(&raw(&(0x04_u8, 1_u64, trace, None::<u8>, too_many, false)), &[]);
    let refused = send(&cluster, &writer.finish_for_stream(envelope::Kind::Frame));
    assert!(!refused.words().is_empty(), "{refused:?}");
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header(2));
    writer.push(&raw(&(0x04_u8, 1_u64, trace, None::<u8>, vec![event; 3], false)), &[]);
    let taken = send(&cluster, &writer.finish_for_stream(envelope::Kind::Frame));
    assert!(taken.is_executed(), "the encoding is right");
    let after = Request::get(&format!("/explain/{id}")).send(node).json();
    let quorums = |trace: &serde_json::Value| {
        trace["events"].as_array().unwrap().iter().filter(|e| e["what"] == "quorum").count()
    };
    assert_eq!((quorums(&before), quorums(&after)), (1, 1), "{after:#}");
    cluster.nodes[0].assert_alive();
}

/// A node that has just started has no row in memory: the reads of a batch have to wait for the
/// disk, and are still answered in order.
#[test]
fn a_batch_that_waits_for_the_disk_is_answered_in_order() {
    let mut cluster = Cluster::start(2);
    let key = |i: usize| Key::new("b", format!("k{i}").as_bytes()).unwrap();
    for i in 0..60 {
        let put = Request::put(&format!("/kv/b/k{i}"), format!("the value of k{i}."));
        assert_eq!(cluster.nodes[0].send(&put).status, 204);
    }
    cluster.nodes[0].stop();
    cluster.nodes[0].start();
    cluster.nodes[0].wait_until_ready();

    let read = |i| {
        let (what, place) = (ReadKind::Object, RowKind::Home);
        Message::Data(Data::Read { key: key(i), what, place, bytes_max: u32::MAX })
    };
    let question = |i: usize| match i % 10 {
        3 => (Message::Query(Query::Inspect { key: key(i) }), Vec::new()),
        6 => store(b"nonsense"),
        _ => (read(i), Vec::new()),
    };
    let questions: Vec<_> = (0..60).map(question).collect();
    let answer = send(&cluster, &frame(&header(2), &questions));
    let Answered::Replies(heads, payloads) = answer else { panic!("{answer:?}") };
    assert_eq!(heads.len(), questions.len());
    for (i, (head, payload)) in heads.into_iter().zip(payloads).enumerate() {
        let text = String::from_utf8_lossy(&payload);
        let has_value = text.contains(&format!("the value of k{i}."));
        match i % 10 {
            3 => assert!(
                matches!(head, Reply::Query(QueryReply::Inspection { .. })) && has_value,
                "{i}"
            ),
            6 => assert_eq!(head, Reply::Refused(Refusal::Malformed), "{i}"),
            _ => assert!(head == Reply::Data(DataReply::Object) && has_value, "{i}: {head:?}"),
        }
    }
}

#[test]
fn an_oversized_frame_is_refused_by_its_announced_length() {
    let mut cluster = Cluster::start(2);
    let announced = envelope::prefix(envelope::Kind::Frame, u32::MAX as usize);
    let answer = send(&cluster, &announced);
    assert!(answer.words().contains("too large"), "{answer:?}");
    cluster.nodes[0].assert_alive();
}

/// A stream that n2 opened, on which `bytes` were sent after that.
fn opened(cluster: &Cluster, bytes: &[u8]) -> Raw {
    let (versions, keys) = (Versions::ALL, PeerKeys::new(&[CLUSTER_KEY]));
    let who = Who::of(&header(2), versions);
    let opening = Opening { versions, who, nonce: Some([3; 16]) }.to_bytes();
    let mut raw = stream(cluster, &opening);
    let (_, answer) = envelope_from(&mut raw).unwrap();
    assert_eq!(Answer::decode(&answer).unwrap().chosen, Some(PROTOCOL_MAX));
    let opening = &opening[PREFIX_BYTES..];
    assert!(Answer::is_proved(opening, &answer, &keys));
    raw.send(&[&opener_proof(opening, &answer, &keys), bytes].concat());
    raw
}

/// A stream on which `bytes` were sent.
fn stream(cluster: &Cluster, bytes: &[u8]) -> Raw {
    let mut raw = Raw::connect(cluster.nodes[0].peer_addr);
    raw.send(
        b"GET /peer HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: quorate-peer\r\n\r\n",
    );
    assert_eq!(raw.answer().unwrap().status, 101);
    raw.send(bytes);
    raw
}

#[test]
fn streams_of_noise_are_closed() {
    let mut cluster = Cluster::start(2);
    let object = Object::default().to_bytes().to_vec();
    let mut writer = FrameWriter::new(PROTOCOL_MAX, &header(2));
    let (message, payload) = store(&object);
    writer.push(&message, &payload);
    let good = writer.finish_for_stream(envelope::Kind::Frame);
    for cut in (1..good.len()).step_by(3) {
        let mut raw = opened(&cluster, &good[..cut]);
        raw.finish();
        while !raw.is_closed() {} // the answer to the opening
        let mut changed = good.to_vec();
        changed[cut] ^= 0x40;
        let mut raw = opened(&cluster, &changed);
        raw.finish();
        while !raw.is_closed() {} // a refusal, if the whole of it was read
    }
    let noise = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
    let noise: Vec<u8> = (0..1_000_000).map(noise).collect();
    for bytes in [&noise[..], &[0; 1000], &[0xff; 1000], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut raw = stream(&cluster, bytes);
        while !raw.is_closed() {}
    }
    cluster.nodes[0].assert_alive();
    cluster.nodes[0].get("/kv/b/k").assert_problem(404, "key_not_found");
}

#[test]
fn clients_are_offered_no_upgrade() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    for (path, name, status) in
        [("/livez", "websocket", 200), ("/kv/b/k", "h2c", 404), ("/peer", "quorate-peer", 404)]
    {
        let asked = Request::get(path).header("Upgrade", name).send(node.client_addr);
        assert_eq!(asked.status, status, "{path}");
        // The connection remains usable.
        let mut raw = Raw::connect(node.client_addr);
        for _ in 0..2 {
            let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\n");
            raw.send(format!("{head}Connection: upgrade\r\nUpgrade: {name}\r\n\r\n").as_bytes());
            assert_eq!(raw.answer().unwrap().status, status, "{path}");
        }
    }
    let posted = Request::new("POST", "/peer").header("Upgrade", "quorate-peer").body("x");
    assert_eq!(posted.send(node.peer_addr).status, 405);
}

#[test]
fn the_two_ports_do_not_know_each_others_routes() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    node.send(&Request::new("POST", "/peer").body("x")).assert_problem(404, "no_such_route");
    for path in ["/kv/b/k", "/readyz", "/cluster"] {
        assert_eq!(Request::get(path).send(node.peer_addr).status, 404);
    }
}
