//! The words of hand-made histories: a small cluster, one key, and what is done to them; `members` has those
//! about who is a member, `backups` those about backups of all, `feeds` those about subscribers.
//!
//! A step that does not do what the history is about ends it: it proves nothing from there on, with a
//! deliberate bug or without. What clients are promised is judged instead ([`World::judge`]), and the
//! history goes on.

mod backups;
mod feeds;
pub(super) mod members;
mod tokens;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use quorate_engine::node::Node;
use quorate_oracle::Violation;
use quorate_oracle::history::{End, WriteNo};
use quorate_protocol::name::{Key, NodeId};
pub(super) use quorate_protocol::token::TokenId;
use quorate_storage::SimulatedDisk;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::setup::Setup;
use crate::values::own_row;
use crate::world::World;

/// How long a history waits for what must happen by itself.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it looks whether that has happened.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A history went another way than it was written.
#[derive(Debug)]
pub(super) struct OffCourse(String);

/// Whether a history went as it was written.
pub(super) type Played = Result<(), OffCourse>;

/// The writes that an answer to a read showed; `None` if the cluster did not answer.
pub(super) type Shown = Option<BTreeSet<WriteNo>>;

/// A cluster, most often of three nodes, one key on three of them, and a client.
pub(super) struct Scene {
    cluster: Cluster,
    client: Client,
    key: Key,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

impl Scene {
    /// A cluster that has just been formed.
    pub(super) async fn begin(world: Arc<World>, setup: Setup) -> Self {
        let key = setup.keys().swap_remove(0);
        let cluster = Cluster::start(world, setup).await;
        let client = cluster.auditor();
        Self { cluster, client, key, cuts: BTreeSet::new() }
    }

    /// Ends all that was done to the cluster, and judges what is left.
    pub(super) async fn end(self, played: Played) {
        if let Err(OffCourse(story)) = played {
            let property = "a_history_goes_as_written";
            self.cluster.world.judge(Err(Violation { property, story }));
        }
        self.cluster.heal().await;
        self.cluster.judge().await;
        self.cluster.end();
    }

    /// The home replicas of the key in order of preference: the first one reaps its tombstones.
    pub(super) fn homes(&self) -> Result<[NodeId; 3], OffCourse> {
        let nodes = self.cluster.nodes();
        let view = nodes.first().ok_or_else(|| off("no node runs"))?.view();
        view.homes(&self.key).as_ref().try_into().map_err(|_| off("the key is not on three nodes"))
    }

    fn machine(&self, name: NodeId) -> Result<&Arc<Machine>, OffCourse> {
        let mut machines = self.cluster.machines.iter();
        machines.find(|machine| machine.name == name).ok_or_else(|| off("there is no such machine"))
    }

    /// The node that runs on a machine, if one does.
    pub(super) fn node(&self, name: NodeId) -> Option<Arc<Node>> {
        Some(self.machine(name).ok()?.process()?.node)
    }
}

/// What clients do. The node that is named first takes the request.
impl Scene {
    /// Replaces what the client last saw by a value, acknowledged by `w` home replicas.
    pub(super) async fn write(&mut self, at: NodeId, w: u16) -> Result<WriteNo, OffCourse> {
        self.replace(at, true, w).await
    }

    /// Begins to replace what the client last saw by a value, as `write` does, and does not wait for it.
    pub(super) fn begin_to_write(&self, at: NodeId, w: u16) -> Pending {
        let (mut client, key) = (self.client.clone(), self.key.clone());
        client.entry = Some(at);
        Pending(tokio::spawn(async move { client.replace(&key, true, w).await }))
    }

    /// Writes a value by a sloppy quorum.
    pub(super) async fn write_sloppy(&mut self, at: NodeId, w: u16) -> Result<WriteNo, OffCourse> {
        self.client.entry = Some(at);
        match self.client.replace_by(&self.key, true, (w, false)).await {
            (number, End::Acked { .. }) => Ok(number),
            (number, end) => Err(off(format!("{number} at {at}, sloppy, ended with {end:?}"))),
        }
    }

    /// Writes a value as a client does that has seen nothing.
    pub(super) async fn write_blind(&mut self, at: NodeId, w: u16) -> Result<WriteNo, OffCourse> {
        self.client.sessions.clear();
        self.replace(at, true, w).await
    }

    /// Deletes what the client last saw, acknowledged by `w` home replicas.
    pub(super) async fn delete(&mut self, at: NodeId, w: u16) -> Result<WriteNo, OffCourse> {
        self.replace(at, false, w).await
    }

