//! What a machine gives its process: threads, chance, the delays of its disk, a clock, small files.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_engine::host::{Chance, Clock, Files, Threads, Urgency, Work};
use quorate_engine::tasks::Tasks;
use quorate_protocol::time::WallTime;
use quorate_storage::{Later, Simulation, Task};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// The machines' clocks at the start of a run, in milliseconds since 1970.
pub(crate) const EPOCH_MS: u64 = 1_700_000_000_000;
/// The longest that work on a thread that may block takes, in milliseconds.
const WORK_MS_MAX: u64 = 2;
/// The longest that a sync takes, in milliseconds.
const SYNC_MS_MAX: u64 = 6;

/// Threads, chance and the disk's delays, as one process has them.
pub(crate) struct Around {
    pub(crate) world: Arc<World>,
    pub(crate) tasks: Tasks,
    pub(crate) hang: Hang,
}

/// What hanging accesses to the disk wait for.
pub(crate) type Hang = Arc<Mutex<Option<CancellationToken>>>;

impl Around {
    fn after(&self, delay: Duration, work: Work) {
        self.tasks.spawn(async move {
            sleep(delay).await;
            work();
        });
    }
}

impl Threads for Around {
    fn run(&self, urgency: Urgency, work: Work) {
        let delay = self.world.at_most_ms(WORK_MS_MAX);
        let hang = self.hang.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hang) = hang.filter(|_| urgency == Urgency::Request) else {
            return self.after(delay, work);
        };
        self.tasks.spawn(async move {
            hang.cancelled().await;
            work();
        });
    }

    fn cores(&self) -> usize {
        4
    }

    fn processor_time(&self) -> Duration {
        Duration::ZERO
    }
}

impl Chance for Around {
    fn draw(&self) -> u64 {
        self.world.draw()
    }
}

impl Simulation for Around {
    fn later(&self, what: Later, task: Task) {
        match what {
            Later::Sync => self.after(self.world.at_most_ms(SYNC_MS_MAX), task),
            Later::CheckDisk { after } => self.after(after, task),
        }
    }

    fn random(&self) -> u64 {
        self.world.draw()
    }

    fn now(&self) -> Duration {
        self.world.elapsed()
    }
}

/// A clock that may be wrong.
pub(crate) struct MachineClock {
    pub(crate) world: Arc<World>,
    pub(crate) ahead_ms: AtomicI64,
}

impl Clock for MachineClock {
    fn now(&self) -> WallTime {
        WallTime(self.world.wall().0.saturating_add_signed(self.ahead_ms.load(Relaxed)))
    }
}

/// The node's small files.
#[derive(Default)]
pub(crate) struct DiskFiles {
    all: Mutex<BTreeMap<String, Vec<u8>>>,
    /// As they were copied last.
    copied: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl DiskFiles {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// They are in a backup of the disk too.
    pub(crate) fn back_up(&self) {
        let all = self.lock().clone();
        *self.copied.lock().unwrap_or_else(PoisonError::into_inner) = all;
    }

    /// A backup of the disk is put back. Where the disk was not lost these files are kept: they tell of a
    /// later time than its rows.
    pub(crate) fn restore_if_gone(&self) {
        let copied = self.copied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all = self.lock();
        if all.is_empty() {
            *all = copied;
        }
    }

    /// They are on a new disk.
    pub(crate) fn wipe(&self) {
        self.lock().clear();
    }
}

impl Files for DiskFiles {
    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.lock().get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn replace(&self, name: &str, contents: &[u8]) -> io::Result<()> {
        self.lock().insert(name.to_owned(), contents.to_owned());
        Ok(())
    }

    fn append(&self, name: &str, more: &[u8]) -> io::Result<()> {
        self.lock().entry(name.to_owned()).or_default().extend_from_slice(more);
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        name.to_owned()
    }
}
