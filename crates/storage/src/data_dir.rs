//! Where a store is kept, and the files there beside the key-value engine.
//!
//! What is above knows one kind of data directory; here it is a directory of the machine or one on a
//! simulated disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::row::Incarnation;

use crate::aside::{remove_set, sets_aside};
use crate::host::{Host, Simulation};
use crate::incarnation::{self, clean_stop};
use crate::rocks::log_bytes;
use crate::simulated::SimulatedDisk;

/// A node's data directory, or one of a set of rows that it has set aside.
#[derive(Clone, Debug)]
pub enum DataDir {
    /// A directory of the machine.
    Path(PathBuf),
    /// A simulated disk, and the simulation that a store on it is part of.
    Simulated(SimulatedDisk, Arc<dyn Simulation>),
}

impl DataDir {
    /// The path, or the simulated disk's name, for messages.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Simulated(disk, _) => disk.path(),
        }
    }

    /// The sets of rows that were set aside here, with their names, which order them: oldest first.
    /// Each opens as a store of its own.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sets_aside(&self) -> io::Result<Vec<(String, Self)>> {
        match self {
            Self::Path(dir) => {
                let named = |set: PathBuf| {
                    let name = set.file_name().map(|name| name.to_string_lossy().into_owned());
                    (name.unwrap_or_default(), Self::Path(set))
                };
                Ok(sets_aside(dir)?.into_iter().map(named).collect())
            }
            Self::Simulated(disk, simulation) => {
                let sets = disk.sets_aside().into_iter();
                let open = |set| Self::Simulated(set, Arc::clone(simulation));
                Ok(sets.map(|(name, set)| (name, open(set))).collect())
            }
        }
    }

    /// Removes a set of rows that was set aside here, for good.
    ///
    /// # Errors
    /// The operating system's; the set may then still exist.
    pub fn remove_set(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Path(dir) => remove_set(&crate::aside::set_path(dir, name)),
            Self::Simulated(disk, _) if disk.remove_set(name) => Ok(()),
            Self::Simulated(..) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// What a store there runs on.
    pub(crate) fn host(&self) -> Host {
        match self {
            Self::Path(_) => Host::machine(),
            Self::Simulated(_, simulation) => Host::Simulated(Arc::clone(simulation)),
        }
    }

    /// Free bytes of the file system; `None` if they cannot be determined.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        match self {
            Self::Path(dir) => free_bytes(dir),
            Self::Simulated(disk, _) => Some(disk.free_bytes()),
        }
    }

    /// What the log takes, in bytes: about what opening writes to tables.
    pub(crate) fn log_bytes(&self) -> u64 {
        match self {
            Self::Path(dir) => log_bytes(dir),
            Self::Simulated(disk, _) => disk.log_bytes(),
        }
    }

    /// Writes the clean-stop marker durably. `sequence` is the number of the last write, which must
    /// be synced.
    pub(crate) fn write_marker(&self, incarnation: Incarnation, sequence: u64) -> io::Result<()> {
        match self {
            Self::Path(dir) => incarnation::write_marker(dir, incarnation, sequence),
            Self::Simulated(disk, _) => {
                disk.write_marker(|identity| clean_stop(identity, incarnation, sequence));
                Ok(())
            }
        }
    }

    /// Removes the clean-stop marker durably, and returns whether it proved that the last stop of
    /// `incarnation` at `sequence` was clean. Nothing may be minted before this has returned.
    pub(crate) fn consume_marker(
        &self,
        incarnation: Option<Incarnation>,
        sequence: u64,
    ) -> io::Result<bool> {
        match self {
            Self::Path(dir) => incarnation::consume_marker(dir, incarnation, sequence),
            Self::Simulated(disk, _) => {
                let text = |identity: &_| {
                    let incarnation = incarnation.map(|of| clean_stop(identity, of, sequence));
                    incarnation.unwrap_or_default()
                };
                Ok(disk.take_marker(text))
            }
        }
    }
}

impl From<&Path> for DataDir {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

/// Free bytes of the file system that a directory is on; `None` if it cannot be determined.
pub(crate) fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}
