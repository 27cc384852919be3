//! Drives one PUT at its coordinator: checks it, mints, stores, and replicates the object to W
//! nodes and beyond.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::message::{
    Message, Outcome, Refusal, Reply, WithPayload, Write, WriteAnswer, WrittenAnswer,
};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::precondition::{self, Checked};
use quorate_protocol::put::{self, Acks, Effect, Plan, Put, Role, role_of};
use quorate_protocol::row::{Limits, MintError, Minted};
use quorate_protocol::terms::Terms;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::view::context_after_write;
use quorate_storage::{Blocking, Error, MintedRow};
use tokio::time::{timeout, timeout_at};

use crate::limits::sizes::LARGE_BYTES;
use crate::node::Node;
use crate::ops::reader::{self, ReadOptions};
use crate::ops::replica;
use crate::peer::mailbox::{Mailbox, PeerEvent, ReplyTo};

/// The outcome of a write, and the object if it was asked for.
#[derive(Debug)]
pub(crate) struct WriteOutcome {
    /// The answer to the client.
    pub(crate) answer: WriteAnswer,
    /// The coordinator's merged object, if `return_body` was set and the write succeeded.
    pub(crate) object: Option<Object>,
}

impl From<WriteAnswer> for WriteOutcome {
    fn from(answer: WriteAnswer) -> Self {
        Self { answer, object: None }
    }
}

/// Accepts a forwarded write. It replies at once; the result follows as a message of its own, so
/// that the connection is free while this node waits for others.
pub(crate) fn accept(node: &Arc<Node>, entry: NodeId, operation: u64, write: Write) -> Reply {
    if node.is_stopping() {
        return Reply::Refused(Refusal::Stopping); // the entry node tries another home replica
    }
    if let Err(refusal) = may_mint(node, &write) {
        return Reply::Refused(refusal);
    }
    let Some(permit) = node.forwards.admit() else { return Reply::Refused(Refusal::Busy) };
    let minting = node.clone();
    node.operations.spawn(async move {
        let _permit = permit;
        let node = minting.clone();
        let tell = move |outcome: WriteOutcome| {
            let payload = outcome.object.map(|object| object.to_bytes()).unwrap_or_default();
            let message = Message::Written { operation, answer: outcome.answer };
            node.peers.send(entry, message, payload, ReplyTo::nobody());
        };
        mint(&minting, write, None, tell).await;
    });
    Reply::Accepted
}

/// Checks whether this node can mint such a write at all.
///
/// # Errors
/// The [`Refusal`] to reply with.
pub(crate) fn may_mint(node: &Node, write: &Write) -> Result<(), Refusal> {
    if node.formation().is_none() {
        return Err(Refusal::NotFormed);
    }
    if !node.generation.is_admitted() {
        return Err(Refusal::Busy); // briefly: its peers have not confirmed its generation yet
    }
    // On a full disk deletes still fit, and they free space.
    let has_room = if write.has_value { node.is_writable() } else { node.takes_deletes() };
    if !has_room {
        return Err(Refusal::ReadOnly);
    }
    Ok(())
}

/// Mints a write here and replicates it. `tell` is called as soon as the outcome is known;
/// replication goes on until every slot is held or no node is left to try. Pass `terms` if this
/// node has already taken them, so that home replicas and quorum come from one snapshot.
pub(crate) async fn mint(
    node: &Arc<Node>,
    mut write: Write,
    terms: Option<Terms>,
    tell: impl FnOnce(WriteOutcome) + Send,
) {
    let deadline = node.uptime().plus(u64::from(write.timeout_ms));
    let terms = match terms.map_or_else(|| node.write_terms(&write.key, &write.asked), Ok) {
        Ok(terms) => terms,
        Err(unfit) => return tell(WriteAnswer::InvalidQuorum(unfit).into()),
    };
    if let Err(answer) = prepare(node, &mut write, &terms).await {
        return tell(answer.into());
    }
    let homes = terms.asked_homes(write.preferred_home(node.me));
    let role = role_of(node.me, &homes);
    let minted_at = node.now();
    let mut tell = Some(tell);
    let at = (role, terms.needed);
    let row = match store_in_time(node, &write, at, deadline, &mut tell).await {
        Ok(row) => row,
        Err(answer) => {
            if let Some(tell) = tell {
                tell(answer.into());
            }
            return;
        }
    };
    let Terms { fallbacks, needed, sloppy, .. } = terms;
    let plan = Plan {
        me: node.me,
        homes,
        fallbacks,
        needed,
        sloppy,
        replica_timeout_ms: node.config.timeouts.replica_ms,
        deadline,
    };
    let (put, effects) = Put::start(plan, &node.peers.down(), node.uptime());
    let (reply_to, mailbox) = ReplyTo::new();
    let durable: Durable = Box::pin(node.store.durable());
    let mut writing = Writing {
        node,
        write: &write,
        needed,
        row,
        minted_at,
        put,
        reply_to,
        mailbox,
        durable: Some(durable),
        tell,
    };
    writing.carry_out(effects);
    while !writing.put.is_done() {
        writing.step().await;
    }
}

