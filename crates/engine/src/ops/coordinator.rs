//! Drives one PUT at its coordinator: checks it, mints, stores, and replicates the object to W
//! nodes and beyond.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::bucket::Conflicts;
use quorate_protocol::explain::{Kind, Note};
use quorate_protocol::message::{
    Data, DataReply, Message, Outcome, Refusal, Reply, Write, WriteAnswer,
};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::NodeId;
use quorate_protocol::object::Object;
use quorate_protocol::precondition::{self, Checked};
use quorate_protocol::put::{Acks, Role, role_of};
use quorate_protocol::row::{Limits, MintError, Minted, TypeName};
use quorate_protocol::terms::Terms;
use quorate_protocol::time::{Uptime, WallTime};
use quorate_protocol::trace_context::TraceContext;
use quorate_storage::{Blocking, Error, MintedRow, Place};
use tokio::time::Instant;
use tokio::time::{timeout, timeout_at};

use crate::cluster::view::ClusterView;
use crate::limits::sizes::LARGE_BYTES;
use crate::node::Node;
use crate::ops::explain::{self, Recorder, Trace};
use crate::ops::reader::{self, ReadOptions};
use crate::ops::replica;
use crate::ops::replication::{Durable, LocalCopy, MintedHere, replicate};
use crate::peer::mailbox::ReplyTo;

/// The outcome of a write, and the object if it was asked for.
#[derive(Debug)]
pub struct WriteOutcome {
    /// The answer to the client.
    pub answer: WriteAnswer,
    /// The coordinator's merged object, if `return_body` was set and the write succeeded.
    pub object: Option<Object>,
    /// The trace, if it is kept because the write was slow or has failed.
    pub trace: Option<Arc<Trace>>,
}

impl From<WriteAnswer> for WriteOutcome {
    fn from(answer: WriteAnswer) -> Self {
        Self { answer, object: None, trace: None }
    }
}

/// Accepts a forwarded write. It replies at once; the result follows as a message of its own, so
/// that the connection is free while this node waits for others.
/// Its entry node's span is `by`, if the operation is sampled.
pub fn accept(
    node: &Arc<Node>,
    view: &ClusterView,
    (entry, by): (NodeId, Option<TraceContext>),
    operation: u64,
    write: Write,
) -> Reply {
    if node.is_stopping() {
        return Reply::Refused(Refusal::Stopping); // the entry node tries another home replica
    }
    if let Err(refusal) = may_mint(node, &write) {
        return Reply::Refused(refusal);
    }
    let Some(permit) = node.forwards.admit() else { return Reply::Refused(Refusal::Busy) };
    let (minting, view) = (node.clone(), view.clone());
    node.operations.spawn(async move {
        let _permit = permit;
        let node = minting.clone();
        let asked = write.explain;
        let mut recorder = explain::begin_forwarded(&node, &write, by);
        let tell = move |outcome: WriteOutcome, recorder: &mut Recorder| {
            let payload = outcome.object.map(|object| object.to_bytes()).unwrap_or_default();
            let message = match asked {
                None => Message::Data(Data::Written { operation, answer: outcome.answer }),
                Some(trace) => {
                    let (answer, events) = (Some(outcome.answer), recorder.events());
                    Message::Data(Data::Explained { operation, trace, answer, events })
                }
            };
            node.peers.send(entry, message, payload, ReplyTo::nobody());
        };
        mint(&minting, (view, None), write, &mut recorder, tell).await;
        if let Some(trace) = asked {
            let events = recorder.events();
            let message = Message::Data(Data::Explained { operation, trace, answer: None, events });
            minting.peers.send(entry, message, Bytes::new(), ReplyTo::nobody());
        }
    });
    Reply::Data(DataReply::Accepted)
}

/// Checks whether this node can mint such a write at all.
///
/// # Errors
/// The [`Refusal`] to reply with.
pub fn may_mint(node: &Node, write: &Write) -> Result<(), Refusal> {
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
/// replication goes on until every slot is held or no node is left to try. The view is the one with
/// which the write was admitted here, with its terms if they were taken.
pub async fn mint(
    node: &Arc<Node>,
    admitted: (ClusterView, Option<Terms>),
    write: Write,
    recorder: &mut Recorder,
    tell: impl FnOnce(WriteOutcome, &mut Recorder) + Send,
) {
    let mut teller = Teller { recorder, tell: Some(tell) };
    if let Err(answer) = mint_and_replicate(node, admitted, write, &mut teller).await {
        teller.recorder.at(Instant::now());
        teller.tell(answer.into());
    }
    teller.recorder.saw(Kind::Done, node.me, Note::Nothing);
}

/// Records what happens, and reports the outcome once.
pub(super) struct Teller<'r, Tell> {
    pub(super) recorder: &'r mut Recorder,
    tell: Option<Tell>,
}

