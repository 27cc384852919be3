//! `GET /peer`: an HTTP connection becomes a stream of batches.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use quorate_engine::node::Node;
use quorate_engine::peer::framed::{Stream, StreamError, frame_bytes_max};
use quorate_engine::peer_port::stream::{accept, answer_batches};

use crate::http::port::Lease;
use crate::peer_port::UPGRADE_NAME;
use crate::tls::door::Identity;

/// `GET /peer`: the connection becomes a stream, or the request is refused.
pub(crate) async fn open(State(node): State<Arc<Node>>, mut request: Request) -> Response {
    let lease = request.extensions_mut().remove::<Lease>();
    let shown = request.extensions_mut().remove::<Identity>();
    let is_right = request.method() == Method::GET
        && request.body().is_end_stream()
        && asks_for_a_stream(request.headers());
    // Only an upgradable connection comes with a lease.
    let Some(lease) = lease.filter(|_| is_right) else {
        let why = "this endpoint is only for streams of peers";
        return (StatusCode::UPGRADE_REQUIRED, upgrade_headers(), why).into_response();
    };
    tokio::spawn(serve(node, hyper::upgrade::on(request), lease, shown));
    (StatusCode::SWITCHING_PROTOCOLS, upgrade_headers()).into_response()
}

fn asks_for_a_stream(headers: &HeaderMap) -> bool {
    let mut asked = headers.get_all(UPGRADE).iter();
    let is_ours = asked.next().is_some_and(|name| name.as_bytes() == UPGRADE_NAME.as_bytes());
    is_ours && asked.next().is_none()
}

