//! Executes the messages of the nodes themselves: greetings, bucket properties, tokens, the formation.

use std::sync::Arc;

use quorate_protocol::message::{Cluster, ClusterReply, Reply};
use quorate_protocol::name::NodeId;

use crate::cluster::{bucket_change, hello, token_change};
use crate::membership::moves;
use crate::node::Node;
use crate::ops::replica::{on_blocking_pool, refusal_of};

/// Executes one.
pub(super) async fn carry_out(node: &Arc<Node>, from: NodeId, message: Cluster) -> Reply {
    match message {
        Cluster::Hello { status } => hello::answer(node, from, *status).await,
        Cluster::Buckets { table, want_all } => bucket_change::take(node, table, want_all).await,
        Cluster::Form { formation } => {
            let recorded =
                on_blocking_pool(node, move |node| node.record_formation(formation, false));
            match recorded.await {
                Ok(()) => ClusterReply::Status(Box::new(node.status())).into(),
                Err(error) => Reply::Refused(refusal_of(&error)),
            }
        }
        Cluster::CompareTokens { .. } => ClusterReply::TokensHash(node.auth.hash()).into(),
        Cluster::Tokens { table, want_all } => token_change::take(node, table, want_all).await,
        message @ (Cluster::AskRecord
        | Cluster::Learn { .. }
        | Cluster::Vote { .. }
        | Cluster::AskMove
        | Cluster::AskHears { .. }) => moves::carry_out(node, message).await,
    }
}
