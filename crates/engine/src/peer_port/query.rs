//! Executes the messages that look at what this node holds.

use std::sync::Arc;

use quorate_protocol::index::IndexRequest;
use quorate_protocol::listing::ListRequest;
use quorate_protocol::message::{Query, QueryReply, Reply, WithPayload};
use quorate_protocol::name::{Bucket, Key};

use crate::background::work;
use crate::cluster::view::ClusterView;
use crate::node::Node;
use crate::ops::replica::{self, refusal_of};
use crate::ops::{feed, feed_watch, listing};

/// Executes one.
pub(super) async fn carry_out(
    node: &Arc<Node>,
    view: &ClusterView,
    message: Query,
) -> WithPayload<Reply> {
    match message {
        Query::Inspect { key } => replica::inspect(node, view, key).await,
        Query::Conflicts { bucket, after, limit } => {
            WithPayload::bare(conflicts(node, bucket, after, limit).await)
        }
        Query::Keys { bucket, prefix, after, limit } => {
            let question = ListRequest { bucket, prefix, after, limit };
            WithPayload::bare(listing::answer(node, view, question).await)
        }
        Query::Index { bucket, range, after, limit } => {
            let question = IndexRequest { bucket, range, after, limit };
            WithPayload::bare(listing::answer(node, view, question).await)
        }
        Query::Feed { bucket, prefix, position, limit } => {
            let question = feed::Question { bucket, prefix, limit };
            WithPayload::bare(feed::answer(node, view, question, position).await)
        }
        Query::FeedEnds { buckets } => WithPayload::bare(feed_watch::ends(node, &buckets)),
    }
}

async fn conflicts(
    node: &Arc<Node>,
    bucket: Option<Bucket>,
    after: Option<Key>,
    limit: u16,
) -> Reply {
    let list = move |node: &Node| {
        let bucket = bucket.as_ref().map(Bucket::as_str);
        node.store.conflicts(bucket, after.as_ref(), usize::from(limit))
    };
    match work::run(node, list).await {
        Ok(keys) => Reply::Query(QueryReply::Conflicts { keys }),
        Err(error) => Reply::Refused(refusal_of(&error)),
    }
}
