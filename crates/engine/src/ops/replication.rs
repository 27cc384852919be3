//! Sends a write that was minted here to the other replicas, and answers once W hold it.
//!
//! It runs on after the answer, until every slot is held or no node is left to try.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::explain::{Kind, Note};
use quorate_protocol::message::{
    Data, DataReply, Message, Outcome, Reply, WithPayload, Write, WriteAnswer, WrittenAnswer,
};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::placement::Epoch;
use quorate_protocol::put::{self, Acks, Effect, Plan, Put, Role};
use quorate_protocol::row::Minted;
use quorate_protocol::terms::{Purpose, Terms};
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::view::{context_after_write, context_of};
use quorate_storage::{Blocking, Error, MintedRow};
use tokio::time::Instant;

use crate::cluster::moved::RESTARTS_MAX;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::coordinator::{self, Teller, WriteOutcome};
use crate::ops::explain::Recorder;
use crate::ops::replica;
use crate::peer::mailbox::{Mailbox, PeerEvent, ReplyTo};

/// Resolves when the local copy is durable.
pub(super) type Durable = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A write that was minted here.
pub(super) struct MintedHere {
    pub(super) row: MintedRow,
    /// In which role this node stored it.
    pub(super) role: Role,
    /// Wall-clock time, taken before the row was read.
    pub(super) minted_at: WallTime,
    /// When the row was stored, by the monotonic clock.
    pub(super) stored_at: Instant,
    pub(super) sync: LocalCopy,
}

/// How far the local copy is.
pub(super) enum LocalCopy {
    Waits(Durable),
    Done,
    Failed,
}

/// Sends a minted write to the other replicas and tells the outcome. Returns once every slot is held or no
/// node is left to try. If the layout changes before the outcome is known, the same object is sent and
/// counted again, in the new epoch ([`crate::cluster::moved`]): it is never minted twice.
pub(super) async fn replicate<Tell: FnOnce(WriteOutcome, &mut Recorder) + Send>(
    node: &Arc<Node>,
    write: &Write,
    (mut view, mut terms): (ClusterView, Terms),
    deadline: Uptime,
    mut minted: MintedHere,
    teller: &mut Teller<'_, Tell>,
) {
    let needed = terms.needed();
    for _ in 0..=RESTARTS_MAX {
        let asked = terms.asked;
        let plan = plan(node, write, terms, &minted, deadline);
        let mut writing = Writing::start(node, write, (&view, plan), &mut minted, teller);
        while !writing.put.is_done() && !writing.has_moved {
            writing.step().await;
        }
        if !writing.has_moved {
            return;
        }
        let Some(newer) = node.moved(&view, Some(deadline)).await else { break };
        let Ok(renewed) = newer.renewed_terms(&write.key, Purpose::Write, &asked) else { break };
        (view, terms) = (newer, renewed);
        if mutated(Mutation::MintAgain) {
            mint_again(node, write, &view, &mut minted);
        }
        if node.uptime() >= deadline {
            break;
        }
    }
    let acks = Acks { stored: true, ..Acks::default() };
    teller.tell(WriteAnswer::NoQuorum { required: needed, acks, outcome: Outcome::Partial }.into());
}

/// A deliberate bug: what has been read and overwritten meanwhile comes back under another dot.
fn mint_again(node: &Node, write: &Write, view: &ClusterView, minted: &mut MintedHere) {
    let place = replica::place_of(node, view, minted.role, &write.key);
    let (draft, limits) = (&write.draft, coordinator::limits(node));
    let again = node.store.mint(place, &write.key, draft, node.now(), &limits, Blocking::Allowed);
    if let Ok(Ok(row)) = again {
        (minted.row, minted.sync) = (row, LocalCopy::Waits(Box::pin(node.store.durable())));
    }
}

fn plan(node: &Node, write: &Write, terms: Terms, minted: &MintedHere, deadline: Uptime) -> Plan {
    let sets = terms.asked_sets(write.preferred_home(node.me));
    let Terms { fallbacks, sloppy, .. } = terms;
    // As a home replica by an earlier layout it stored no hint.
    let counts_me = minted.role != Role::Home || sets.homes().contains(&node.me);
    let replica_timeout_ms = node.config.timeouts.replica_ms;
    Plan { me: node.me, sets, counts_me, fallbacks, sloppy, replica_timeout_ms, deadline }
}

