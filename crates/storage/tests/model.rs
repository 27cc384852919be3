//! The store against a map: random histories of mints, merges, dropped hints, clean and unclean
//! restarts.
//!
//! The model keeps a [`Row`] per place and key and lets it decide by itself; the store must hold
//! the same objects, the same conflict index and the same hint totals after every step that is
//! looked at. Each history comes from one seed, which a failure names.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use bytes::Bytes;
use quorate_protocol::clock::{Actor, Clock, Dot};
use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Metadata, Object, Sibling, WriteId};
use quorate_protocol::row::{Draft, Limits, Minted, Minter, Row};
use quorate_protocol::stamp::{Millis, Stamp};
use quorate_protocol::tree::Tree;
use quorate_storage::{Blocking, Durability, Merged, Options, Place, Store};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

const HISTORIES: u64 = 30;
const STEPS: usize = 150;
const LIMITS: Limits = Limits { siblings_max: 6, object_bytes_max: 200_000 };

#[test]
fn random_histories_agree_with_the_model() {
    for seed in 0..HISTORIES {
        let history = AssertUnwindSafe(|| History::new(seed).run());
        if let Err(panic) = catch_unwind(history) {
            eprintln!("the history of seed {seed} failed");
            resume_unwind(panic);
        }
    }
}

fn tree_n(place: Place) -> u16 {
    match place {
        Place::Home(tree) => tree.n,
        Place::Hint(_) => 0,
    }
}

