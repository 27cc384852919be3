//! Anti-entropy of a simulated node: compares Merkle trees with a peer and repairs what differs,
//! using messages only. It drives `protocol::exchange` as `src/anti_entropy` does in the real node.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_protocol::exchange::{Difference, Exchange, Page, Repaired, Step};
use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::message::{
    Data, DataReply, Message, Query, QueryReply, Refusal, Repair, RepairReply, Reply, WithPayload,
};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::put::Role;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::tree::{LeafSet, Leaves, Root, Tree};

use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::replica::Waiter;
use crate::store::{Slot, tree_of};
use crate::world::{Claim, Event, World};

/// One comparison in progress.
pub(crate) struct ExchangeOperation {
    peer: NodeId,
    tree: Tree,
    exchange: Exchange,
    doing: Doing,
    /// When the comparison is aborted if the peer stays silent.
    deadline: Uptime,
    /// The n of all buckets as this node knows them, if the comparison fills this node.
    to_fill: Option<u64>,
    /// Whether the peer has said that its trees currently prove nothing.
    in_doubt: bool,
    /// This node's objects when first read; only a mutation uses them.
    stale: BTreeMap<Key, Object>,
}

/// What a comparison waits for.
enum Doing {
    ComparingLeaves,
    Listing(LeafSet, Option<Key>),
    /// A delay before the recheck.
    Waiting(Vec<Key>, Uptime),
    Rechecking(Vec<Key>),
    Repairing(RepairPage),
}

/// A page of differences, repaired one after the other; the front one is being repaired.
struct RepairPage {
    left: VecDeque<Difference>,
    came: Repaired,
    /// Whether the peer's object is being fetched; otherwise this node's is being sent.
    fetches: bool,
    /// When the request was sent, by this node's wall clock: a lower bound on when the object was
    /// read.
    asked_at: WallTime,
}

/// The result of repairing one key.
#[derive(Clone, Copy)]
enum RepairOutcome {
    /// Both sides are equal.
    Repaired,
    /// The peer refuses this node's object.
    NotTaken,
    /// This node did not get the peer's object.
    Missed,
}

/// The result of a comparison that fills a node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received {
    /// Everything the peer holds has been received.
    All,
    /// The peer's trees currently prove nothing.
    InDoubt,
    /// Something was not received.
    NotAll,
}

impl Node {
    /// Compares with a peer the trees that both hold.
    pub(crate) fn compare_roots(&mut self, peer: NodeId, world: &mut World) {
        if !self.is_admitted() {
            return;
        }
        let n = self.n();
        let mut trees: Vec<Tree> = world.setup.keys.iter().map(|key| tree_of(key, n)).collect();
        trees.sort_unstable();
        trees.dedup();
        let layout = &world.setup.layout;
        trees.retain(|tree| {
            layout.homes(tree.partition, n).contains(&peer) && self.may_compare(*tree, world)
        });
        if trees.is_empty() {
            return;
        }
        let roots = trees.iter().map(|tree| (*tree, self.store.leaves(*tree).root())).collect();
        self.request(
            peer,
            &Message::Repair(Repair::Roots { roots }),
            &[],
            Pending::Roots { peer, trees },
            world,
        );
    }

    /// Whether this node has a tree and has received its rows.
    fn may_compare(&self, tree: Tree, world: &World) -> bool {
        self.is_in_tree(tree, world) && !self.records.missing.contains(&tree.partition)
    }

    /// Whether this node has a tree: to a node that must fill, one that must fill too answers with
    /// what it has.
    fn is_in_tree(&self, tree: Tree, world: &World) -> bool {
        self.is_admitted() && world.setup.layout.homes(tree.partition, tree.n).contains(&self.id)
    }

    pub(crate) fn on_roots(&self, back: (NodeId, u64), roots: &[(Tree, Root)], world: &mut World) {
        let mut trees = Vec::new();
        for (place, (tree, root)) in roots.iter().enumerate() {
            if self.may_compare(*tree, world) && self.store.leaves(*tree).root() != *root {
                trees.push(place as u16);
            }
        }
        world.reply(self.id, back, &Reply::Repair(RepairReply::Differing { trees }), &[]);
    }

