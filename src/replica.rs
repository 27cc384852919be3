//! The rows of this node: what peers (through [`crate::batch`]) and its own coordinators read and merge.
//!
//! What would block goes to the blocking pool, the rest is done in place: a hop per operation costs more
//! than the operation.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_protocol::get::{What, Where};
use quorate_protocol::message::{Refusal, Reply, Rows, WithPayload};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version};
use quorate_protocol::put::Role;
use quorate_protocol::reap;
use quorate_protocol::row::Row;
use quorate_protocol::stamp::Millis;
use quorate_storage::{Blocking, Error, Place};

use crate::chores;
use crate::node::Node;

/// Merges an object that a peer (or this node's own repair) brings. Durable only after
/// [`quorate_storage::Store::durable`].
pub async fn store(
    node: &Arc<Node>,
    role: Role,
    key: &Key,
    object: Bytes,
    read_at: Millis,
) -> Reply {
    let Ok(object) = Object::decode(object) else { return Reply::Refused(Refusal::Malformed) };
    merge(node, role, key, object, read_at).await
}

/// As [`store`], for an object that is already decoded.
pub async fn merge(
    node: &Arc<Node>,
    role: Role,
    key: &Key,
    object: Object,
    read_at: Millis,
) -> Reply {
    let place = place_of(node, role, key);
    let merged = match merge_now(node, place, key, &object, read_at, Blocking::Never) {
        Err(Error::WouldBlock) => {
            let key = key.clone();
            on_blocking_pool(node, move |node| {
                merge_now(node, place, &key, &object, read_at, Blocking::Allowed)
            })
            .await
        }
        done => done,
    };
    merged.unwrap_or_else(|error| Reply::Refused(refusal_of(&error)))
}

/// Merges an object if this node may take it at this moment, however long it has waited to be asked:
/// [`Reply::Stored`], or why not.
///
/// # Errors
/// The store's.
pub fn merge_now(
    node: &Node,
    place: Place,
    key: &Key,
    object: &Object,
    read_at: Millis,
    blocking: Blocking,
) -> Result<Reply, Error> {
    let now = node.now();
    if let Err(refused) = may_merge(node, key, object, read_at, now) {
        return Ok(refused);
    }
    node.store.merge(place, key, object, now, blocking).map(|_| Reply::Stored)
}

/// Whether this node may take an object, at `now`.
///
/// # Errors
/// What to answer instead.
pub fn may_merge(
    node: &Node,
    key: &Key,
    object: &Object,
    read_at: Millis,
    now: Millis,
) -> Result<(), Reply> {
    if node.formation().is_none() {
        return Err(Reply::Refused(Refusal::NotFormed));
    }
    if !node.standing.is_cleared() {
        return Err(Reply::NotReady); // what it took now, it might have to forget
    }
    if reap::is_stale(read_at, now, node.config.deletes.grace_ms) {
        tracing::warn!(%key, "refused an object that was too long on its way");
        return Err(Reply::Refused(Refusal::Stale));
    }
    if object.stamp_max().is_too_far_ahead(now) {
        tracing::warn!(%key, "refused an object over a minute ahead of this node's clock");
        return Err(Reply::Refused(Refusal::StampAhead));
    }
    Ok(())
}

/// Says what this node holds of a key.
pub async fn read(node: &Arc<Node>, key: &Key, what: What, place: Where) -> WithPayload<Reply> {
    WithPayload::bare(match place {
        Where::Home if !node.is_ready_for(key) => Reply::NotReady,
        Where::Hints if !node.standing.is_cleared() => Reply::NotReady,
        Where::Home => {
            let place = node.home(key);
            match read_row(node, place, key).await {
                Ok(row) => return answer_row(row, what),
                Err(error) => Reply::Refused(refusal_of(&error)),
            }
        }
        Where::Hints => match hinted(node, key).await {
            Ok(Some(object)) => match what {
                What::Object => {
                    return WithPayload { head: Reply::Object, payload: object.to_bytes() };
                }
                What::Digest => Reply::Digest(object.version()),
            },
            Ok(None) => Reply::NoHint,
            Err(error) => Reply::Refused(refusal_of(&error)),
        },
    })
}

pub(crate) fn answer_row(row: Option<Bytes>, what: What) -> WithPayload<Reply> {
    let damaged = || WithPayload::bare(Reply::Refused(Refusal::Failed));
    match (what, row) {
        (What::Digest, None) => WithPayload::bare(Reply::Digest(Version::ABSENT)),
        (What::Digest, Some(row)) => match Row::encoded_version(&row) {
            Some(version) => WithPayload::bare(Reply::Digest(version)),
            None => damaged(),
        },
        (What::Object, None) => {
            WithPayload { head: Reply::Object, payload: Object::default().to_bytes() }
        }
        (What::Object, Some(row)) => match Row::encoded_object(&row) {
            Some(payload) => WithPayload { head: Reply::Object, payload },
            None => damaged(),
        },
    }
}

/// The merge of all hints that this node keeps of a key, for whichever targets.
async fn hinted(node: &Arc<Node>, key: &Key) -> Result<Option<Object>, Error> {
    let mut merged: Option<Object> = None;
    for (_, object) in hints_of(node, key).await? {
        merged.get_or_insert_default().merge(&object);
    }
    Ok(merged)
}

