//! Nodes in one process, from the view of one whose members change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;

use quorate_protocol::layout::Partition;
use quorate_protocol::name::NodeId;
use tokio::io::duplex;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::background;
use crate::host::{Dialing, Io, Wire};
use crate::peer::framed::{Stream, frame_bytes_max};
use crate::peer_port::stream::answer_all;
use crate::tasks::Tasks;
use crate::testing::{node_on, until};

const ALL: [&str; 3] = ["n1", "n2", "n3"];

/// The nodes that listen, by address, and the addresses that were dialled.
#[derive(Default)]
struct Net {
    there: Mutex<BTreeMap<String, Arc<Node>>>,
    dialled: Mutex<BTreeSet<String>>,
}

impl Net {
    fn start(self: &Arc<Self>, dir: &Path, me: &str) -> Arc<Node> {
        let wire = ToNet { net: self.clone(), served: Tasks::new(None) };
        let node = node_on(dir, me, &ALL, Arc::new(wire));
        self.listen(&node, &addr(me));
        node
    }

    fn listen(&self, node: &Arc<Node>, addr: &str) {
        self.there.lock().unwrap().insert(addr.to_owned(), node.clone());
    }
}

/// What a node sees of the network.
struct ToNet {
    net: Arc<Net>,
    served: Tasks,
}

impl Wire for ToNet {
    fn dial<'a>(&'a self, _peer: NodeId, addr: &'a str) -> Dialing<'a> {
        Box::pin(async move {
            self.net.dialled.lock().unwrap().insert(addr.to_owned());
            let node = self.net.there.lock().unwrap().get(addr).cloned();
            let node = node.ok_or_else(|| format!("nobody is at {addr}"))?;
            let (near, far) = duplex(1 << 16);
            self.served.spawn(async move {
                let mut stream = Stream::new(far, frame_bytes_max(&node.config));
                drop(answer_all(&node, &mut stream, &CancellationToken::new()).await);
            });
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }
}

fn addr(node: &str) -> String {
    format!("{node}.test:1")
}

fn members(nodes: &[&str]) -> Vec<PeerMember> {
    let member = |node: &&str| PeerMember {
        node: name(node),
        addr: addr(node),
        zone: "z".to_owned(),
        is_sworn_dead: false,
    };
    nodes.iter().map(member).collect()
}

fn name(node: &str) -> NodeId {
    NodeId::parse(node).unwrap()
}

/// The state of each peer.
fn states(node: &Node) -> Vec<(NodeId, &'static str)> {
    node.peers.view().iter().map(|peer| (peer.node, peer.state)).collect()
}

/// The jobs for peers, by peer.
fn jobs(node: &Node) -> BTreeMap<NodeId, Vec<&'static str>> {
    let mut jobs = BTreeMap::<_, Vec<_>>::new();
    for job in registry::list(node) {
        if let Some(peer) = job.peer {
            jobs.entry(peer).or_default().push(job.name);
        }
    }
    jobs
}

#[tokio::test]
async fn who_joins_is_greeted_and_who_leaves_is_not_any_more() {
    let (dirs, net) = (ALL.map(|_| tempfile::tempdir().unwrap()), Arc::<Net>::default());
    let n1 = net.start(dirs[0].path(), "n1");
    let _others = [1, 2].map(|at| net.start(dirs[at].path(), ALL[at]));
    n1.follow_members(&members(&["n1", "n2"]));
    assert!(jobs(&n1).is_empty(), "jobs are not started yet");
    background::start(&n1);
    until("n2 comes up", || states(&n1) == [(name("n2"), "up")]).await;
    let of_a_peer = vec!["hello", "handoff", "anti_entropy"];
    assert_eq!(jobs(&n1), [(name("n2"), of_a_peer.clone())].into());
    n1.follow_members(&members(&ALL));
    n1.follow_members(&members(&ALL));
    assert_eq!(jobs(&n1).into_values().collect::<Vec<_>>(), [of_a_peer.clone(), of_a_peer.clone()]);
    until("n3 comes up", || states(&n1) == [(name("n2"), "up"), (name("n3"), "up")]).await;
    n1.anti_entropy.mark_dirty(Partition(1));
    n1.follow_members(&members(&["n3"]));
    assert_eq!(jobs(&n1), [(name("n3"), of_a_peer)].into());
    assert_eq!(states(&n1), [(name("n3"), "up")]);
    assert_eq!(n1.anti_entropy.take_dirty(name("n2")), BTreeSet::new());
    assert_eq!(n1.anti_entropy.take_dirty(name("n3")), [Partition(1)].into());
}

#[tokio::test]
async fn who_moves_is_greeted_there_at_once_and_a_lost_one_that_leaves_is_not_down() {
    let (dirs, net) = (ALL.map(|_| tempfile::tempdir().unwrap()), Arc::<Net>::default());
    let n1 = net.start(dirs[0].path(), "n1");
    let n2 = net.start(dirs[1].path(), "n2");
    background::start(&n1);
    until("n3 is down", || n1.peers.down().contains(&name("n3"))).await;
    until("n2 is up", || states(&n1)[0] == (name("n2"), "up")).await;
    n1.follow_members(&members(&["n1", "n2"]));
    assert!(n1.peers.down().is_empty());
    // Nobody is left at the old address.
    net.there.lock().unwrap().remove(&addr("n2"));
    net.listen(&n2, "elsewhere:7");
    let mut moved = members(&["n2"]);
    moved[0].addr = "elsewhere:7".to_owned();
    n1.follow_members(&moved);
    let before = jobs_done(&n1, "hello");
    until("it is dialled there", || net.dialled.lock().unwrap().contains("elsewhere:7")).await;
    until("it is greeted", || jobs_done(&n1, "hello") > before).await;
    assert_eq!(states(&n1), [(name("n2"), "up")]);
    n1.stop.cancel();
    n1.background.close();
    n1.background.wait().await;
}

fn jobs_done(node: &Node, job: &str) -> u64 {
    node.jobs.done().get(job).map_or(0, |done| done.runs)
}
