//! Listing the live keys of a bucket, or the entries of a secondary index, by joining what every node's
//! own index says.
//!
//! Each node lists, in order, what its rows say; any of it may be missing, stale or long deleted elsewhere.
//! A full page says nothing about what comes after its last item, so the joined page ends at the smallest
//! last item of the full pages (its *horizon*). A home replica is *ready* if it answered and has received
//! the partition. An item that R or more ready home replicas, of each set and all of them, list identically
//! is live: a read of its key would find the same. If they disagree, or fewer than R of a set are ready, a
//! read must settle it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::layout::{Layout, Member, Partition};
use crate::name::{Bucket, Key, NodeId};
use crate::object::Version;

/// What is listed: keys, or entries of an index. It is there as long as its key's object says so.
pub trait Item: Clone + Ord {
    /// The key whose replicas have it.
    fn key(&self) -> &Key;
}

impl Item for Key {
    fn key(&self) -> &Key {
        self
    }
}

/// A part of what one node lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage<T> {
    /// In order, each with the version of its key's row, and whether that is plain: one value and no
    /// conflict, which needs no read to settle it.
    pub items: Vec<(T, Version, bool)>,
    /// Whether this is the last page.
    pub is_end: bool,
    /// Partitions that the node is a home replica of and has not received.
    pub not_ready: Vec<Partition>,
}

/// Live keys of a bucket as one node knows them.
pub type KeyPage = ListPage<Key>;

/// A question that every node answers with a page.
pub trait Question {
    /// What it asks for.
    type Item: Item;

    /// The bucket.
    fn bucket(&self) -> &Bucket;
    /// Only what comes after this.
    fn after(&self) -> Option<&Self::Item>;
    /// The most items of one answer, 1 or more.
    fn limit(&self) -> u16;
    /// Whether it asks for such an item.
    fn asks_for(&self, item: &Self::Item) -> bool;

    /// Whether a page is a valid answer: only items that were asked for, in order, each once. An
    /// invalid page must be discarded: it would corrupt the listing.
    fn admits(&self, page: &ListPage<Self::Item>) -> bool {
        let mut last = self.after();
        for (item, _, _) in &page.items {
            if !self.asks_for(item) || last.is_some_and(|last| item <= last) {
                return false;
            }
            last = Some(item);
        }
        // Without a last item the listing could not continue.
        page.items.len() <= usize::from(self.limit()) && (page.is_end || !page.items.is_empty())
    }
}

/// Asks for live keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRequest {
    /// The bucket.
    pub bucket: Bucket,
    /// Only keys with this prefix.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// The most keys in one answer, 1 or more.
    pub limit: u16,
}

/// How many answers settle a key: R of each set of home replicas.
#[derive(Clone, Copy, Debug)]
pub struct Quorum<'a> {
    /// The set, if there is only one.
    pub first: HomeSet<'a>,
    /// Other sets. Their layouts have as many partitions.
    pub others: &'a [HomeSet<'a>],
}

/// One set of home replicas of every key of a bucket.
#[derive(Clone, Copy, Debug)]
pub struct HomeSet<'a> {
    /// Where keys live.
    pub layout: &'a Layout,
    /// The bucket's n.
    pub n: u16,
    /// R: home replicas that must be ready, not more than the layout has nodes.
    pub r: u16,
    /// Whether it is enough that they have answered ([`crate::quorum_sets::QuorumSet::takes_witnesses`]).
    pub takes_witnesses: bool,
}

/// The answers of all nodes, joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    /// What is live or may be, in order.
    pub candidates: Vec<Candidate<T>>,
    /// The last item (inclusive) up to which the answers are complete; `None`: to the end.
    pub horizon: Option<T>,
    /// Whether R home replicas of each set of every partition were ready.
    pub is_complete: bool,
}

/// What some node lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<T> {
    /// What it is.
    pub item: T,
    /// Whether it is certainly live; otherwise a read must settle it.
    pub is_live: bool,
}

impl Question for ListRequest {
    type Item = Key;

    fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    fn after(&self) -> Option<&Key> {
        self.after.as_ref()
    }

    fn limit(&self) -> u16 {
        self.limit
    }

    fn asks_for(&self, key: &Key) -> bool {
        key.bucket() == self.bucket.as_str() && key.key().starts_with(&self.prefix)
    }
}