    async fn replace(&mut self, at: NodeId, value: bool, w: u16) -> Result<WriteNo, OffCourse> {
        self.client.entry = Some(at);
        match self.client.replace(&self.key, value, w).await {
            (number, End::Acked { .. }) => Ok(number),
            (number, end) => Err(off(format!("{number} at {at}, w={w}, ended with {end:?}"))),
        }
    }

    /// Reads from `r` home replicas. The oracle judges the answer.
    pub(super) async fn read(&mut self, at: NodeId, r: u16) -> Shown {
        self.client.entry = Some(at);
        self.client.read_by(self.key.clone(), r, true).await
    }

    /// Reads, and must be answered.
    pub(super) async fn read_answered(&mut self, at: NodeId, r: u16) -> Played {
        let shown = self.read(at, r).await;
        shown.map(drop).ok_or_else(|| off(format!("a read at {at}, r={r}, is not answered")))
    }

    /// Begins to read from `r` home replicas, and does not wait for it. The oracle judges the answer.
    pub(super) fn begin_to_read(&self, at: NodeId, r: u16) -> JoinHandle<Shown> {
        let (mut client, key) = (self.client.clone(), self.key.clone());
        client.entry = Some(at);
        tokio::spawn(async move { client.read_by(key, r, true).await })
    }

    /// *Nothing comes back from the dead*: an answer must not show this write, which was overwritten. The
    /// oracle cannot know that it was minted only once, and excuses an answer with it; a history knows.
    pub(super) fn must_not_show(&self, shown: &Shown, write: WriteNo) {
        let Some(shown) = shown.as_ref().filter(|shown| shown.contains(&write)) else { return };
        let story = format!("{} shows {shown:?}, and {write} was overwritten", self.key);
        let property = "nothing_comes_back_from_the_dead";
        self.cluster.world.judge(Err(Violation { property, story }));
    }

    /// *No false 404*: an answer must show this write. Once a disk was lost, the oracle cannot know how
    /// many copies are left, and excuses an answer without it; a history knows.
    pub(super) fn must_show(&self, shown: &Shown, write: WriteNo) {
        let Some(shown) = shown.as_ref().filter(|shown| !shown.contains(&write)) else { return };
        let story = format!("{} shows {shown:?}, and not {write}", self.key);
        self.cluster.world.judge(Err(Violation { property: "no_false_absence", story }));
    }

    /// *What is dropped is held*: a home replica that has the key's row keeps it for as long as this. What it
    /// gets back soon, the observer may not see.
    pub(super) async fn must_keep(&self, at: NodeId, duration: Duration) -> Played {
        let node = self.node(at).ok_or_else(|| off(format!("{at} is down")))?;
        let has = || own_row(&node, &self.key).is_ok_and(|row| row.is_some());
        let had = has();
        for _ in 0..duration.as_millis() {
            sleep(Duration::from_millis(1)).await;
            if had && !has() {
                let story = format!("{at} dropped {}, and is a home replica", self.key);
                let property = "what_is_dropped_is_held";
                self.cluster.world.judge(Err(Violation { property, story }));
            }
        }
        Ok(())
    }
}

/// A write that has begun.
pub(super) struct Pending(JoinHandle<(WriteNo, End)>);

impl Pending {
    /// Waits until it is acknowledged.
    pub(super) async fn acked(self) -> Result<WriteNo, OffCourse> {
        match self.0.await {
            Ok((number, End::Acked { .. })) => Ok(number),
            Ok((number, end)) => Err(off(format!("{number} ended with {end:?}"))),
            Err(error) => Err(off(error.to_string())),
        }
    }
}

/// What happens to machines and the network.
impl Scene {
    /// Nothing gets from one node to another any more; what was on its way waits.
    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
        self.cluster.world.note(format_args!("cut {:?}", self.cuts));
        self.cluster.network.cut(self.cuts.clone());
    }

    /// Nothing gets to a node from any other, or from it to them.
    pub(super) fn cut_off(&mut self, node: NodeId) {
        self.split(&[node]);
    }

    /// Ends the cuts between two nodes.
    pub(super) fn mend_between(&mut self, one: NodeId, other: NodeId) {
        self.cuts.remove(&(one, other));
        self.cuts.remove(&(other, one));
        self.cluster.world.note(format_args!("cut {:?}", self.cuts));
        self.cluster.network.cut(self.cuts.clone());
    }

    /// Cuts these nodes off from all others; they reach each other.
    pub(super) fn split(&mut self, side: &[NodeId]) {
        for other in self.all().into_iter().filter(|other| !side.contains(other)) {
            for node in side {
                self.cut(*node, other);
                self.cut(other, *node);
            }
        }
    }

    /// All machines.
    fn all(&self) -> Vec<NodeId> {
        self.cluster.machines.iter().map(|machine| machine.name).collect()
    }

