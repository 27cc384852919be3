//! Batches on streams that break, lag, lie or are of another node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use quorate_protocol::envelope;
use quorate_protocol::handshake::{Answer, Opening, PROTOCOL_MAX, Versions, Who, is_opener_proof};
use quorate_protocol::layout::LayoutHash;
use quorate_protocol::message::{DataReply, Message, Repair};
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Epoch;
use quorate_protocol::proof::PeerKeys;
use quorate_protocol::wire::{FrameWriter, Header};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::host::{Dialing, Wire};
use crate::peer::epochs::Epochs;
use crate::peer::mailbox::PeerEvent;
use crate::peer::member::{PeerMember, QueueBounds};
use crate::peer::queue::Bounds;
use crate::testing::Counting;

type Accepted = Stream<TcpStream>;

/// Dials an address of this machine.
struct Loopback(SocketAddr);

impl Wire for Loopback {
    fn dial<'a>(&'a self, _peer: NodeId, _addr: &'a str) -> Dialing<'a> {
        Box::pin(async {
            let io = TcpStream::connect(self.0).await.map_err(|error| error.to_string())?;
            Ok(Box::new(io) as Box<dyn Io>)
        })
    }
}

const FRAME_BYTES_MAX: usize = 1 << 20;

fn header(from: &str, to: &str) -> Header {
    Header {
        cluster_id: "test".to_owned(),
        token: [0; 16],
        from: NodeId::parse(from).unwrap(),
        to: NodeId::parse(to).unwrap(),
        epoch: Epoch { number: 1, hash: LayoutHash(1) },
        partitions: 8,
        default_n: 3,
    }
}

/// The peer n2, which listens on `listener` or nowhere, and what its lanes share.
fn peer(listener: &TcpListener) -> (Peer, TransportContext) {
    let addr = listener.local_addr().unwrap();
    let bounds = Bounds {
        messages_max: 1,
        bytes_max: 1,
        batch_messages_max: 1,
        batch_bytes_max: 1,
        held_up_after: Duration::ZERO,
    };
    let node = NodeId::parse("n2").unwrap();
    let member =
        PeerMember { node, addr: addr.to_string(), zone: "z".to_owned(), is_sworn_dead: false };
    let (bounds, gone) = (QueueBounds([bounds; 3]), CancellationToken::new());
    let header = (header("n1", "n2"), Arc::new(Epochs::new(1)));
    let peer = Peer::new(&member, header, bounds, 0, 100, gone);
    let line = TransportContext {
        wire: Arc::new(Loopback(addr)),
        faults: Arc::default(),
        timeout: Duration::from_millis(600),
        outlook: Arc::default(),
        started: tokio::time::Instant::now(),
        lanes: 0,
        frame_bytes_max: FRAME_BYTES_MAX,
        versions: Versions::ALL,
        keys: Arc::new(keys()),
        chance: Arc::<Counting>::default(),
    };
    (peer, line)
}

/// A peer that accepts every stream, answers its opening and then runs `act` on it, given how many
/// there were before.
async fn fake<A: Future<Output = Option<Accepted>> + Send>(
    act: impl Fn(usize, Accepted) -> A + Clone + Send + Sync + 'static,
) -> (Peer, TransportContext, Arc<AtomicUsize>) {
    fake_that_says(answer_to_opening(Versions::ALL), act).await
}

fn keys() -> PeerKeys {
    PeerKeys::new(&[[7; 32]])
}

fn answer_to_opening(versions: Versions) -> Words {
    let chosen = Versions::ALL.highest_common(&versions);
    Arc::new(move |opening| Answer { versions, chosen }.to_bytes(opening, &keys(), &[2; 16]))
}

/// What is answered to an opening.
type Words = Arc<dyn Fn(&[u8]) -> Bytes + Send + Sync>;