impl HomeSet<'_> {
    fn homes(&self, partition: Partition) -> &[NodeId] {
        self.layout.homes(partition, self.n)
    }

    /// Whether R home replicas of a partition are ready.
    fn is_enough(&self, answers: &Answers<'_>, partition: Partition) -> bool {
        let homes = self.homes(partition);
        let counts = |home: &&NodeId| match self.takes_witnesses {
            true => answers.contains_key(home),
            false => is_ready(answers, home, partition),
        };
        homes.iter().filter(counts).count() >= usize::from(self.r)
    }
}

impl<'a> Quorum<'a> {
    fn sets(&self) -> impl Iterator<Item = &HomeSet<'a>> {
        std::iter::once(&self.first).chain(self.others)
    }

    /// Joins the pages of the nodes that answered; all of them must have been admitted.
    pub fn join<T: Item>(&self, pages: &BTreeMap<NodeId, ListPage<T>>) -> Listing<T> {
        let answers: Answers<'_> = pages.iter().map(|(node, page)| (*node, page.into())).collect();
        let full = pages.values().filter(|page| !page.is_end);
        let horizon = full.filter_map(|page| page.items.last()).map(|(item, _, _)| item).min();
        let mut listed: BTreeMap<&T, Vec<(NodeId, Entry)>> = BTreeMap::new();
        for (node, page) in pages {
            for (item, version, is_plain) in &page.items {
                if horizon.is_none_or(|horizon| item <= horizon) {
                    let entry = Entry { version: *version, is_plain: *is_plain };
                    listed.entry(item).or_default().push((*node, entry));
                }
            }
        }
        let judged = listed.iter().filter_map(|(item, by)| {
            let is_live = self.is_live(&answers, item.key(), by)?;
            Some(Candidate { item: (*item).clone(), is_live })
        });
        Listing {
            candidates: judged.collect(),
            horizon: horizon.cloned(),
            is_complete: self.is_complete(&answers),
        }
    }

    /// Whether what these nodes list of a key is certainly live; `None`: it does not exist.
    fn is_live(&self, answers: &Answers<'_>, key: &Key, by: &[(NodeId, Entry)]) -> Option<bool> {
        let partition = key.partition(self.first.layout.partitions());
        let homes = || self.sets().flat_map(|set| set.homes(partition));
        let entry_of = |home: &NodeId| by.iter().find(|(node, _)| node == home).map(|(_, e)| *e);
        let ready = || homes().filter(|home| is_ready(answers, home, partition));
        let enough = self.sets().all(|set| set.is_enough(answers, partition));
        if enough && homes().all(|home| entry_of(home).is_none()) {
            return None; // left over on nodes that are no home replicas
        }
        let first = ready().next().and_then(entry_of);
        let agreed = first.is_some_and(|first| first.is_plain)
            && ready().all(|home| entry_of(home) == first);
        Some(enough && agreed)
    }

    fn is_complete(&self, answers: &Answers<'_>) -> bool {
        let has_answered = |member: &Member| answers.contains_key(&member.node);
        if self.sets().all(|set| set.layout.members().iter().all(has_answered))
            && answers.values().all(|answer| answer.not_ready.is_empty())
        {
            return true;
        }
        let partitions = (0..self.first.layout.partitions()).map(|p| Partition(p as u16));
        partitions
            .into_iter()
            .all(|partition| self.sets().all(|set| set.is_enough(answers, partition)))
    }
}

/// What a node lists of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    version: Version,
    is_plain: bool,
}

/// The nodes that answered, each with the partitions it has not received.
type Answers<'a> = BTreeMap<NodeId, Answer<'a>>;

struct Answer<'a> {
    not_ready: BTreeSet<&'a Partition>,
}

impl<'a, T> From<&'a ListPage<T>> for Answer<'a> {
    fn from(page: &'a ListPage<T>) -> Self {
        Self { not_ready: page.not_ready.iter().collect() }
    }
}

