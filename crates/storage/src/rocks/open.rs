//! Opening RocksDB, and what is checked before.
//!
//! **The log after a crash.** First the strict mode (`TolerateCorruptedTailRecords`): it drops a
//! torn last record, which a killed process or a power cut leaves, and refuses anything else. If it
//! refuses, the log is damaged before its end. A power cut can do that too, if the disk kept later
//! pages of an unfinished sync and lost earlier ones, and a node must recover from a power cut by
//! itself. So the log is then truncated at the damage (`PointInTime`, which still refuses if the
//! tables prove that synced writes would be lost), and the store reports it:
//! [`Recovery::CutShort`]. Nothing is lost silently.

use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use rocksdb::{Cache, DB, DBRecoveryMode, ErrorKind};

use super::options::{database_options, descriptors};
use super::{Rocks, SyncLog};
use crate::columns::Column;
use crate::directory::directory_error;
use crate::error::OpenError;
use crate::format::FORMAT;
use crate::options::{Options, Recovery};

/// RocksDB's own directory within the data directory.
pub(crate) const DATABASE: &str = "rocksdb";

/// Opens the database in a data directory, or creates it.
pub(crate) fn open(
    dir: &Path,
    options: &Options,
    sync_log: SyncLog,
) -> Result<(Rocks, Recovery), OpenError> {
    let cache = Cache::new_lru_cache(options.block_cache_bytes);
    let path = dir.join(DATABASE);
    let open = |mode| {
        let families = descriptors(options, &cache);
        DB::open_cf_descriptors(&database_options(options, mode), &path, families)
    };
    let error = match open(DBRecoveryMode::TolerateCorruptedTailRecords) {
        Ok(db) => return Ok((Rocks::new(db, cache, sync_log), Recovery::Whole)),
        Err(error) => error,
    };
    let text = error.to_string();
    if error.kind() == ErrorKind::Corruption {
        let reason = || format!("{text}; and truncating the log there does not help");
        let db = open(DBRecoveryMode::PointInTime)
            .map_err(|_| OpenError::Damaged { dir: dir.to_owned(), reason: reason() })?;
        tracing::error!(
            reason = text,
            "the log was damaged before its end and was truncated there"
        );
        return Ok((Rocks::new(db, cache, sync_log), Recovery::CutShort(text)));
    }
    if text.contains("lock file") || text.contains("lock hold by current process") {
        return Err(OpenError::Locked { dir: dir.to_owned() });
    }
    Err(directory_error(&dir.into(), &text))
}

/// Checks that what is in a data directory can be opened without harm.
pub(crate) fn check_contents(dir: &Path) -> Result<(), OpenError> {
    check_has_current(dir, &dir.join(DATABASE))?;
    check_families(dir)
}

/// Without its file CURRENT, RocksDB considers a directory empty and removes the tables it finds
/// there.
fn check_has_current(dir: &Path, database: &Path) -> Result<(), OpenError> {
    if database.join("CURRENT").exists() {
        return Ok(());
    }
    let entries = match fs::read_dir(database) {
        Ok(entries) => entries,
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(directory_error(&dir.into(), &error.to_string())),
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
fn check_families(dir: &Path) -> Result<(), OpenError> {
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

/// The total size of the log files, in bytes.
pub(crate) fn log_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir.join(DATABASE)) else { return 0 };
    let logs = entries.flatten().filter(|entry| {
        entry.path().extension().and_then(|extension| extension.to_str()) == Some("log")
    });
    logs.filter_map(|log| log.metadata().ok()).map(|metadata| metadata.len()).sum()
}