/// Checks that come before the write: a reused idempotency key, and a read of R for conditional
/// requests and for deletes without a context.
async fn prepare(node: &Arc<Node>, write: &mut Write, terms: &Terms) -> Result<(), WriteAnswer> {
    may_mint(node, write).map_err(WriteAnswer::Unavailable)?;
    if let Some(name) = write.idempotency
        && !node.idempotency.remember(name, write.draft.write_id, node.uptime())
    {
        return Err(WriteAnswer::IdempotencyKeyReused);
    }
    write.draft.supersede_all = terms.conflicts == Conflicts::Lww;
    if write.condition.is_none() && !write.delete_seen {
        return Ok(());
    }
    // Boxed: it is rare, and otherwise every write's future would reserve space for it.
    Box::pin(read_before(node, write, terms)).await
}

/// Reads R and evaluates the write's conditions against the result.
async fn read_before(
    node: &Arc<Node>,
    write: &mut Write,
    terms: &Terms,
) -> Result<(), WriteAnswer> {
    let options =
        ReadOptions { terms: terms.to_read_first(), timeout_ms: u64::from(write.timeout_ms) };
    let read_at = node.now();
    let seen = match reader::read(node, &write.key, options).await {
        Ok(seen) => seen,
        Err(failure) => {
            let (required, counted) = (failure.required, failure.counted);
            return Err(WriteAnswer::NoReadQuorum { required, counted });
        }
    };
    match precondition::check(write, &seen, terms.conflicts) {
        Checked::Mint => Ok(()),
        Checked::Answer(answer) => Err(answer),
        Checked::Known => {
            let role = role_of(node.me, &terms.asked_homes(write.preferred_home(node.me)));
            let seen = Arc::unwrap_or_clone(seen);
            let merged = replica::merge(node, role, &write.key, seen, read_at).await;
            if let Reply::Refused(refusal) = merged {
                return Err(WriteAnswer::Unavailable(refusal));
            }
            Ok(())
        }
    }
}

/// Stores the write once its row's memory is reserved. If that takes longer than the client waits,
/// the client is told that the outcome is unknown, and the write goes on.
async fn store_in_time(
    node: &Arc<Node>,
    write: &Write,
    (role, w): (Role, u16),
    deadline: Uptime,
    tell: &mut Option<impl FnOnce(WriteOutcome)>,
) -> Result<MintedRow, WriteAnswer> {
    let known = node.bounds.sizes.of(&write.key);
    let busy = |_| WriteAnswer::Unavailable(Refusal::Busy);
    let room = (known > 0).then(|| node.admission.charge(known)).transpose().map_err(busy)?;
    let mut storing = std::pin::pin!(store(node, write, role, w));
    let patience = Duration::from_millis(node.config.timeouts.replica_ms);
    let stored = match timeout(patience, storing.as_mut()).await {
        Ok(stored) => stored,
        Err(_) => {
            // Like any slow replica: until this write is done, other coordinators are preferred.
            let _slow = SlowStore::new(node);
            let in_time = timeout_at(node.instant(deadline), storing.as_mut()).await;
            match in_time {
                Ok(stored) => stored,
                Err(_) => {
                    if let Some(tell) = tell.take() {
                        tell(unknown(w).into());
                    }
                    storing.await
                }
            }
        }
    };
    let mut row = stored?;
    node.bounds.sizes.saw(&write.key, row.encoded.len());
    drop(room);
    row.encoded = node.admission.held(row.encoded);
    Ok(row)
}

/// Marks this node's store as slow while a write to it is overdue.
struct SlowStore<'a>(&'a Node);

impl<'a> SlowStore<'a> {
    fn new(node: &'a Node) -> Self {
        node.bounds.slow_stores.fetch_add(1, Relaxed);
        Self(node)
    }
}

impl Drop for SlowStore<'_> {
    fn drop(&mut self) {
        self.0.bounds.slow_stores.fetch_sub(1, Relaxed);
    }
}

async fn store(
    node: &Arc<Node>,
    write: &Write,
    role: Role,
    w: u16,
) -> Result<MintedRow, WriteAnswer> {
    let (bytes, max) = (write.draft.value.as_ref().map_or(0, Bytes::len), bytes_max(node));
    if bytes > max {
        // No other replica could receive it.
        let (bytes, max) = (bytes as u64, max as u64);
        return Err(WriteAnswer::Refused(MintError::ObjectTooLarge { bytes, max }));
    }
    let place = replica::place_of(node, role, &write.key);
    let is_large = bytes.max(node.bounds.sizes.of(&write.key)) > LARGE_BYTES;
    let _turn = node.bounds.turn_if(is_large).await;
    let (now, limits) = (node.now(), limits(node));
    // A large row would block this thread, and all tasks on it, for too long even in memory.
    let minted = if is_large {
        Err(Error::WouldBlock)
    } else {
        node.store.mint(place, &write.key, &write.draft, now, &limits, Blocking::Never)
    };
    let minted = match minted {
        Err(Error::WouldBlock) => {
            let (key, draft) = (write.key.clone(), write.draft.clone());
            replica::on_blocking_pool(node, move |node| {
                node.store.mint(place, &key, &draft, now, &limits, Blocking::Allowed)
            })
            .await
        }
        done => done,
    };
    match minted {
        Ok(Ok(row)) => Ok(row),
        Ok(Err(MintError::Overtaken)) => Err(WriteAnswer::ConditionFailed),
        Ok(Err(refused)) => Err(WriteAnswer::Refused(refused)),
        // The write may have reached the log before the store failed, so the outcome is unknown.
        Err(Error::Failed(_) | Error::Io(_)) => Err(unknown(w)),
        Err(error) => Err(WriteAnswer::Unavailable(replica::refusal_of(&error))),
    }
}

