//! What this node does, as a replica, for sampled operations of others: one span for each message, from when
//! its batch arrived until it can be answered.

use std::collections::VecDeque;

use quorate_protocol::message::{Data, Message, Reply, WithPayload};
use quorate_protocol::name::Key;
use quorate_protocol::trace_context::TraceContext;
use quorate_protocol::wire::Frame;
use tokio::time::Instant;

use crate::ops::finished::{Finished, Work};
use crate::ops::sampler::Sampler;

/// The messages of one batch that belong to sampled operations: usually none.
#[derive(Default)]
pub(crate) struct SampledWork {
    /// In order.
    waiting: VecDeque<Waiting>,
    /// When the batch arrived, if any message in it is sampled.
    began: Option<Instant>,
}

struct Waiting {
    /// Its place among the messages that are not answered yet.
    place: usize,
    by: TraceContext,
    /// What a replica is asked to do, if that is what it is.
    work: Option<(&'static str, Key)>,
}

impl SampledWork {
    /// Those of a frame; none if nothing is exported here.
    pub(crate) fn of(sampler: &Sampler, frame: &Frame<Message>) -> Self {
        if frame.traces.is_empty() || sampler.sink().is_none() {
            return Self::default();
        }
        let waiting = frame.traces.iter().map(|&(place, by)| {
            let message = frame.messages.get(place);
            Waiting { place, by, work: message.and_then(|message| of_replica(&message.head)) }
        });
        Self { waiting: waiting.collect(), began: Some(Instant::now()) }
    }

    /// What asks for the message at a place among those that are not answered yet, if that is sampled.
    pub(crate) fn by(&self, place: usize) -> Option<TraceContext> {
        self.waiting.iter().find(|waiting| waiting.place == place).map(|waiting| waiting.by)
    }

    /// The next messages have these replies: exports those that are sampled.
    pub(crate) fn answered(&mut self, sampler: &Sampler, replies: &[WithPayload<Reply>]) {
        let (Some(began), Some(sink)) = (self.began, sampler.sink()) else { return };
        let ended = Instant::now();
        while let Some(Waiting { place, by, work }) =
            self.waiting.pop_front_if(|waiting| waiting.place < replies.len())
        {
            if let Some((method, key)) = work
                && let Some(sample) = sampler.follow(by)
            {
                let head = &replies[place].head;
                let refused = if let Reply::Refused(why) = head { Some(*why) } else { None };
                sink.take(Finished::Work(Work { sample, method, key, began, ended, refused }));
            }
        }
        self.waiting.iter_mut().for_each(|waiting| waiting.place -= replies.len());
    }
}

/// What a replica is asked to do; `None` for what is no replica's work, such as a forwarded write, whose
/// coordinator has a span of its own.
fn of_replica(message: &Message) -> Option<(&'static str, Key)> {
    if let Message::Data(Data::Store { key, .. }) = message {
        return Some(("STORE", key.clone()));
    }
    let Message::Data(Data::Read { key, .. }) = message else { return None };
    Some(("READ", key.clone()))
}
