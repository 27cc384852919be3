//! What a simulated node does as coordinator: check the write's condition, give the write its dot,
//! and report its outcome.

use bytes::Bytes;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::clock::Actor;
use quorate_protocol::get;
use quorate_protocol::message::{
    Data, Message, Outcome, Refusal, Write, WriteAnswer, WrittenAnswer,
};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::{Object, Sibling};
use quorate_protocol::precondition::{self, Checked};
use quorate_protocol::put::{self, Role, role_of};
use quorate_protocol::row::{Coordinator, MintError, Minted};
use quorate_protocol::terms::Terms;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::view::{context_after_write, context_of};

use crate::entry::Purpose;
use crate::mutations::Mutation;
use crate::node::Node;
use crate::replica::{Waiter, slot_of};
use crate::values::write_of;
use crate::world::{Claim, World};
use quorate_oracle::siblings_are_bounded;

/// A write that is about to get its dot.
pub(crate) struct Minting {
    /// The entry node that forwarded it; `None` if that is this node.
    pub(crate) back: Option<NodeId>,
    /// The entry node's number for it.
    pub(crate) operation: u64,
    pub(crate) write: Box<Write>,
    pub(crate) value: Option<Bytes>,
    /// The counts and nodes of the write.
    pub(crate) terms: Terms,
    pub(crate) deadline: Uptime,
}

impl Minting {
    /// In which role this node holds it.
    fn role(&self, me: NodeId) -> Role {
        role_of(me, &self.terms.asked_homes(self.write.preferred_home(me)))
    }
}

impl Node {
    /// An entry node forwarded a write.
    pub(crate) fn on_forwarded(
        &mut self,
        from: NodeId,
        operation: u64,
        write: Write,
        payload: Bytes,
        world: &mut World,
    ) {
        let terms = match self.write_terms(&write.key, &write.asked, world) {
            Ok(terms) => terms,
            Err(unfit) => {
                let answer = WriteAnswer::InvalidQuorum(unfit);
                return self.send_answer(Some(from), operation, answer, None, world);
            }
        };
        let deadline = world.now.plus(u64::from(write.timeout_ms));
        let value = write.has_value.then_some(payload);
        let write = Box::new(write);
        let back = Some(from);
        self.begin_mint(Minting { back, operation, write, value, terms, deadline }, world);
    }

    /// Mints a write, after a read if it depends on the current state.
    pub(crate) fn begin_mint(&mut self, mut minting: Minting, world: &mut World) {
        let write = &mut minting.write;
        write.draft.supersede_all = minting.terms.conflicts == Conflicts::Lww;
        if write.condition.is_none() && !write.delete_seen {
            return self.mint(minting, &[], world);
        }
        let operation = world.fresh_number();
        let numbers = (minting.terms.to_read_first(), minting.deadline);
        let key = write.key.clone();
        self.start_get(operation, key, numbers, Purpose::Check(Box::new(minting)), world);
    }

    /// The read before the write is done.
    pub(crate) fn on_checked(
        &mut self,
        mut minting: Minting,
        answer: get::Answer,
        read_at: WallTime,
        world: &mut World,
    ) {
        let write = &mut minting.write;
        let found = match answer {
            get::Answer::Read(object) => object,
            get::Answer::NoQuorum { counted, .. } => {
                let answer = WriteAnswer::NoReadQuorum { required: minting.terms.r, counted };
                return self.finish_mint(minting, answer, None, world);
            }
        };
        match precondition::check(write, &found, minting.terms.conflicts) {
            Checked::Mint => self.mint(minting, &found.siblings, world),
            Checked::Answer(answer) => self.finish_mint(minting, answer, None, world),
            Checked::Known => {
                let (key, role) = (minting.write.key.clone(), minting.role(self.id));
                match self.store_object(&key, role, &found, read_at, world) {
                    Ok(()) => self.mint(minting, &[], world),
                    Err(refusal) => self.refuse(minting, refusal, world),
                }
            }
        }
    }