/// The same with these words instead of its answer to an opening.
async fn fake_that_says<A: Future<Output = Option<Accepted>> + Send>(
    words: Words,
    act: impl Fn(usize, Accepted) -> A + Clone + Send + Sync + 'static,
) -> (Peer, TransportContext, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (peer, line) = peer(&listener);
    let opened = Arc::new(AtomicUsize::new(0));
    let count = opened.clone();
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            let (number, act) = (count.fetch_add(1, Relaxed), act.clone());
            let words = words.clone();
            tokio::spawn(async move {
                let mut stream = Stream::new(io, FRAME_BYTES_MAX);
                let (kind, said) = stream.read().await.unwrap();
                assert_eq!(kind, Kind::Handshake);
                let opening = Opening::decode(&said).unwrap();
                assert_eq!(opening.who, Who::of(&header("n1", "n2"), Versions::ALL));
                let words = words(&said);
                stream.write(&words).await.unwrap();
                let prefix = envelope::PREFIX_BYTES;
                let proves = Answer::decode(&words[prefix..]).is_ok_and(|it| it.proves());
                if proves && let Ok((kind, proof)) = stream.read().await {
                    assert_eq!(kind, Kind::Handshake);
                    assert!(is_opener_proof(&proof, &said, &words[prefix..], &keys()));
                }
                while let Some(again) = act(number, stream).await {
                    stream = again;
                }
            });
        }
    });
    (peer, line, opened)
}

fn batch(messages: usize) -> Bytes {
    let mut frame = FrameWriter::new(PROTOCOL_MAX, &header("n1", "n2"));
    (0..messages).for_each(|_| frame.push(&Message::Repair(Repair::Room), &[]));
    frame.finish_for_stream(Kind::Frame)
}

/// Replies that carry the number of their stream.
fn replies(kind: Kind, count: usize, number: usize) -> Bytes {
    let mut frame = FrameWriter::new(PROTOCOL_MAX, &header("n2", "n1"));
    (0..count).for_each(|_| frame.push(&Reply::Data(DataReply::Object), &[number as u8]));
    frame.finish_for_stream(kind)
}

async fn answer(number: usize, mut stream: Accepted) -> Option<Accepted> {
    let (_, frame) = stream.read().await.ok()?;
    let (_, messages) = wire::decode::<Message>(frame, Versions::ALL).unwrap();
    stream.write(&replies(Kind::Frame, messages.len(), number)).await.ok()?;
    Some(stream)
}

/// Reads a batch and answers it with `words`.
async fn say(words: Bytes, mut stream: Accepted) -> Option<Accepted> {
    stream.read().await.ok()?;
    stream.write(&words).await.ok()?;
    Some(stream)
}

/// Sends a batch, and returns the number of the stream that each reply came on.
async fn ask(
    link: &mut Link,
    on: &(Peer, TransportContext, Arc<AtomicUsize>),
) -> Result<Vec<u8>, Failure> {
    ask_with(link, (&on.0, &on.1), batch(3), 3).await
}

async fn ask_with(
    link: &mut Link,
    (peer, line): (&Peer, &TransportContext),
    frame: Bytes,
    messages: usize,
) -> Result<Vec<u8>, Failure> {
    let mut told = Vec::new();
    let mut take = |reply: WithPayload<Reply>| told.push(reply.payload[0]);
    let mut replies = Replies { missing: messages, take: &mut take };
    assert_eq!(link.connect(peer, line).await?, PROTOCOL_MAX);
    link.ask(peer, line, [frame, Bytes::new()], &mut replies, None).await?;
    Ok(told)
}

#[tokio::test]
async fn many_batches_go_over_one_stream() {
    let peer = fake(answer).await;
    let mut link = Link::default();
    for _ in 0..100 {
        assert_eq!(ask(&mut link, &peer).await, Ok(vec![0; 3]));
    }
    assert_eq!(peer.2.load(Relaxed), 1);
}