/// Every hint that this node keeps of a key, with its target.
pub async fn hints_of(node: &Arc<Node>, key: &Key) -> Result<Vec<(NodeId, Object)>, Error> {
    let mut hints = Vec::new();
    for target in node.peers.nodes() {
        if let Some(row) = read_row(node, Place::Hint(target), key).await? {
            hints.push((target, decode(key, row)?));
        }
    }
    Ok(hints)
}

/// This node's own object of a key, `None` if it holds nothing.
pub async fn own(node: &Arc<Node>, key: &Key) -> Result<Option<Object>, Error> {
    let row = read_row(node, node.home(key), key).await?;
    row.map(|row| decode(key, row)).transpose()
}

fn decode(key: &Key, row: Bytes) -> Result<Object, Error> {
    Row::decode(row).map(|row| row.object).map_err(|error| Error::Damaged {
        what: format!("the row of {key}"),
        reason: error.to_string(),
    })
}

pub(crate) async fn read_row(
    node: &Arc<Node>,
    place: Place,
    key: &Key,
) -> Result<Option<Bytes>, Error> {
    match node.store.read(place, key, Blocking::Never) {
        Err(Error::WouldBlock) => {
            let key = key.clone();
            on_blocking_pool(node, move |node| node.store.read(place, &key, Blocking::Allowed))
                .await
        }
        done => done,
    }
}

pub(crate) async fn inspect(node: &Arc<Node>, key: Key) -> WithPayload<Reply> {
    let (own, hints) = match (own(node, &key).await, hints_of(node, &key).await) {
        (Ok(own), Ok(hints)) => (own, hints),
        (Err(error), _) | (_, Err(error)) => {
            return WithPayload::bare(Reply::Refused(refusal_of(&error)));
        }
    };
    let mut payload = BytesMut::new();
    let mut push = |object: &Object| {
        let before = payload.len();
        object.encode(&mut payload);
        (payload.len() - before) as u32
    };
    let own = own.as_ref().map(&mut push);
    let hints = hints.iter().map(|(target, object)| (*target, push(object))).collect();
    let ready = node.is_ready_for(&key);
    let head = Reply::Inspection { own, ready, hints };
    WithPayload { head, payload: payload.freeze() }
}

/// Rows in one page of a fetch.
const FETCH_ROWS_MAX: usize = 1024;
/// Bytes in one page of a fetch (a single larger row still goes). Larger ones would hold up the requests
/// that share a thread with its sending and receiving.
const FETCH_BYTES_MAX: usize = 32 << 10;

pub(crate) async fn fetch(node: &Arc<Node>, rows: Rows, after: Option<Key>) -> WithPayload<Reply> {
    if !node.standing.is_cleared() {
        return WithPayload::bare(Reply::NotReady);
    }
    let page = chores::run(node, move |node| fetch_page(node, rows, after.as_ref()));
    page.await.unwrap_or_else(|error| WithPayload::bare(Reply::Refused(refusal_of(&error))))
}

fn fetch_page(node: &Node, rows: Rows, after: Option<&Key>) -> Result<WithPayload<Reply>, Error> {
    let (rows_max, bytes_max) = (FETCH_ROWS_MAX, FETCH_BYTES_MAX);
    let page = match rows {
        Rows::Partition(p) => node.store.scan_partition(p, after, rows_max, bytes_max)?,
        Rows::HintsFor(target) => node.store.hints(target, after, rows_max, bytes_max)?,
    };
    let mut rows = Vec::with_capacity(page.len());
    let mut payload = BytesMut::with_capacity(page.iter().map(|(_, row)| row.len()).sum());
    for (key, row) in page {
        let object = Row::encoded_object(&row).unwrap_or_default();
        rows.push((key, object.len() as u32));
        payload.extend_from_slice(&object);
    }
    let head = Reply::Rows { end: rows.is_empty(), rows };
    Ok(WithPayload { head, payload: payload.freeze() })
}

/// Which row of a key is meant.
pub fn place_of(node: &Node, role: Role, key: &Key) -> Place {
    match role {
        // A hint for this node itself is no hint: the object has arrived.
        Role::Hint { target } if target != node.me => Place::Hint(target),
        Role::Hint { .. } | Role::Home => node.home(key),
    }
}

/// What a peer or client is told of a store's error. What an operator must know is logged here.
pub fn refusal_of(error: &Error) -> Refusal {
    match error {
        Error::HintsFull { .. } => Refusal::HintsFull,
        Error::DiskLow { .. } => Refusal::ReadOnly,
        Error::Closed => Refusal::Stopping,
        Error::WouldBlock => Refusal::Busy,
        Error::Failed(_) => Refusal::ReadOnly,
        Error::Damaged { .. } | Error::Io(_) => {
            tracing::error!(%error, "the store cannot answer");
            Refusal::Failed
        }
    }
}

/// Runs what may block on the blocking pool.
///
/// # Errors
/// What `work` returns, or [`Error::Closed`] if the pool is shutting down.
pub async fn on_blocking_pool<T: Send + 'static>(
    node: &Arc<Node>,
    work: impl FnOnce(&Node) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let node = node.clone();
    chores::result_of(tokio::task::spawn_blocking(move || work(&node))).await
}
