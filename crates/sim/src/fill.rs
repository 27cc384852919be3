//! How a simulated node receives what it is missing: all its partitions after its disk was lost or
//! came back old, or its bucket's rows after n was raised. `repair/fill.rs` in the engine.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{Message, Refusal, Repair, RepairReply, Reply, Rows, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::Object;
use quorate_protocol::put::Role;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::tree::Tree;

use crate::anti_entropy::Received;
use crate::node::{Node, Pending};
use crate::replica::Waiter;
use crate::world::{Claim, World};

/// A fill in progress: pages are fetched one after the other.
pub(crate) struct FillOperation {
    todo: VecDeque<Job>,
    /// What is being filled.
    target: Target,
    /// The n of all buckets under which it fills.
    ns: u64,
    /// The number of the request in flight.
    question: u64,
    /// When it was sent, by this node's wall clock: a lower bound on when the answer's rows were
    /// read.
    asked_at: WallTime,
    deadline: Uptime,
}

/// One step of a fill.
#[derive(Clone, Copy)]
enum Job {
    /// Fetch these rows of a node, page by page.
    Fetch(NodeId, Rows),
    /// Compare this tree with a node's, leaving nothing out.
    Compare(NodeId, Tree),
}

#[derive(Clone, Debug)]
enum Target {
    Partitions(Vec<Partition>),
    /// The bucket, whose n was raised from this, and its last change.
    Bucket(u16, u64),
}

impl Node {
    /// Starts to fill if something is missing and no fill is in progress.
    pub(crate) fn fill(&mut self, world: &mut World) {
        if self.filling.as_ref().is_some_and(|filling| world.now >= filling.deadline) {
            self.filling = None;
        }
        if self.filling.is_some() || !self.is_admitted() {
            return;
        }
        let (me, n) = (self.id, self.n());
        let layout = world.setup.layout.clone();
        let others = |partition: Partition| {
            let homes = layout.homes(partition, n);
            let others = homes.iter().copied().filter(|home| *home != me);
            if homes.contains(&me) { others.collect() } else { Vec::new() }
        };
        // A partition that lacks most rows is streamed from one peer; trees are compared with all
        // of them. Streaming only affects speed.
        let receive = |partition: Partition, streams: bool| {
            let others = others(partition);
            let first = others.first().copied().filter(|_| streams);
            let fetch = first.map(|home| Job::Fetch(home, Rows::Partition(partition)));
            let compare = move |home| Job::Compare(home, Tree { partition, n });
            fetch.into_iter().chain(others.into_iter().map(compare))
        };
        let mut todo = VecDeque::new();
        let target = if let Some(before) = self.records.buckets.raised_from() {
            let is_new = |p: &Partition| !layout.homes(*p, before).contains(&me);
            for partition in world.setup.partitions().filter(is_new) {
                todo.extend(receive(partition, world.dice.percent(50)));
            }
            Target::Bucket(before, self.records.buckets.changed())
        } else if !self.records.missing.is_empty() {
            let down = self.down(world.now);
            let up = world.setup.nodes.iter().filter(|node| **node != me && !down.contains(node));
            for from in up {
                let targets = world.setup.nodes.iter();
                todo.extend(targets.map(|target| Job::Fetch(*from, Rows::HintsFor(*target))));
            }
            let missing: Vec<Partition> = self.records.missing.iter().copied().collect();
            for partition in &missing {
                todo.extend(receive(*partition, world.dice.percent(50)));
            }
            Target::Partitions(missing)
        } else {
            return;
        };
        world.note(format_args!("{me} fills {target:?}"));
        world.claims.push(Claim::Fills { node: me });
        let (asked_at, deadline) = (WallTime(0), world.now);
        let ns = self.records.buckets.assignment.ns().hash();
        self.filling = Some(FillOperation { todo, target, ns, question: 0, asked_at, deadline });
        self.fetch_next(None, world);
    }