    pub(crate) fn on_leaves(
        &self,
        back: (NodeId, u64),
        (tree, to_fill): (Tree, Option<u64>),
        theirs: &Bytes,
        world: &mut World,
    ) {
        let fits = self.trees_fit_by(to_fill, world);
        let reply = match Leaves::from_bytes(theirs) {
            Some(_) if !fits => Reply::NotFilled,
            Some(theirs) if self.is_in_tree(tree, world) => Reply::Repair(RepairReply::Leaves {
                differing: self.store.leaves(tree).differing(&theirs),
            }),
            Some(_) | None => Reply::Refused(Refusal::Failed),
        };
        world.reply(self.id, back, &reply, &[]);
    }

    /// Whether its trees cover its rows, by the n of all buckets of the node that must fill.
    fn trees_fit_by(&self, to_fill: Option<u64>, world: &World) -> bool {
        let fits_by = |ns: u64| self.records.buckets.assignment.is_settled_for(ns);
        to_fill.is_none_or(fits_by) || world.has(Mutation::TreesTrustedInDoubt)
    }

    pub(crate) fn on_list(
        &self,
        back: (NodeId, u64),
        (tree, to_fill): (Tree, Option<u64>),
        leaves: LeafSet,
        after: Option<&Key>,
        world: &mut World,
    ) {
        let fits = self.trees_fit_by(to_fill, world);
        let reply = if self.is_in_tree(tree, world) && fits {
            Reply::Repair(RepairReply::Page(self.store.list(
                tree,
                leaves,
                after,
                world.setup.page_max,
            )))
        } else {
            Reply::NotFilled
        };
        world.reply(self.id, back, &reply, &[]);
    }

    /// What it holds of a key as home replica, whether or not it has received everything.
    pub(crate) fn on_inspect(&self, back: (NodeId, u64), key: &Key, world: &mut World) {
        let row = self.store.get(&Slot::home(key)).filter(|_| self.is_admitted());
        let object = row.map(|row| row.object.to_bytes());
        let own = object.as_ref().map(|object| object.len() as u32);
        let (ready, hints) = (self.is_ready_for(key, world), Vec::new());
        let reply = Reply::Query(QueryReply::Inspection { own, ready, hints });
        world.reply(self.id, back, &reply, &object.unwrap_or_default());
    }

    pub(crate) fn on_versions(&mut self, back: (NodeId, u64), keys: &[Key], world: &mut World) {
        let versions = keys.iter().map(|key| self.store.version(key)).collect();
        let (to, request) = back;
        let reply = Reply::Repair(RepairReply::Versions { versions });
        self.when_durable(Waiter::Peer { to, request, reply }, world);
    }

    /// The peer said which trees differ.
    pub(crate) fn on_differing(
        &mut self,
        peer: NodeId,
        trees: &[Tree],
        places: &[u16],
        world: &mut World,
    ) {
        for place in places {
            let Some(tree) = trees.get(usize::from(*place)).copied() else { continue };
            let same = |e: &ExchangeOperation| e.peer == peer && e.tree == tree;
            if self.operations.exchanges.values().any(same) {
                continue;
            }
            world.note(format_args!("{} compares {tree:?} with {peer}", self.id));
            let left_out = self.records.buckets.assignment.buckets_in_doubt();
            let (exchange, step) = Exchange::start(left_out);
            let (doing, deadline) = (Doing::ComparingLeaves, world.now);
            let operation = world.fresh_number();
            let (to_fill, in_doubt, stale) = (None, false, BTreeMap::new());
            let exchanging = ExchangeOperation {
                peer,
                tree,
                exchange,
                doing,
                deadline,
                to_fill,
                in_doubt,
                stale,
            };
            self.operations.exchanges.insert(operation, exchanging);
            self.carry_out_exchange(operation, step, world);
        }
    }

    /// Compares a tree that this node has not received yet, under these n of all buckets.
    pub(crate) fn compare_to_fill(
        &mut self,
        operation: u64,
        peer: NodeId,
        (tree, ns): (Tree, u64),
        world: &mut World,
    ) {
        let (exchange, step) = Exchange::start_to_fill();
        let (doing, deadline) = (Doing::ComparingLeaves, world.now);
        let (to_fill, in_doubt, stale) = (Some(ns), false, BTreeMap::new());
        let (node, partition) = (self.id, tree.partition);
        world.claims.push(Claim::FillBegins { operation, node, from: peer, partition });
        let exchanging =
            ExchangeOperation { peer, tree, exchange, doing, deadline, to_fill, in_doubt, stale };
        self.operations.exchanges.insert(operation, exchanging);
        self.carry_out_exchange(operation, step, world);
    }