/// One PUT in progress, in one epoch.
struct Writing<'a, 'r, Tell> {
    node: &'a Arc<Node>,
    write: &'a Write,
    epoch: Epoch,
    /// W.
    needed: u16,
    /// Whether hints count towards W.
    sloppy: bool,
    minted: &'a mut MintedHere,
    put: Put,
    reply_to: ReplyTo,
    mailbox: Mailbox,
    /// Whether the outcome does not stand: the epoch has changed, or is about to, or a node is about to
    /// start.
    has_moved: bool,
    teller: &'a mut Teller<'r, Tell>,
}

impl<'a, 'r, Tell: FnOnce(WriteOutcome, &mut Recorder) + Send> Writing<'a, 'r, Tell> {
    fn start(
        node: &'a Arc<Node>,
        write: &'a Write,
        (view, plan): (&ClusterView, Plan),
        minted: &'a mut MintedHere,
        teller: &'a mut Teller<'r, Tell>,
    ) -> Self {
        let (reply_to, mailbox) = ReplyTo::new();
        let (epoch, needed, sloppy) = (view.epoch(), plan.sets.required(), plan.sloppy);
        let down = node.peers.down();
        let asked = if down.is_empty() { Vec::new() } else { plan.sets.homes().to_vec() };
        let (put, mut effects) = Put::start(plan, &down, node.uptime_at(minted.stored_at));
        for home in asked.into_iter().filter(|home| down.contains(home)) {
            if !effects
                .iter()
                .any(|effect| matches!(effect, Effect::Send { to, .. } if *to == home))
            {
                teller.recorder.saw(Kind::Avoided, home, Note::Down);
            }
        }
        let has_moved = false;
        let mut writing = Self {
            node,
            write,
            epoch,
            needed,
            sloppy,
            minted,
            put,
            reply_to,
            mailbox,
            has_moved,
            teller,
        };
        // In an epoch after the first one the local copy may be as far as it will be.
        match writing.minted.sync {
            LocalCopy::Waits(_) => {}
            LocalCopy::Done => effects.extend(writing.put.on_ack(node.me)),
            LocalCopy::Failed => effects.extend(writing.put.on_refused(node.me, node.uptime())),
        }
        writing.carry_out(effects);
        writing
    }

    /// Waits for the next event: the local copy is durable, a replica replied, or a timer fired.
    async fn step(&mut self) {
        let me = self.node.me;
        let wake = self.put.next_wake().unwrap_or(self.node.uptime());
        let wake = self.node.instant(wake);
        let effects = tokio::select! {
            biased;
            result = settle(&mut self.minted.sync) => {
                let now = self.now();
                match result {
                    Ok(()) => {
                        self.minted.sync = LocalCopy::Done;
                        self.node.metrics.operations.synced(self.minted.stored_at);
                        self.teller.recorder.saw(Kind::Synced, me, Note::Nothing);
                        self.put.on_ack(me)
                    }
                    Err(error) => {
                        self.minted.sync = LocalCopy::Failed;
                        let refusal = Note::Refusal(replica::refusal_of(&error));
                        self.teller.recorder.saw(Kind::Refused, me, refusal);
                        self.put.on_refused(me, now)
                    }
                }
            }
            heard = self.mailbox.recv() => match heard {
                Some((from, heard)) => self.on_heard(from, &heard),
                None => self.on_time(),
            },
            () = tokio::time::sleep_until(wake) => self.on_time(),
        };
        self.carry_out(effects);
    }

    /// The uptime, which is also the time of the events to record.
    fn now(&mut self) -> Uptime {
        let at = Instant::now();
        self.teller.recorder.at(at);
        self.node.uptime_at(at)
    }

    fn on_time(&mut self) -> Vec<Effect> {
        let now = self.now();
        let effects = self.put.on_time(now);
        self.put.silent().for_each(|node| self.teller.recorder.gave_up(node));
        effects
    }