impl<Tell: FnOnce(WriteOutcome, &mut Recorder)> Teller<'_, Tell> {
    pub(super) fn tell(&mut self, outcome: WriteOutcome) {
        if let Some(tell) = self.tell.take() {
            tell(outcome, self.recorder);
        }
    }
}

/// Returns once every slot is held or no node is left to try.
///
/// # Errors
/// Why nothing was minted here. The outcome is not reported then, unless it was before.
async fn mint_and_replicate<Tell: FnOnce(WriteOutcome, &mut Recorder) + Send>(
    node: &Arc<Node>,
    (view, terms): (ClusterView, Option<Terms>),
    mut write: Write,
    teller: &mut Teller<'_, Tell>,
) -> Result<(), WriteAnswer> {
    let deadline = node.uptime().plus(u64::from(write.timeout_ms));
    let terms = terms.map_or_else(|| view.write_terms(&write.key, &write.asked), Ok);
    let terms = terms.map_err(WriteAnswer::InvalidQuorum)?;
    prepare(node, &mut write, (&view, &terms), teller.recorder).await?;
    let sets = terms.asked_sets(write.preferred_home(node.me));
    let (role, needed) = (role_of(node.me, sets.homes()), terms.needed());
    let place = replica::place_of(node, &view, role, &write.key);
    let (minted_at, began) = (node.now(), Instant::now());
    let stored = store_in_time(node, &write, (place, needed), deadline, teller).await;
    let mut row = match stored {
        Err(WriteAnswer::Refused(MintError::ContextAhead)) => {
            Box::pin(catch_up(node, &write, (&view, &terms), teller.recorder.of_part())).await?;
            store_in_time(node, &write, (place, needed), deadline, teller).await?
        }
        stored => stored?,
    };
    if mutated(Mutation::BareSibling)
        && let Minted::New(dot) = row.minted
    {
        row.object.siblings.retain(|sibling| sibling.dot == dot);
        row.encoded = row.object.to_bytes();
    }
    let stored_at = node.metrics.operations.minted(began);
    teller.recorder.at(stored_at);
    record_stored(node, &row, role, teller.recorder);
    let durable: Durable = match mutated(Mutation::CoordinatorEarlyAck) {
        true => Box::pin(std::future::ready(Ok(()))),
        false => Box::pin(node.store.durable()),
    };
    let minted = MintedHere { row, role, minted_at, stored_at, sync: LocalCopy::Waits(durable) };
    replicate(node, &write, (view, terms), deadline, minted, teller).await;
    Ok(())
}

/// Records that the write is in this node's row. It is not durable yet.
fn record_stored(node: &Node, row: &MintedRow, role: Role, recorder: &mut Recorder) {
    if let Minted::New(dot) = row.minted {
        recorder.saw(Kind::Minted, node.me, Note::Dot(dot));
    }
    recorder.saw(Kind::Stored, node.me, Note::Version(row.object.version()));
    if let Role::Hint { target } = role {
        recorder.saw(Kind::Hinted, node.me, Note::For(target));
    }
}

/// Checks that come before the write: a reused idempotency key, and a read of R for conditional
/// requests and for deletes without a context.
async fn prepare(
    node: &Arc<Node>,
    write: &mut Write,
    (view, terms): (&ClusterView, &Terms),
    recorder: &Recorder,
) -> Result<(), WriteAnswer> {
    may_mint(node, write).map_err(WriteAnswer::Unavailable)?;
    if let Some(name) = write.idempotency
        && !node.idempotency.remember(name, write.draft.write_id, node.uptime())
    {
        return Err(WriteAnswer::IdempotencyKeyReused);
    }
    check_type(write, terms.conflicts)?;
    write.draft.supersede_all = terms.conflicts == Conflicts::Lww;
    write.draft.is_remembered = write.idempotency.is_some();
    write.draft.lifetime = write.draft.lifetime.in_bucket(terms.expires_in_s);
    if write.condition.is_none() && !write.delete_seen {
        return Ok(());
    }
    // Boxed: it is rare, and otherwise every write's future would reserve space for it.
    Box::pin(read_before(node, write, (view, terms), recorder.of_part())).await
}

