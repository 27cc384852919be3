//! Sends what a simulated node minted to the replicas: it drives the PUT machine.

use bytes::Bytes;
use quorate_protocol::clock::Dot;
use quorate_protocol::message::{Data, Message};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::put::{self, Put};
use quorate_protocol::time::{Uptime, WallTime};

use crate::coordinator::Minting;
use crate::mutations::Mutation;
use crate::node::{Node, Pending};
use crate::world::World;

/// A minted object being sent to its replicas.
pub(crate) struct PutOperation {
    pub(crate) put: Put,
    pub(crate) minting: Minting,
    /// The object as minted, and the part of it that is sent.
    pub(crate) object: Object,
    pub(crate) sent: Bytes,
    /// When it was minted, by the wall clock.
    pub(crate) minted_at: WallTime,
    pub(crate) dot: Dot,
    pub(crate) wake_at: Option<Uptime>,
}

impl Node {
    /// Starts sending a minted object to its replicas.
    pub(crate) fn start_put(
        &mut self,
        minting: Minting,
        object: Object,
        dot: Dot,
        world: &mut World,
    ) -> u64 {
        let terms = minting.terms.clone();
        let first = minting.write.preferred_home(self.id);
        let plan = put::Plan {
            me: self.id,
            homes: terms.asked_homes(first),
            fallbacks: terms.fallbacks,
            needed: terms.needed,
            sloppy: terms.sloppy || world.has(Mutation::HintsCountInStrict),
            replica_timeout_ms: world.setup.replica_timeout_ms,
            deadline: minting.deadline,
        };
        let (put, effects) = Put::start(plan, &self.down(world.now), world.now);
        let mut sent = object.clone();
        if world.has(Mutation::BareSibling) {
            sent.siblings.retain(|s| s.dot == dot);
        }
        let operation = world.fresh_number();
        let (sent, minted_at) = (sent.to_bytes(), self.wall(world.now));
        let putting = PutOperation { put, minting, object, sent, minted_at, dot, wake_at: None };
        self.operations.puts.insert(operation, putting);
        self.carry_out_put(operation, effects, world);
        operation
    }

    pub(crate) fn carry_out_put(
        &mut self,
        operation: u64,
        effects: Vec<put::Effect>,
        world: &mut World,
    ) {
        for effect in effects {
            let Some(putting) = self.operations.puts.get(&operation) else { return };
            match effect {
                put::Effect::Send { to, role } => {
                    let key = putting.minting.write.key.clone();
                    let read_at = putting.minted_at;
                    let message = Message::Data(Data::Store { key, role, read_at });
                    let request = world.send((self.id, self.life), to, &message, &putting.sent);
                    self.pending.insert(request, Pending::Put { operation, node: to });
                }
                put::Effect::Answer(answer) => self.on_put_answer(operation, answer, world),
            }
        }
        if self.operations.puts.get(&operation).is_some_and(|putting| putting.put.is_done()) {
            self.operations.puts.remove(&operation);
        }
        self.keep_awake(operation, world);
    }

    pub(crate) fn on_put_acked(&mut self, operation: u64, node: NodeId, world: &mut World) {
        let Some(putting) = self.operations.puts.get_mut(&operation) else { return };
        let mut effects = putting.put.on_ack(node);
        if world.has(Mutation::AckCountedTwice) {
            let key = &putting.minting.write.key;
            let (homes, _) = world.setup.preference_list(key, world.setup.n);
            let other = homes.iter().find(|home| **home != node && **home != self.id);
            effects.extend(other.map(|other| putting.put.on_ack(*other)).unwrap_or_default());
        }
        self.carry_out_put(operation, effects, world);
    }

    pub(crate) fn on_put_refused(&mut self, operation: u64, node: NodeId, world: &mut World) {
        if let Some(putting) = self.operations.puts.get_mut(&operation) {
            let effects = putting.put.on_refused(node, world.now);
            self.carry_out_put(operation, effects, world);
        }
    }

    pub(crate) fn on_put_silent(&mut self, operation: u64, node: NodeId, world: &mut World) {
        if let Some(putting) = self.operations.puts.get_mut(&operation) {
            let effects = putting.put.on_silent(node, world.now);
            self.carry_out_put(operation, effects, world);
        }
    }
}