struct History {
    rng: SmallRng,
    dir: tempfile::TempDir,
    durability: Durability,
    store: Option<Store>,
    model: BTreeMap<(Place, Key), Row>,
    /// Objects that other replicas might send.
    peers: BTreeMap<Key, Object>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let durability = if rng.random() { Durability::Fsync } else { Durability::Buffered };
        let store = Some(open(dir.path(), durability));
        Self { rng, dir, durability, store, model: BTreeMap::new(), peers: BTreeMap::new() }
    }

    fn run(mut self) {
        for step in 0..STEPS {
            match self.rng.random_range(0..100) {
                0..50 => self.mint(),
                50..85 => self.merge(),
                85..97 => self.drop_hint(),
                _ => self.restart(),
            }
            if step % 25 == 0 || step == STEPS - 1 {
                self.check();
            }
        }
    }

    fn mint(&mut self) {
        let (place, key) = self.any_row();
        let known = self.model.get(&(place, key.clone())).cloned().unwrap_or_default();
        let value = self.any_value();
        let draft = Draft {
            context: if self.rng.random() { known.object.clock.clone() } else { Clock::default() },
            context_stamp: Stamp::default(),
            metadata: Metadata::default(),
            write_id: WriteId([self.rng.random_range(0..200); 16]),
            supersede_all: self.rng.random_ratio(1, 10),
            unless_overtaken: false,
            value,
        };
        let (now, mut expected) = (Millis(self.rng.random_range(0..1_000)), known.clone());
        let minted = self.store().mint(place, &key, &draft, now, &LIMITS, Blocking::Allowed);
        let minted = minted.unwrap();
        let dot = match minted.as_ref().map(|row| row.minted) {
            Ok(Minted::New(dot) | Minted::Already(dot)) => dot,
            Err(_) => Dot { actor: Actor(1), counter: 1 },
        };
        // The store draws actors at random: the model is told which, if it was a new one.
        let incarnation = self.store().incarnation();
        let minter = Minter { node: node("n1"), incarnation, fresh_actor: dot.actor, now };
        expected.tree = tree_n(place);
        let decided = expected.mint(&draft, &minter, &LIMITS);
        match (minted, decided) {
            (Ok(row), Ok(decided)) => {
                assert_eq!((row.minted, &row.object), (decided, &expected.object));
                assert_eq!(Object::decode(row.encoded).unwrap(), row.object);
                self.peers.entry(key.clone()).or_default().merge(&row.object);
                self.model.insert((place, key), expected);
            }
            (Err(error), Err(decided)) => assert_eq!(error, decided),
            (minted, decided) => panic!("{minted:?} is not {decided:?}"),
        }
    }

    fn merge(&mut self) {
        let (place, key) = self.any_row();
        if self.rng.random_ratio(1, 3) {
            let foreign = self.foreign_write();
            self.peers.entry(key.clone()).or_default().merge(&foreign);
        }
        let object = self.peers.get(&key).cloned().unwrap_or_default();
        let row = self.model.entry((place, key.clone())).or_default();
        let now = Millis(self.rng.random_range(0..1_000));
        row.tree = tree_n(place);
        let changed = row.merge(&object, now);
        let version = row.object.version();
        if row.object.is_absent() {
            self.model.remove(&(place, key.clone()));
        }
        let merged = self.store().merge(place, &key, &object, now, Blocking::Allowed);
        assert_eq!(merged, Ok(Merged { changed, version }));
    }

    fn drop_hint(&mut self) {
        let (_, key) = self.any_row();
        let place = Place::Hint(node("n2"));
        let row = self.model.get(&(place, key.clone())).cloned();
        let current = row.as_ref().map(|row| row.object.version());
        let stale = self.rng.random_ratio(1, 4);
        let version = current.filter(|_| !stale).unwrap_or_default();
        let dropped = self.store().drop_hint(node("n2"), &key, version).unwrap();
        assert_eq!(dropped, current.is_some() && !stale);
        if dropped {
            self.model.remove(&(place, key));
        }
    }

    /// A clean or an unclean stop, after a sync: nothing may be lost.
    fn restart(&mut self) {
        let store = self.store.take().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.durable()).unwrap();
        let (before, clean) = (store.incarnation(), self.rng.random());
        if clean {
            store.close().unwrap();
        }
        drop(store);
        let store = open(self.dir.path(), self.durability);
        assert_eq!(store.incarnation() == before, clean);
        self.store = Some(store);
    }

    fn check(&self) {
        let (mut conflicts, mut hints) = (Vec::new(), (0, 0));
        for ((place, key), row) in &self.model {
            let stored = self.store().read(*place, key, Blocking::Allowed).unwrap();
            let stored = stored.unwrap_or_else(|| panic!("{key} ({place}) is missing"));
            assert_eq!(Row::decode(stored.clone()).unwrap().object, row.object, "{key} ({place})");
            match place {
                Place::Home(_) if row.object.is_conflict() => {
                    conflicts.push((key.clone(), row.object.shown().len() as u32));
                }
                Place::Home(_) => {}
                Place::Hint(_) => {
                    hints.0 += 1;
                    hints.1 += (3 + key.as_bytes().len() + stored.len()) as u64;
                }
            }
        }
        conflicts.sort();
        assert_eq!(self.store().conflicts(None, None, usize::MAX).unwrap(), conflicts);
        let targets: Vec<_> = Some((node("n2"), hints.0, hints.1))
            .filter(|(_, keys, _)| *keys > 0)
            .into_iter()
            .collect();
        assert_eq!(self.store().hint_targets().unwrap(), targets);
        assert_eq!(self.store().hint_bytes(), hints.1);
        let rows: usize = (0..64)
            .map(|p| {
                self.store().scan_partition(Partition(p), None, 1_000, usize::MAX).unwrap().len()
            })
            .sum();
        assert_eq!(rows + hints.0 as usize, self.model.len(), "and no other rows");
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn any_row(&mut self) -> (Place, Key) {
        let name = format!("k{}", self.rng.random_range(0..8));
        let bucket = if self.rng.random() { "a" } else { "b" };
        let key = Key::new(bucket, name.as_bytes()).unwrap();
        let home = Place::Home(Tree { partition: key.partition(64), n: 3 });
        (if self.rng.random() { home } else { Place::Hint(node("n2")) }, key)
    }

    fn any_value(&mut self) -> Option<Bytes> {
        let bytes = match self.rng.random_range(0..10) {
            0 => return None,
            1 => 0,
            2 => 60_000,
            _ => self.rng.random_range(1..2_000),
        };
        Some(Bytes::from(vec![self.rng.random(); bytes]))
    }

    /// A write that some other node minted.
    fn foreign_write(&mut self) -> Object {
        let dot =
            Dot { actor: Actor(self.rng.random_range(1..4)), counter: self.rng.random_range(1..5) };
        let mut object = Object::default();
        object.clock.advance(dot);
        let byte = dot.actor.0 as u8 * 16 + dot.counter as u8;
        object.siblings.push(Sibling {
            dot,
            value: (!dot.counter.is_multiple_of(3)).then(|| Bytes::from(vec![byte; 100])),
            metadata: Metadata::default(),
            stamp: Stamp::at(Millis(dot.counter)),
            writer: node("n3"),
            write_id: WriteId([byte; 16]),
        });
        object
    }
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn open(dir: &std::path::Path, durability: Durability) -> Store {
    let options = Options::new(node("n1"), "model", 64);
    let small = Options { durability, memtable_bytes: 1 << 20, disk_free_bytes_min: 0, ..options };
    Store::open(dir, small).unwrap()
}