    /// Fetches the next page.
    fn fetch_next(&mut self, after: Option<Key>, world: &mut World) {
        let (question, asked_at) = (world.fresh_number(), self.wall(world.now));
        let Some(filling) = self.filling.as_mut() else { return };
        filling.deadline = world.now.plus(world.setup.request_timeout_ms);
        (filling.question, filling.asked_at) = (question, asked_at);
        let ns = filling.ns;
        match filling.todo.front().copied() {
            None => self.when_durable(Waiter::Filled, world),
            Some(Job::Fetch(from, rows)) => {
                let message = Message::Repair(Repair::Fetch { rows, after });
                self.request(from, &message, &[], Pending::Fetch { question }, world);
            }
            Some(Job::Compare(from, tree)) => {
                filling.deadline = Uptime(u64::MAX); // the comparison ends by itself
                self.compare_to_fill(question, from, (tree, ns), world);
            }
        }
    }

    /// A comparison ended.
    pub(crate) fn on_compared(&mut self, question: u64, received: Received, world: &mut World) {
        let Some(filling) = self.filling.as_mut().filter(|f| f.question == question) else {
            return;
        };
        match (received, filling.todo.pop_front()) {
            (Received::All, _) => self.fetch_next(None, world),
            // Streaming all rows proves what the trees cannot; the alternative is to wait.
            (Received::InDoubt, Some(Job::Compare(from, tree))) if world.dice.percent(50) => {
                filling.todo.push_front(Job::Fetch(from, Rows::Partition(tree.partition)));
                self.fetch_next(None, world);
            }
            (Received::InDoubt | Received::NotAll, _) => self.filling = None, // tried again soon
        }
    }

    pub(crate) fn on_fetch(
        &self,
        back: (NodeId, u64),
        rows: Rows,
        after: Option<&Key>,
        world: &mut World,
    ) {
        if !self.is_admitted() {
            let refused = Reply::Refused(Refusal::Failed);
            return world.reply(self.id, back, &refused, &[]);
        }
        let partitions = world.setup.layout.partitions();
        let mut found = self.store.rows().iter().filter(|(slot, _)| {
            let is_wanted = match rows {
                Rows::Partition(p) => slot.target.is_none() && slot.key.partition(partitions) == p,
                Rows::HintsFor(node) => slot.target == Some(node),
            };
            is_wanted && after.is_none_or(|after| slot.key > *after)
        });
        let (mut page, mut payload) = (Vec::new(), BytesMut::new());
        for (slot, row) in found.by_ref().take(world.setup.page_max) {
            let bytes = row.object.to_bytes();
            page.push((slot.key.clone(), bytes.len() as u32));
            payload.extend_from_slice(&bytes);
        }
        let end = found.next().is_none();
        world.reply(self.id, back, &Reply::Repair(RepairReply::Rows { rows: page, end }), &payload);
    }

    /// A page arrived.
    pub(crate) fn on_fetched(
        &mut self,
        question: u64,
        reply: WithPayload<Reply>,
        world: &mut World,
    ) {
        let Some(filling) = self.filling.as_mut().filter(|f| f.question == question) else {
            return;
        };
        let asked_at = filling.asked_at;
        let Reply::Repair(RepairReply::Rows { rows, end }) = reply.head else {
            self.filling = None; // tried again soon
            return;
        };
        if end {
            filling.todo.pop_front();
        }
        let mut payload = reply.payload;
        let mut last = None;
        for (key, len) in rows {
            let bytes: Bytes = payload.split_to(len as usize);
            let Ok(object) = Object::decode(bytes) else {
                unreachable!("a peer sent an object that does not decode")
            };
            if self.is_home(&key, world)
                && self.store_object(&key, Role::Home, &object, asked_at, world).is_err()
            {
                self.filling = None;
                return;
            }
            last = Some(key);
        }
        self.fetch_next(last.filter(|_| !end), world);
    }

    /// Everything that was missing has been received, durably.
    pub(crate) fn on_filled(&mut self, world: &mut World) {
        let Some(filling) = self.filling.take() else { return };
        world.note(format_args!("{} has filled {:?}", self.id, filling.target));
        match filling.target {
            Target::Partitions(partitions) => {
                self.ask_holdings(partitions, world);
            }
            Target::Bucket(before, changed) => {
                let buckets = &mut self.records.buckets;
                if buckets.raised_from() == Some(before) && buckets.changed() == changed {
                    buckets.fetched();
                }
            }
        }
        world.claims.push(Claim::Filled { node: self.id });
    }
}
