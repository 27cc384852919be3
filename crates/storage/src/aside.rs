//! Rows that are set aside: those of a node that came back too old to be trusted. They are kept
//! unchanged in a separate store below the data directory, never served and never minted on, until
//! the cluster is known to hold what they hold or an operator decides.
//!
//! Setting aside takes a RocksDB checkpoint (hard links: no row is copied) and then discards the
//! rows of the store itself. A crash in between leaves both; the next start repeats it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::backend::Backend;
use crate::data_dir::DataDir;
use crate::error::Error;
use crate::incarnation::sync_directory;
use crate::rocks::{DATABASE, Rocks};
use crate::store::Store;

/// The directory of set-aside rows within the data directory.
const ASIDE: &str = "distrusted";

/// The paths of the sets of rows that were set aside in this data directory, in order of their
/// names: oldest first, since the node names a set by the number of its start. Empty if none.
///
/// # Errors
/// The operating system's.
pub fn sets_aside(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir.join(ASIDE)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut sets = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // A set that is being created or removed has an extension.
        if path.is_dir() && path.extension().is_none() {
            sets.push(path);
        }
    }
    sets.sort();
    Ok(sets)
}

/// The path of a set in a data directory.
pub(crate) fn set_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(ASIDE).join(name)
}

/// Removes a set for good.
///
/// # Errors
/// The operating system's; the set may then still exist.
pub fn remove_set(set: &Path) -> io::Result<()> {
    // Rename it first, so that a crash in the middle does not leave half a set.
    let going = set.with_extension("removed");
    if going.exists() {
        fs::remove_dir_all(&going)?;
    }
    fs::rename(set, &going)?;
    fs::remove_dir_all(&going)
}

impl Store {
    /// Whether the store holds any row or hint.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    fn has_rows(&self) -> Result<bool, Error> {
        if self.stats().hint_keys > 0 {
            return Ok(true);
        }
        let partitions = (0..self.options.partitions).map(|p| p as u16);
        for partition in partitions.map(quorate_protocol::layout::Partition) {
            if !self.scan_partition(partition, None, 1, usize::MAX)?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sets all rows and hints aside under `name` (letters, digits and `-`), durably, and discards
    /// them here. The node's records stay. For use at a start, before anything is served. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`] if the set cannot be created: nothing was discarded then. [`Error::Failed`] and
    /// [`Error::Closed`] if discarding fails: the next start finds either everything or nothing.
    pub fn set_rows_aside(&self, name: &str) -> Result<(), Error> {
        let sets = self.dir.sets_aside().map_err(|error| Error::Io(error.to_string()))?;
        if !sets.iter().any(|(set, _)| set == name) && self.has_rows()? {
            let made = match (&self.engine.backend, &self.dir) {
                (Backend::Rocks(rocks), DataDir::Path(dir)) => make_set(rocks, dir, name),
                (Backend::Memory(memory), _) => memory.set_aside(name),
                (Backend::Rocks(_), DataDir::Simulated(..)) => {
                    Err("RocksDB is not on a simulated disk".to_owned())
                }
            };
            let dir = self.dir.path();
            made.map_err(|reason| {
                Error::Io(format!("setting rows aside in {}: {reason}", dir.display()))
            })?;
        }
        self.discard_rows()
    }
}

/// Makes a set durably, or nothing.
fn make_set(rocks: &Rocks, dir: &Path, name: &str) -> Result<(), String> {
    let in_words = |error: io::Error| error.to_string();
    let (parent, set) = (dir.join(ASIDE), set_path(dir, name));
    let making = set.with_extension("making");
    if making.exists() {
        fs::remove_dir_all(&making).map_err(in_words)?;
    }
    fs::create_dir_all(&making).map_err(in_words)?;
    rocks.copy_to(&making.join(DATABASE))?;
    sync_directory(&making).map_err(in_words)?;
    fs::rename(&making, set).map_err(in_words)?;
    sync_directory(&parent).map_err(in_words)?;
    sync_directory(dir).map_err(in_words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::{HOME, TREE, mint, node, object, open, options, wait};
    use crate::{Durability, Place};

    #[test]
    fn a_set_is_complete_and_gone_from_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Fsync);
        store.put_meta("formed", b"yes").unwrap();
        for i in 0..50 {
            mint(&store, HOME, &format!("k{i}"), &[i; 3000]);
            mint(&store, Place::Hint(node("n2")), &format!("h{i}"), b"hint");
        }
        wait(store.durable()).unwrap();
        assert_eq!(sets_aside(dir.path()).unwrap(), Vec::<PathBuf>::new());
        store.set_rows_aside("start-7").unwrap();
        assert!(!store.has_rows().unwrap());
        assert_eq!(store.meta("formed").unwrap().as_deref(), Some(&b"yes"[..]));
        // Repeated, as after a crash in between: the set is unchanged.
        mint(&store, HOME, "later", b"v");
        store.set_rows_aside("start-7").unwrap();
        drop(store);
        let sets = sets_aside(dir.path()).unwrap();
        assert_eq!(sets.len(), 1);
        let aside = Store::open(&sets[0], options(Durability::Fsync)).unwrap();
        let rows = aside.scan_partition(TREE.partition, None, 99, usize::MAX).unwrap();
        assert_eq!((rows.len(), aside.stats().hint_keys), (50, 50));
        assert!(object(&aside, HOME, "k49").is_some() && object(&aside, HOME, "later").is_none());
        drop(aside);
        remove_set(&sets[0]).unwrap();
        assert_eq!(sets_aside(dir.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_empty_store_leaves_no_set() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), Durability::Buffered);
        store.set_rows_aside("start-1").unwrap();
        assert_eq!(sets_aside(dir.path()).unwrap(), Vec::<PathBuf>::new());
    }
}