fn upgrade_headers() -> [(HeaderName, &'static str); 2] {
    [(CONNECTION, "upgrade"), (UPGRADE, UPGRADE_NAME)]
}

async fn serve(node: Arc<Node>, upgrade: OnUpgrade, lease: Lease, shown: Option<Identity>) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a connection did not become a stream"),
    };
    let mut stream = Stream::new(upgraded, frame_bytes_max(&node.config));
    if let Some(Identity(shown)) = shown {
        stream.showed(shown);
    }
    let (stop, crowd) = (lease.stop.clone(), lease.crowd.clone());
    let answering = async {
        // Until it has proved its key it makes way for others, the longest waiting first.
        let mut stranger = crowd.enter();
        let is_accepted = tokio::select! {
            is_accepted = accept(&node, &mut stream, &stop) => is_accepted?,
            () = stranger.asked() => false,
        };
        drop(stranger);
        match is_accepted {
            true => answer_batches(&node, &mut stream, &stop).await,
            false => Ok(()),
        }
    };
    let ended = lease.hold(answering).await;
    match ended {
        Some(Ok(()) | Err(StreamError::Closed)) => {}
        Some(Err(error)) => tracing::debug!(%error, "a peer's stream ended"),
        None => tracing::warn!("a peer's batch was aborted because the node stops"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use bytes::Bytes;
    use quorate_engine::peer::fault_hook::Cuts;
    use quorate_engine::peer::handshake::{Introduction, introduce};
    use quorate_protocol::envelope::{self, Kind};
    use quorate_protocol::handshake::{
        Answer, Opening, PROTOCOL_MAX, PROTOCOL_PROVES, Versions, Who, opener_proof,
    };
    use quorate_protocol::message::head::RawHead;
    use quorate_protocol::message::{Message, Refusal, Repair, RepairReply, Reply};
    use quorate_protocol::name::NodeId;
    use quorate_protocol::proof::PeerKeys;
    use quorate_protocol::wire::{self, FrameWriter, Header};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;
    use crate::http::port::{self, Bounds};
    use crate::peer_port::listener;

    /// The peer port of n1.
    struct Port {
        node: Arc<Node>,
        addr: SocketAddr,
        stop: port::Stop,
        ended: JoinHandle<()>,
        _directory: TempDir,
    }

    impl Port {
        async fn start(connections_max: usize) -> Self {
            let directory = TempDir::new().unwrap();
            let text = format!(
                "cluster_id = \"test\"\ncluster_keys = [\"{}\"]\nnode = \"n1\"\ndata_dir = {:?}\n\
                 client_addr = \"127.0.0.1:1\"\npeer_addr = \"127.0.0.1:2\"\nfault_hook = true\n\
                 durability = \"buffered\"\n[timeouts]\nreplica_ms = 50\nbody_ms = 300\nheader_ms = 500\n\
                 [layout]\nversion = 1\npartitions = 8\n\
                 [[layout.nodes]]\nname = \"n1\"\npeer_addr = \"127.0.0.1:2\"\nzone = \"a\"\n\
                 [[layout.nodes]]\nname = \"n2\"\npeer_addr = \"127.0.0.1:3\"\nzone = \"b\"\n",
                "07".repeat(32),
                directory.path().join("data"),
            );
            let file = directory.path().join("node.toml");
            std::fs::write(&file, text).unwrap();
            let config = crate::config::load(&file).unwrap();
            let node = crate::host::start(config, &crate::otlp::Traces::default()).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (addr, stop) = (listener.local_addr().unwrap(), port::Stop::default());
            let bounds = Bounds { connections_max, ..Bounds::for_peers(&node.config, 2) };
            let app = listener::app(node.clone());
            let ended = tokio::spawn(port::run(listener, app, bounds, stop.clone()));
            Self { node, addr, stop, ended, _directory: directory }
        }

        /// Sends a request's head and reads the answer's head.
        async fn ask(&self, head: &str) -> (TcpStream, String) {
            let mut io = TcpStream::connect(self.addr).await.unwrap();
            io.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(io.read_u8().await.unwrap());
            }
            (io, String::from_utf8(answer).unwrap())
        }

        /// A stream of which both ends have agreed on a version.
        async fn open(&self) -> Stream<TcpStream> {
            let mut stream = self.open_mute().await;
            let header = self.header();
            let (versions, keys) = (Versions::ALL, &*self.node.keys);
            let ours = Introduction { header: &header, versions, keys, nonce: [3; 16] };
            let agreed = introduce(&mut stream, &ours).await.unwrap();
            assert_eq!(agreed.chosen, Some(PROTOCOL_MAX));
            stream
        }

        /// Of n2's frames.
        fn header(&self) -> Header {
            Header { from: self.n2(), to: self.node.me, ..self.node.header.clone() }
        }

        /// n2's opening.
        fn opening(&self) -> Opening {
            let who = Who::of(&self.header(), Versions::ALL);
            Opening { versions: Versions::ALL, who, nonce: Some([3; 16]) }
        }

        /// A stream on which nothing was sent.
        async fn open_mute(&self) -> Stream<TcpStream> {
            let head = "GET /peer HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: quorate-peer";
            let (io, answer) = self.ask(head).await;
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            assert!(answer.contains("upgrade: quorate-peer"), "{answer}");
            Stream::new(io, 1 << 20)
        }

        fn n2(&self) -> NodeId {
            NodeId::parse("n2").unwrap()
        }

        /// A batch as n2 sends it.
        fn batch(&self, messages: usize) -> Bytes {
            let mut frame = FrameWriter::new(PROTOCOL_MAX, &self.header());
            (0..messages).for_each(|_| frame.push(&Message::Repair(Repair::SyncPoint), &[]));
            frame.finish_for_stream(Kind::Frame)
        }
    }

    async fn is_closed(stream: &mut Stream<TcpStream>) -> bool {
        let closed = timeout(Duration::from_secs(10), stream.read()).await.unwrap();
        matches!(closed, Err(StreamError::Closed | StreamError::Io(_)))
    }

    /// What is sent on the stream is refused in words, and the stream closed.
    async fn is_refused(mut stream: Stream<TcpStream>, bytes: &[u8], why: &str) {
        stream.write(bytes).await.unwrap();
        let (kind, text) = stream.read().await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert_eq!(kind, Kind::Refusal);
        assert!(text.contains(why), "{why}: {text}");
        assert!(is_closed(&mut stream).await, "{why}");
    }

    #[tokio::test]
    async fn batches_are_answered_one_after_the_other() {
        let port = Port::start(100).await;
        let mut stream = port.open().await;
        for messages in [1, 2, 0, 50] {
            stream.write(&port.batch(messages)).await.unwrap();
            let (kind, frame) = stream.read().await.unwrap();
            let (header, replies) = wire::decode::<Reply>(frame, Versions::ALL).unwrap();
            assert_eq!((kind, header.from, replies.len()), (Kind::Frame, port.node.me, messages));
        }
    }

    #[tokio::test]
    async fn what_is_no_batch_is_refused_and_the_stream_closed() {
        let port = Port::start(100).await;
        let mut changed = port.batch(1).to_vec();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        let n9 = NodeId::parse("n9").unwrap();
        let stranger = Header { from: n9, ..port.header() };
        let stranger = FrameWriter::new(PROTOCOL_MAX, &stranger).finish_for_stream(Kind::Frame);
        // Rejected before the rest of it arrives.
        let mut stranger = stranger.to_vec();
        stranger[..5].copy_from_slice(&envelope::prefix(Kind::Frame, 1 << 20));
        let mut refusal = port.batch(1).to_vec();
        refusal[4] = Kind::Refusal as u8;
        let too_large = envelope::prefix(Kind::Frame, frame_bytes_max(&port.node.config) + 1);
        for (bytes, why) in [
            (changed, "checksum"),
            (stranger, "a frame of n9 on a stream of n2"),
            (refusal, "unknown kind"),
            (too_large.to_vec(), "too large"),
            (b"\x03\0\0\0\0abc".to_vec(), "truncated"),
            (b"\0\0\0\0\0".to_vec(), "truncated"),
            (b"GET /peer HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "unknown kind"),
        ] {
            is_refused(port.open().await, &bytes, why).await;
        }
    }

    #[tokio::test]
    async fn who_opens_no_stream_properly_is_refused() {
        let port = Port::start(100).await;
        let stranger = |change: &dyn Fn(&mut Who)| {
            let mut opening = port.opening();
            change(&mut opening.who);
            opening.to_bytes()
        };
        let long = envelope::prefix(Kind::Handshake, 1 << 20);
        for (bytes, why) in [
            (port.batch(1), "unknown kind"),
            (stranger(&|who| who.to = who.from), "frame is for"),
            (Bytes::copy_from_slice(&long), "too large"),
            (Bytes::from_static(b"\x03\0\0\0\x03abc"), "truncated handshake"),
        ] {
            is_refused(port.open_mute().await, &bytes, why).await;
        }
        assert!(is_closed(&mut port.open_mute().await).await, "nothing came");
    }

    /// Without the key, or with what another stream carried, nothing is executed.
    #[tokio::test]
    async fn who_does_not_prove_the_key_for_this_stream_is_refused() {
        let port = Port::start(100).await;
        let opening = port.opening().to_bytes();
        let said = &opening[envelope::PREFIX_BYTES..];
        let stranger = PeerKeys::new(&[[8; 32]]);
        let mut recorded = None;
        for keys in [&port.node.keys, &stranger, &port.node.keys] {
            let mut stream = port.open_mute().await;
            stream.write(&opening).await.unwrap();
            let (_, answer) = stream.read().await.unwrap();
            let proof = opener_proof(said, &answer, keys);
            match recorded.clone() {
                None => {
                    recorded = Some(proof.clone());
                    stream.write(&proof).await.unwrap();
                    stream.write(&port.batch(1)).await.unwrap();
                    assert_eq!(stream.read().await.unwrap().0, Kind::Frame, "the real one");
                }
                Some(_) if std::ptr::eq(keys, &stranger) => {
                    is_refused(stream, &proof, "key of this cluster").await;
                }
                Some(recorded) => is_refused(stream, &recorded, "key of this cluster").await,
            }
        }
        // A batch in the place of the proof is none.
        let mut stream = port.open_mute().await;
        stream.write(&opening).await.unwrap();
        stream.read().await.unwrap();
        is_refused(stream, &port.batch(1), "unknown kind").await;
    }

    /// Versions in which each frame carries the same token are not spoken unless that is configured.
    #[tokio::test]
    async fn a_token_alone_opens_no_stream() {
        let port = Port::start(100).await;
        let versions = Versions::only(PROTOCOL_PROVES - 1);
        let who = Who::of(&port.header(), versions);
        assert!(port.node.keys.accepts_token(&who.token));
        let mut stream = port.open_mute().await;
        stream.write(&Opening { versions, who, nonce: None }.to_bytes()).await.unwrap();
        let (_, answer) = stream.read().await.unwrap();
        assert_eq!(Answer::decode(&answer).unwrap().chosen, None);
        assert!(is_closed(&mut stream).await);
    }

    /// The other end is told what this one speaks, and this one shows it to operators.
    #[tokio::test]
    async fn an_opening_without_a_common_version_is_answered_and_shown() {
        let port = Port::start(100).await;
        let later = Versions { min: 40, max: 41 };
        let mut stream = port.open_mute().await;
        let opening = Opening { versions: later, ..port.opening() };
        stream.write(&opening.to_bytes()).await.unwrap();
        let (kind, answer) = stream.read().await.unwrap();
        let answer = Answer::decode(&answer).unwrap();
        let ours = port.node.config.versions();
        assert_eq!((kind, answer.versions, answer.chosen), (Kind::Handshake, ours, None));
        assert!(is_closed(&mut stream).await);
        let health = port.node.peers.health(port.n2()).unwrap();
        assert!(health.word().is_incompatible());
    }

    /// What a later release may send: it is refused in its place, and the rest of the batch is executed.
    #[tokio::test]
    async fn an_unknown_message_is_refused_in_its_place() {
        let port = Port::start(100).await;
        let mut stream = port.open().await;
        let header = Header { from: port.n2(), to: port.node.me, ..port.node.header.clone() };
        for _ in 0..2 {
            let mut frame = FrameWriter::new(PROTOCOL_MAX, &header);
            frame.push(&Message::Repair(Repair::Room), &[]);
            frame.push(&RawHead(vec![0x1f, 1, 2, 3]), b"payload");
            frame.push(&Message::Unknown(0xff), &[]);
            frame.push(&Message::Repair(Repair::SyncPoint), &[]);
            stream.write(&frame.finish_for_stream(Kind::Frame)).await.unwrap();
            let (_, frame) = stream.read().await.unwrap();
            let replies = wire::decode::<Reply>(frame, Versions::ALL).unwrap().1;
            let heads: Vec<Reply> = replies.into_iter().map(|reply| reply.head).collect();
            let refused = Reply::Refused(Refusal::Unsupported);
            assert_eq!(heads[1..3], [refused.clone(), refused]);
            assert!(matches!(heads[0], Reply::Repair(RepairReply::Room { .. })), "{heads:?}");
            assert!(matches!(heads[3], Reply::Repair(RepairReply::SyncPoint { .. })), "{heads:?}");
        }
    }

    #[tokio::test]
    async fn half_a_batch_is_waited_for_no_longer_than_a_body() {
        let port = Port::start(100).await;
        let mut stream = port.open().await;
        stream.write(&port.batch(1)[..30]).await.unwrap();
        assert!(is_closed(&mut stream).await);
    }

    #[tokio::test]
    async fn a_stream_of_which_nothing_comes_is_closed_soon_and_one_that_was_used_may_rest() {
        let port = Port::start(100).await;
        let (mut idle, mut used) = (port.open().await, port.open().await);
        used.write(&port.batch(1)).await.unwrap();
        used.read().await.unwrap();
        assert!(is_closed(&mut idle).await);
        assert!(used.is_silent());
        used.write(&port.batch(1)).await.unwrap();
        assert_eq!(used.read().await.unwrap().0, Kind::Frame);
    }

    /// A slow batch shows that it is at work, and its reply still arrives.
    #[tokio::test]
    async fn whoever_waits_for_room_shows_signs_of_life() {
        let port = Port::start(100).await;
        let everything = port.node.bounds.room.take(usize::MAX).await;
        let mut stream = port.open().await;
        let header = Header { from: port.n2(), to: port.node.me, ..port.node.header.clone() };
        let mut frame = FrameWriter::new(PROTOCOL_MAX, &header);
        frame.push(&Message::Repair(Repair::SyncPoint), &vec![7; 2 << 20]);
        stream.write(&frame.finish_for_stream(Kind::Frame)).await.unwrap();
        for _ in 0..3 {
            let (kind, frame) = stream.read().await.unwrap();
            assert_eq!(
                (kind, wire::decode::<Reply>(frame, Versions::ALL).unwrap().1),
                (Kind::Part, Vec::new())
            );
        }
        drop(everything);
        let mut kind = Kind::Part;
        while kind == Kind::Part {
            kind = stream.read().await.unwrap().0;
        }
        assert_eq!(kind, Kind::Frame);
    }

    #[tokio::test]
    async fn other_upgrades_are_refused() {
        let port = Port::start(100).await;
        for head in [
            "GET /peer HTTP/1.1",
            "GET /peer HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket",
            "GET /peer HTTP/1.1\r\nUpgrade: quorate-peer\r\nUpgrade: h2c",
            "GET /peer HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: quorate-peer",
            "GET /peer HTTP/1.1\r\nUpgrade: quorate-peer\r\nContent-Length: 3",
            "HEAD /peer HTTP/1.1\r\nUpgrade: quorate-peer",
        ] {
            let answer = port.ask(head).await.1;
            assert!(answer.contains(" 426 "), "{head}: {answer}");
        }
    }

    #[tokio::test]
    async fn streams_count_as_connections() {
        let port = Port::start(2).await;
        let (mut first, mut second) = (port.open().await, port.open().await);
        for stream in [&mut first, &mut second] {
            stream.write(&port.batch(1)).await.unwrap();
            stream.read().await.unwrap(); // so that the key is known to be proved
        }
        let (_, full) = port.ask("GET /peer HTTP/1.1").await;
        assert!(full.contains(" 503 "), "{full}");
        drop(first);
        let freed = async { while port.ask("GET /peer HTTP/1.1").await.1.contains(" 503 ") {} };
        timeout(Duration::from_secs(10), freed).await.unwrap();
    }

    /// Whoever only connects, at any stage, locks no peer out.
    #[tokio::test]
    async fn who_has_proved_nothing_makes_way_for_peers() {
        let port = Port::start(4).await;
        let connect = async || TcpStream::connect(port.addr).await.unwrap();
        let mut silent = vec![connect().await, connect().await];
        let (mut mute, mut half) = (port.open_mute().await, port.open_mute().await);
        half.write(&port.opening().to_bytes()).await.unwrap();
        half.read().await.unwrap();
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut stream = port.open().await;
            stream.write(&port.batch(1)).await.unwrap();
            assert_eq!(stream.read().await.unwrap().0, Kind::Frame);
            streams.push(stream);
        }
        assert!(is_closed(&mut mute).await && is_closed(&mut half).await);
        for mut io in silent.drain(..) {
            assert_eq!(timeout(Duration::from_secs(10), io.read_u8()).await.unwrap().ok(), None);
        }
        let (_, full) = port.ask("GET /peer HTTP/1.1").await;
        assert!(full.contains(" 503 "), "peers do not make way: {full}");
    }

    #[tokio::test]
    async fn a_stop_ends_idle_streams_and_finishes_the_batch_in_progress() {
        let port = Port::start(100).await;
        let (mut idle, mut busy) = (port.open().await, port.open().await);
        // The fault hook takes four times replica_ms to say no.
        port.node.faults.set(Cuts { cut_in: [port.n2()].into(), ..Cuts::default() });
        busy.write(&port.batch(1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        port.stop.begun.cancel();
        assert!(is_closed(&mut idle).await);
        assert!(!port.ended.is_finished());
        assert_eq!(busy.read().await.unwrap().0, Kind::Refusal);
        assert!(is_closed(&mut busy).await);
        timeout(Duration::from_secs(10), port.ended).await.unwrap().unwrap();
    }
}