    fn carry_out_exchange(&mut self, operation: u64, step: Step, world: &mut World) {
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let tree = exchanging.tree;
        match step {
            Step::Done(summary) => {
                let peer = exchanging.peer;
                world.note(format_args!("{} compared with {peer}: {summary:?}", self.id));
                let (to_fill, in_doubt) = (exchanging.to_fill, exchanging.in_doubt);
                self.operations.exchanges.remove(&operation);
                if to_fill.is_some() {
                    let received = match summary.has_all() {
                        _ if in_doubt => Received::InDoubt,
                        true => Received::All,
                        false => Received::NotAll,
                    };
                    let has_all = matches!(received, Received::All);
                    world.claims.push(Claim::FillEnds { operation, has_all });
                    self.on_compared(operation, received, world);
                }
            }
            Step::CompareLeaves => {
                let leaves = self.store.leaves(tree).to_bytes();
                let message = Message::Repair(Repair::Leaves { tree, to_fill: exchanging.to_fill });
                self.ask_peer(operation, &message, &leaves, world);
            }
            Step::List { leaves, after } => {
                exchanging.doing = Doing::Listing(leaves, after.clone());
                let to_fill = exchanging.to_fill;
                let message = Message::Repair(Repair::List { tree, leaves, after, to_fill });
                self.ask_peer(operation, &message, &[], world);
            }
            Step::Recheck { keys, not_before } => {
                if world.has(Mutation::RepairFromStaleRead) {
                    let row = |key: &Key| self.store.get(&Slot::home(key));
                    let object = |key| row(key).map(|row| row.object.clone()).unwrap_or_default();
                    let objects = keys.iter().map(|key| (key.clone(), object(key)));
                    exchanging.stale = objects.collect();
                }
                exchanging.doing = Doing::Waiting(keys, not_before);
                let (node, life) = (self.id, self.life);
                let delay_ms = not_before.since(world.now);
                world.schedule(delay_ms, Event::Wake { node, life, operation });
            }
            Step::Repair(differences) => {
                exchanging.doing = Doing::Repairing(RepairPage {
                    left: differences.into(),
                    came: Repaired::default(),
                    fetches: false,
                    asked_at: WallTime(0), // set with each request
                });
                self.repair_first(operation, world);
            }
        }
    }

    /// Asks the peer; the exchange is aborted if it stays silent.
    fn ask_peer(&mut self, operation: u64, message: &Message, payload: &[u8], world: &mut World) {
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let patience_ms = world.setup.request_timeout_ms;
        exchanging.deadline = world.now.plus(patience_ms);
        let (node, life, peer) = (self.id, self.life, exchanging.peer);
        world.schedule(patience_ms, Event::Wake { node, life, operation });
        self.request(peer, message, payload, Pending::Exchange { operation }, world);
    }

    /// A timer of an exchange fired.
    pub(crate) fn on_exchange_time(&mut self, operation: u64, world: &mut World) {
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        if let Doing::Waiting(keys, not_before) = &mut exchanging.doing {
            if world.now >= *not_before {
                let keys = std::mem::take(keys);
                exchanging.doing = Doing::Rechecking(keys.clone());
                self.ask_peer(operation, &Message::Repair(Repair::Versions { keys }), &[], world);
            }
        } else if world.now >= exchanging.deadline {
            self.abort_exchange(operation, world);
        }
    }

    /// The peer is silent, or its answer makes no sense.
    pub(crate) fn abort_exchange(&mut self, operation: u64, world: &mut World) {
        if let Some(exchanging) = self.operations.exchanges.get(&operation) {
            let step = exchanging.exchange.abort();
            self.carry_out_exchange(operation, step, world);
        }
    }

    pub(crate) fn on_exchange_reply(
        &mut self,
        operation: u64,
        reply: WithPayload<Reply>,
        world: &mut World,
    ) {
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let store = &self.store;
        let step = match (&exchanging.doing, reply.head) {
            (Doing::ComparingLeaves, Reply::Repair(RepairReply::Leaves { differing })) => {
                Some(exchanging.exchange.on_leaves(differing))
            }
            (Doing::ComparingLeaves | Doing::Listing(..), Reply::NotFilled) => {
                exchanging.in_doubt = true;
                None
            }
            (Doing::Listing(leaves, after), Reply::Repair(RepairReply::Page(theirs))) => {
                let limit = world.setup.page_max;
                let ours: Page = store.list(exchanging.tree, *leaves, after.as_ref(), limit);
                Some(exchanging.exchange.on_pages(ours, theirs, world.now))
            }
            (Doing::Rechecking(keys), Reply::Repair(RepairReply::Versions { versions })) => {
                let first_look = |key| exchanging.stale.get(key).map(Object::version);
                let version = |key| first_look(key).unwrap_or_else(|| store.version(key));
                let ours: Vec<Version> = keys.iter().map(version).collect();
                Some(exchanging.exchange.on_versions(&ours, &versions))
            }
            (Doing::Repairing(_), head) => {
                return self.on_repair_reply(operation, &head, reply.payload, world);
            }
            (_, _) => None,
        };
        match step {
            Some(step) => self.carry_out_exchange(operation, step, world),
            None => self.abort_exchange(operation, world),
        }
    }