    /// Gives the write its dot and starts sending it to its replicas. `seen` is what was read for
    /// it.
    fn mint(&mut self, mut minting: Minting, seen: &[Sibling], world: &mut World) {
        if !self.is_admitted() {
            return self.refuse(minting, Refusal::Failed, world);
        }
        if self.store.has_failed() {
            return self.refuse(minting, Refusal::ReadOnly, world);
        }
        let role = minting.role(self.id);
        let slot = slot_of(&minting.write.key, role);
        let is_new_hint = slot.target.is_some() && self.store.get(&slot).is_none();
        if is_new_hint && self.hint_count() >= world.setup.hints_max {
            return self.refuse(minting, Refusal::HintsFull, world);
        }
        let mut row = self.row(&slot, world);
        let mut superseded = seen.to_vec();
        if minting.write.draft.supersede_all {
            superseded.extend(row.object.siblings.clone());
        }
        let coordinator = Coordinator {
            node: self.id,
            incarnation: self.incarnation,
            fresh_actor: Actor(world.dice.nonzero()),
            now: self.wall(world.now),
        };
        minting.write.draft.value = minting.value.clone();
        let draft = &minting.write.draft;
        let dot = match row.mint(draft, &coordinator, &world.setup.limits) {
            Err(MintError::Overtaken) => {
                return self.finish_mint(minting, WriteAnswer::ConditionFailed, None, world);
            }
            Err(error) => {
                return self.finish_mint(minting, WriteAnswer::Refused(error), None, world);
            }
            Ok(Minted::Already(dot)) => dot,
            Ok(Minted::New(dot)) => {
                world.minted(draft.write_id, dot, &superseded);
                let siblings = row.object.siblings.len();
                world.judge(siblings_are_bounded(siblings, world.setup.limits.siblings_max));
                self.store.put(slot, Some(row.clone()));
                dot
            }
        };
        world.note(format_args!(
            "{} mints {} {} as {dot} {role:?}: {:?} {:?}",
            self.id,
            minting.write.key,
            write_of(draft.write_id),
            row.object.clock,
            row.object.siblings.iter().map(|s| s.dot).collect::<Vec<_>>(),
        ));
        let operation = self.start_put(minting, row.object, dot, world);
        self.when_durable(Waiter::Own { operation }, world);
    }

    fn refuse(&mut self, minting: Minting, refusal: Refusal, world: &mut World) {
        self.finish_mint(minting, WriteAnswer::Unavailable(refusal), None, world);
    }

    /// The PUT machine has decided the outcome of the write.
    pub(crate) fn on_put_answer(&mut self, operation: u64, answer: put::Answer, world: &mut World) {
        let Some(putting) = self.operations.puts.get(&operation) else { return };
        let (object, minting) = (&putting.object, &putting.minting);
        let (key, write) = (minting.write.key.clone(), write_of(minting.write.draft.write_id));
        let answer = match answer {
            put::Answer::Written(acks) => {
                let (w, strict) = (minting.terms.needed, !minting.terms.sloppy);
                world.claims.push(Claim::Acked { key, write, w, acks: acks.counted, strict });
                let seen = if world.has(Mutation::UnseenContext) {
                    Some(context_of(object))
                } else {
                    context_after_write(object)
                };
                WriteAnswer::Written(WrittenAnswer {
                    acks: acks.counted,
                    hints: acks.hints,
                    siblings: object.shown().len() as u32,
                    dot: Some(putting.dot),
                    version: object.version(),
                    seen,
                })
            }
            put::Answer::NoQuorum(acks) => {
                // Even a node that refused now may have sent it earlier: never "not applied".
                let outcome = if acks.stored { Outcome::Partial } else { Outcome::Unknown };
                if outcome == Outcome::Partial {
                    world.claims.push(Claim::Partial { key, write });
                }
                WriteAnswer::NoQuorum { required: minting.terms.needed, acks, outcome }
            }
        };
        let body = minting.write.return_body.then(|| object.clone());
        let (back, operation) = (minting.back, minting.operation);
        self.send_answer(back, operation, answer, body, world);
    }

    fn finish_mint(
        &mut self,
        minting: Minting,
        answer: WriteAnswer,
        body: Option<Object>,
        world: &mut World,
    ) {
        self.send_answer(minting.back, minting.operation, answer, body, world);
    }

    fn send_answer(
        &mut self,
        back: Option<NodeId>,
        operation: u64,
        answer: WriteAnswer,
        body: Option<Object>,
        world: &mut World,
    ) {
        match back {
            None => self.finish_route(operation, self.id, answer, body, world),
            Some(entry) => {
                let payload = body.map(|object| object.to_bytes()).unwrap_or_default();
                let message = Message::Data(Data::Written { operation, answer });
                world.send((self.id, self.life), entry, &message, &payload);
            }
        }
    }
}
