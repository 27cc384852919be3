//! The rows of this node, as read and merged by peers (through [`crate::peer_port::batch`]) and by
//! its own operations.
//!
//! What would block goes to the blocking pool; everything else runs inline, because a thread hop
//! costs more than the operation.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::message::{
    DataReply, QueryReply, Refusal, RepairReply, Reply, Rows, WithPayload,
};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::packed;
use quorate_protocol::put::Role;
use quorate_protocol::reap;
use quorate_protocol::row::Row;
use quorate_protocol::time::WallTime;
use quorate_storage::{Blocking, Error, Place};

use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::host::Urgency;
use crate::node::Node;
use crate::peer::framed::payload_bytes_max;
use crate::seldom::Seldom;

/// Merges an object on behalf of this node's own repair. Durable only after
/// [`quorate_storage::Store::durable`].
pub async fn merge(
    node: &Arc<Node>,
    view: &ClusterView,
    role: Role,
    key: &Key,
    object: Object,
    read_at: WallTime,
) -> Reply {
    let (place, key) = (place_of(node, view, role, key), key.clone());
    let merging =
        move |node: &Node, blocking| merge_now(node, place, &key, &object, read_at, blocking);
    let merged = in_place_or_aside(node, merging).await;
    merged.unwrap_or_else(|error| Reply::Refused(refusal_of(&error)))
}

/// Merges an object if this node may accept it at this moment, however long the request has been
/// queued: [`DataReply::Stored`], or why not.
///
/// # Errors
/// The store's.
pub fn merge_now(
    node: &Node,
    place: Place,
    key: &Key,
    object: &Object,
    read_at: WallTime,
    blocking: Blocking,
) -> Result<Reply, Error> {
    let now = node.now();
    if let Err(refused) = may_merge(node, key, read_at, now) {
        return Ok(refused);
    }
    node.store.merge(place, key, object, now, blocking).map(|_| Reply::Data(DataReply::Stored))
}

/// Whether this node may accept an object of this key, at `now`. The stamps of its siblings do not
/// matter: acknowledged data is stored whatever clock it was written by.
///
/// # Errors
/// The reply to send instead.
pub fn may_merge(node: &Node, key: &Key, read_at: WallTime, now: WallTime) -> Result<(), Reply> {
    if node.formation().is_none() {
        return Err(Reply::Refused(Refusal::NotFormed));
    }
    if !node.generation.is_admitted() {
        return Err(Reply::NotFilled); // it may have to start over and discard what it accepts now
    }
    if reap::is_stale(read_at, now, node.config.deletes.grace_ms) && !mutated(Mutation::StaleTaken)
    {
        tracing::warn!(?key, "refused an object that was in flight for too long");
        return Err(Reply::Refused(Refusal::Stale));
    }
    Ok(())
}

/// Reads what this node holds of a key, for its own background work.
pub async fn read(
    node: &Arc<Node>,
    view: &ClusterView,
    key: &Key,
    what: ReadKind,
    place: RowKind,
) -> WithPayload<Reply> {
    let (view, key) = (view.clone(), key.clone());
    let reading = move |node: &Node, blocking| read_now(node, &view, &key, what, place, blocking);
    let read = in_place_or_aside(node, reading).await;
    read.unwrap_or_else(|error| WithPayload::bare(Reply::Refused(refusal_of(&error))))
}

/// Reads what this node holds of a key.
///
/// # Errors
/// The store's.
pub fn read_now(
    node: &Node,
    view: &ClusterView,
    key: &Key,
    what: ReadKind,
    place: RowKind,
    blocking: Blocking,
) -> Result<WithPayload<Reply>, Error> {
    match place {
        RowKind::Home if !node.is_ready_for(view, key) => Ok(WithPayload::bare(Reply::NotFilled)),
        RowKind::Hints if !node.generation.is_admitted() => Ok(WithPayload::bare(Reply::NotFilled)),
        RowKind::Home => Ok(answer_row(node.store.read(view.home(key), key, blocking)?, what)),
        RowKind::Hints => {
            let mut merged: Option<Object> = None;
            for (_, object) in hints_of(node, key, blocking)? {
                merged.get_or_insert_default().merge(&object);
            }
            Ok(answer_hint(merged, what))
        }
    }
}

