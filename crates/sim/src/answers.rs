//! What an entry node answers to its client, and what the oracle learns from it.
//!
//! The oracle sees every answer when it is sent, whether or not the client is still waiting.

use std::collections::BTreeSet;

use quorate_protocol::bucket::Conflicts;
use quorate_protocol::context::Context;
use quorate_protocol::get;
use quorate_protocol::message::{Outcome, WriteAnswer, WrittenAnswer};
use quorate_protocol::name::Key;
use quorate_protocol::object::{Object, Sibling, Version};
use quorate_protocol::quorum::Count;
use quorate_protocol::terms::QuorumOptions;
use quorate_protocol::view::{View, context_of};

use crate::client::Response;
use crate::mutations::Mutation;
use crate::node::Node;
use crate::store::Slot;
use crate::values::{sight, write_of};
use crate::world::{Body, Event, Request, World};
use quorate_oracle::history::{End, WriteNo};
use quorate_oracle::{Answer, Read, Sight};

/// An answer takes this long to reach its client, in milliseconds.
const ANSWER_DELAY_MS: u64 = 1;

impl Node {
    /// A GET asks for more replicas than the bucket has.
    pub(crate) fn refuse_read(&self, request: &Request, world: &mut World) {
        world.note(format_args!("{} refuses to read {}", self.id, request.key));
        self.respond(request, Response::Failed, world);
    }

    /// Answers a GET.
    pub(crate) fn answer_read(&self, request: &Request, answer: &get::Answer, world: &mut World) {
        let Body::Read { asked, .. } = &request.body else { return };
        let (r, sloppy) = promised(asked, world.setup.r, world);
        let response = match answer {
            get::Answer::NoQuorum { counted, .. } => {
                world.note(format_args!("{} cannot read {}: {counted}", self.id, request.key));
                Response::Failed
            }
            get::Answer::Read(object) => {
                let mut seen = (!object.is_absent()).then(|| context_of(object));
                if world.has(Mutation::ContextOfOwnRow)
                    && let Some(row) = self.store.get(&Slot::home(&request.key))
                {
                    seen = Some(context_of(&row.object));
                }
                let sights = sights(object, world.setup.conflicts);
                let read = Read { begun: request.begun, r, strict: !sloppy };
                let key = request.key.to_string();
                let context = seen.as_ref().map(|seen| &seen.clock);
                let shown = Answer { key: &key, shown: &sights, context };
                world.note(format_args!("{} shows {key} {sights:?} {context:?}", self.id));
                let verdict = world.oracle.check_read(&read, &shown);
                world.judge(verdict);
                let version = object.version();
                carried(&request.key, &sights, seen.as_ref(), version, world)
            }
        };
        self.respond(request, response, world);
    }

    /// Answers a PUT or DELETE.
    pub(crate) fn answer_write(
        &self,
        request: Request,
        answer: &WriteAnswer,
        object: Option<Object>,
        world: &mut World,
    ) {
        let Body::Write(write, _) = &request.body else { return };
        let number = write_of(write.draft.write_id);
        let end = match answer {
            WriteAnswer::Written(WrittenAnswer { dot: None, .. }) => End::NothingToDelete,
            WriteAnswer::Written(written) => {
                let (acks, hints) = (written.acks, written.hints);
                let (w, sloppy) = promised(&write.asked, world.setup.w, world);
                End::Acked { acks, hints, w, strict: !sloppy }
            }
            WriteAnswer::NoQuorum { outcome: Outcome::Partial, .. } => End::Partial,
            WriteAnswer::NoQuorum { outcome: Outcome::Unknown, .. } => End::Unknown,
            WriteAnswer::NoQuorum { outcome: Outcome::NotApplied, .. }
            | WriteAnswer::NoReadQuorum { .. }
            | WriteAnswer::ConditionFailed
            | WriteAnswer::IdempotencyKeyReused
            | WriteAnswer::Refused(_)
            | WriteAnswer::Unavailable(_)
            | WriteAnswer::InvalidQuorum(_) => End::NotApplied,
        };
        world.note(format_args!("{} says {number} of {}: {answer:?}", self.id, request.key));
        let moment = world.moment();
        world.oracle.end_attempt(number, end, moment);
        let response = match answer {
            WriteAnswer::Written(written) if written.dot.is_some() => {
                let own = [Sight { write: number, dot: written.dot }];
                let (sights, seen) = match &object {
                    Some(object) => {
                        (sights(object, world.setup.conflicts), Some(context_of(object)))
                    }
                    None => (own.to_vec(), written.seen.clone()),
                };
                let key = request.key.to_string();
                let context = seen.as_ref().map(|seen| &seen.clock);
                let verdict =
                    world.oracle.check_answer(&Answer { key: &key, shown: &sights, context });
                world.judge(verdict);
                carried(&request.key, &sights, seen.as_ref(), written.version, world)
            }
            WriteAnswer::Written(_) => Response::NothingToDelete,
            WriteAnswer::NoQuorum { .. }
            | WriteAnswer::NoReadQuorum { .. }
            | WriteAnswer::ConditionFailed
            | WriteAnswer::IdempotencyKeyReused
            | WriteAnswer::Refused(_)
            | WriteAnswer::Unavailable(_)
            | WriteAnswer::InvalidQuorum(_) => Response::Failed,
        };
        self.respond(&request, response, world);
    }

    fn respond(&self, request: &Request, response: Response, world: &mut World) {
        let (client, number) = (request.client, request.number);
        let response = Box::new(response);
        world.schedule(ANSWER_DELAY_MS, Event::ClientHears { client, number, response });
    }
}

/// R or W of a request and whether fallbacks count, as its client understands it. `usual` is what
/// the bucket requires at its lowest n; it never requires less.
fn promised(asked: &QuorumOptions, usual: u16, world: &World) -> (u16, bool) {
    let needed = match asked.needed {
        Some(Count::Exactly(count)) => count,
        Some(Count::One | Count::Quorum | Count::All) | None => usual,
    };
    (needed, asked.sloppy.unwrap_or(world.setup.sloppy))
}

/// What a client keeps: the values it was shown, and the signed context for them.
fn carried(
    key: &Key,
    sights: &[Sight],
    seen: Option<&Context>,
    version: Version,
    world: &World,
) -> Response {
    let shown: BTreeSet<WriteNo> = sights.iter().map(|s| s.write).collect();
    let context = seen.map(|seen| world.keys.sign(key, seen));
    Response::Shown { shown, context, version }
}

/// The siblings that an answer shows. An `lww` bucket shows one and stands for all: its policy
/// superseded the others on the client's behalf.
fn sights(object: &Object, conflicts: Conflicts) -> Vec<Sight> {
    let all = |siblings: &[&Sibling]| siblings.iter().map(|s| sight(s)).collect();
    match View::of(object, conflicts) {
        View::Absent => Vec::new(),
        View::One(sibling) if conflicts == Conflicts::Siblings => all(&[sibling]),
        View::Many(siblings) => all(&siblings),
        View::One(_) | View::Deleted => all(&object.shown()),
    }
}
