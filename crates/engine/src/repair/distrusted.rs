//! Rows that are set aside because this node came back with data too old to be believed (see
//! `protocol::generation`): deletes that were reaped in the meantime could come back with them, and
//! writes that no other node has could be lost without them.
//!
//! They are not served. Until an operator decides, each is compared with the current home replicas
//! of its key and dropped when enough of them hold or cover it. The rest waits for the operator:
//! *accept* merges it into this node's own rows, from where it spreads; the keys that the cluster
//! did not know are written to a file. *Discard* deletes it. Where all home replicas of a partition
//! have set rows aside or lost theirs (a cluster restored from backups), the partition is not
//! served before that (see `protocol::received`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::get::{ReadKind, RowKind};
use quorate_protocol::layout::Partition;
use quorate_protocol::message::{
    DISTRUSTED_KEYS_MAX, Data, DataReply, Decision, Distrusted as Told, Message, Repair,
    RepairReply, Reply, WithPayload,
};
use quorate_protocol::mutation::{Mutation, mutated};
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{DecodeError, Object, Version};
use quorate_protocol::received;
use quorate_protocol::row::Row;
use quorate_protocol::tree::Tree;
use quorate_storage::{Error, Place, Source};

use crate::background::jobs::JobState;
use crate::background::work;
use crate::node::Node;
use crate::ops::replica;
use crate::repair::set_aside::{DECISION_RECORD, Set, forget_decision};

/// How long to wait before a set that the cluster does not cover is checked again, at first and at
/// most.
const LOOK_AGAIN_MIN: Duration = Duration::from_secs(5);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(600);
/// Rows and bytes checked in one turn.
const PAGE_ROWS: usize = 64;
const PAGE_BYTES: usize = 1 << 20;

/// One row or hint of a set.
struct Kept {
    place: Place,
    key: Key,
    version: Version,
    object: Bytes,
}

/// What waits for an operator, in words; `None` if nothing does. A node that still has to receive
/// data waits for peers that wait.
pub fn waits(node: &Node) -> Option<String> {
    let why = node.own_doubt().or_else(|| {
        let lacks = node.formation().is_some() && !node.filled.is_complete();
        let says = |peer: &NodeId| {
            node.peers.health(*peer).is_some_and(|health| health.word().last().waits == Some(true))
        };
        let peer = node.peers.nodes().find(says).filter(|_| lacks)?;
        Some(format!("the data this node lacks may be on {peer}, which distrusts its own data"))
    })?;
    Some(format!(
        "{why}. `quorate distrusted list` shows what there is; `quorate distrusted accept` takes it for \
         the truth (after a restore from backups, or when what is gone is gone), and serves it"
    ))
}

/// Rows and hints that are set aside and not held by the cluster, as far as they have been counted.
pub fn rows(node: &Node) -> u64 {
    node.distrusted.told().rows
}

/// What this node reports of its distrusted data.
pub fn told(node: &Node) -> Told {
    let told = node.distrusted.told();
    Told { waits: waits(node), lost: node.unreceived.lost() as u32, ..told }
}

/// Answers a peer, or this node's own operator: carries out a decision, if there is one, and
/// reports.
pub async fn answer(node: &Arc<Node>, decision: Option<Decision>) -> Reply {
    if let Some(decision) = decision
        && let Err(error) =
            replica::on_blocking_pool(node, move |node| decide(node, decision)).await
    {
        return Reply::Refused(replica::refusal_of(&error));
    }
    Reply::Repair(RepairReply::Distrusted(Box::new(told(node))))
}

/// The same on every node of the cluster; `None` for those that do not answer.
pub async fn everywhere(
    node: &Arc<Node>,
    decision: Option<Decision>,
) -> Vec<(NodeId, Option<Told>)> {
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let message = Message::Repair(Repair::Distrusted { decision });
    let others = node.peers.ask_each(&message, timeout);
    let (own, others) = futures_util::join!(answer(node, decision), others);
    let all = others.into_iter().chain([(node.me, Some(own))]);
    let told = all.map(|(from, reply)| match reply {
        Some(Reply::Repair(RepairReply::Distrusted(told))) => (from, Some(*told)),
        Some(_) | None => (from, None),
    });
    let mut told: Vec<_> = told.collect();
    told.sort_by_key(|(from, _)| *from);
    told
}

