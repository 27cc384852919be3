//! The network: streams of bytes between nodes, which delay, stall, break and are cut.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use quorate_engine::host::{Dialing, Io, Wire};
use quorate_engine::node::Node;
use quorate_engine::peer::framed::{Stream, frame_bytes_max};
use quorate_engine::peer_port::stream::answer_all;
use quorate_engine::tasks::Tasks;
use quorate_protocol::name::NodeId;
use tokio::io::{
    AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf, duplex, split,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::life::Life;
use crate::world::World;

/// What a kernel buffers of a stream, in bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// How often bytes that are held up by a cut look whether it is over: a retransmission.
const RETRY: Duration = Duration::from_millis(20);

/// So many links may be broken, at least, before they are forgotten.
const LINKS_MIN: usize = 64;

/// The network of one cluster.
pub(crate) struct Network {
    world: Arc<World>,
    state: Mutex<State>,
}

struct State {
    listeners: BTreeMap<NodeId, Listener>,
    /// Directions in which nothing gets through.
    cuts: BTreeSet<(NodeId, NodeId)>,
    links: Vec<(NodeId, NodeId, CancellationToken)>,
    /// How many links there are when those that are broken are forgotten next.
    links_max: usize,
    /// The shortest and the longest time that bytes take, in milliseconds.
    latency_ms: (u64, u64),
}

impl State {
    fn link(&mut self, from: NodeId, to: NodeId, broken: CancellationToken) {
        if self.links.len() >= self.links_max {
            self.links.retain(|(.., broken)| !broken.is_cancelled());
            self.links_max = 2 * self.links.len() + LINKS_MIN;
        }
        self.links.push((from, to, broken));
    }
}

/// A process that takes connections.
struct Listener {
    node: Arc<Node>,
    tasks: Tasks,
    life: Arc<Life>,
}

impl Network {
    /// A network without nodes.
    pub(crate) fn new(world: Arc<World>, latency_ms_max: u64) -> Self {
        let state = State {
            listeners: BTreeMap::new(),
            cuts: BTreeSet::new(),
            links: Vec::new(),
            links_max: LINKS_MIN,
            latency_ms: (0, latency_ms_max),
        };
        Self { world, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process listens; its tasks serve what connects.
    pub(crate) fn listen(&self, node: Arc<Node>, tasks: Tasks, life: Arc<Life>) {
        self.lock().listeners.insert(node.me, Listener { node, tasks, life });
    }

    /// A process is gone; its connections break.
    pub(crate) fn close(&self, node: NodeId) {
        let mut state = self.lock();
        state.listeners.remove(&node);
        state.links.retain(|(from, to, broken)| {
            let ends = *from == node || *to == node;
            if ends {
                broken.cancel();
            }
            !ends
        });
    }

    /// Replaces all cuts.
    pub(crate) fn cut(&self, cuts: BTreeSet<(NodeId, NodeId)>) {
        self.lock().cuts = cuts;
    }

    /// Sets the longest time that bytes take, in milliseconds.
    pub(crate) fn set_latency(&self, max_ms: u64) {
        self.lock().latency_ms = (0, max_ms);
    }

    /// All bytes take exactly so long, in milliseconds.
    pub(crate) fn set_exact_latency(&self, ms: u64) {
        self.lock().latency_ms = (ms, ms);
    }

    /// Breaks all connections between two nodes.
    pub(crate) fn reset(&self, one: NodeId, other: NodeId) {
        self.lock().links.retain(|(from, to, broken)| {
            let is_between = (*from, *to) == (one, other) || (*from, *to) == (other, one);
            if is_between {
                broken.cancel();
            }
            !is_between
        });
    }

    /// Whether nothing gets from one node to another.
    pub(crate) fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.lock().cuts.contains(&(from, to))
    }

    /// The nodes whose state can reach a node.
    pub(crate) fn reachable_from(&self, to: NodeId) -> Vec<Arc<Node>> {
        let state = self.lock();
        let others = state.listeners.iter().filter(|(from, _)| **from != to);
        let heard = others.filter(|(from, there)| {
            !state.cuts.contains(&(**from, to)) && !there.life.is_stopped()
        });
        heard.map(|(_, listener)| listener.node.clone()).collect()
    }

    async fn delay(&self) {
        let (min_ms, max_ms) = self.lock().latency_ms;
        sleep(Duration::from_millis(self.world.between(min_ms, max_ms))).await;
    }

    async fn connect(self: &Arc<Self>, from: NodeId, to: NodeId) -> Result<Box<dyn Io>, String> {
        self.delay().await;
        while self.is_cut(from, to) || self.is_cut(to, from) {
            sleep(RETRY).await; // the caller loses patience
        }
        let (near, near_end) = duplex(BUFFER_BYTES);
        let (far, far_end) = duplex(BUFFER_BYTES);
        let broken = CancellationToken::new();
        let (node, tasks) = {
            let mut state = self.lock();
            let Some(listener) = state.listeners.get(&to) else {
                return Err("Connection refused".to_owned());
            };
            let found = (listener.node.clone(), listener.tasks.clone());
            state.link(from, to, broken.clone());
            found
        };
        let (near_read, near_write) = split(near_end);
        let (far_read, far_write) = split(far_end);
        let there = Direction { from, to, network: self.clone(), broken: broken.clone() };
        let back = Direction { from: to, to: from, network: self.clone(), broken };
        tokio::spawn(there.carry(near_read, far_write));
        tokio::spawn(back.carry(far_read, near_write));
        tasks.spawn(async move {
            let mut stream = Stream::new(far, frame_bytes_max(&node.config));
            drop(answer_all(&node, &mut stream, &node.stop.clone()).await);
        });
        Ok(Box::new(near))
    }
}

/// One direction of a connection.
struct Direction {
    from: NodeId,
    to: NodeId,
    network: Arc<Network>,
    broken: CancellationToken,
}

impl Direction {
    async fn carry(self, mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
        let broken = self.broken.clone();
        let carried = async {
            loop {
                let bytes = read_some(&mut from).await.unwrap_or_default();
                self.network.delay().await;
                while self.network.is_cut(self.from, self.to) {
                    sleep(RETRY).await;
                }
                if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                    return drop(to.shutdown().await);
                }
            }
        };
        tokio::select! {
            biased;
            () = broken.cancelled() => {}
            () = carried => self.broken.cancel(),
        }
    }
}

/// Reads what is there. No memory is held while there is nothing: connections are many, and mostly idle.
async fn read_some(from: &mut ReadHalf<DuplexStream>) -> io::Result<Vec<u8>> {
    poll_fn(|cx| {
        let mut scratch = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut bytes = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut *from).poll_read(cx, &mut bytes))?;
        Poll::Ready(Ok(bytes.filled().to_vec()))
    })
    .await
}

/// The connections of one node.
pub(crate) struct Dialer {
    /// The node.
    pub(crate) me: NodeId,
    /// What it is connected to.
    pub(crate) network: Arc<Network>,
}

impl Wire for Dialer {
    fn dial<'a>(&'a self, _peer: NodeId, addr: &'a str) -> Dialing<'a> {
        Box::pin(async move {
            let there = node_at(addr).ok_or_else(|| format!("no host {addr}"))?;
            self.network.connect(self.me, there).await
        })
    }
}

/// The node at an address: its host has its name.
fn node_at(addr: &str) -> Option<NodeId> {
    let (host, _) = addr.rsplit_once(':')?;
    NodeId::parse(host).ok()
}