    /// Repairs the front key: fetches the peer's object if it has one, otherwise sends this node's.
    fn repair_first(&mut self, operation: u64, world: &mut World) {
        let wall = self.wall(world.now);
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let Doing::Repairing(repair) = &mut exchanging.doing else { return };
        let Some(first) = repair.left.front() else {
            let step = exchanging.exchange.on_repaired(repair.came);
            return self.carry_out_exchange(operation, step, world);
        };
        repair.asked_at = wall;
        repair.fetches = first.must_fetch();
        let key = first.key.clone();
        if repair.fetches {
            let message = if exchanging.to_fill.is_some() {
                Message::Query(Query::Inspect { key })
            } else {
                let (what, place) = (ReadKind::Object, RowKind::Home);
                Message::Data(Data::Read { key, what, place, bytes_max: u32::MAX })
            };
            self.ask_peer(operation, &message, &[], world);
        } else {
            self.send_ours(operation, world);
        }
    }

    /// Sends this node's object in its current state, unless the peer has that version.
    fn send_ours(&mut self, operation: u64, world: &mut World) {
        let read_at = self.wall(world.now);
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let Doing::Repairing(repair) = &mut exchanging.doing else { return };
        let Some(first) = repair.left.front() else { return };
        repair.fetches = false;
        let key = first.key.clone();
        if !first.must_send(self.store.version(&key)) {
            return self.repaired_first(operation, RepairOutcome::Repaired, world);
        }
        let object = self.store.get(&Slot::home(&key)).map(|row| row.object.to_bytes());
        let message = Message::Data(Data::Store { key, role: Role::Home, read_at });
        self.ask_peer(operation, &message, &object.unwrap_or_default(), world);
    }

    fn repaired_first(&mut self, operation: u64, came: RepairOutcome, world: &mut World) {
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let Doing::Repairing(repair) = &mut exchanging.doing else { return };
        repair.left.pop_front();
        match came {
            RepairOutcome::Repaired => repair.came.repaired += 1,
            RepairOutcome::NotTaken => {}
            RepairOutcome::Missed => repair.came.missed += 1,
        }
        self.repair_first(operation, world);
    }

    fn on_repair_reply(&mut self, operation: u64, head: &Reply, payload: Bytes, world: &mut World) {
        let Some(exchanging) = self.operations.exchanges.get_mut(&operation) else { return };
        let Doing::Repairing(repair) = &mut exchanging.doing else { return };
        let Some(first) = repair.left.front() else { return };
        let (key, asked_at) = (first.key.clone(), repair.asked_at);
        if !repair.fetches {
            let came = if *head == Reply::Data(DataReply::Stored) {
                RepairOutcome::Repaired
            } else {
                RepairOutcome::NotTaken
            };
            return self.repaired_first(operation, came, world);
        }
        let stale = exchanging.stale.remove(&key);
        let is_object = matches!(
            head,
            Reply::Data(DataReply::Object)
                | Reply::Query(QueryReply::Inspection { own: Some(_), .. })
        );
        let object = is_object.then(|| Object::decode(payload));
        let Some(Ok(mut object)) = object else {
            return self.repaired_first(operation, RepairOutcome::Missed, world);
        };
        world.note(format_args!("{} repairs {key}", self.id));
        if world.has(Mutation::RepairFromStaleRead) && !self.store.has_failed() {
            object.merge(&stale.unwrap_or_default());
            let mut row = self.row(&Slot::home(&key), world);
            row.object = object;
            self.store.put(Slot::home(&key), Some(row));
            return self.send_ours(operation, world);
        }
        match self.store_object(&key, Role::Home, &object, asked_at, world) {
            Ok(()) => self.send_ours(operation, world),
            Err(_) => self.repaired_first(operation, RepairOutcome::Missed, world),
        }
        self.begin_sync(world);
    }
}