    fn on_heard(&mut self, from: NodeId, heard: &PeerEvent) -> Vec<Effect> {
        let now = self.now();
        let recorder = &mut *self.teller.recorder;
        match heard {
            PeerEvent::Reply(WithPayload { head: Reply::Data(DataReply::Stored), .. }) => {
                recorder.heard(Kind::Acked, from, Note::Nothing);
                self.put.on_ack(from)
            }
            PeerEvent::Reply(WithPayload { head, .. }) => {
                let refusal = if let Reply::Refused(refusal) = head {
                    Note::Refusal(*refusal)
                } else {
                    Note::NotReady
                };
                recorder.saw(Kind::Refused, from, refusal);
                self.put.on_refused(from, now)
            }
            PeerEvent::NotSent => {
                recorder.saw(Kind::NotSent, from, Note::Nothing);
                self.put.on_refused(from, now)
            }
            PeerEvent::Progress => {
                self.put.on_progress(from, now);
                Vec::new()
            }
            PeerEvent::Silent | PeerEvent::Written(_) => {
                recorder.gave_up(from);
                self.put.on_silent(from, now)
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, role } => {
                    let (kind, note) = match role {
                        Role::Home => (Kind::Asked, Note::Nothing),
                        Role::Hint { target } => (Kind::Fallback, Note::For(target)),
                    };
                    self.teller.recorder.saw(kind, to, note);
                    let message = Message::Data(Data::Store {
                        key: self.write.key.clone(),
                        role,
                        read_at: self.minted.minted_at,
                    });
                    let object: Bytes = self.minted.row.encoded.clone();
                    let by = self.teller.recorder.context_for(to);
                    self.node.peers.send_traced(to, by, message, object, self.reply_to.clone());
                }
                Effect::Answer(answer) if !self.stands(&answer) => self.has_moved = true,
                Effect::Answer(answer) => {
                    if matches!(answer, put::Answer::Written(_)) {
                        self.teller.recorder.saw(Kind::Quorum, self.node.me, Note::Nothing);
                    }
                    let outcome = self.outcome(answer);
                    self.teller.tell(outcome);
                }
            }
        }
    }

    /// Whether an answer may be given: what it counts was sent and answered in this operation's epoch; and
    /// if that is too little, no peer was found to be in a newer one or is about to start.
    fn stands(&self, answer: &put::Answer) -> bool {
        let is_written = matches!(answer, put::Answer::Written(_));
        let is_early =
            || self.node.membership.epochs.is_behind() || self.node.awaits_joiners(self.epoch);
        mutated(Mutation::AcksOfTwoEpochs)
            || self.node.epoch() == self.epoch && (is_written || !is_early())
    }

    fn outcome(&self, answer: put::Answer) -> WriteOutcome {
        let object = &self.minted.row.object;
        match answer {
            put::Answer::Written(acks) => {
                let now = self.node.now();
                let operations = &self.node.metrics.operations;
                operations.acknowledged(self.minted.stored_at, &acks, self.sloppy, object);
                let (Minted::New(dot) | Minted::Already(dot)) = self.minted.row.minted;
                let answer = WriteAnswer::Written(WrittenAnswer {
                    acks: acks.counted,
                    hints: acks.hints,
                    siblings: object.shown_at(now).len() as u32,
                    dot: Some(dot),
                    version: object.version(),
                    seen: match mutated(Mutation::UnseenContext) {
                        true => Some(context_of(object)),
                        false => context_after_write(object, dot, now),
                    },
                });
                let object = self.write.return_body.then(|| object.clone());
                WriteOutcome { answer, object, trace: None }
            }
            put::Answer::NoQuorum(acks) => {
                self.node.metrics.operations.not_acknowledged(self.minted.stored_at);
                let outcome = if acks.stored { Outcome::Partial } else { Outcome::Unknown };
                WriteAnswer::NoQuorum { required: self.needed, acks, outcome }.into()
            }
        }
    }
}

/// Resolves when the local copy is durable; never if that has already been reported.
async fn settle(sync: &mut LocalCopy) -> Result<(), Error> {
    match sync {
        LocalCopy::Waits(durable) => durable.await,
        LocalCopy::Done | LocalCopy::Failed => std::future::pending().await,
    }
}
