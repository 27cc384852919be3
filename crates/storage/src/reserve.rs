//! The reserve: a file that does nothing but take up room on the data disk.
//!
//! A watermark keeps this process from filling the disk, not others. On a disk without a free byte
//! RocksDB cannot open, and nobody could delete through the node. Giving the file up is room enough
//! to open and to delete. It is laid in again once there is plenty.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

const FILE: &str = "reserve";
/// What `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;

/// Room on one disk that is held back.
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// Of so many bytes, for the store in `dir`; held only after [`Reserve::hold`].
    pub(crate) fn new(dir: &Path, bytes: u64) -> Self {
        Self { path: dir.join(FILE), bytes }
    }

    /// How many bytes it shall have.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes of the disk it takes up now. A copy that was made sparse takes none.
    pub(crate) fn held_bytes(&self) -> u64 {
        let file = fs::symlink_metadata(&self.path).ok().filter(fs::Metadata::is_file);
        file.map_or(0, |file| file.blocks().saturating_mul(BLOCK_BYTES))
    }

    /// Whether it is complete.
    pub(crate) fn is_held(&self) -> bool {
        self.held_bytes() >= self.bytes
    }

    /// Lays it in. Fails where the file system cannot give a file room without writing it.
    pub(crate) fn hold(&self) -> io::Result<()> {
        let file = File::options().create(true).append(true).open(&self.path)?;
        let held = fallocate(&file, FallocateFlags::empty(), 0, self.bytes);
        if held.is_err() {
            drop(self.release());
        }
        Ok(held?)
    }

    /// Gives it up. Fine if there is none.
    pub(crate) fn release(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_takes_up_room_until_it_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 1 << 20);
        assert_eq!((reserve.held_bytes(), reserve.is_held()), (0, false));
        reserve.release().unwrap();
        if reserve.hold().is_err() {
            return; // this file system cannot
        }
        assert!(reserve.is_held());
        reserve.hold().unwrap();
        assert!(reserve.held_bytes() < 2 << 20, "laid in again it takes no more");
        reserve.release().unwrap();
        assert_eq!(reserve.held_bytes(), 0);
    }

    #[test]
    fn a_sparse_copy_holds_nothing_until_it_is_laid_in() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::new(dir.path(), 1 << 20);
        File::create(dir.path().join(FILE)).unwrap().set_len(1 << 20).unwrap();
        assert!(!reserve.is_held());
        assert!(reserve.hold().is_err() || reserve.is_held());
    }
}
