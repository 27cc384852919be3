//! Peers that join, move and leave.

use std::path::Path;
use std::sync::Mutex;

use quorate_protocol::envelope;
use quorate_protocol::handshake::{Answer, PROTOCOL_MAX, Versions};
use quorate_protocol::message::{DataReply, Repair};
use quorate_protocol::wire::{self, FrameWriter};
use tokio::io::{DuplexStream, duplex};
use tokio::time::{sleep, timeout};

use super::*;
use crate::host::{Dialing, Io};
use crate::peer::framed::Stream;
use crate::peer::mailbox::Mailbox;
use crate::testing::{Counting, config, until};

/// Longer than a batch may take.
const LATE: Duration = Duration::from_millis(800);

/// A network of hosts: one whose name begins with `mute` answers no batch, one with `off` is not there,
/// the others answer everything.
#[derive(Default)]
struct Net {
    /// How many batches came to each address.
    came: Mutex<BTreeMap<String, usize>>,
    /// The streams that are open, by address.
    open: Mutex<BTreeMap<String, usize>>,
}

impl Net {
    fn came_to(&self, addr: &str) -> usize {
        self.came.lock().unwrap().get(addr).copied().unwrap_or(0)
    }

    fn open_to(&self, addr: &str) -> usize {
        self.open.lock().unwrap().get(addr).copied().unwrap_or(0)
    }

    async fn serve(&self, addr: &str, io: DuplexStream) -> Option<()> {
        let mut stream = Stream::new(io, 1 << 20);
        let (_, opening) = stream.read().await.ok()?;
        let answer = Answer { versions: Versions::ALL, chosen: Some(PROTOCOL_MAX) };
        let keys = PeerKeys::new(&config(Path::new("nowhere"), "n1", &["n1"]).secrets().ok()?);
        stream.write(&answer.to_bytes(&opening, &keys, &[1; 16])).await.ok()?;
        stream.read().await.ok()?; // the opener's proof
        stream.trust();
        loop {
            let (_, frame) = stream.read().await.ok()?;
            *self.came.lock().unwrap().entry(addr.to_owned()).or_default() += 1;
            if addr.starts_with("mute") {
                continue;
            }
            let (header, messages) = wire::decode::<Message>(frame, Versions::ALL).ok()?;
            let back = Header { from: header.to, to: header.from, ..header };
            let mut replies = FrameWriter::new(PROTOCOL_MAX, &back);
            messages.iter().for_each(|_| replies.push(&Reply::Data(DataReply::Object), &[]));
            stream.write(&replies.finish_for_stream(envelope::Kind::Frame)).await.ok()?;
        }
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
            if addr.starts_with("off") {
                return Err("Connection refused".to_owned());
            }
            let ((near, far), net, addr) = (duplex(1 << 16), self.net.clone(), addr.to_owned());
            *net.open.lock().unwrap().entry(addr.clone()).or_default() += 1;
            self.served.spawn(async move {
                net.serve(&addr, far).await;
                *net.open.lock().unwrap().entry(addr).or_default() -= 1;
            });
            Ok(Box::new(near) as Box<dyn Io>)
        })
    }
}

struct Cluster {
    net: Arc<Net>,
    peers: Peers,
    tasks: Tasks,
    stop: CancellationToken,
}

/// The node n1, whose layout names n2 as well.
fn start() -> Cluster {
    let config = config(Path::new("nowhere"), "n1", &["n1", "n2"]);
    let members =
        config.layout_nodes().iter().map(|node| member(node.name.as_str(), &node.peer_addr));
    let members: Vec<PeerMember> = members.collect();
    let (layout, secrets) = (config.layout().unwrap(), config.secrets().unwrap());
    let header = crate::node::header(&config, &layout, &secrets);
    let (net, tasks, stop) = (Arc::new(Net::default()), Tasks::new(None), CancellationToken::new());
    let wire = Arc::new(ToNet { net: net.clone(), served: Tasks::new(None) });
    let outside: (Arc<dyn Wire>, Arc<dyn Chance>) = (wire, Arc::<Counting>::default());
    let by = (&header, Arc::new(PeerKeys::new(&secrets)), Arc::new(Epochs::new(1)));
    let peers = Peers::start((&config, &members), outside, by, Arc::default(), &tasks, &stop);
    Cluster { net, peers, tasks, stop }
}

fn name(node: &str) -> NodeId {
    NodeId::parse(node).unwrap()
}