fn answer_row(row: Option<Bytes>, what: ReadKind) -> WithPayload<Reply> {
    let damaged = || WithPayload::bare(Reply::Refused(Refusal::Failed));
    match (what, row) {
        (ReadKind::Digest, None) => {
            WithPayload::bare(Reply::Data(DataReply::Digest(Version::ABSENT)))
        }
        (ReadKind::Digest, Some(row)) => match Row::encoded_version(&row) {
            Some(version) => WithPayload::bare(Reply::Data(DataReply::Digest(version))),
            None => damaged(),
        },
        (ReadKind::Object, None) => WithPayload {
            head: Reply::Data(DataReply::Object),
            payload: Object::default().to_bytes(),
        },
        (ReadKind::Object, Some(row)) => match Row::encoded_object(&row) {
            Some(payload) => WithPayload { head: Reply::Data(DataReply::Object), payload },
            None => damaged(),
        },
    }
}

fn answer_hint(merged: Option<Object>, what: ReadKind) -> WithPayload<Reply> {
    match (what, merged) {
        (_, None) if mutated(Mutation::EmptyFallbackCounts) => answer_row(None, what),
        (_, None) => WithPayload::bare(Reply::Data(DataReply::NoHint)),
        (ReadKind::Digest, Some(object)) => {
            WithPayload::bare(Reply::Data(DataReply::Digest(object.version())))
        }
        (ReadKind::Object, Some(object)) => {
            WithPayload { head: Reply::Data(DataReply::Object), payload: object.to_bytes() }
        }
    }
}

/// Every hint that this node keeps of a key, with its target.
fn hints_of(node: &Node, key: &Key, blocking: Blocking) -> Result<Vec<(NodeId, Object)>, Error> {
    let mut hints = Vec::new();
    for target in node.peers.nodes() {
        if let Some(row) = node.store.read(Place::Hint(target), key, blocking)? {
            hints.push((target, decode(key, row)?));
        }
    }
    Ok(hints)
}

/// Everything this node keeps of a key.
pub struct Kept {
    /// Its own object.
    pub own: Option<Object>,
    /// Objects kept as hints.
    pub hints: Vec<(NodeId, Object)>,
}

/// Everything that this node keeps of a key.
///
/// # Errors
/// The store's.
pub async fn kept(node: &Arc<Node>, view: &ClusterView, key: &Key) -> Result<Kept, Error> {
    let (view, key) = (view.clone(), key.clone());
    in_place_or_aside(node, move |node, blocking| {
        let row = node.store.read(view.home(&key), &key, blocking)?;
        let own = row.map(|row| decode(&key, row)).transpose()?;
        Ok(Kept { own, hints: hints_of(node, &key, blocking)? })
    })
    .await
}

fn decode(key: &Key, row: Bytes) -> Result<Object, Error> {
    let undecodable = |error| Error::undecodable(format!("the row of {key}"), error);
    Row::decode(row).map(|row| row.object).map_err(undecodable)
}

/// Everything that this node stores of a key, for an operator.
pub async fn inspect(node: &Arc<Node>, view: &ClusterView, key: Key) -> WithPayload<Reply> {
    let Kept { own, hints } = match kept(node, view, &key).await {
        Ok(kept) => kept,
        Err(error) => return WithPayload::bare(Reply::Refused(refusal_of(&error))),
    };
    let mut payload = BytesMut::new();
    let mut push = |object: &Object| {
        let before = payload.len();
        object.encode(&mut payload);
        (payload.len() - before) as u32
    };
    let own = own.as_ref().map(&mut push);
    let hints = hints.iter().map(|(target, object)| (*target, push(object))).collect();
    let ready = node.is_ready_for(view, &key);
    let head = Reply::Query(QueryReply::Inspection { own, ready, hints });
    WithPayload { head, payload: payload.freeze() }
}