/// Records an operator's decision, durably; the sets are processed soon after. Blocks.
fn decide(node: &Node, decision: Decision) -> Result<(), Error> {
    tracing::warn!(?decision, "an operator decided about distrusted rows");
    if !node.distrusted.is_empty() {
        node.store.put_meta(DECISION_RECORD, &[decision as u8])?;
        node.distrusted.decided.notify_one();
    } else if decision == Decision::Accept && waits(node).is_some() {
        accept_own_rows(node)?;
    }
    Ok(())
}

/// Accepts the node's own rows, few or none, as the truth: they still have to be compared with its
/// peers.
fn accept_own_rows(node: &Node) -> Result<(), Error> {
    if node.generation.waits_with_old_rows() {
        node.filled.record_all(&node.store, false)?;
    }
    node.generation.accept_rows(&node.store, node.now())
}

fn decision(node: &Node) -> Result<Option<Decision>, Error> {
    let recorded = node.store.meta(DECISION_RECORD)?;
    Ok(match recorded.as_deref() {
        Some([byte]) if *byte == Decision::Accept as u8 => Some(Decision::Accept),
        Some([byte]) if *byte == Decision::Discard as u8 => Some(Decision::Discard),
        Some(_) | None => None,
    })
}

/// Processes what is set aside, until nothing is.
pub async fn run(node: Arc<Node>, job: Arc<JobState>) {
    let mut patience = LOOK_AGAIN_MIN;
    while !node.distrusted.is_empty() {
        let working = job.works();
        match pass(&node).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                job.failed(&error);
                tracing::error!(%error, "rows that are set aside cannot be processed");
            }
        }
        drop(working);
        let wait = tokio::time::sleep(patience);
        patience = (patience * 2).min(LOOK_AGAIN_MAX);
        tokio::select! {
            biased;
            () = wait => {}
            () = node.distrusted.decided.notified() => patience = LOOK_AGAIN_MIN,
        }
    }
}

/// Checks every set once. Returns whether one was finished.
async fn pass(node: &Arc<Node>) -> Result<bool, Error> {
    let decided = match mutated(Mutation::AsideTakenBack) && node.filled.is_complete() {
        true => Some(Decision::Accept),
        false => replica::on_blocking_pool(node, decision).await?,
    };
    let (mut left, mut unknown) = (0, Vec::new());
    let mut done = false;
    for set in node.distrusted.sets() {
        let set_left = match decided {
            Some(Decision::Discard) => 0,
            Some(Decision::Accept) => accept(node, &set, &mut unknown).await?,
            None => check(node, &set, &mut unknown).await?,
        };
        left += set_left;
        if set_left == 0 {
            done = true;
            remove(node, set).await?;
        }
    }
    node.distrusted.tell(|told| {
        told.rows = left;
        told.unknown = unknown;
    });
    if let Some(decided) = decided {
        replica::on_blocking_pool(node, move |node| {
            if decided == Decision::Accept {
                accept_own_rows(node)?;
            }
            forget_decision(&node.store)
        })
        .await?;
        tracing::info!(?decided, left, "the decision about rows that are set aside is carried out");
    }
    Ok(done)
}

async fn remove(node: &Arc<Node>, set: Arc<Set>) -> Result<(), Error> {
    node.distrusted.forget(&set);
    let removed = replica::on_blocking_pool(node, move |node| {
        let name = set.name.clone();
        drop(set); // closes its store
        let removed = node.host.dir.remove_set(&name);
        removed.map_err(|error| Error::Io(format!("the set {name}: {error}")))
    });
    removed.await
}