fn member(node: &str, addr: &str) -> PeerMember {
    PeerMember {
        node: name(node),
        addr: addr.to_owned(),
        zone: "z".to_owned(),
        is_sworn_dead: false,
    }
}

fn message() -> Message {
    Message::Repair(Repair::Room)
}

impl Cluster {
    fn follow(&self, members: &[(&str, &str)]) -> Followed {
        let members: Vec<_> = members.iter().map(|(node, addr)| member(node, addr)).collect();
        self.peers.follow(&members)
    }

    async fn asks(&self, node: &str) -> PeerEvent {
        self.peers.ask(name(node), message(), Duration::from_secs(10)).await
    }

    async fn is_answered_by(&self, node: &str) -> bool {
        matches!(self.asks(node).await, PeerEvent::Reply(_))
    }

    fn send(&self, node: &str) -> Mailbox {
        let (reply_to, mailbox) = ReplyTo::new();
        self.peers.send(name(node), message(), Bytes::new(), reply_to);
        mailbox
    }

    /// Whether all lanes end without the node being stopped.
    async fn all_lanes_end(&self) -> bool {
        self.tasks.close();
        timeout(Duration::from_secs(10), self.tasks.wait()).await.is_ok()
    }
}

fn followed(joined: &[&str], left: &[&str]) -> Followed {
    let names = |of: &[&str]| of.iter().map(|node| name(node)).collect();
    Followed { joined: names(joined), left: names(left) }
}

#[tokio::test]
async fn who_joins_is_sent_messages() {
    let cluster = start();
    assert!(matches!(cluster.asks("n3").await, PeerEvent::NotSent), "it is no peer yet");
    let members = [("n1", "n1.test:1"), ("n2", "n2.test:1"), ("n3", "n3.test:1")];
    let changes = cluster.peers.changes();
    assert_eq!(cluster.follow(&members), followed(&["n3"], &[]));
    assert!(cluster.peers.contains(name("n3")) && !cluster.peers.contains(name("n1")));
    assert!(cluster.peers.changes() > changes);
    assert!(cluster.is_answered_by("n3").await && cluster.is_answered_by("n2").await);
    assert_eq!((cluster.net.came_to("n2.test:1"), cluster.net.came_to("n3.test:1")), (1, 1));
    let all = cluster.peers.ask_each(&message(), Duration::from_secs(10)).await;
    let answered: Vec<_> =
        all.iter().filter(|(_, reply)| reply.is_some()).map(|(node, _)| *node).collect();
    assert_eq!(answered, [name("n2"), name("n3")]);
    assert_eq!(cluster.follow(&members), followed(&[], &[]), "nothing changes");
    assert!(cluster.is_answered_by("n2").await);
    assert_eq!(cluster.net.open_to("n2.test:1"), 1, "its stream was kept");
}

#[tokio::test]
async fn who_moves_is_dialled_at_its_new_address_and_the_old_streams_are_closed() {
    let cluster = start();
    assert!(cluster.is_answered_by("n2").await);
    let changes = cluster.peers.changes();
    assert_eq!(cluster.follow(&[("n2", "there.test:9")]), followed(&[], &[]));
    assert!(cluster.peers.changes() > changes);
    until("idle streams are closed", || cluster.net.open_to("n2.test:1") == 0).await;
    assert!(cluster.is_answered_by("n2").await);
    assert_eq!((cluster.net.came_to("n2.test:1"), cluster.net.came_to("there.test:9")), (1, 1));
    assert_eq!(cluster.peers.view()[0].peer_addr, "there.test:9");
    let other_zone = PeerMember { zone: "y".to_owned(), ..member("n2", "there.test:9") };
    assert_eq!(cluster.peers.follow(&[other_zone]), followed(&[], &[]));
    assert_eq!(cluster.peers.view()[0].zone, "y");
    assert!(cluster.is_answered_by("n2").await);
    assert_eq!(cluster.net.open_to("there.test:9"), 1, "the stream was kept");
}

async fn heard(mailbox: &mut Mailbox) -> Option<PeerEvent> {
    mailbox.recv().await.map(|(_, event)| event)
}

#[tokio::test]
async fn what_fails_at_an_old_address_says_nothing_of_the_new_one() {
    let cluster = start();
    cluster.follow(&[("n2", "mute.test:1")]);
    let mut in_flight = cluster.send("n2");
    until("the batch is in flight", || cluster.net.came_to("mute.test:1") == 1).await;
    cluster.follow(&[("n2", "n2.test:1")]);
    assert!(matches!(heard(&mut in_flight).await, Some(PeerEvent::Silent)));
    assert_eq!((cluster.peers.down().len(), cluster.peers.view()[0].state), (0, "unknown"));
    until("the old stream is closed", || cluster.net.open_to("mute.test:1") == 0).await;
}

