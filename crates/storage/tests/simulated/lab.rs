//! A disk in a world of its own, and what tests do with it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::name::{Key, NodeId};
use quorate_protocol::object::WriteId;
use quorate_protocol::row::{Draft, Limits, Row};
use quorate_protocol::time::WallTime;
use quorate_protocol::tree::Tree;
use quorate_storage::{
    Blocking, Error, OpenError, Options, Place, SimulatedDisk, Simulation, Store,
};

use crate::world::World;

pub(crate) const PARTITIONS: u32 = 2;
pub(crate) const LIMITS: Limits = Limits { siblings_max: 100, object_bytes_max: 1 << 20 };
pub(crate) const MIB: u64 = 1 << 20;
/// Longer than a disk must be stable before the reserve is released.
pub(crate) const LONG: Duration = Duration::from_secs(3);

/// A disk in a world.
pub(crate) struct Lab {
    pub(crate) disk: SimulatedDisk,
    pub(crate) world: Arc<World>,
    pub(crate) options: Options,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::seeded(7)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        let options = Options {
            disk_free_bytes_min: 0,
            row_cache_bytes: 0,
            ..Options::new(node("n1"), "test", PARTITIONS)
        };
        let world = Arc::new(World::new(seed));
        Self { disk: SimulatedDisk::new("n1"), world, options }
    }

    pub(crate) fn try_open(&self) -> Result<Store, OpenError> {
        let world: Arc<dyn Simulation> = self.world.clone();
        Store::open_simulated(&self.disk, world, self.options.clone())
    }

    pub(crate) fn open(&self) -> Store {
        self.try_open().unwrap()
    }

    /// What `durable` says once the tasks that wait have run.
    pub(crate) fn durable(&self, store: &Store) -> Result<(), Error> {
        let durable = store.durable();
        self.world.run();
        outcome(pin!(durable)).unwrap()
    }

    /// Mints these rows, each in a batch.
    pub(crate) fn mint(&self, store: &Store, names: std::ops::Range<usize>) {
        names.for_each(|i| mint(store, i).unwrap());
    }
}

pub(crate) fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

pub(crate) fn key(i: usize) -> Key {
    Key::new("a", format!("k{i}").as_bytes()).unwrap()
}

pub(crate) fn place(i: usize) -> Place {
    Place::Home(Tree { partition: key(i).partition(PARTITIONS), n: 3 })
}

pub(crate) fn draft(value: Option<&'static [u8]>) -> Draft {
    Draft { write_id: WriteId([1; 16]), value: value.map(Bytes::from_static), ..Draft::default() }
}

pub(crate) fn mint(store: &Store, i: usize) -> Result<(), Error> {
    let draft = draft(Some(b"v"));
    let minted = store.mint(place(i), &key(i), &draft, WallTime(1), &LIMITS, Blocking::Never)?;
    minted.unwrap();
    Ok(())
}

pub(crate) fn read(store: &Store, i: usize) -> Result<Option<Bytes>, Error> {
    store.read(place(i), &key(i), Blocking::Never)
}

/// The rows that are there.
pub(crate) fn found(store: &Store) -> Vec<usize> {
    (0..99).filter(|i| read(store, *i).unwrap().is_some()).collect()
}

/// The actor of a row that this store minted, which is drawn anew by a new incarnation.
pub(crate) fn incarnation(store: &Store) -> u64 {
    mint(store, 999).unwrap();
    let row = Row::decode(read(store, 999).unwrap().unwrap()).unwrap();
    store.drop_row(place(999), &key(999), row.object.version()).unwrap();
    row.tenure.unwrap().incarnation.0
}

/// What a future has come to; `None` while it waits.
pub(crate) fn outcome<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    // A future may let others go first: once.
    (0..2).find_map(|_| match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    })
}