    /// Breaks all connections of a node: what was on its way is lost.
    pub(super) fn reset(&self, node: NodeId) {
        self.all().into_iter().for_each(|other| self.cluster.network.reset(node, other));
    }

    /// All bytes take exactly so long from now on, in milliseconds.
    pub(super) fn set_latency(&self, ms: u64) {
        self.cluster.network.set_exact_latency(ms);
    }

    /// SIGSTOP, or SIGCONT.
    pub(super) fn pause(&self, node: NodeId, is_paused: bool) -> Played {
        self.machine(node).map(|machine| machine.pause(is_paused))
    }

    /// The next merge at a node waits for the disk, which does not answer for now.
    pub(super) fn hang(&self, node: NodeId) -> Result<CancellationToken, OffCourse> {
        let hanging = CancellationToken::new();
        self.machine(node)?.hang(Some(hanging.clone()));
        Ok(hanging)
    }

    /// The disk answers again, but not yet to what has waited for it.
    pub(super) fn hang_no_more(&self, node: NodeId) -> Played {
        self.machine(node).map(|machine| machine.hang(None))
    }

    /// Ends all cuts: what was on its way arrives.
    pub(super) fn mend(&mut self) {
        self.cuts.clear();
        self.cluster.world.note(format_args!("the network is mended"));
        self.cluster.network.cut(BTreeSet::new());
    }

    /// SIGTERM: the store is closed cleanly.
    pub(super) fn stop(&self, node: NodeId) -> Played {
        self.machine(node).map(|machine| machine.stop())
    }

    /// SIGKILL.
    pub(super) fn kill(&self, node: NodeId) -> Played {
        self.machine(node).map(|machine| machine.kill())
    }

    /// Starts a node, whatever becomes of it.
    pub(super) fn try_to_start(&self, node: NodeId) -> Played {
        self.machine(node).map(|machine| machine.start())
    }

    /// Starts a node, and waits until it takes part in the cluster.
    pub(super) async fn start(&mut self, node: NodeId) -> Played {
        self.machine(node)?.start();
        let takes_part = |scene: &Self| scene.node(node).is_some_and(|node| node.takes_part());
        self.until("a started node takes part", takes_part).await
    }

    /// Stops a node cleanly, and starts it again.
    pub(super) async fn restart(&mut self, node: NodeId) -> Played {
        self.stop(node)?;
        self.start(node).await
    }

    /// A backup of a node's disk, as it is at this moment.
    pub(super) fn copy_disk(&self, node: NodeId) -> Result<SimulatedDisk, OffCourse> {
        self.machine(node).map(|machine| machine.copy_disk())
    }

    /// Kills a node, and puts a backup of its disk back.
    pub(super) fn put_back(&self, node: NodeId, copy: &SimulatedDisk) -> Played {
        self.machine(node).map(|machine| machine.put_back(copy))
    }

    /// Kills a node, and replaces its disk by an empty one.
    pub(super) fn wipe(&self, node: NodeId) -> Played {
        self.machine(node).map(|machine| machine.wipe())
    }
}

/// What takes time.
impl Scene {
    /// Time passes.
    pub(super) async fn pass(&self, duration: Duration) {
        sleep(duration).await;
    }

    /// Waits until something is so by itself.
    pub(super) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Played {
        for _ in 0..PATIENCE.as_millis() / LOOK_EVERY.as_millis() {
            if is_so(self) {
                return Ok(());
            }
            sleep(LOOK_EVERY).await;
        }
        Err(off(format!("it never comes that {what}")))
    }

    /// An operator at this node sets n, and waits until that holds there.
    pub(super) async fn set_n(&self, at: NodeId, n: u16) -> Played {
        self.cluster.set_n(self.machine(at)?, n);
        let holds =
            |scene: &Self| scene.node(at).is_some_and(|node| node.view().n(self.key.bucket()) == n);
        self.at_once("n is set", holds).await
    }

    /// Waits until no node has anything left of the key.
    pub(super) async fn until_reaped(&self) -> Played {
        let has_nothing =
            |node: &Arc<Node>| own_row(node, &self.key).is_ok_and(|row| row.is_none());
        let is_reaped = |scene: &Self| scene.cluster.nodes().iter().all(has_nothing);
        self.until("the tombstone is reaped", is_reaped).await?;
        self.cluster.monitor.look(); // the oracle is told what was reaped
        Ok(())
    }
}

/// What must be so for a history to prove something.
pub(super) fn must(is_so: bool, what: &str) -> Played {
    if is_so { Ok(()) } else { Err(off(format!("it is not so that {what}"))) }
}

fn off(story: impl Into<String>) -> OffCourse {
    OffCourse(story.into())
}