#[tokio::test]
async fn what_waits_while_a_peer_moves_goes_to_its_new_address() {
    let cluster = start();
    cluster.follow(&[("n2", "mute.test:1")]);
    let mut in_flight = cluster.send("n2");
    until("the batch is in flight", || cluster.net.came_to("mute.test:1") == 1).await;
    let mut waiting = cluster.send("n2");
    cluster.follow(&[("n2", "n2.test:1")]);
    assert!(matches!(heard(&mut waiting).await, Some(PeerEvent::Reply(_))));
    assert!(matches!(heard(&mut in_flight).await, Some(PeerEvent::Silent)));
    assert_eq!(cluster.peers.view()[0].state, "up");
}

#[tokio::test]
async fn who_leaves_is_forgotten_and_nothing_waits_for_it() {
    let cluster = start();
    cluster.follow(&[("n2", "mute.test:1")]);
    // Every lane that takes such a message is busy, and more wait.
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(cluster.send("n2"));
        sleep(Duration::from_millis(10)).await;
    }
    let in_flight = cluster.net.came_to("mute.test:1");
    assert!(in_flight >= 1);
    let waiting: Vec<_> = (0..3).map(|_| cluster.send("n2")).collect();
    assert_eq!(cluster.follow(&[]), followed(&[], &["n2"]));
    for mut mailbox in waiting {
        let heard = timeout(Duration::from_millis(100), mailbox.recv()).await;
        assert!(matches!(heard, Ok(Some((_, PeerEvent::NotSent)))), "{heard:?}");
    }
    assert!(matches!(cluster.asks("n2").await, PeerEvent::NotSent));
    for mut mailbox in all {
        let heard = timeout(Duration::from_secs(10), mailbox.recv()).await;
        assert!(
            matches!(heard, Ok(Some((_, PeerEvent::Silent | PeerEvent::NotSent)))),
            "{heard:?}"
        );
    }
    assert!(cluster.all_lanes_end().await && !cluster.stop.is_cancelled());
    assert_eq!(cluster.net.open_to("mute.test:1"), 0);
    assert!(cluster.peers.down().is_empty(), "what failed after it left does not count");
    assert!(cluster.peers.view().is_empty() && cluster.peers.health(name("n2")).is_none());
}

#[tokio::test]
async fn who_is_sworn_dead_is_down_although_it_answers() {
    let cluster = start();
    cluster.follow(&[("n2", "n2.test:1")]);
    assert!(cluster.is_answered_by("n2").await && cluster.peers.down().is_empty());
    cluster.peers.follow(&[PeerMember { is_sworn_dead: true, ..member("n2", "n2.test:1") }]);
    assert!(cluster.is_answered_by("n2").await);
    assert_eq!((cluster.peers.down().len(), cluster.peers.view()[0].state), (1, "down"));
    cluster.follow(&[("n2", "n2.test:1")]); // with another disk
    assert!(cluster.peers.down().is_empty() && cluster.peers.view()[0].state == "up");
}

#[tokio::test]
async fn who_leaves_while_it_is_down_is_not_down_any_more_and_may_come_back() {
    let cluster = start();
    cluster.follow(&[("n2", "off.test:1"), ("n3", "n3.test:1")]);
    assert!(matches!(cluster.asks("n2").await, PeerEvent::NotSent));
    assert!(
        cluster.peers.down().contains(&name("n2")) && cluster.peers.avoided().contains(&name("n2"))
    );
    let gone = cluster.peers.gone(name("n2")).unwrap();
    cluster.follow(&[("n3", "n3.test:1")]);
    assert!(gone.is_cancelled() && cluster.peers.gone(name("n2")).is_none());
    assert!(cluster.peers.down().is_empty() && cluster.peers.avoided().is_empty());
    cluster.peers.review(PeerTime(1 << 40));
    sleep(LATE).await;
    assert!(cluster.peers.down().is_empty(), "no lane is left that finds it down");
    assert!(cluster.is_answered_by("n3").await, "the others go on");
    assert_eq!(cluster.follow(&[("n2", "n2.test:1")]), followed(&["n2"], &["n3"]));
    assert!(cluster.is_answered_by("n2").await);
    assert_eq!(cluster.peers.view()[0].state, "up");
}
