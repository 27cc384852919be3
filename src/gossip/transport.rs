//! chitchat's datagrams, sealed, on the UDP port with the peer port's number.
//!
//! chitchat identifies nodes by socket address. Here it gets addresses that *encode names* (the
//! sixteen bytes of an IPv6 address hold the longest node name) and never sees a real one: the
//! layout decides where a node is reached, and a datagram's sender is the one named in the seal,
//! not its source address.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use quorate_protocol::name::NodeId;
use quorate_protocol::time::WallTime;
use tokio::net::UdpSocket;

use super::seal::{Broken, Freshness, Header, Seal};
use quorate_engine::liveness::datagrams::Counts;
use quorate_engine::peer::fault_hook::Faults;

/// The nodes' real addresses.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<BTreeMap<NodeId, SocketAddr>>);

impl Addresses {
    /// Resolves the nodes' hosts and ports, as far as possible now, and forgets other nodes. Returns
    /// whether any was a name, which may resolve differently later.
    pub(super) async fn resolve(&self, nodes: &[(NodeId, String)], local: SocketAddr) -> bool {
        let mut any_name = false;
        self.lock().retain(|known, _| nodes.iter().any(|(node, _)| node == known));
        for (node, addr) in nodes {
            let found = match addr.parse::<SocketAddr>() {
                Ok(literal) => Some(literal),
                Err(_) => {
                    any_name = true;
                    let found = tokio::net::lookup_host(addr).await;
                    found.ok().and_then(|mut all| all.find(|a| a.is_ipv6() == local.is_ipv6()))
                }
            };
            if let Some(found) = found {
                self.lock().insert(*node, found);
            }
        }
        any_name
    }