/// Looks for rows that the current home replicas hold or cover, and drops them from the set.
/// Returns how many are left.
async fn check(node: &Arc<Node>, set: &Arc<Set>, unknown: &mut Vec<Key>) -> Result<u64, Error> {
    let mut left = 0;
    let mut walk = Walk::start(node, set);
    while let Some(page) = walk.next().await? {
        left += check_page(node, set, page, unknown).await?;
    }
    Ok(left)
}

/// The same for some rows.
async fn check_page(
    node: &Arc<Node>,
    set: &Arc<Set>,
    page: Vec<Kept>,
    unknown: &mut Vec<Key>,
) -> Result<u64, Error> {
    let mut left = 0;
    for kept in page {
        if is_covered(node, &kept).await {
            drop_from(node, set, kept).await?;
            node.distrusted.tell(|told| told.covered += 1);
        } else {
            left += 1;
            if unknown.len() < DISTRUSTED_KEYS_MAX {
                unknown.push(kept.key);
            }
        }
    }
    Ok(left)
}

async fn drop_from(node: &Arc<Node>, set: &Arc<Set>, kept: Kept) -> Result<(), Error> {
    let set = set.clone();
    let dropped = move |_: &Node| set.store.drop_row(kept.place, &kept.key, kept.version);
    work::run(node, dropped).await.map(drop)
}

/// Whether W of the current home replicas, all of which have received the key's partition, hold or
/// cover what was set aside.
async fn is_covered(node: &Arc<Node>, kept: &Kept) -> bool {
    let Ok(object) = Object::decode(kept.object.clone()) else { return false };
    let view = node.view();
    let (properties, homes) = (view.properties(kept.key.bucket()), view.homes(&kept.key));
    let n = usize::from(properties.n).min(homes.len());
    let needed = usize::from(properties.w.of(n as u16)).min(n);
    let timeout = Duration::from_millis(node.config.timeouts.request_ms);
    let mut confirmed = 0;
    for home in homes.iter() {
        let reply = if *home == node.me {
            replica::read(node, &view, &kept.key, ReadKind::Object, RowKind::Home).await
        } else {
            let (key, what, place) = (kept.key.clone(), ReadKind::Object, RowKind::Home);
            let message = Message::Data(Data::Read { key, what, place, bytes_max: u32::MAX });
            match node.peers.ask(*home, message, timeout).await.into_reply() {
                Some(reply) => reply,
                None => continue,
            }
        };
        confirmed += usize::from(covers(reply, &object));
        if confirmed >= needed {
            return true;
        }
    }
    false
}

fn covers(reply: WithPayload<Reply>, object: &Object) -> bool {
    if !matches!(reply.head, Reply::Data(DataReply::Object)) {
        return false; // it has not received the partition, or has no object
    }
    Object::decode(reply.payload).is_ok_and(|held| received::covers(&held, object))
}

/// Merges a set into this node's rows: all rows of partitions that it has not received, since no
/// replica knows better. Rows of partitions that it has received are compared with the cluster as
/// before, since what no replica has of them was most likely deleted. Returns how many rows are
/// left.
async fn accept(
    node: &Arc<Node>,
    set: &Arc<Set>,
    unknown_left: &mut Vec<Key>,
) -> Result<u64, Error> {
    let is_filled = node.filled.is_complete();
    let mut walk = Walk::start(node, set);
    let (mut rows, mut unknown, mut left) = (0, 0, 0);
    let report = set.report();
    while let Some(page) = walk.next().await? {
        let is_theirs = |kept: &Kept| match kept.place {
            _ if mutated(Mutation::AsideTakenBack) => false,
            Place::Home(tree) => node.filled.is_ready(tree.partition),
            Place::Hint(_) => is_filled,
        };
        let (theirs, page): (Vec<Kept>, Vec<Kept>) = page.into_iter().partition(is_theirs);
        left += check_page(node, set, theirs, unknown_left).await?;
        rows += page.len();
        let file = report.clone();
        let accepted = move |node: &Node| {
            let new = accept_page(node, page)?;
            append(node, &file, &new)?;
            Ok(new.len())
        };
        unknown += work::run(node, accepted).await?;
    }
    node.store.durable().await?;
    tracing::warn!(
        rows,
        unknown,
        keys = node.host.files.path(&report),
        "rows that were set aside are accepted; those of them that no replica here knew, which may have been \
         deleted in the meantime, are listed key by key"
    );
    Ok(left)
}

