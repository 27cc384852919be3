//! Listing all keys of the bucket that clients use.

use std::sync::Arc;

use quorate_engine::node::Node;
use quorate_engine::ops::keys;
use quorate_protocol::listing::ListRequest;
use quorate_protocol::name::{Bucket, Key};

use crate::setup::BUCKET;

/// Keys on a page of a listing: fewer than there are.
const KEYS_A_PAGE: u16 = 2;

/// The keys of the bucket; `None` if some may be missing.
pub(crate) async fn list_all(node: Arc<Node>) -> Option<Vec<Key>> {
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        node.accepts_reads().ok()?;
        let (bucket, prefix) = (Bucket::parse(BUCKET).ok()?, Default::default());
        let question = ListRequest { bucket, prefix, after, limit: KEYS_A_PAGE };
        let page = keys::list(&node, &question).await;
        keys.extend(page.keys);
        if !page.is_complete {
            return None;
        }
        after = page.next;
        if after.is_none() {
            return Some(keys);
        }
    }
}
