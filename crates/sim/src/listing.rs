//! Listing all keys of the bucket that clients use, and the index of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_engine::node::Node;
use quorate_engine::ops::listing::{self, Listed};
use quorate_oracle::history::WriteNo;
use quorate_protocol::index::{IndexName, IndexRange, IndexRequest};
use quorate_protocol::listing::ListRequest;
use quorate_protocol::name::{Bucket, Key};
use tokio::time::sleep;

use crate::client::{Client, PATIENCE, Session};
use crate::setup::BUCKET;
use crate::values::{INDEX, indexed};

/// R of a listing, which is that of the bucket.
const R_OF_LISTINGS: u16 = 2;
/// How often one lists, until a listing is complete.
const LISTINGS_MAX: usize = 3;
/// Keys on a page of a listing: fewer than there are.
const KEYS_A_PAGE: u16 = 2;

impl Client {
    /// Lists the keys of the bucket, a few a page.
    pub(crate) async fn list(&mut self) {
        let begun = self.world.record().tick();
        let Some(listed) = self.ask(list_all).await else { return };
        self.world.note(format_args!("c{} lists {listed:?}", self.number));
        let Some(listed) = listed else { return };
        let verdict =
            self.world.record().check_listing((begun, R_OF_LISTINGS), &self.setup.keys(), &listed);
        self.world.judge(verdict);
    }

    /// Asks for all that the index has.
    pub(crate) async fn find(&mut self) {
        let begun = self.world.record().tick();
        let Some(found) = self.ask(find_all).await else { return };
        self.world.note(format_args!("c{} finds {found:?}", self.number));
        let Some(found) = found else { return };
        let asked = (begun, R_OF_LISTINGS);
        let verdict = self.world.record().check_index(asked, &self.setup.keys(), &found);
        self.world.judge(verdict);
    }

    /// Asks this node for the index, where nothing but the values that it last saw is there.
    ///
    /// # Errors
    /// What is different.
    pub(crate) async fn find_from(&self, node: &Arc<Node>) -> Result<(), String> {
        let found = complete(|| find_all(node.clone())).await;
        let found: BTreeSet<_> =
            found.ok_or("no listing of the index is complete")?.into_iter().collect();
        let of_key = |(key, session): (&Key, &Session)| {
            session.shown.iter().map(|write| (*write, key.clone())).collect::<Vec<_>>()
        };
        let there: BTreeSet<_> = self.sessions.iter().flat_map(of_key).collect();
        match found == there {
            true => Ok(()),
            false => Err(format!("the index has {found:?} of {there:?}")),
        }
    }

    /// Lists through this node, where every key has a value.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) async fn list_from(&self, node: &Arc<Node>) -> Result<(), String> {
        let listed = complete(|| list_all(node.clone())).await.ok_or("no listing is complete")?;
        let keys = self.setup.keys();
        let missing = keys.iter().find(|key| !listed.contains(key));
        missing.map_or(Ok(()), |key| Err(format!("a listing misses {key}")))
    }
}

/// Asks until an answer is complete, a few times: a cluster record may have come into force meanwhile.
async fn complete<T, F: Future<Output = Option<T>>>(ask: impl Fn() -> F) -> Option<T> {
    for _ in 0..LISTINGS_MAX {
        let all = ask().await;
        if all.is_some() {
            return all;
        }
        sleep(PATIENCE).await;
    }
    None
}

/// The keys of the bucket; `None` if some may be missing.
async fn list_all(node: Arc<Node>) -> Option<Vec<Key>> {
    let bucket = Bucket::parse(BUCKET).ok()?;
    let question = |after| {
        let (bucket, prefix) = (bucket.clone(), String::new());
        ListRequest { bucket, prefix, after, limit: KEYS_A_PAGE }
    };
    all_pages(&node, question).await
}

/// All entries of the index: the writes whose values there are, and their keys; `None` if some may be
/// missing.
async fn find_all(node: Arc<Node>) -> Option<Vec<(WriteNo, Key)>> {
    let bucket = Bucket::parse(BUCKET).ok()?;
    let range = IndexRange { index: IndexName::parse(INDEX).ok()?, from: None, to: None };
    let question = |after| {
        let (bucket, range) = (bucket.clone(), range.clone());
        IndexRequest { bucket, range, after, limit: KEYS_A_PAGE }
    };
    let found = all_pages(&node, question).await?;
    Some(found.into_iter().map(|hit| (indexed(&hit.value), hit.key)).collect())
}

/// What all pages have, each asked for after the one before.
async fn all_pages<Q: Listed>(
    node: &Arc<Node>,
    question: impl Fn(Option<Q::Item>) -> Q,
) -> Option<Vec<Q::Item>> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        node.accepts_reads().ok()?;
        let page = listing::list(node, &question(after)).await;
        items.extend(page.items);
        if !page.is_complete {
            return None;
        }
        after = page.next;
        if after.is_none() {
            return Some(items);
        }
    }
}
