//! The data directory before a store is opened in it: whether it can be one, and whether there is
//! room.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::data_dir::DataDir;
use crate::disk::reserve_bytes;
use crate::error::OpenError;
use crate::incarnation;
use crate::reserve::Reserve;
use crate::rocks::check_contents;

/// The least space a start needs, in bytes.
const OPENING_BYTES: u64 = 1 << 20;

/// Creates the directory if necessary and checks that its contents can be a store.
pub(crate) fn prepare_directory(dir: &Path) -> Result<(), OpenError> {
    match fs::create_dir(dir) {
        Ok(()) => {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
            incarnation::sync_directory(parent.unwrap_or(Path::new(".")))
                .map_err(|error| directory_error(&dir.into(), &error.to_string()))?;
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(OpenError::NoParent { dir: dir.to_owned() });
        }
        Err(error) => return Err(directory_error(&dir.into(), &error.to_string())),
    }
    check_contents(dir)
}

/// Releases the reserve if opening may need it. Returns the free bytes and the bytes that opening
/// may need, since it writes the contents of the log to tables.
pub(crate) fn make_room(dir: &DataDir, min: u64) -> (u64, u64) {
    let needed = dir.log_bytes().saturating_add(min / 16).max(OPENING_BYTES);
    let free = || dir.free_bytes().unwrap_or(u64::MAX);
    let reserve = Reserve::new(dir, reserve_bytes(min));
    if free() < needed && reserve.allocated_bytes() > 0 {
        tracing::warn!(
            free_bytes = free(),
            needed,
            "disk full: releasing the disk reserve to open the store"
        );
        if let Err(error) = reserve.release() {
            tracing::warn!(%error, "could not release the disk reserve");
        }
    }
    (free(), needed)
}

pub(crate) fn directory_error(dir: &DataDir, reason: &str) -> OpenError {
    let (free_bytes, dir, reason) = (dir.free_bytes(), dir.path(), reason.to_owned());
    // Neither RocksDB's errors nor all of the operating system's have a code for it.
    if ["No space left", "quota exceeded"].iter().any(|full| reason.contains(full)) {
        let free_bytes = free_bytes.unwrap_or_default();
        return OpenError::DiskFull { dir, free_bytes, reason };
    }
    OpenError::Directory { dir, reason }
}
