//! The machine of feeds against a model of replicas that fail, are trimmed and replaced.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::layout::{Layout, Member};

const PARTITIONS: u32 = 4;
const N: u16 = 3;
const W: u16 = 2;
const NODES: u8 = 4;
const KEYS: u8 = 5;

fn node(i: u8) -> NodeId {
    NodeId::parse(&format!("n{i}")).unwrap()
}

fn layout() -> Layout {
    let member = |i: u8| Member::new(node(i), format!("z{i}"), 1);
    Layout::new(1, PARTITIONS, (0..NODES).map(member).collect()).unwrap()
}

fn bucket() -> Bucket {
    Bucket::parse("b").unwrap()
}

fn key(i: u8) -> Key {
    Key::new("b", format!("k{i}").as_bytes()).unwrap()
}

fn sets(layout: &Layout) -> [HomeSet<'_>; 1] {
    [HomeSet { layout, n: N, r: N - W + 1, takes_witnesses: false }]
}

/// What happens to the cluster and its subscriber. A mask says which nodes take part.
#[derive(Clone, Debug)]
enum Step {
    /// A write reaches some home replicas; it is acknowledged if these are W.
    Write { key: u8, mask: u8 },
    /// A node gets another's state of a key.
    Repair { from: u8, to: u8, key: u8 },
    /// The subscriber gets a page of those that answer, with reads that ask those that have answered.
    Page { mask: u8, limit: usize, reads: usize },
    /// A node loses its rows, and receives what the others have.
    Replace { node: u8 },
    /// A node forgets the older half of its log.
    Trim { node: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..KEYS, 0..16u8).prop_map(|(key, mask)| Step::Write { key, mask }),
        4 => (0..NODES, 0..NODES, 0..KEYS).prop_map(|(from, to, key)| Step::Repair { from, to, key }),
        6 => (0..16u8, 1..5usize, 0..6usize)
            .prop_map(|(mask, limit, reads)| Step::Page { mask, limit, reads }),
        1 => (0..NODES).prop_map(|node| Step::Replace { node }),
        1 => (0..NODES).prop_map(|node| Step::Trim { node }),
    ]
}

/// The writes that a row includes.
type State = BTreeSet<u32>;

fn version(state: &State) -> Version {
    let mut hash = [0; 16];
    let text = format!("{state:?}");
    hash.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    Version(hash)
}

#[derive(Default)]
struct Replica {
    log: u64,
    rows: BTreeMap<Key, State>,
    entries: Vec<(u64, WallTime, Key, Version)>,
    last: u64,
    trimmed: (u64, WallTime),
}

impl Replica {
    fn merge(&mut self, key: &Key, state: &State, now: WallTime) {
        let row = self.rows.entry(key.clone()).or_default();
        let before = row.len();
        row.extend(state);
        if row.len() > before {
            let version = version(row);
            self.last += 1;
            self.entries.push((self.last, now, key.clone(), version));
        }
    }

    fn page(&self, position: Position, limit: usize) -> Page {
        let is_here = position.log == self.log && position.after <= self.last;
        let after = if is_here { position.after } else { 0 };
        let mut entries: Vec<(u64, WallTime, Key, Version)> = Vec::new();
        let (mut upto, mut is_end) = (self.last, true);
        for entry in self.entries.iter().filter(|entry| entry.0 > after) {
            match entries.iter().position(|earlier| earlier.2 == entry.2) {
                Some(earlier) => entries[earlier].3 = entry.3,
                None if entries.len() < limit => entries.push(entry.clone()),
                None => {
                    (upto, is_end) = (entry.0 - 1, false);
                    break;
                }
            }
        }
        let page = Page {
            log: self.log,
            entries,
            upto,
            is_end,
            trimmed: self.trimmed,
            not_ready: Vec::new(),
        };
        assert!(page.is_sound(position, &bucket(), "", limit));
        page
    }
}

/// A cluster, its subscriber, and what it was told.
struct World<'a> {
    layout: &'a Layout,
    replicas: BTreeMap<NodeId, Replica>,
    start: WallTime,
    now: WallTime,
    /// The step that is played: also what a write is known by.
    step: u32,
    cursor: Cursor,
    seen: BTreeMap<Key, State>,
    acked: Vec<(Key, u32)>,
}

fn is_in(mask: u8, name: NodeId) -> bool {
    (0..NODES).any(|i| mask & (1 << i) != 0 && node(i) == name)
}

impl<'a> World<'a> {
    fn new(layout: &'a Layout) -> Self {
        let start = WallTime(1 << 40);
        let replica = |i: u8| (node(i), Replica { log: u64::from(i) + 1, ..Replica::default() });
        Self {
            layout,
            replicas: (0..NODES).map(replica).collect(),
            start,
            now: start,
            step: 0,
            cursor: Cursor::now(start, &BTreeMap::new()),
            seen: BTreeMap::new(),
            acked: Vec::new(),
        }
    }

    fn homes(&self, key: &Key) -> Vec<NodeId> {
        self.layout.homes(key.partition(PARTITIONS), N).to_vec()
    }

