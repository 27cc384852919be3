//! The data directory before a store is opened in it: whether it can be one, and whether there is
//! room.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rocksdb::DB;

use crate::columns::Column;
use crate::disk::{free_bytes, reserve_bytes};
use crate::error::OpenError;
use crate::incarnation;
use crate::open::{DATABASE, FORMAT};
use crate::reserve::Reserve;

/// The least space a start needs, in bytes.
const OPENING_BYTES: u64 = 1 << 20;

/// Creates the directory if necessary and checks that its contents can be a store.
pub(crate) fn prepare_directory(dir: &Path) -> Result<(), OpenError> {
    match fs::create_dir(dir) {
        Ok(()) => {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
            incarnation::sync_directory(parent.unwrap_or(Path::new(".")))
                .map_err(|error| directory_error(dir, &error.to_string()))?;
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(OpenError::NoParent { dir: dir.to_owned() });
        }
        Err(error) => return Err(directory_error(dir, &error.to_string())),
    }
    check_has_current(dir, &dir.join(DATABASE))
}

/// Without its file CURRENT, RocksDB considers a directory empty and removes the tables it finds
/// there.
fn check_has_current(dir: &Path, database: &PathBuf) -> Result<(), OpenError> {
    if database.join("CURRENT").exists() {
        return Ok(());
    }
    let entries = match fs::read_dir(database) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(directory_error(dir, &error.to_string())),
    };
    let holds_data = |path: PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("sst" | "blob" | "log"))
    };
    if entries.flatten().any(|entry| holds_data(entry.path())) {
        let reason =
            format!("{} is missing, but there are tables", database.join("CURRENT").display());
        return Err(OpenError::Damaged { dir: dir.to_owned(), reason });
    }
    Ok(())
}

/// Refuses an earlier format: opening would add column families to its directory, and the release
/// that created it could no longer open it.
pub(crate) fn check_families(dir: &Path) -> Result<(), OpenError> {
    let families = DB::list_cf(&rocksdb::Options::default(), dir.join(DATABASE));
    // The directory is new, or unreadable; opening it reports the latter.
    let Ok(families) = families else { return Ok(()) };
    if families.iter().any(|family| family == Column::Merkle.name()) {
        return Ok(());
    }
    if is_without_records(dir, &families) {
        return Ok(());
    }
    let found = "1".to_owned();
    Err(OpenError::OtherFormat { dir: dir.to_owned(), found, wanted: FORMAT })
}

/// Whether nothing was ever written. RocksDB creates the column families one after the other, and
/// the format is the first record: a start that was killed before leaves some of the families only.
fn is_without_records(dir: &Path, families: &[String]) -> bool {
    let options = rocksdb::Options::default();
    let opened = DB::open_cf_for_read_only(&options, dir.join(DATABASE), families, false);
    opened.is_ok_and(|db| db.latest_sequence_number() == 0)
}

/// Releases the reserve if opening may need it. Returns the free bytes and the bytes that opening
/// may need, since it writes the contents of the log to tables.
pub(crate) fn make_room(dir: &Path, min: u64) -> (u64, u64) {
    let needed = log_bytes(dir).saturating_add(min / 16).max(OPENING_BYTES);
    let free = || free_bytes(dir).unwrap_or(u64::MAX);
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

/// The total size of the log files, in bytes.
fn log_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir.join(DATABASE)) else { return 0 };
    let logs = entries.flatten().filter(|entry| {
        entry.path().extension().and_then(|extension| extension.to_str()) == Some("log")
    });
    logs.filter_map(|log| log.metadata().ok()).map(|metadata| metadata.len()).sum()
}

pub(crate) fn directory_error(dir: &Path, reason: &str) -> OpenError {
    let (dir, reason) = (dir.to_owned(), reason.to_owned());
    // Neither RocksDB's errors nor all of the operating system's have a code for it.
    if ["No space left", "quota exceeded"].iter().any(|full| reason.contains(full)) {
        let free_bytes = free_bytes(&dir).unwrap_or_default();
        return OpenError::DiskFull { dir, free_bytes, reason };
    }
    OpenError::Directory { dir, reason }
}