/// Whether a home replica answered and has received the partition.
fn is_ready(answers: &Answers<'_>, home: &NodeId, partition: Partition) -> bool {
    answers.get(home).is_some_and(|answer| !answer.not_ready.contains(&partition))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PARTITIONS: u32 = 16;

    fn layout() -> Layout {
        let name = |i: u32| NodeId::parse(&format!("n{i}")).unwrap();
        let member = |i: u32| Member::new(name(i), format!("z{i}"), 1);
        Layout::new(1, PARTITIONS, (1..=5).map(member).collect()).unwrap()
    }

    fn one(layout: &Layout, n: u16, r: u16) -> Quorum<'_> {
        Quorum { first: HomeSet { layout, n, r, takes_witnesses: false }, others: &[] }
    }

    fn key(name: &str) -> Key {
        Key::new("b", name.as_bytes()).unwrap()
    }

    fn version(number: u8) -> Version {
        Version([number; 16])
    }

    fn question(after: Option<Key>, limit: u16) -> ListRequest {
        let bucket = Bucket::parse("b").unwrap();
        ListRequest { bucket, prefix: String::new(), after, limit }
    }

    /// One node's index of the bucket: key, version, whether it is one plain value; live keys only.
    type Index = BTreeMap<Key, (Version, bool)>;

    fn page_of(index: &Index, question: &ListRequest, not_ready: &[Partition]) -> KeyPage {
        let after = |key: &&Key| question.after.as_ref().is_none_or(|after| *key > after);
        let mut keys: Vec<_> = index
            .iter()
            .filter(|(key, _)| after(key))
            .map(|(key, (version, is_plain))| (key.clone(), *version, *is_plain))
            .collect();
        let is_end = keys.len() < usize::from(question.limit);
        keys.truncate(usize::from(question.limit));
        KeyPage { items: keys, is_end, not_ready: not_ready.to_vec() }
    }

    /// Lists the whole bucket as an entry node does, with reads that always give the right answer.
    /// Returns the keys, and whether every page was complete.
    fn list_all(
        indexes: &BTreeMap<NodeId, Index>,
        not_ready: &BTreeMap<NodeId, Vec<Partition>>,
        truth: &BTreeMap<Key, bool>,
        limit: u16,
    ) -> (Vec<Key>, bool) {
        let layout = layout();
        let quorum = one(&layout, 3, 2);
        let (mut found, mut complete, mut after) = (Vec::new(), true, None);
        loop {
            let question = question(after, limit);
            let mut pages = BTreeMap::new();
            for (node, index) in indexes {
                let not_ready = not_ready.get(node).map(Vec::as_slice).unwrap_or_default();
                let page = page_of(index, &question, not_ready);
                assert!(question.admits(&page));
                pages.insert(*node, page);
            }
            let listing = quorum.join(&pages);
            complete &= listing.is_complete;
            for candidate in listing.candidates {
                let is_live = truth.get(&candidate.item).copied().unwrap_or(false);
                assert!(is_live || !candidate.is_live, "{:?} is deleted", candidate.item);
                if is_live {
                    found.push(candidate.item);
                }
            }
            after = match listing.horizon {
                Some(horizon) => Some(horizon),
                None => return (found, complete),
            };
        }
    }

    /// The state of a key: version, live or deleted, plain or not; and what each of its three home
    /// replicas and one other node has.
    fn keys() -> impl Strategy<Value = Vec<(u16, bool, bool, [Has; 4])>> {
        let has = prop_oneof![
            4 => Just(Has::Newest),
            1 => Just(Has::Nothing),
            1 => Just(Has::OldValue),
        ];
        vec(
            (0u16..200, any::<bool>(), any::<bool>(), [has.clone(), has.clone(), has.clone(), has]),
            0..60,
        )
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Has {
        Newest,
        Nothing,
        OldValue,
    }

    proptest! {
        /// With W = R = 2 of 3: whichever nodes are silent or not ready, and whatever the third
        /// replica and former ones have, a complete listing is exact, and no deleted key is ever
        /// called live.
        #[test]
        fn a_complete_listing_is_exact(
            keys in keys(),
            silent in 0usize..7,
            unready in vec((0usize..5, 0u16..PARTITIONS as u16), 0..6),
            limit in 1u16..12,
        ) {
            let layout = layout();
            let nodes: Vec<NodeId> = layout.members().iter().map(|member| member.node).collect();
            let mut indexes: BTreeMap<NodeId, Index> =
                nodes.iter().map(|node| (*node, Index::new())).collect();
            let mut truth = BTreeMap::new();
            for (number, is_live, is_plain, mut has) in keys {
                let key = super::tests::key(&format!("k{number}"));
                if truth.insert(key.clone(), is_live).is_some() {
                    truth.remove(&key);
                    indexes.values_mut().for_each(|index| index.retain(|other, _| *other != key));
                    continue;
                }
                // An acknowledged write is on at least two of the three homes.
                let lag = usize::from(number) % 3;
                for (at, has) in has.iter_mut().enumerate().take(3) {
                    if at != lag {
                        *has = Has::Newest;
                    }
                }
                let list = layout.preference_list(key.partition(PARTITIONS));
                for (node, has) in list.iter().zip(has) {
                    let entry = match has {
                        Has::Newest if is_live => Some((version(2), is_plain)),
                        Has::OldValue => Some((version(1), true)),
                        Has::Newest | Has::Nothing => None,
                    };
                    if let Some(entry) = entry {
                        indexes.get_mut(node).unwrap().insert(key.clone(), entry);
                    }
                }
            }
            let mut not_ready: BTreeMap<NodeId, Vec<Partition>> = BTreeMap::new();
            for (node, partition) in unready {
                // A node that has not received a partition holds none of it.
                let (node, partition) = (nodes[node], Partition(partition));
                not_ready.entry(node).or_default().push(partition);
                let index = indexes.get_mut(&node).unwrap();
                index.retain(|key, _| key.partition(PARTITIONS) != partition);
            }
            if let Some(silent) = nodes.get(silent) {
                indexes.remove(silent);
            }
            let (found, complete) = list_all(&indexes, &not_ready, &truth, limit);
            prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
            if complete {
                let live: Vec<Key> =
                    truth.iter().filter(|(_, live)| **live).map(|(key, _)| key.clone()).collect();
                prop_assert_eq!(found, live);
            }
        }
    }

    /// A node and its keys: name, version, whether plain.
    type Listed<'a> = (&'a str, &'a [(&'a str, u8, bool)]);

    fn pages(of: &[Listed<'_>], is_end: bool) -> BTreeMap<NodeId, KeyPage> {
        let entry = |(name, v, plain): &(&str, u8, bool)| (key(name), version(*v), *plain);
        let page = |(node, keys): &(&str, &[(&str, u8, bool)])| {
            let keys = keys.iter().map(entry).collect();
            (NodeId::parse(node).unwrap(), KeyPage { items: keys, is_end, not_ready: vec![] })
        };
        of.iter().map(page).collect()
    }

    /// On one node out of one, with R = 1.
    fn judge_alone(is_plain: bool) -> Vec<Candidate<Key>> {
        let member = layout().members()[0].clone();
        let layout = Layout::new(1, PARTITIONS, vec![member]).unwrap();
        let keys: &[(&str, u8, bool)] = &[("k", 1, is_plain)];
        one(&layout, 1, 1).join(&pages(&[("n1", keys)], true)).candidates
    }

    #[test]
    fn a_key_that_is_not_plain_is_settled_by_a_read() {
        assert_eq!(judge_alone(true), [Candidate { item: key("k"), is_live: true }]);
        assert_eq!(judge_alone(false), [Candidate { item: key("k"), is_live: false }]);
    }

    #[test]
    fn invalid_pages_are_not_admitted() {
        let page = |names: &[&str], is_end| {
            let keys = names.iter().map(|name| (key(name), version(1), true)).collect();
            KeyPage { items: keys, is_end, not_ready: vec![] }
        };
        let asked = ListRequest { prefix: "a/".into(), ..question(Some(key("a/1")), 2) };
        assert!(asked.admits(&page(&["a/2", "a/3"], false)));
        assert!(asked.admits(&page(&[], true)));
        assert!(!asked.admits(&page(&[], false)), "empty, but not the last");
        assert!(!asked.admits(&page(&["a/1"], true)), "not after the cursor");
        assert!(!asked.admits(&page(&["a/3", "a/2"], true)), "not in order");
        assert!(!asked.admits(&page(&["a/2", "a/2"], true)), "twice");
        assert!(!asked.admits(&page(&["b/2"], true)), "another prefix");
        assert!(!asked.admits(&page(&["a/2", "a/3", "a/4"], true)), "too many");
        let other = Key::new("other", b"a/2").unwrap();
        let page = KeyPage { items: vec![(other, version(1), true)], ..page(&[], true) };
        assert!(!asked.admits(&page), "another bucket");
    }

    #[test]
    fn a_joined_page_ends_at_the_smallest_last_key_of_the_full_ones() {
        let layout = layout();
        let quorum = one(&layout, 3, 2);
        let full = pages(&[("n1", &[("a", 1, true), ("c", 1, true)])], false);
        let rest = pages(&[("n2", &[("a", 1, true), ("b", 1, true), ("d", 1, true)])], true);
        let listing = quorum.join(&full.into_iter().chain(rest).collect());
        assert_eq!(listing.horizon, Some(key("c")));
        assert!(listing.candidates.iter().all(|candidate| candidate.item <= key("c")));
        assert!(!listing.is_complete, "three of five nodes did not answer");
    }
}