#[tokio::test]
async fn a_stream_that_was_closed_while_idle_is_opened_anew() {
    let peer = fake(|number, stream| async move {
        drop(answer(number, stream).await);
        None
    })
    .await;
    let mut link = Link::default();
    for number in 0..5 {
        assert_eq!(ask(&mut link, &peer).await, Ok(vec![number; 3]));
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_stream_that_closes_after_the_batch_was_sent_is_silence() {
    let peer = fake(|number, mut stream| async move {
        match number {
            0 => drop(stream.read().await.unwrap()),
            1 => drop(say(replies(Kind::Frame, 3, 0).slice(..20), stream).await),
            _ => return answer(number, stream).await,
        }
        None
    })
    .await;
    let mut link = Link::default();
    for _ in 0..2 {
        let failure = ask(&mut link, &peer).await.unwrap_err();
        assert!(matches!(failure, Failure::Silent(_)), "{failure:?}");
    }
    assert_eq!(ask(&mut link, &peer).await, Ok(vec![2; 3]));
}

#[tokio::test]
async fn a_late_answer_is_not_taken_for_the_next() {
    let peer = fake(|number, stream| async move {
        if number == 0 {
            sleep(Duration::from_millis(900)).await;
        }
        answer(number, stream).await
    })
    .await;
    let mut link = Link::default();
    let late = Failure::Silent("no answer in time".to_owned());
    assert_eq!(ask(&mut link, &peer).await, Err(late));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(ask(&mut link, &peer).await, Ok(vec![1; 3]));
}

/// The whole answer takes four timeouts, but bytes keep arriving.
#[tokio::test]
async fn an_answer_that_comes_slowly_is_waited_for() {
    let peer = fake(|_, mut stream| async move {
        stream.read().await.ok()?;
        let words = replies(Kind::Frame, 3, 7);
        for piece in words.chunks(words.len().div_ceil(12)) {
            sleep(Duration::from_millis(200)).await;
            stream.write(piece).await.ok()?;
        }
        Some(stream)
    })
    .await;
    let begun = Instant::now();
    assert_eq!(ask(&mut Link::default(), &peer).await, Ok(vec![7; 3]));
    assert!(begun.elapsed() > 2 * peer.1.timeout);
}

/// So does one that has nothing to send yet but shows that it is at work.
#[tokio::test]
async fn signs_of_life_are_waited_for_and_told() {
    let peer = fake(|_, mut stream| async move {
        stream.read().await.ok()?;
        for _ in 0..8 {
            sleep(Duration::from_millis(200)).await;
            stream.write(&replies(Kind::Part, 0, 0)).await.ok()?;
        }
        stream.write(&replies(Kind::Frame, 3, 7)).await.ok()?;
        Some(stream)
    })
    .await;
    let (told, mut count) = (AtomicUsize::new(0), 0);
    let mut take = |_| count += 1;
    let mut replies = Replies { missing: 3, take: &mut take };
    let progress = || {
        told.fetch_add(1, Relaxed);
    };
    let progress: Option<&(dyn Fn() + Sync)> = Some(&progress);
    let frame = [batch(3), Bytes::new()];
    let mut link = Link::default();
    link.connect(&peer.0, &peer.1).await.unwrap();
    let asked = link.ask(&peer.0, &peer.1, frame, &mut replies, progress).await;
    assert_eq!((asked, count), (Ok(()), 3));
    assert!(told.load(Relaxed) > 1, "{told:?}");
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let peer = fake(|_, stream| say(envelope::refusal("no key of this cluster"), stream)).await;
    let refused = Failure::Refused("no key of this cluster".to_owned());
    assert_eq!(ask(&mut Link::default(), &peer).await, Err(refused));
}

#[tokio::test]
async fn replies_may_come_in_parts() {
    let parts = [(Kind::Part, 1), (Kind::Part, 1), (Kind::Frame, 1)];
    let words = parts.map(|(kind, count)| replies(kind, count, 7)).concat();
    let peer = fake(move |_, stream| say(words.clone().into(), stream)).await;
    assert_eq!(ask(&mut Link::default(), &peer).await, Ok(vec![7; 3]));
}

#[tokio::test]
async fn what_does_not_answer_the_batch_is_silence() {
    let stranger =
        FrameWriter::new(PROTOCOL_MAX, &header("n3", "n1")).finish_for_stream(Kind::Frame);
    let too_large = Bytes::from(envelope::prefix(Kind::Frame, FRAME_BYTES_MAX + 1).to_vec());
    let refused_late = [replies(Kind::Part, 1, 0), envelope::refusal("no")].concat();
    for (words, why) in [
        (replies(Kind::Frame, 2, 0), "2 replies to 3"),
        (replies(Kind::Frame, 4, 0), "4 replies to 3"),
        (replies(Kind::Part, 4, 0), "4 replies to 3"),
        (stranger, "n3 answers where n2 should be"),
        (too_large, "too large"),
        (refused_late.into(), "damaged"),
        (Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "unknown kind"),
        (Bytes::from_static(b"\x03\0\0\0\0abc"), "damaged"),
        (Bytes::from_static(b"\xff\0\0\0\0abc"), "no answer in time"),
    ] {
        let peer = fake(move |_, stream| say(words.clone(), stream)).await;
        match ask(&mut Link::default(), &peer).await {
            Err(Failure::Silent(error)) => assert!(error.contains(why), "{why}: {error}"),
            other => panic!("{why}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn without_a_stream_nothing_was_sent() {
    let large = Bytes::from(vec![0; FRAME_BYTES_MAX + 1]);
    let there = fake(answer).await;
    let too_large = ask_with(&mut Link::default(), (&there.0, &there.1), large, 1).await;
    assert!(matches!(too_large, Err(Failure::TooLarge(_))), "no fault of the peer");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (peer, line) = peer(&listener);
    let mut link = Link::default();
    let mut not_sent = async |frame| match ask_with(&mut link, (&peer, &line), frame, 1).await {
        Err(Failure::NotSent(error)) => error,
        other => panic!("{other:?}"),
    };
    drop(listener);
    assert!(not_sent(batch(1)).await.contains("refused"), "no listener");
}

/// Both ends name what they speak, the peer is shown as what it is, and a later release of it is
/// talked to.
#[tokio::test]
async fn without_a_common_version_nothing_is_sent() {
    let later = Versions { min: 40, max: 41 };
    let (peer, line, opened) = fake_that_says(answer_to_opening(later), answer).await;
    for is_first in [true, false] {
        let failure = Link::default().connect(&peer, &line).await.unwrap_err();
        assert!(matches!(failure.heard(), PeerEvent::NotSent), "nothing was executed");
        let text = failure.error();
        let ours = Versions::ALL.to_string();
        assert!(text.contains("n2 speaks 40 to 41") && text.contains(&ours), "{text}");
        let Failure::Incompatible { is_news, .. } = failure else { panic!("{text}") };
        assert_eq!(is_news, is_first, "logged once");
        assert!(peer.health.word().is_incompatible());
    }
    assert_eq!(opened.load(Relaxed), 2);
    peer.health.word().is_unreachable();
    assert!(!peer.health.word().is_incompatible(), "it may have been upgraded meanwhile");
}

#[tokio::test]
async fn what_does_not_answer_an_opening_opens_no_stream() {
    let foreign = Answer { versions: Versions::only(41), chosen: Some(41) };
    for (words, why) in [
        (replies(Kind::Frame, 0, 0), "unknown kind"),
        (foreign.to_bytes(b"", &keys(), &[2; 16]), "not offered"),
        (Bytes::from_static(b"\x03\0\0\0\x03abc"), "truncated handshake"),
        (Bytes::from_static(b"\xff\0\0\0\x03abc"), "no connection in time"),
    ] {
        let (peer, line, _) = fake_that_says(Arc::new(move |_| words.clone()), answer).await;
        match Link::default().connect(&peer, &line).await {
            Err(Failure::NotSent(error)) => assert!(error.contains(why), "{why}: {error}"),
            other => panic!("{why}: {other:?}"),
        }
    }
    let words: Words = Arc::new(|_| envelope::refusal("no key"));
    let (peer, line, _) = fake_that_says(words, answer).await;
    let refused = Link::default().connect(&peer, &line).await;
    assert_eq!(refused, Err(Failure::Refused("no key".to_owned())));
}

/// What listens at a peer's address must have the cluster's key, and prove it for this stream.
#[tokio::test]
async fn an_answer_without_the_key_of_the_cluster_opens_no_stream() {
    let said = Answer { versions: Versions::ALL, chosen: Some(PROTOCOL_MAX) };
    let other = PeerKeys::new(&[[8; 32]]);
    let of_another_key: Words = Arc::new(move |it| said.to_bytes(it, &other, &[2; 16]));
    let played_back: Words = Arc::new(move |_| said.to_bytes(b"earlier", &keys(), &[2; 16]));
    let cut: Words = Arc::new(move |it| {
        let whole = said.to_bytes(it, &keys(), &[2; 16]);
        let len = whole.len() - envelope::PREFIX_BYTES - 1;
        [&envelope::prefix(Kind::Handshake, len)[..], &whole[5..][..len]].concat().into()
    });
    for words in [of_another_key, played_back, cut] {
        let (peer, line, _) = fake_that_says(words, answer).await;
        let refused = Link::default().connect(&peer, &line).await.unwrap_err();
        assert!(matches!(&refused, Failure::Refused(why) if why.contains("cluster_keys")));
    }
}

/// Never connects.
struct Pending;

impl Wire for Pending {
    fn dial<'a>(&'a self, _peer: NodeId, _addr: &'a str) -> Dialing<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_connection_is_not_waited_for_longer_than_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (peer, line) = peer(&listener);
    let line = TransportContext { wire: Arc::new(Pending), ..line };
    let asked = ask_with(&mut Link::default(), (&peer, &line), batch(1), 1).await;
    assert_eq!(asked, Err(Failure::NotSent("no connection in time".to_owned())));
}