    /// Plays a step a minute after the last one.
    fn play(&mut self, step: Step) -> Result<(), TestCaseError> {
        self.step += 1;
        self.now = self.now.plus(60_000);
        match step {
            Step::Write { key: k, mask } => self.write(&key(k), mask),
            Step::Repair { from, to, key: k } => self.repair(node(from), node(to), &key(k)),
            Step::Replace { node: lost } => self.replace(node(lost)),
            Step::Trim { node: which } => self.trim(node(which)),
            Step::Page { mask, limit, reads } => self.page(mask, limit, reads)?,
        }
        Ok(())
    }

    fn write(&mut self, key: &Key, mask: u8) {
        let homes = self.homes(key).into_iter();
        let reached: Vec<NodeId> = homes.filter(|home| is_in(mask, *home)).collect();
        for home in &reached {
            let replica = self.replicas.get_mut(home).unwrap();
            replica.merge(key, &State::from([self.step]), self.now);
        }
        if reached.len() >= usize::from(W) {
            self.acked.push((key.clone(), self.step));
        }
    }

    fn repair(&mut self, from: NodeId, to: NodeId, key: &Key) {
        if self.homes(key).contains(&to) {
            let state = self.replicas[&from].rows.get(key).cloned().unwrap_or_default();
            self.replicas.get_mut(&to).unwrap().merge(key, &state, self.now);
        }
    }

    /// A node loses its disk, once all that it held was on another one too.
    fn replace(&mut self, name: NodeId) {
        let holds = |home: &NodeId, key: &Key, write: &u32| {
            self.replicas[home].rows.get(key).is_some_and(|row| row.contains(write))
        };
        let is_spread = self.acked.iter().all(|(key, write)| {
            self.homes(key).iter().any(|home| *home != name && holds(home, key, write))
        });
        if !is_spread {
            return;
        }
        let mut rows: BTreeMap<Key, State> = BTreeMap::new();
        for (_, other) in self.replicas.iter().filter(|(other, _)| **other != name) {
            for (key, state) in &other.rows {
                if self.homes(key).contains(&name) {
                    rows.entry(key.clone()).or_default().extend(state);
                }
            }
        }
        let (log, trimmed) = (u64::from(self.step) << 8, (1, self.start));
        let mut fresh = Replica { log, last: 1, trimmed, ..Replica::default() };
        rows.iter().for_each(|(key, state)| fresh.merge(key, state, self.now));
        self.replicas.insert(name, fresh);
    }

    fn trim(&mut self, name: NodeId) {
        let replica = self.replicas.get_mut(&name).unwrap();
        let half = replica.entries.len() / 2;
        if let Some((number, at, ..)) = replica.entries.drain(..half).next_back() {
            replica.trimmed = (number, at);
        }
    }

