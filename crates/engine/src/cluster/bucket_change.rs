//! A change of a bucket's properties, propagated from one node to all.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::bucket::{Conflicts, Settings};
use quorate_protocol::bucket_table::Table;
use quorate_protocol::data_type::DataType;
use quorate_protocol::listing::ListRequest;
use quorate_protocol::message::{Cluster, ClusterReply, Message, Reply};
use quorate_protocol::name::Bucket;
use quorate_protocol::reassign::ReplicaCounts;

use crate::cluster::buckets::BucketsError;
use crate::cluster::view::ClusterView;
use crate::host::Urgency;
use crate::node::Node;
use crate::ops::{listing, replica};

/// Sets (or with empty settings, resets) a bucket's properties: durable here, sent to every peer
/// that is up before this returns, and to the others when they are back. If no node has a record of
/// the bucket, a reset does nothing and leaves no record.
///
/// # Errors
/// [`BucketsError`]; nothing changed.
pub async fn set(node: &Arc<Node>, bucket: Bucket, settings: Settings) -> Result<(), BucketsError> {
    let has = node.view().properties(bucket.as_str()).conflicts.data_type();
    let conflicts = settings.conflicts.or(has.map(Conflicts::from)); // a type stays
    let settings = Settings { conflicts, ..settings };
    settings.check(&node.buckets.defaults, node.buckets.nodes())?;
    check_type(node, &bucket, has, conflicts).await?;
    if settings == Settings::default() && is_unknown_everywhere(node, &bucket).await {
        return Ok(());
    }
    let changing = node.clone();
    let n_of = |settings: &Settings| settings.over(&node.buckets.defaults).n;
    if node.membership.record().next().is_some()
        && n_of(&settings) != node.view().n(bucket.as_str())
    {
        return Err(BucketsError::Moving);
    }
    let change = move || {
        let by = (changing.me, changing.now());
        Ok(changing.buckets.change(&changing.store, &bucket, settings, by))
    };
    let change = node.host.run(Urgency::Request, change).await??;
    let message = Message::Cluster(Cluster::Buckets { table: change, want_all: false });
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms);
    node.peers.ask_each(&message, timeout).await;
    Ok(())
}

/// Checks that a bucket with a type keeps it, and that another is given one only while it has no keys.
async fn check_type(
    node: &Arc<Node>,
    bucket: &Bucket,
    has: Option<DataType>,
    wanted: Option<Conflicts>,
) -> Result<(), BucketsError> {
    match (has, wanted.and_then(Conflicts::data_type)) {
        (Some(has), wanted) if wanted != Some(has) => Err(BucketsError::Typed { has }),
        (None, Some(_)) => {
            let (bucket, prefix, after, limit) = (bucket.clone(), String::new(), None, 1);
            let page = listing::list(node, &ListRequest { bucket, prefix, after, limit }).await;
            match (page.items.is_empty() && page.next.is_none(), page.is_complete) {
                (true, true) => Ok(()),
                (true, false) => Err(BucketsError::Unlisted),
                (false, _) => Err(BucketsError::NotEmpty),
            }
        }
        (Some(_) | None, _) => Ok(()),
    }
}

/// Whether every node has just confirmed that it has no record of a bucket.
async fn is_unknown_everywhere(node: &Arc<Node>, bucket: &Bucket) -> bool {
    if node.buckets.read().table().record(bucket).is_some() {
        return false;
    }
    let Ok(_one_at_a_time) = node.buckets.asking.acquire().await else { return false };
    let timeout = Duration::from_millis(node.config.timeouts.replica_ms);
    for peer in node.peers.nodes() {
        let message =
            Message::Cluster(Cluster::Buckets { table: Table::default(), want_all: true });
        let reply = node.peers.ask(peer, message, timeout).await.into_reply();
        match reply.map(|reply| reply.head) {
            Some(Reply::Cluster(ClusterReply::Buckets { table }))
                if table.record(bucket).is_none() => {}
            Some(_) | None => return false,
        }
    }
    node.buckets.read().table().record(bucket).is_none()
}

/// Merges a peer's table into this node's. Returns whether it had anything newer. Blocks.
///
/// # Errors
/// The store's; the table is as before then.
pub fn take_now(node: &Node, table: &Table) -> Result<bool, quorate_storage::Error> {
    let extend = |view: &ClusterView| match view.placement().next() {
        Some(_) => {
            let ns = ReplicaCounts::of(table, &node.buckets.defaults).distinct();
            node.filled.extend(&node.store, (node.me, view.placement()), &ns)
        }
        None => Ok(()),
    };
    // First: else a change of the layout could end before this node has what it needs for another n.
    let before = node.view();
    extend(&before)?;
    let has_changed = node.buckets.merge(&node.store, table, node.now())?;
    let after = node.view();
    if after.epoch() != before.epoch() {
        extend(&after)?; // a change of the layout began in between
    }
    Ok(has_changed)
}

/// Merges a peer's table into this node's. The reply has all of this node's if `want_all`, else nothing.
pub async fn take(node: &Arc<Node>, table: Table, want_all: bool) -> Reply {
    let merge = move |node: &Node| take_now(node, &table);
    match replica::on_blocking_pool(node, merge).await {
        Ok(_) if want_all => ClusterReply::Buckets { table: node.buckets.table() }.into(),
        Ok(_) => ClusterReply::Buckets { table: Table::default() }.into(),
        Err(error) => Reply::Refused(replica::refusal_of(&error)),
    }
}