    fn of(&self, node: NodeId) -> Option<SocketAddr> {
        self.lock().get(&node).copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address that stands for a node in chitchat.
pub(super) fn address_of(node: NodeId) -> SocketAddr {
    let mut bytes = [0; 16];
    let name = node.as_str().as_bytes();
    bytes[..name.len()].copy_from_slice(name);
    SocketAddr::from((Ipv6Addr::from(bytes), 1))
}

/// The node that such an address stands for.
pub(super) fn node_at(addr: SocketAddr) -> Option<NodeId> {
    let SocketAddr::V6(addr) = addr else { return None };
    let bytes = addr.ip().octets();
    let name = std::str::from_utf8(&bytes).ok()?.trim_end_matches('\0');
    NodeId::parse(name).ok()
}

/// Makes sealed sockets.
pub(super) struct SealedTransport {
    pub(super) me: NodeId,
    /// When this node started, by its wall clock.
    pub(super) start: WallTime,
    pub(super) seal: Arc<Seal>,
    pub(super) addresses: Arc<Addresses>,
    pub(super) faults: Arc<Faults>,
    pub(super) counts: Arc<Counts>,
}

#[async_trait]
impl Transport for SealedTransport {
    async fn open(&self, listen_addr: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = UdpSocket::bind(listen_addr).await;
        let socket = socket.with_context(|| format!("UDP {listen_addr}"))?;
        Ok(Box::new(SealedSocket {
            socket,
            me: self.me,
            start: self.start,
            number: 0,
            seal: self.seal.clone(),
            addresses: self.addresses.clone(),
            faults: self.faults.clone(),
            counts: self.counts.clone(),
            freshness: Freshness::default(),
            opened: Instant::now(),
            buffer: vec![0; 1 << 16],
        }))
    }
}

struct SealedSocket {
    socket: UdpSocket,
    me: NodeId,
    start: WallTime,
    number: u64,
    seal: Arc<Seal>,
    addresses: Arc<Addresses>,
    faults: Arc<Faults>,
    counts: Arc<Counts>,
    freshness: Freshness,
    opened: Instant,
    buffer: Vec<u8>,
}

/// How long to wait after a receive error, so that a broken socket does not become a busy loop.
const PAUSE: Duration = Duration::from_millis(20);

#[async_trait]
impl Socket for SealedSocket {
    /// Never fails: what cannot be sent is lost, as datagrams are.
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let Some(to) = node_at(to).filter(|to| !self.faults.cuts_out(*to)) else { return Ok(()) };
        let counted = if self.send_to(to, &message).await.is_some() {
            &self.counts.sent
        } else {
            &self.counts.unsent
        };
        counted.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Never fails: invalid datagrams are dropped, and socket errors are retried.
    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            match self.socket.recv(&mut self.buffer).await {
                Ok(len) => {
                    if let Some(received) = self.accept(len) {
                        return Ok(received);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "gossip: receiving");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

impl SealedSocket {
    async fn send_to(&mut self, to: NodeId, message: &ChitchatMessage) -> Option<()> {
        let addr = self.addresses.of(to)?;
        self.number += 1;
        let header = Header { from: self.me, to, start: self.start, number: self.number };
        let datagram = self.seal.seal(&header, &message.serialize_to_vec())?;
        self.socket.send_to(&datagram, addr).await.ok().map(|_| ())
    }

    /// Validates the datagram in the buffer. The cheap checks come after decryption: before that
    /// nothing in it can be trusted.
    fn accept(&mut self, len: usize) -> Option<(SocketAddr, ChitchatMessage)> {
        let counts = &self.counts;
        let count = |counter: &AtomicU64| {
            counter.fetch_add(1, Relaxed);
        };
        let (header, message) = match self.seal.open(&self.buffer[..len]) {
            Ok(opened) => opened,
            Err(Broken::Stranger) => {
                count(&counts.strangers);
                return None;
            }
            Err(Broken::Malformed) => {
                count(&counts.malformed);
                return None;
            }
        };
        if header.to != self.me || self.addresses.of(header.from).is_none() {
            count(&counts.misdirected);
            return None;
        }
        if self.faults.cuts_in(header.from) {
            return None;
        }
        if !self.freshness.accept(&header, self.opened.elapsed()) {
            count(&counts.replayed);
            return None;
        }
        let Ok(message) = ChitchatMessage::deserialize(&mut &message[..]) else {
            count(&counts.malformed);
            return None;
        };
        count(&counts.received);
        Some((address_of(header.from), message))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use quorate_engine::liveness::datagrams::Counts;
    use quorate_engine::peer::fault_hook::Cuts;

    const KEY: [u8; 32] = [3; 32];

    fn node(name: &str) -> NodeId {
        NodeId::parse(name).unwrap()
    }

    /// An empty message: other kinds have parts that only chitchat can build.
    fn hello() -> ChitchatMessage {
        ChitchatMessage::BadCluster
    }

    struct End {
        socket: SealedSocket,
        addr: SocketAddr,
        faults: Arc<Faults>,
        counts: Arc<Counts>,
    }

    async fn end(name: &str, key: [u8; 32]) -> End {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (faults, counts) = (Arc::<Faults>::default(), Arc::<Counts>::default());
        let addr = socket.local_addr().unwrap();
        let socket = SealedSocket {
            socket,
            me: node(name),
            start: WallTime(1),
            number: 0,
            seal: Arc::new(Seal::new("c", &[key])),
            addresses: Arc::default(),
            faults: faults.clone(),
            counts: counts.clone(),
            freshness: Freshness::default(),
            opened: Instant::now(),
            buffer: vec![0; 1 << 16],
        };
        End { socket, addr, faults, counts }
    }

    /// Two ends that know each other.
    async fn pair(key: [u8; 32], other_key: [u8; 32]) -> (End, End) {
        let (one, two) = (end("n1", key).await, end("n2", other_key).await);
        let nodes = [(node("n1"), one.addr.to_string()), (node("n2"), two.addr.to_string())];
        for end in [&one, &two] {
            assert!(!end.socket.addresses.resolve(&nodes, end.addr).await, "no names to resolve");
        }
        (one, two)
    }

    #[test]
    fn every_name_is_an_address() {
        for name in ["n", "n1", "a.b_c-d", "sixteen-long-one"] {
            assert_eq!(node_at(address_of(node(name))), Some(node(name)));
        }
        for addr in ["127.0.0.1:1", "[::]:1", "[::1]:1", "[4e00::]:1", "[6e00:6e00::]:1"] {
            assert_eq!(node_at(addr.parse().unwrap()), None, "{addr}");
        }
    }

    #[tokio::test]
    async fn a_message_arrives_from_whom_the_seal_says() {
        let (mut one, mut two) = pair(KEY, KEY).await;
        one.socket.send(address_of(node("n2")), hello()).await.unwrap();
        assert_eq!(two.socket.recv().await.unwrap(), (address_of(node("n1")), hello()));
    }

    /// Every kind of invalid datagram first, one valid message last: only that one arrives.
    #[tokio::test]
    async fn hostile_datagrams_are_dropped_and_counted() {
        let (mut one, mut two) = pair(KEY, KEY).await;
        let hostile = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sealed = |from: &str, to: &str, message: &[u8], number| {
            let header = Header { from: node(from), to: node(to), start: WallTime(0), number };
            one.socket.seal.seal(&header, message).unwrap()
        };
        let message = hello().serialize_to_vec();
        let datagrams = [
            Vec::new(),
            vec![1],
            vec![1; 3000],
            vec![0; 1 << 15],
            sealed("n1", "n2", &message, 1)[..40].to_vec(),
            sealed("n1", "n3", &message, 2),
            sealed("n7", "n2", &message, 3),
            sealed("n1", "n2", b"nothing of chitchat", 4),
            sealed("n1", "n2", &message, 4),
        ];
        for datagram in datagrams {
            hostile.send_to(&datagram, two.addr).await.unwrap();
        }
        one.socket.send(address_of(node("n2")), hello()).await.unwrap();
        assert_eq!(two.socket.recv().await.unwrap(), (address_of(node("n1")), hello()));
        let counts = &two.counts;
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        assert_eq!((of(&counts.strangers), of(&counts.misdirected)), (5, 2));
        assert_eq!((of(&counts.malformed), of(&counts.replayed)), (1, 1));
        assert_eq!(of(&counts.received), 1);
    }

    #[tokio::test]
    async fn a_datagram_recorded_on_the_way_is_not_taken_twice() {
        let (one, mut two) = pair(KEY, KEY).await;
        let hostile = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let sealed = |number| {
            let header = Header { from: node("n1"), to: node("n2"), start: WallTime(1), number };
            one.socket.seal.seal(&header, &hello().serialize_to_vec()).unwrap()
        };
        let recorded = sealed(1);
        for datagram in [&recorded, &recorded, &recorded, &sealed(2)] {
            hostile.send_to(datagram, two.addr).await.unwrap();
        }
        for _ in 0..2 {
            two.socket.recv().await.unwrap();
        }
        assert_eq!(two.counts.replayed.load(Relaxed), 2);
    }

    #[tokio::test]
    async fn cuts_hold_for_gossip_too() {
        let (mut one, mut two) = pair(KEY, KEY).await;
        let only = |name: &str| BTreeSet::from([node(name)]);
        one.faults.set(Cuts { cut_out: only("n2"), ..Cuts::default() });
        one.socket.send(address_of(node("n2")), hello()).await.unwrap();
        assert_eq!(one.counts.sent.load(Relaxed), 0);
        one.faults.set(Cuts::default());
        two.faults.set(Cuts { cut_in: only("n1"), ..Cuts::default() });
        one.socket.send(address_of(node("n2")), hello()).await.unwrap();
        let len = two.socket.socket.recv(&mut two.socket.buffer).await.unwrap();
        assert!(two.socket.accept(len).is_none());
        two.faults.set(Cuts::default());
        assert!(two.socket.accept(len).is_some(), "the cut alone kept it out");
    }

    #[tokio::test]
    async fn who_is_no_peer_any_more_is_neither_told_nor_heard() {
        let (mut one, mut two) = pair(KEY, KEY).await;
        one.socket.send(address_of(node("n2")), hello()).await.unwrap();
        let len = two.socket.socket.recv(&mut two.socket.buffer).await.unwrap();
        assert!(!two.socket.addresses.resolve(&[], two.addr).await);
        assert!(two.socket.accept(len).is_none());
        assert_eq!(two.counts.misdirected.load(Relaxed), 1);
        two.socket.send(address_of(node("n1")), hello()).await.unwrap();
        assert_eq!(two.counts.unsent.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_lost_and_nothing_fails() {
        let (mut one, _two) = pair(KEY, KEY).await;
        one.socket.send(address_of(node("n9")), hello()).await.unwrap();
        assert_eq!(one.counts.unsent.load(Relaxed), 1);
        one.socket.send("127.0.0.1:9".parse().unwrap(), hello()).await.unwrap();
    }
}