/// Merges some rows; returns the keys whose content was new to this node.
fn accept_page(node: &Node, page: Vec<Kept>) -> Result<Vec<Key>, Error> {
    let (mut rows, mut unknown, view) = (Vec::new(), Vec::new(), node.view());
    for Kept { place, key, object, .. } in page {
        let place = match place {
            Place::Hint(target) if target != node.me => place,
            Place::Hint(_) | Place::Home(_) => view.home(&key),
        };
        let held = node.store.read(place, &key, quorate_storage::Blocking::Allowed)?;
        let held = held.and_then(|row| Row::decode(row).ok());
        let is_known = held.zip(Object::decode(object.clone()).ok());
        if !is_known.is_some_and(|(held, object)| received::covers(&held.object, &object)) {
            unknown.push(key.clone());
        }
        rows.push((place, key, object));
    }
    node.store.merge_page(rows, Source::Replica, node.now())?;
    Ok(unknown)
}

/// Appends keys to a file, one per line; line breaks and other special characters are escaped.
fn append(node: &Node, file: &str, keys: &[Key]) -> Result<(), Error> {
    if keys.is_empty() {
        return Ok(());
    }
    let text: String =
        keys.iter().map(|key| format!("{}\n", key.to_string().escape_default())).collect();
    let files = &node.host.files;
    let failed = |why| Error::Io(format!("{}: {why}", files.path(file)));
    files.append(file, text.as_bytes()).map_err(failed)
}

/// A scan over all rows and hints of a set, page by page.
struct Walk<'a> {
    node: &'a Arc<Node>,
    set: &'a Arc<Set>,
    /// What is left to scan, the next part last.
    parts: Vec<Part>,
    after: Option<Key>,
}

#[derive(Clone, Copy)]
enum Part {
    Rows(Partition),
    Hints(NodeId),
}

impl<'a> Walk<'a> {
    fn start(node: &'a Arc<Node>, set: &'a Arc<Set>) -> Self {
        let view = node.view();
        let parts = view.partitions().map(Part::Rows).chain(view.nodes().map(Part::Hints));
        Self { node, set, parts: parts.collect(), after: None }
    }

    /// The next rows; `None` at the end.
    async fn next(&mut self) -> Result<Option<Vec<Kept>>, Error> {
        while let Some(part) = self.parts.last().copied() {
            let (set, after) = (self.set.clone(), self.after.take());
            let throttle = &self.node.fill_throttle;
            let page =
                work::run_throttled(self.node, throttle, move |_| page(&set, part, after.as_ref()));
            let page = page.await?;
            match page.last() {
                Some(last) => {
                    self.after = Some(last.key.clone());
                    return Ok(Some(page));
                }
                None => drop(self.parts.pop()),
            }
        }
        Ok(None)
    }
}

fn page(set: &Set, part: Part, after: Option<&Key>) -> Result<Vec<Kept>, Error> {
    let rows = match part {
        Part::Rows(partition) => {
            set.store.scan_partition(partition, after, PAGE_ROWS, PAGE_BYTES)?
        }
        Part::Hints(target) => set.store.hints(target, after, PAGE_ROWS, PAGE_BYTES)?,
    };
    let kept = |(key, row): (Key, Bytes)| {
        let heads = Row::encoded_version(&row).zip(Row::encoded_tree(&row));
        let Some(((version, n), object)) = heads.zip(Row::encoded_object(&row)) else {
            let what = format!("the row of {key} that is set aside");
            let error = Row::encoded_kind(&row).err().unwrap_or(DecodeError::Damaged);
            return Err(Error::undecodable(what, error));
        };
        let place = match part {
            Part::Rows(partition) => Place::Home(Tree { partition, n }),
            Part::Hints(target) => Place::Hint(target),
        };
        Ok(Kept { place, key, version, object })
    };
    rows.into_iter().map(kept).collect()
}
