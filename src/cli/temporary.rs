//! The directory of a `quorate dev` whose data is not kept, and what killed ones have left behind.
//!
//! A running process holds a lock on a file in its directory. The system releases it however the process
//! ends, so a directory whose lock can be taken belongs to nobody any more.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tempfile::TempDir;

/// How the names of these directories start.
const PREFIX: &str = "quorate-dev-";
const LOCK: &str = "lock";

/// A directory that is deleted when this is dropped, or by a later start if that never happens.
pub struct Temporary {
    dir: TempDir,
    /// Locked as long as it is open.
    _lock: File,
}

impl Temporary {
    /// Makes one below `parent`, and deletes those there whose process was killed.
    ///
    /// # Errors
    /// If the directory or its lock cannot be made.
    pub fn new(parent: &Path) -> io::Result<Self> {
        remove_left_behind(parent);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // Locked before it has its name: under that name it is never seen without an owner.
        let unnamed = dir.path().join("new");
        let lock = File::create(&unnamed)?;
        lock.lock()?;
        fs::rename(unnamed, dir.path().join(LOCK))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Deletes directories of this user that nobody holds. What cannot be deleted stays: it is in nobody's way.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let ours = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        // Of the entry itself: a link to a directory is no directory.
        let is_own = |found: fs::Metadata| found.is_dir() && found.uid() == ours;
        if !is_named || !entry.metadata().is_ok_and(is_own) {
            continue;
        }
        let Ok(lock) = File::open(entry.path().join(LOCK)) else { continue };
        if lock.try_lock().is_ok() {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_deleted_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let held = Temporary::new(parent.path()).unwrap();
        let made = |name: &str| {
            let dir = parent.path().join(name);
            fs::create_dir(&dir).unwrap();
            dir
        };
        let (left, mine) = (made("quorate-dev-left"), made("mine"));
        for dir in [&left, &mine] {
            File::create(dir.join(LOCK)).unwrap();
            fs::create_dir(dir.join("n1")).unwrap();
        }
        let unlocked = made("quorate-dev-beginning"); // between its directory and its lock
        let link = parent.path().join("quorate-dev-link");
        std::os::unix::fs::symlink(&mine, &link).unwrap();
        let other = Temporary::new(parent.path()).unwrap();
        assert!(!left.exists(), "it belongs to nobody");
        for kept in [held.path(), other.path(), &mine.join("n1"), &unlocked, &link] {
            assert!(kept.exists(), "{}", kept.display());
        }
        let path = held.path().to_owned();
        drop(held);
        assert!(!path.exists());
    }
}