/// Rows in one page of a fetch.
const FETCH_ROWS_MAX: usize = 1024;
/// Bytes in one page of a fetch (a single larger row still goes). Larger pages would delay the
/// requests that share a thread with sending and receiving them.
const FETCH_BYTES_MAX: usize = 32 << 10;

/// A page of rows after a key, for a peer that fills.
pub async fn fetch(node: &Arc<Node>, rows: Rows, after: Option<Key>) -> WithPayload<Reply> {
    if !node.generation.is_admitted() {
        return WithPayload::bare(Reply::NotFilled);
    }
    let page = work::run(node, move |node| fetch_page(node, rows, after.as_ref()));
    page.await.unwrap_or_else(|error| WithPayload::bare(Reply::Refused(refusal_of(&error))))
}

fn fetch_page(node: &Node, rows: Rows, after: Option<&Key>) -> Result<WithPayload<Reply>, Error> {
    let (rows_max, bytes_max) = (FETCH_ROWS_MAX, FETCH_BYTES_MAX);
    let page = match rows {
        Rows::Partition(p) => node.store.scan_partition(p, after, rows_max, bytes_max)?,
        Rows::HintsFor(target) => node.store.hints(target, after, rows_max, bytes_max)?,
    };
    // An empty payload marks an object that cannot be sent: the receiver treats the key as
    // doubtful, not as absent.
    let object_bytes_max = payload_bytes_max(&node.config);
    let fits = |object: &Bytes| object.len() <= object_bytes_max;
    let object = |(key, row): (Key, Bytes)| {
        (key, Row::encoded_object(&row).filter(fits).unwrap_or_default())
    };
    let (rows, payload) = packed::pack(page.into_iter().map(object).collect());
    let head = Reply::Repair(RepairReply::Rows { end: rows.is_empty(), rows });
    Ok(WithPayload { head, payload })
}

/// Maps a role to the row of a key.
pub fn place_of(node: &Node, view: &ClusterView, role: Role, key: &Key) -> Place {
    match role {
        // A hint for this node itself is no hint: the object has reached its target.
        Role::Hint { target } if target != node.me => Place::Hint(target),
        Role::Hint { .. } | Role::Home => view.home(key),
    }
}

static HINTS_FULL: Seldom = Seldom::new();

/// Translates a store error for a peer or client. What an operator must know is logged here.
pub fn refusal_of(error: &Error) -> Refusal {
    match error {
        Error::HintsFull { .. } => {
            if let Some(held_back) = HINTS_FULL.now() {
                tracing::warn!(%error, held_back, "hints are refused until some are delivered");
            }
            Refusal::HintsFull
        }
        Error::DiskLow { .. } => Refusal::ReadOnly,
        Error::Closed => Refusal::Stopping,
        Error::WouldBlock => Refusal::Busy,
        Error::Failed(_) => Refusal::ReadOnly,
        Error::Damaged { .. } | Error::Newer { .. } | Error::Io(_) => {
            tracing::error!(%error, "the store cannot answer");
            Refusal::Failed
        }
    }
}

/// Runs `work` inline; if it would block, runs all of it again on the blocking pool.
///
/// # Errors
/// What `work` returns, or [`Error::Closed`] if the pool is shutting down.
pub async fn in_place_or_aside<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl Fn(&Node, Blocking) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match work(node, Blocking::Never) {
        Err(Error::WouldBlock) => {
            on_blocking_pool(node, move |node| work(node, Blocking::Allowed)).await
        }
        done => done,
    }
}

/// Runs blocking work on the blocking pool.
///
/// # Errors
/// What `work` returns, or [`Error::Closed`] if the pool is shutting down.
pub async fn on_blocking_pool<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let working = node.clone();
    node.host.run(Urgency::Request, move || work(&working)).await
}