/// Checks that the write is of its bucket's type, as this node knows it. Deletes are of any.
fn check_type(write: &Write, conflicts: Conflicts) -> Result<(), WriteAnswer> {
    let has = TypeName(conflicts.data_type());
    match write.draft.writes() {
        Some(asked) if asked != has => {
            Err(WriteAnswer::Refused(MintError::WrongType { has, asked }))
        }
        Some(_) | None => Ok(()),
    }
}

/// Reads R and evaluates the write's conditions against the result.
async fn read_before(
    node: &Arc<Node>,
    write: &mut Write,
    (view, terms): (&ClusterView, &Terms),
    recorder: Recorder,
) -> Result<(), WriteAnswer> {
    let read_at = node.now();
    let seen = read_first(node, write, (view, terms), recorder).await?;
    match precondition::check(write, &seen, terms.conflicts, node.now()) {
        Checked::Mint => Ok(()),
        Checked::Answer(answer) => Err(answer),
        Checked::Known => merge_here(node, write, (view, terms), (seen, read_at)).await,
    }
}

/// Fetches what the client has seen and this node has not: a remove can take away only what is here.
async fn catch_up(
    node: &Arc<Node>,
    write: &Write,
    (view, terms): (&ClusterView, &Terms),
    recorder: Recorder,
) -> Result<(), WriteAnswer> {
    let read_at = node.now();
    let seen = read_first(node, write, (view, terms), recorder).await?;
    merge_here(node, write, (view, terms), (seen, read_at)).await
}

async fn read_first(
    node: &Arc<Node>,
    write: &Write,
    (view, terms): (&ClusterView, &Terms),
    recorder: Recorder,
) -> Result<Arc<Object>, WriteAnswer> {
    let options = ReadOptions {
        view: view.clone(),
        terms: terms.to_read_first(),
        timeout_ms: u64::from(write.timeout_ms),
    };
    let read = reader::read(node, &write.key, options, recorder).await.0;
    read.map_err(|failure| WriteAnswer::NoReadQuorum {
        required: failure.required,
        counted: failure.counted,
    })
}

async fn merge_here(
    node: &Arc<Node>,
    write: &Write,
    (view, terms): (&ClusterView, &Terms),
    (seen, read_at): (Arc<Object>, WallTime),
) -> Result<(), WriteAnswer> {
    let role = role_of(node.me, terms.asked_sets(write.preferred_home(node.me)).homes());
    let seen = Arc::unwrap_or_clone(seen);
    let merged = replica::merge(node, view, role, &write.key, seen, read_at).await;
    if let Reply::Refused(refusal) = merged {
        Err(WriteAnswer::Unavailable(refusal))
    } else {
        Ok(())
    }
}

/// Stores the write once its row's memory is reserved. If that takes longer than the client waits,
/// the client is told that the outcome is unknown, and the write goes on.
async fn store_in_time<Tell: FnOnce(WriteOutcome, &mut Recorder)>(
    node: &Arc<Node>,
    write: &Write,
    (place, w): (Place, u16),
    deadline: Uptime,
    teller: &mut Teller<'_, Tell>,
) -> Result<MintedRow, WriteAnswer> {
    let known = node.bounds.sizes.of(&write.key);
    let busy = |_| WriteAnswer::Unavailable(Refusal::Busy);
    let room = (known > 0).then(|| node.admission.charge(known)).transpose().map_err(busy)?;
    let mut storing = std::pin::pin!(store(node, write, place, w));
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
                    teller.recorder.at(Instant::now());
                    teller.tell(unknown(w).into());
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
    place: Place,
    w: u16,
) -> Result<MintedRow, WriteAnswer> {
    let (bytes, max) = (write.draft.value.as_ref().map_or(0, Bytes::len), bytes_max(node));
    if bytes > max {
        // No other replica could receive it.
        let (bytes, max) = (bytes as u64, max as u64);
        return Err(WriteAnswer::Refused(MintError::ObjectTooLarge { bytes, max }));
    }
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
pub fn unknown(required: u16) -> WriteAnswer {
    WriteAnswer::NoQuorum { required, acks: Acks::default(), outcome: Outcome::Unknown }
}

pub(super) fn limits(node: &Node) -> Limits {
    let siblings_max = node.config.limits.siblings_max;
    let object_bytes_max = node.config.limits.object_bytes_max.min(bytes_max(node));
    Limits { siblings_max, object_bytes_max }
}

/// The largest total size of a key's values that every peer can receive.
pub fn bytes_max(node: &Node) -> usize {
    node.peers.object_bytes_max() / 2 // the other half is for metadata
}
