//! The store against a map: random histories of mints, merges, dropped rows and hints, changes of a
//! bucket's n, sweeps, clean and unclean restarts.
//!
//! The model keeps a [`Row`] per place and key and applies each step to it; the store must hold the
//! same objects in the same trees, the same indexes and the same hint totals after every checked
//! step. Each history comes from one seed, which a failure names.

#![allow(clippy::unwrap_used)]

mod common;

#[path = "common/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use bytes::Bytes;
use common::{check_follows, foreign_write, home_rows};
use quorate_protocol::clock::{Actor, Clock, Dot};
use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version, WriteId};
use quorate_protocol::row::{Coordinator, Draft, Incarnation, Limits, Minted, Row};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{
    Blocking, DataDir, Durability, Merged, Options, Place, SimulatedDisk, Simulation, Source, Store,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;
use world::World;

const HISTORIES: u64 = 30;
const PARTITIONS: u32 = 4;
const STEPS: usize = 150;
const LIMITS: Limits = Limits { siblings_max: 6, object_bytes_max: 200_000 };

#[test]
fn random_histories_agree_with_the_model() {
    let dir = |_: &Arc<World>| {
        let dir = tempfile::tempdir().unwrap();
        (DataDir::from(dir.path()), Some(dir))
    };
    check_histories(HISTORIES, dir);
}

#[test]
fn random_histories_on_simulated_disks_agree_with_the_model() {
    let dir = |world: &Arc<World>| {
        let world: Arc<dyn Simulation> = world.clone();
        (DataDir::Simulated(SimulatedDisk::new("n1"), world), None)
    };
    check_histories(HISTORIES * 5, dir);
}

fn check_histories(histories: u64, dir: impl Fn(&Arc<World>) -> (DataDir, Option<TempDir>)) {
    for seed in 0..histories {
        let history = AssertUnwindSafe(|| {
            let world = Arc::new(World::new(seed));
            let (dir, _held) = dir(&world);
            History::new(seed, dir, world).run();
        });
        if let Err(panic) = catch_unwind(history) {
            eprintln!("the history of seed {seed} failed");
            resume_unwind(panic);
        }
    }
}

struct History {
    rng: SmallRng,
    dir: DataDir,
    world: Arc<World>,
    durability: Durability,
    store: Option<Store>,
    /// That of the store since it was opened.
    incarnation: Incarnation,
    /// Keyed by whether it is a hint, and key.
    model: BTreeMap<(bool, Key), Row>,
    /// The n of the buckets `a` and `b`.
    n: [u16; 2],
    /// Objects that other replicas might send.
    peers: BTreeMap<Key, Object>,
}

impl History {
    fn new(seed: u64, dir: DataDir, world: Arc<World>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let durability = if rng.random() { Durability::Fsync } else { Durability::Buffered };
        let store = open(&dir, durability);
        let incarnation = incarnation_of(&store);
        Self {
            rng,
            dir,
            world,
            durability,
            store: Some(store),
            incarnation,
            model: BTreeMap::new(),
            n: [3, 2],
            peers: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        for step in 0..STEPS {
            match self.rng.random_range(0..100) {
                0..45 => self.mint(),
                45..70 => self.merge(),
                70..78 => self.merge_page(),
                78..90 => self.drop_row(),
                90..93 => self.change_n(),
                93..96 => self.reassign(),
                96 => self.discard(),
                _ => self.restart(),
            }
            if step % 25 == 0 || step == STEPS - 1 {
                self.check();
            }
        }
    }

    fn mint(&mut self) {
        let (is_hint, key) = self.any_row();
        let place = self.place(is_hint, &key);
        let known = self.model.get(&(is_hint, key.clone())).cloned().unwrap_or_default();
        let value = self.any_value();
        let draft = Draft {
            context: if self.rng.random() { known.object.clock.clone() } else { Clock::default() },
            write_id: WriteId([self.rng.random_range(0..200); 16]),
            supersede_all: self.rng.random_ratio(1, 10),
            value,
            ..Draft::default()
        };
        let (now, mut expected) = (WallTime(self.rng.random_range(0..1_000)), known.clone());
        let minted = self.store().mint(place, &key, &draft, now, &LIMITS, Blocking::Allowed);
        let minted = minted.unwrap();
        let dot = match minted.as_ref().map(|row| row.minted) {
            Ok(Minted::New(dot) | Minted::Already(dot)) => dot,
            Err(_) => Dot { actor: Actor(1), counter: 1 },
        };
        // The store draws actors at random: the model copies the actor if it is new.
        let (incarnation, fresh_actor) = (self.incarnation, dot.actor);
        let coordinator = Coordinator { node: node("n1"), incarnation, fresh_actor, now };
        expected.tree = self.tree_n(is_hint, &key);
        let decided = expected.mint(&draft, &coordinator, &LIMITS);
        match (minted, decided) {
            (Ok(row), Ok(decided)) => {
                assert_eq!((row.minted, &row.object), (decided, &expected.object));
                assert_eq!(Object::decode(row.encoded).unwrap(), row.object);
                self.peers.entry(key.clone()).or_default().merge(&row.object);
                if let Minted::New(_) = decided {
                    self.model.insert((is_hint, key), expected);
                }
            }
            (Err(error), Err(decided)) => assert_eq!(error, decided),
            (minted, decided) => panic!("{minted:?} is not {decided:?}"),
        }
    }

    fn merge(&mut self) {
        let (is_hint, key) = self.any_row();
        let object = self.peer_object(&key);
        let now = WallTime(self.rng.random_range(0..1_000));
        let changed = self.merge_in_model(is_hint, &key, &object, now);
        let row = self.model.get(&(is_hint, key.clone()));
        let version = row.map_or(Version::ABSENT, |row| row.object.version());
        let place = self.place(is_hint, &key);
        let merged = self.store().merge(place, &key, &object, now, Blocking::Allowed);
        assert_eq!(merged, Ok(Merged { changed, version }));
    }

    /// Occasionally with a row twice in one page: it counts once if both are in one batch.
    fn merge_page(&mut self) {
        let (mut page, mut changed, mut changes) = (Vec::new(), BTreeSet::new(), 0);
        let now = WallTime(self.rng.random_range(0..1_000));
        for _ in 0..self.rng.random_range(0..20) {
            let (is_hint, key) = self.any_row();
            let object = self.peer_object(&key);
            if self.merge_in_model(is_hint, &key, &object, now) {
                changed.insert((is_hint, key.clone()));
                changes += 1;
            }
            page.push((self.place(is_hint, &key), key, object.to_bytes()));
        }
        let merged = self.store().merge_page(page, Source::Fill, now).unwrap();
        assert!((changed.len()..=changes).contains(&merged), "{merged} of {changed:?}");
    }

    fn merge_in_model(&mut self, is_hint: bool, key: &Key, object: &Object, now: WallTime) -> bool {
        let tree = self.tree_n(is_hint, key);
        let row = self.model.entry((is_hint, key.clone())).or_default();
        let mut merged = Row { tree, ..row.clone() };
        let changed = merged.merge(object, now);
        if changed {
            *row = merged;
        } else if row.object.is_absent() {
            self.model.remove(&(is_hint, key.clone()));
        }
        changed
    }

    fn drop_row(&mut self) {
        let (is_hint, key) = self.any_row();
        let row = self.model.get(&(is_hint, key.clone())).cloned();
        let current = row.as_ref().map(|row| row.object.version());
        let stale = self.rng.random_ratio(1, 4);
        let version = current.filter(|_| !stale).unwrap_or_default();
        let place = self.place(is_hint, &key);
        let dropped = self.store().drop_row(place, &key, version).unwrap();
        assert_eq!(dropped, current.is_some() && !stale);
        if dropped {
            self.model.remove(&(is_hint, key));
        }
    }

    fn change_n(&mut self) {
        let bucket = self.rng.random_range(0..2);
        self.n[bucket] = self.rng.random_range(1..5);
    }

    /// All partitions, in steps; bucket `b` may no longer be owned.
    fn reassign(&mut self) {
        let (n, owns_b) = (self.n, self.rng.random::<bool>());
        let n_of = |bucket: &str| match bucket {
            "a" => Some(n[0]),
            _ => owns_b.then_some(n[1]),
        };
        let (mut expected, mut unowned) = (0, Vec::new());
        for ((is_hint, key), row) in &mut self.model {
            match n_of(key.bucket()) {
                _ if *is_hint => {}
                Some(n) => {
                    expected += usize::from(row.tree != n);
                    row.tree = n;
                }
                None => unowned.push((key.clone(), row.object.version())),
            }
        }
        let (mut moved, mut found) = (0, Vec::new());
        for partition in (0..PARTITIONS).map(|p| Partition(p as u16)) {
            let mut after = None;
            loop {
                let step = self.store().reassign(partition, after.as_ref(), 2, n_of).unwrap();
                moved += step.moved;
                found.extend(step.unowned);
                let Some(last) = step.last else { break };
                after = Some(last);
            }
        }
        found.sort();
        assert_eq!((moved, found), (expected, unowned));
    }

    fn discard(&mut self) {
        self.store().set_rows_aside("discarded").unwrap();
        self.model.clear();
    }

    /// A clean or an unclean stop, after a sync: nothing may be lost.
    fn restart(&mut self) {
        let store = self.store.take().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let durable = store.durable();
        self.world.run();
        runtime.block_on(durable).unwrap();
        let clean = self.rng.random();
        if clean {
            store.close().unwrap();
        }
        drop(store);
        let store = open(&self.dir, self.durability);
        let incarnation = incarnation_of(&store);
        assert_eq!(incarnation == self.incarnation, clean);
        (self.store, self.incarnation) = (Some(store), incarnation);
    }

    fn check(&self) {
        let mut hints = (0, 0);
        for ((is_hint, key), row) in &self.model {
            let place = self.place(*is_hint, key);
            let stored = self.store().read(place, key, Blocking::Allowed).unwrap();
            let stored = stored.unwrap_or_else(|| panic!("{key} ({place}) is missing"));
            let decoded = Row::decode(stored.clone()).unwrap();
            let facts = |row: &Row| (row.tree, row.since, row.object.clone());
            assert_eq!(facts(&decoded), facts(row), "{key} ({place})");
            if *is_hint {
                hints.0 += 1;
                hints.1 += (3 + key.as_bytes().len() + stored.len()) as u64;
            }
        }
        let targets: Vec<_> = Some((node("n2"), hints.0, hints.1))
            .filter(|(_, keys, _)| *keys > 0)
            .into_iter()
            .collect();
        assert_eq!(self.store().hint_targets().unwrap(), targets);
        assert_eq!(self.store().hint_bytes(), hints.1);
        let rows = home_rows(self.store(), PARTITIONS);
        assert_eq!(rows.len() + hints.0 as usize, self.model.len(), "and no other rows");
        check_follows(self.store(), PARTITIONS, &rows);
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn any_row(&mut self) -> (bool, Key) {
        let name = format!("k{}", self.rng.random_range(0..8));
        let bucket = if self.rng.random() { "a" } else { "b" };
        (self.rng.random(), Key::new(bucket, name.as_bytes()).unwrap())
    }

    fn place(&self, is_hint: bool, key: &Key) -> Place {
        if is_hint {
            return Place::Hint(node("n2"));
        }
        let n = self.tree_n(false, key);
        Place::Home(Tree { partition: key.partition(PARTITIONS), n })
    }

    fn tree_n(&self, is_hint: bool, key: &Key) -> u16 {
        match key.bucket() {
            _ if is_hint => 0,
            "a" => self.n[0],
            _ => self.n[1],
        }
    }

    /// An object that another replica may send for a key.
    fn peer_object(&mut self, key: &Key) -> Object {
        let object = self.peers.entry(key.clone()).or_default();
        if self.rng.random_ratio(1, 3) {
            let (actor, counter) = (self.rng.random_range(1..4), self.rng.random_range(1..5));
            object.merge(&foreign_write(actor, counter));
        }
        object.clone()
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
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn open(dir: &DataDir, durability: Durability) -> Store {
    let options = Options::new(node("n1"), "model", PARTITIONS);
    let small = Options { durability, memtable_bytes: 1 << 20, disk_free_bytes_min: 0, ..options };
    Store::open_in(dir, small).unwrap()
}

/// The incarnation under which a store mints: that of a row which is new in it.
fn incarnation_of(store: &Store) -> Incarnation {
    let (place, key) = (Place::Hint(node("n3")), Key::new("a", b"probe").unwrap());
    let draft = Draft { write_id: WriteId([0; 16]), ..Draft::default() };
    let minted = store.mint(place, &key, &draft, WallTime(0), &LIMITS, Blocking::Allowed);
    let version = minted.unwrap().unwrap().object.version();
    let row = store.read(place, &key, Blocking::Allowed).unwrap().unwrap();
    assert!(store.drop_row(place, &key, version).unwrap());
    Row::decode(row).unwrap().tenure.unwrap().incarnation
}