    fn page(&mut self, mask: u8, limit: usize, reads: usize) -> Result<(), TestCaseError> {
        let answering: BTreeMap<_, _> =
            self.replicas.iter().filter(|(name, _)| is_in(mask, **name)).collect();
        let page = |(name, replica): (&&NodeId, &&Replica)| {
            (**name, replica.page(self.cursor.position(**name), limit))
        };
        let pages = answering.iter().map(page).collect();
        let sets = sets(self.layout);
        let changes = Changes::new(self.cursor.clone(), self.now, pages, &sets);
        let mut delivered = Vec::new();
        for key in changes.keys(limit).into_iter().take(reads) {
            let homes = self.homes(&key);
            let asked: Vec<_> = answering.iter().filter(|(name, _)| homes.contains(name)).collect();
            if asked.len() < usize::from(N - W + 1) {
                break; // the read fails
            }
            let rows = asked.iter().filter_map(|(_, replica)| replica.rows.get(&key));
            let state: State = rows.flatten().copied().collect();
            self.seen.entry(key.clone()).or_default().extend(&state);
            delivered.push((key, version(&state)));
        }
        let renewed = changes.renewed();
        let (next, promise) = deliver(changes, &delivered);
        prop_assert!(next.complete_at >= self.cursor.complete_at);
        self.cursor = next;
        match promise {
            Promise::Complete => {
                for (key, write) in &self.acked {
                    let has = self.seen.get(key).is_some_and(|state| state.contains(write));
                    prop_assert!(has, "step {}: write {write} of {key} is missing", self.step);
                }
            }
            Promise::Expired => {
                // The subscriber lists all keys.
                self.cursor = renewed;
                for (key, write) in &self.acked {
                    self.seen.entry(key.clone()).or_default().insert(*write);
                }
            }
            Promise::Partial => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn a_complete_page_has_delivered_all_that_was_acknowledged(steps in vec(step(), 0..60)) {
        let layout = layout();
        let mut world = World::new(&layout);
        // A last page of all, so that every case ends with a promise.
        let last = Step::Page { mask: 15, limit: 1_000, reads: 1_000 };
        for step in steps.into_iter().chain([last]) {
            world.play(step)?;
        }
    }
}

fn deliver(changes: Changes<'_>, delivered: &[(Key, Version)]) -> (Cursor, Promise) {
    let promise = changes.promise();
    changes.deliver(delivered, promise)
}

#[test]
fn a_state_that_another_log_names_later_is_not_delivered_again() {
    let layout = layout();
    let sets = sets(&layout);
    let (now, key) = (WallTime(1 << 40), key(1));
    let entry = |number| vec![(number, now, key.clone(), Version([1; 16]))];
    let page = |log, number| Page {
        log,
        entries: entry(number),
        upto: number,
        is_end: true,
        ..Page::default()
    };
    let cursor = Cursor::now(now, &BTreeMap::new());
    let changes = Changes::new(cursor, now, BTreeMap::from([(node(0), page(1, 7))]), &sets);
    assert_eq!(changes.keys(9), std::slice::from_ref(&key));
    let (cursor, promise) = deliver(changes, &[(key.clone(), Version([1; 16]))]);
    assert_eq!(promise, Promise::Partial);
    let again = Changes::new(cursor.clone(), now, BTreeMap::from([(node(1), page(2, 9))]), &sets);
    assert_eq!(again.keys(9), []);
    let (next, _) = deliver(again, &[]);
    assert_eq!(next.position(node(1)), Position { log: 2, after: 9 });
    assert_eq!(next.position(node(0)), cursor.position(node(0)));
    let mut newer = page(2, 10);
    newer.entries[0].3 = Version([2; 16]);
    let newer = Changes::new(next, now, BTreeMap::from([(node(1), newer)]), &sets);
    assert_eq!(newer.keys(9), [key]);
}

#[test]
fn a_page_is_cut_where_a_key_was_not_delivered() {
    let layout = layout();
    let sets = sets(&layout);
    let now = WallTime(1 << 40);
    let entry = |number, name| (number, now, key(name), Version([name; 16]));
    let page = Page {
        log: 1,
        entries: vec![entry(3, 1), entry(5, 2), entry(9, 3)],
        upto: 12,
        is_end: true,
        ..Page::default()
    };
    let after = |delivered: &[u8]| {
        let cursor = Cursor::now(now, &BTreeMap::new());
        let changes = Changes::new(cursor, now, BTreeMap::from([(node(0), page.clone())]), &sets);
        assert_eq!(changes.keys(2), [key(1), key(2)]);
        let delivered: Vec<_> =
            delivered.iter().map(|name| (key(*name), Version([*name; 16]))).collect();
        deliver(changes, &delivered).0.position(node(0)).after
    };
    assert_eq!([after(&[]), after(&[1]), after(&[1, 2]), after(&[1, 2, 3])], [2, 4, 8, 12]);
}

#[test]
fn a_cursor_is_good_for_its_cluster_bucket_and_prefix() {
    let keys = ContextKeys::new("test", &[[7; 32]]);
    let page = Page { log: 7, upto: 9, ..Page::default() };
    let cursor = Cursor::now(WallTime(5), &BTreeMap::from([(node(1), page)]));
    let text = cursor.seal(&keys, &bucket(), "a/");
    assert_eq!(Cursor::open(&keys, &bucket(), "a/", &text), Ok(cursor));
    let other = Bucket::parse("c").unwrap();
    for (bucket, prefix) in [(&bucket(), "a"), (&bucket(), ""), (&other, "a/")] {
        assert_eq!(Cursor::open(&keys, bucket, prefix, &text), Err(ContextError::Forged));
    }
    let others = ContextKeys::new("other", &[[7; 32]]);
    assert_eq!(Cursor::open(&others, &bucket(), "a/", &text), Err(ContextError::Forged));
    let long = "A".repeat(CURSOR_CHARS_MAX + 1);
    assert_eq!(Cursor::open(&keys, &bucket(), "a/", &long), Err(ContextError::Damaged));
}

#[test]
fn a_page_that_was_not_asked_for_is_refused() {
    let now = WallTime(1);
    let entry = |number, name| (number, now, key(name), Version::default());
    let page = |entries, upto| Page { log: 1, entries, upto, is_end: true, ..Page::default() };
    let position = Position { log: 1, after: 4 };
    let is_sound = |page: Page| page.is_sound(position, &bucket(), "k", 2);
    assert!(is_sound(page(vec![entry(5, 1), entry(8, 2)], 9)));
    assert!(is_sound(page(Vec::new(), 4)));
    for (entries, upto) in [
        (vec![entry(4, 1)], 9),
        (vec![entry(8, 1), entry(8, 2)], 9),
        (vec![entry(5, 1)], 4),
        (vec![entry(5, 1), entry(6, 1), entry(7, 1)], 9),
    ] {
        assert!(!is_sound(page(entries, upto)));
    }
    let foreign = (5, now, Key::new("c", b"k").unwrap(), Version::default());
    assert!(!is_sound(page(vec![foreign], 9)));
    assert!(!page(vec![entry(5, 1)], 9).is_sound(position, &bucket(), "l", 2));
}
