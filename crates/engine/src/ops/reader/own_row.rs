//! Reads the row of this node itself.

use quorate_protocol::get::{Effect, ReadKind, RowKind};
use quorate_protocol::message::{self, DataReply, WithPayload};
use quorate_storage::{Blocking, Error};

use super::Reading;
use crate::limits::sizes::IN_PLACE_BYTES_MAX;
use crate::node::Node;
use crate::ops::replica;
use crate::peer::mailbox::PeerEvent;

impl Reading {
    /// Reads this node's own replica: inline if that does not block, else concurrently with the
    /// other requests, so that a slow disk is hedged and replaced like any slow replica.
    pub(super) fn read_here(&mut self, what: ReadKind, place: RowKind) -> Vec<Effect> {
        let me = self.node.me;
        let known = if what == ReadKind::Object { self.node.bounds.sizes.of(&self.key) } else { 0 };
        if known > 0 && !self.make_room(me, known) {
            let now = self.now();
            return self.no_room_for(me, now);
        }
        self.read_own(what, place)
    }

    /// The same, after memory is reserved.
    pub(super) fn read_own(&mut self, what: ReadKind, place: RowKind) -> Vec<Effect> {
        let me = self.node.me;
        if what == ReadKind::Object && self.node.bounds.sizes.of(&self.key) > IN_PLACE_BYTES_MAX {
            self.read_aside(what, place); // even in memory it would block this thread for too long
            return Vec::new();
        }
        let (node, view, key) = (&self.node, &self.view, &self.key);
        let reply = match replica::read_now(node, view, key, what, place, Blocking::Never) {
            Ok(reply) => reply,
            Err(Error::WouldBlock) => {
                self.read_aside(what, place);
                return Vec::new();
            }
            Err(error) => WithPayload::bare(message::Reply::Refused(replica::refusal_of(&error))),
        };
        let now = self.now();
        self.on_reply(me, reply, now)
    }

    /// As [`Reading::read_here`], on a thread that may block; the mailbox receives the answer.
    fn read_aside(&self, what: ReadKind, place: RowKind) {
        let (node, view, key) = (self.node.clone(), self.view.clone(), self.key.clone());
        let reply_to = self.reply_to.clone();
        self.node.operations.spawn(async move {
            let was_known = node.bounds.sizes.of(&key) > 0;
            let _turn = node.bounds.cold_reads.turn(&node.bounds.sizes, &key).await;
            let known = node.bounds.sizes.of(&key);
            if what == ReadKind::Object && !was_known && known > 0 {
                // A concurrent request has found it to be large: memory is reserved first.
                let large = message::Reply::Data(DataReply::Large { bytes: known as u32 });
                return reply_to.tell(node.me, PeerEvent::Reply(WithPayload::bare(large)));
            }
            let _large = node.bounds.turn_if(known > IN_PLACE_BYTES_MAX).await;
            let reading_key = key.clone();
            let reading = move |node: &Node| {
                replica::read_now(node, &view, &reading_key, what, place, Blocking::Allowed)
            };
            let read = replica::on_blocking_pool(&node, reading).await;
            if let (ReadKind::Object, Ok(reply)) = (what, &read) {
                node.bounds.cold_reads.saw(reply.payload.len());
                node.bounds.sizes.saw(&key, reply.payload.len());
            }
            let refused =
                |error| WithPayload::bare(message::Reply::Refused(replica::refusal_of(&error)));
            reply_to.tell(node.me, PeerEvent::Reply(read.unwrap_or_else(refused)));
        });
    }
}