/// The answer when it is not known what was stored.
pub(crate) fn unknown(required: u16) -> WriteAnswer {
    WriteAnswer::NoQuorum { required, acks: Acks::default(), outcome: Outcome::Unknown }
}

fn limits(node: &Node) -> Limits {
    let siblings_max = node.config.limits.siblings_max;
    let object_bytes_max = node.config.limits.object_bytes_max.min(bytes_max(node));
    Limits { siblings_max, object_bytes_max }
}

/// The largest total size of a key's values that every peer can receive.
pub(crate) fn bytes_max(node: &Node) -> usize {
    node.peers.object_bytes_max() / 2 // the other half is for metadata
}

/// Resolves when the local copy is durable.
type Durable = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// One PUT in progress.
struct Writing<'a, Tell> {
    node: &'a Arc<Node>,
    write: &'a Write,
    /// W.
    needed: u16,
    row: MintedRow,
    /// Wall-clock time, taken before the row was read.
    minted_at: WallTime,
    put: Put,
    reply_to: ReplyTo,
    mailbox: Mailbox,
    durable: Option<Durable>,
    tell: Option<Tell>,
}

impl<Tell: FnOnce(WriteOutcome) + Send> Writing<'_, Tell> {
    /// Waits for the next event: the local copy is durable, a replica replied, or a timer fired.
    async fn step(&mut self) {
        let me = self.node.me;
        let wake = self.put.next_wake().unwrap_or(self.node.uptime());
        let wake = self.node.instant(wake);
        let effects = tokio::select! {
            result = settle(&mut self.durable) => {
                self.durable = None;
                match result {
                    Ok(()) => self.put.on_ack(me),
                    Err(_) => self.put.on_refused(me, self.node.uptime()),
                }
            }
            heard = self.mailbox.recv() => match heard {
                Some((from, heard)) => self.on_heard(from, &heard),
                None => self.put.on_time(self.node.uptime()),
            },
            () = tokio::time::sleep_until(wake) => self.put.on_time(self.node.uptime()),
        };
        self.carry_out(effects);
    }

    fn on_heard(&mut self, from: NodeId, heard: &PeerEvent) -> Vec<Effect> {
        let now: Uptime = self.node.uptime();
        match heard {
            PeerEvent::Reply(WithPayload { head: Reply::Stored, .. }) => self.put.on_ack(from),
            PeerEvent::Reply(_) | PeerEvent::NotSent => self.put.on_refused(from, now),
            PeerEvent::Progress => {
                self.put.on_progress(from, now);
                Vec::new()
            }
            PeerEvent::Silent | PeerEvent::Written(_) => self.put.on_silent(from, now),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, role } => {
                    let message = Message::Store {
                        key: self.write.key.clone(),
                        role,
                        read_at: self.minted_at,
                    };
                    let object: Bytes = self.row.encoded.clone();
                    self.node.peers.send(to, message, object, self.reply_to.clone());
                }
                Effect::Answer(answer) => {
                    if let Some(tell) = self.tell.take() {
                        tell(self.outcome(answer));
                    }
                }
            }
        }
    }

    fn outcome(&self, answer: put::Answer) -> WriteOutcome {
        let object = &self.row.object;
        match answer {
            put::Answer::Written(acks) => {
                let (Minted::New(dot) | Minted::Already(dot)) = self.row.minted;
                let answer = WriteAnswer::Written(WrittenAnswer {
                    acks: acks.counted,
                    hints: acks.hints,
                    siblings: object.shown().len() as u32,
                    dot: Some(dot),
                    version: object.version(),
                    seen: context_after_write(object),
                });
                WriteOutcome { answer, object: self.write.return_body.then(|| object.clone()) }
            }
            put::Answer::NoQuorum(acks) => {
                let outcome = if acks.stored { Outcome::Partial } else { Outcome::Unknown };
                WriteAnswer::NoQuorum { required: self.needed, acks, outcome }.into()
            }
        }
    }
}

/// Resolves when the local copy is durable; never if that has already been reported.
async fn settle(durable: &mut Option<Durable>) -> Result<(), Error> {
    match durable {
        Some(durable) => durable.await,
        None => std::future::pending().await,
    }
}
