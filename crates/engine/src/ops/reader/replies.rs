//! What a read makes of a reply, and the memory that it takes.

use bytes::Bytes;
use quorate_protocol::explain::{Kind, Note};
use quorate_protocol::get::{Effect, ReadKind, Reply};
use quorate_protocol::message::{self, DataReply, WithPayload};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::time::Uptime;

use super::Reading;
use crate::limits::sizes::LARGE_BYTES;
use crate::seldom::Seldom;

impl Reading {
    pub(super) fn on_reply(
        &mut self,
        from: NodeId,
        mut reply: WithPayload<message::Reply>,
        now: Uptime,
    ) -> Vec<Effect> {
        if let message::Reply::Data(DataReply::Large { bytes }) = reply.head {
            let Some(place) = self.get.place_of(from) else { return Vec::new() };
            self.recorder.heard(Kind::Replied, from, Note::Large(bytes));
            self.node.bounds.sizes.saw(&self.key, bytes as usize);
            if !self.make_room(from, bytes as usize) {
                return self.no_room_for(from, now);
            }
            self.get.on_progress(from, now);
            if from == self.node.me {
                return self.read_own(ReadKind::Object, place);
            }
            self.send(from, ReadKind::Object, place, bytes);
            return Vec::new();
        }
        if matches!(reply.head, message::Reply::Data(DataReply::Object))
            && !self.charge(from, &mut reply.payload)
        {
            return self.no_room_for(from, now);
        }
        let refusal = if let message::Reply::Refused(refusal) = reply.head {
            Note::Refusal(refusal)
        } else {
            Note::Nothing
        };
        let reply = parse_reply(reply);
        let is_object = matches!(reply, Reply::Object(_));
        let (kind, note) = match &reply {
            Reply::Object(_) => (Kind::Replied, Note::Nothing),
            Reply::Digest(version) => (Kind::Replied, Note::Version(*version)),
            Reply::NoHint => (Kind::Replied, Note::NoHint),
            Reply::NotFilled => (Kind::Replied, Note::NotReady),
            Reply::Refused => (Kind::Refused, refusal),
        };
        let effects = self.get.on_reply(from, reply, now);
        // The machine has just computed the version of an object.
        let version = if is_object { self.get.version_of(from) } else { None };
        self.recorder.heard(kind, from, version.map_or(note, Note::Version));
        effects
    }

    /// This node has no memory for what a replica holds.
    pub(super) fn no_room_for(&mut self, from: NodeId, now: Uptime) -> Vec<Effect> {
        self.recorder.saw(Kind::NotSent, from, Note::NoRoom);
        self.get.on_reply(from, Reply::Refused, now)
    }

    /// Reserves memory for a large object before a node is asked for it. Returns whether it could.
    pub(super) fn make_room(&mut self, from: NodeId, bytes: usize) -> bool {
        match self.node.admission.charge(bytes) {
            Ok(charge) => {
                self.room.push((from, charge));
                true
            }
            Err(overload) => {
                // With memory reserved for another replica's copy, this one was only a hedge or for
                // repair.
                let is_needed = self.room.is_empty() && !self.is_answered;
                self.overload = is_needed.then_some(overload);
                false
            }
        }
    }

    /// Attaches an arrived object to its reservation. Returns whether there was one.
    fn charge(&mut self, from: NodeId, payload: &mut Bytes) -> bool {
        let made = self.room.iter().position(|(node, _)| *node == from);
        let mut charge = made.map(|at| self.room.swap_remove(at).1);
        if payload.len() <= LARGE_BYTES {
            return true;
        }
        self.node.bounds.sizes.saw(&self.key, payload.len());
        if charge.is_none() {
            // This object is already here, so it takes another replica's reservation.
            charge = self.room.pop().map(|(_, charge)| charge);
        }
        if charge.is_none() && self.make_room(from, payload.len()) {
            charge = self.room.pop().map(|(_, charge)| charge);
        }
        let Some(mut charge) = charge else { return false };
        if charge.grow_to(payload.len()).is_err() {
            return false;
        }
        charge.shrink_to(payload.len());
        *payload = charge.hold(std::mem::take(payload));
        true
    }
}

static UNDECODABLE: Seldom = Seldom::new();

/// Translates a replica's reply into the read's terms.
pub fn parse_reply(reply: WithPayload<message::Reply>) -> Reply {
    match reply.head {
        message::Reply::Data(DataReply::Object) => match Object::decode(reply.payload) {
            Ok(object) => Reply::Object(object),
            Err(error) => {
                if let Some(held_back) = UNDECODABLE.now() {
                    tracing::error!(%error, held_back, "a replica's object cannot be decoded here");
                }
                Reply::Refused
            }
        },
        message::Reply::Data(DataReply::Digest(version)) => Reply::Digest(version),
        message::Reply::Data(DataReply::NoHint) => Reply::NoHint,
        message::Reply::NotFilled => Reply::NotFilled,
        message::Reply::Data(DataReply::Stored | DataReply::Accepted | DataReply::Large { .. })
        | message::Reply::Repair(_)
        | message::Reply::Cluster(_)
        | message::Reply::Query(_)
        | message::Reply::Refused(_)
        | message::Reply::Unknown(_) => Reply::Refused,
    }
}
