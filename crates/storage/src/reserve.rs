//! The reserve: a file that only takes up space on the data disk.
//!
//! A watermark keeps this process from filling the disk, not others. On a completely full disk
//! RocksDB cannot open, and no client could delete through the node. Removing the file frees enough
//! space to open and to delete. It is allocated again once there is plenty.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

use crate::data_dir::DataDir;
use crate::simulated::SimulatedDisk;

const FILE: &str = "reserve";
/// The unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// Reserved space on one disk.
pub(crate) struct Reserve {
    place: Place,
    bytes: u64,
}

enum Place {
    File(PathBuf),
    Simulated(SimulatedDisk),
}

impl Reserve {
    /// A reserve of `bytes` for the store in `dir`; allocated only by [`Reserve::allocate`].
    pub(crate) fn new(dir: &DataDir, bytes: u64) -> Self {
        let place = match dir {
            DataDir::Path(dir) => Place::File(dir.join(FILE)),
            DataDir::Simulated(disk, _) => Place::Simulated(disk.clone()),
        };
        Self { place, bytes }
    }

    /// The size it should have, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes of the disk it occupies now. A copy that became sparse occupies none.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        match &self.place {
            Place::Simulated(disk) => disk.reserve_bytes(),
            Place::File(path) => {
                let file = fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file);
                file.map_or(0, |file| file.blocks().saturating_mul(BLOCK_BYTES))
            }
        }
    }

    /// Whether it is fully allocated.
    pub(crate) fn is_allocated(&self) -> bool {
        self.allocated_bytes() >= self.bytes
    }

    /// Allocates it. Fails if the file system cannot allocate a file without writing it.
    pub(crate) fn allocate(&self) -> io::Result<()> {
        match &self.place {
            Place::Simulated(disk) => disk.allocate_reserve(self.bytes),
            Place::File(path) => {
                let held = allocate(path, self.bytes);
                if held.is_err() {
                    drop(self.release());
                }
                held
            }
        }
    }

    /// Removes it. Succeeds if there is none.
    pub(crate) fn release(&self) -> io::Result<()> {
        match &self.place {
            Place::Simulated(disk) => disk.release_reserve(),
            Place::File(path) => match fs::remove_file(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                result => return result,
            },
        }
        Ok(())
    }
}

fn allocate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(path)?;
    Ok(fallocate(&file, FallocateFlags::empty(), 0, bytes)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_up_space_until_released() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(&dir.path().into(), 1 << 20);
        assert_eq!((reserve.allocated_bytes(), reserve.is_allocated()), (0, false));
        reserve.release().unwrap();
        if reserve.allocate().is_err() {
            return; // this file system cannot
        }
        assert!(reserve.is_allocated());
        reserve.allocate().unwrap();
        assert!(reserve.allocated_bytes() < 2 << 20, "allocated twice it takes no more");
        reserve.release().unwrap();
        assert_eq!(reserve.allocated_bytes(), 0);
    }

    #[test]
    fn a_sparse_copy_reserves_nothing_until_allocated() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(&dir.path().into(), 1 << 20);
        File::create(dir.path().join(FILE)).unwrap().set_len(1 << 20).unwrap();
        assert!(!reserve.is_allocated());
        assert!(reserve.allocate().is_err() || reserve.is_allocated());
    }
}
