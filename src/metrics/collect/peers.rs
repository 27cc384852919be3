//! The other nodes, as this one sees them.

use quorate_engine::metrics::desc::{Desc, Section};
use quorate_engine::metrics::text::Writer;
use quorate_engine::node::Node;

const UP: Desc = Desc::gauge("quorate_peer_up", "Whether the peer answers: 1 or 0").by(&["peer"]).means(
    "If one node alone says 0, the network between the two is broken; if all do, the peer is down.",
);
const SUSPECTED: Desc = Desc::gauge(
    "quorate_peer_suspected",
    "Whether the peer is up but asked only after all others, because it is silent or slow",
)
.by(&["peer"]);
const ROUND_TRIPS: Desc = Desc::histogram(
    "quorate_peer_round_trip_seconds",
    "Time from sending a batch of reads, or a greeting, to its last reply",
)
.by(&["peer"])
.means("The network and the peer's disk reads together.");
const QUEUE: Desc =
    Desc::gauge("quorate_peer_queue_messages", "Messages that wait to be sent to the peer")
        .by(&["peer"])
        .means("It is 0 nearly always; if it stays up, the peer or the way to it is too slow.");
const QUEUE_BYTES: Desc =
    Desc::gauge("quorate_peer_queue_bytes", "Bytes of the values in them").by(&["peer"]);
const MESSAGES: Desc =
    Desc::counter("quorate_peer_messages_total", "Messages sent to the peer").by(&["peer"]);
const REFUSED: Desc = Desc::counter(
    "quorate_peer_messages_refused_total",
    "Messages not sent to the peer because its queue was full",
)
.by(&["peer"])
.means("Operations then use other replicas: more load than the peer can take.");
const NOT_UNDERSTOOD: Desc = Desc::counter(
    "quorate_peer_not_understood_total",
    "Messages that the peer refused because its release does not know them, and its replies that this \
     release does not know",
)
.by(&["peer", "kind"])
.means("Two releases run side by side; finish the upgrade.");
const BYTES: Desc = Desc::counter(
    "quorate_peer_bytes_total",
    "Bytes of messages sent to the peer, and of its replies to them",
)
.by(&["peer", "direction"]);
const DISAGREEING: Desc = Desc::gauge(
    "quorate_peers_disagreeing",
    "Peers whose settings differ in what must be equal on all nodes",
)
.means("`GET /cluster` says which. While deletes.grace_ms differs, no tombstone is reaped.");
const GOSSIP: Desc = Desc::counter(
    "quorate_gossip_datagrams_total",
    "Datagrams of gossip, by what became of them",
)
.by(&["kind"])
.means(
    "`strangers` and `misdirected` that grow: another cluster, or a node with other keys, sends \
             here.",
);

/// The metrics written here.
pub(super) const SECTION: Section = Section {
    title: "Peers",
    about: "The other nodes, as this one sees them.",
    metrics: &[
        UP,
        SUSPECTED,
        ROUND_TRIPS,
        QUEUE,
        QUEUE_BYTES,
        MESSAGES,
        REFUSED,
        NOT_UNDERSTOOD,
        BYTES,
        DISAGREEING,
        GOSSIP,
    ],
};

/// Writes the metrics of peers.
pub(super) fn write(out: &mut Writer, node: &Node) {
    let peers = node.peers.view();
    let mut gauge = |desc, value: &dyn Fn(&quorate_engine::peer::member::PeerView) -> usize| {
        let mut values = out.metric(desc);
        for peer in &peers {
            values.value(&[peer.node.as_str()], value(peer));
        }
    };
    // A suspected peer is up: it is only asked last.
    gauge(&UP, &|peer| usize::from(matches!(peer.state, "up" | "suspected")));
    gauge(&SUSPECTED, &|peer| usize::from(peer.state == "suspected"));
    gauge(&QUEUE, &|peer| peer.queue_depth);
    gauge(&QUEUE_BYTES, &|peer| peer.queue_bytes);
    let (mut round_trips, all) = (out.metric(&ROUND_TRIPS), node.peers.all());
    let traffic = || all.iter().map(|peer| (peer.node, &peer.traffic));
    for (peer, traffic) in traffic() {
        round_trips.durations(&[peer.as_str()], &traffic.round_trips.counts());
    }
    let mut messages = out.metric(&MESSAGES);
    for (peer, traffic) in traffic() {
        messages.value(&[peer.as_str()], traffic.messages());
    }
    let mut refused = out.metric(&REFUSED);
    for (peer, traffic) in traffic() {
        refused.value(&[peer.as_str()], traffic.refused());
    }
    let mut not_understood = out.metric(&NOT_UNDERSTOOD);
    for (peer, traffic) in traffic() {
        let [messages, replies] = traffic.not_understood();
        not_understood.value(&[peer.as_str(), "message"], messages);
        not_understood.value(&[peer.as_str(), "reply"], replies);
    }
    let mut bytes = out.metric(&BYTES);
    for (peer, traffic) in traffic() {
        bytes.value(&[peer.as_str(), "sent"], traffic.sent_bytes());
        bytes.value(&[peer.as_str(), "received"], traffic.received_bytes());
    }
    let mine = node.config.common();
    let common = peers.iter().filter_map(|peer| peer.said.common.as_ref());
    out.one(&DISAGREEING, common.filter(|theirs| **theirs != mine).count());
    let mut gossip = out.metric(&GOSSIP);
    for (kind, count) in node.peers.gossip_counts().all() {
        gossip.value(&[kind], count);
    }
}
