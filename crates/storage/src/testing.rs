//! Helpers shared by the tests of this crate.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::clock::Clock;
use quorate_protocol::layout::Partition;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::{Object, Version, WriteId};
use quorate_protocol::row::{Draft, Limits, Row};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::{Root, Tree};

use crate::backend::{Backend, Batch};
use crate::columns::Column;
use crate::{
    Blocking, Durability, Error, Later, MintedRow, OpenError, Options, Place, ScrubFrom, Scrubbed,
    SimulatedDisk, Simulation, Store, Task,
};

pub(crate) const TREE: Tree = Tree { partition: Partition(3), n: 3 };
pub(crate) const HOME: Place = Place::Home(TREE);
pub(crate) const NOW: WallTime = WallTime(1_000);
pub(crate) const LIMITS: Limits = Limits { siblings_max: 1_000, object_bytes_max: 1 << 30 };

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

pub(crate) fn options(durability: Durability) -> Options {
    Options {
        durability,
        disk_free_bytes_min: 0,
        memtable_bytes: 1 << 20,
        ..Options::new(node("n1"), "test", 64)
    }
}

pub(crate) fn open(dir: &Path, durability: Durability) -> Store {
    open_as(dir, options(durability)).unwrap()
}

/// Opens a store in a directory, or on the simulated disk that stands for it
/// ([`on_simulated_disks`]).
pub(crate) fn open_as(dir: &Path, options: Options) -> Result<Store, OpenError> {
    let disk = DISKS.with_borrow_mut(|disks| {
        let disk = || SimulatedDisk::new(&dir.display().to_string());
        disks.as_mut().map(|disks| disks.entry(dir.to_owned()).or_insert_with(disk).clone())
    });
    match disk {
        Some(disk) => Store::open_simulated(&disk, Arc::new(AtOnce), options),
        None => Store::open(dir, options),
    }
}

thread_local! {
    /// While this thread's test is run on simulated disks: those that it has opened.
    static DISKS: RefCell<Option<BTreeMap<PathBuf, SimulatedDisk>>> = const { RefCell::new(None) };
}

/// Runs a test with a simulated disk for each directory that it opens a store in.
pub(crate) fn on_simulated_disks(test: fn()) {
    DISKS.set(Some(BTreeMap::new()));
    test();
    DISKS.set(None);
}

/// Runs tests of the module once more, on simulated disks.
macro_rules! also_on_simulated_disks {
    ($($test:ident),* $(,)?) => {
        mod simulated {
            $(
                #[test]
                fn $test() {
                    crate::testing::on_simulated_disks(super::$test);
                }
            )*
        }
    };
}
pub(crate) use also_on_simulated_disks;

/// A simulation in which a sync takes no time, and nothing else happens by itself.
struct AtOnce;

impl Simulation for AtOnce {
    fn later(&self, what: Later, task: Task) {
        if what == Later::Sync {
            task();
        }
    }

    fn random(&self) -> u64 {
        rand::random()
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("b", name.as_bytes()).unwrap()
}

/// A write of `value` that saw `context`.
pub(crate) fn draft(context: Clock, value: &[u8]) -> Draft {
    Draft {
        context,
        write_id: WriteId(rand::random()),
        value: Some(Bytes::copy_from_slice(value)),
        ..Draft::default()
    }
}

/// A write without a context, or why it failed.
pub(crate) fn try_mint(
    store: &Store,
    place: Place,
    name: &str,
    value: &[u8],
    blocking: Blocking,
) -> Result<MintedRow, Error> {
    let draft = draft(Clock::default(), value);
    Ok(store.mint(place, &key(name), &draft, NOW, &LIMITS, blocking)?.unwrap())
}

pub(crate) fn mint(store: &Store, place: Place, name: &str, value: &[u8]) -> MintedRow {
    try_mint(store, place, name, value, Blocking::Allowed).unwrap()
}

pub(crate) fn object(store: &Store, place: Place, name: &str) -> Option<Object> {
    let row = store.read(place, &key(name), Blocking::Allowed).unwrap()?;
    Some(Row::decode(row).unwrap().object)
}

impl Store {
    /// Drops one hint; returns whether it was there with this version.
    pub(crate) fn drop_hint(
        &self,
        target: NodeId,
        key: &Key,
        version: Version,
    ) -> Result<bool, Error> {
        Ok(self.drop_hints(target, &[(key.clone(), version)])? == 1)
    }

    /// All trees that have counted a row since the store was opened, by partition.
    pub(crate) fn trees(&self) -> Vec<Tree> {
        self.trees.iter().map(|(tree, _)| tree).collect()
    }

    /// The roots of all trees that are not empty, by partition.
    pub(crate) fn roots(&self) -> Vec<(Tree, Root)> {
        let roots = self.trees().into_iter().map(|tree| (tree, self.root(tree)));
        roots.filter(|(_, root)| *root != Root::default()).collect()
    }

    /// Changes what is stored behind the store's back.
    pub(crate) fn tamper(&self, change: impl FnOnce(&mut Batch<'_>) -> Result<(), Error>) {
        let mut batch = self.engine.batch();
        change(&mut batch).unwrap();
        self.engine.write(batch, Blocking::Allowed).unwrap();
        self.rows.clear();
    }

    /// Writes the newest entries of a column to a table.
    pub(crate) fn write_tables(&self, column: Column) {
        match &self.engine.backend {
            Backend::Rocks(rocks) => rocks.flush(column).unwrap(),
            Backend::Memory(_) => {}
        }
    }

    /// Scrubs a whole partition.
    pub(crate) fn scrub(&self, partition: Partition) -> Result<Scrubbed, Error> {
        let (mut found, mut next) = (Scrubbed::default(), Some(ScrubFrom::Leaf(0)));
        while let Some(from) = next {
            let (some, onward) = self.scrub_some(partition, from, || false)?;
            found.add(some);
            next = onward;
        }
        Ok(found)
    }
}

pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}
