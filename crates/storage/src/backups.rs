//! Backups: copies of the store below the data directory, for somebody to fetch.
//!
//! One is a RocksDB checkpoint: hard links to tables, which never change, so that no row is copied and
//! nothing waits. Memtables are flushed for it. A copy of the log would save that, but be up to four
//! memtables long, and another one each time; tables are the same in the next backup. While a backup is
//! kept its tables hold the space that compactions would give back.
//!
//! It is made under another name, `NAME.making`, and gets its own once everything in it is synced, its
//! manifest last. What the manifest says is up to the node; the store only keeps it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::backend::Backend;
use crate::data_dir::DataDir;
use crate::disk::Need;
use crate::error::Error;
use crate::incarnation::sync_directory;
use crate::rocks::{DATABASE, Rocks};
use crate::simulated::SimulatedDisk;
use crate::store::Store;

/// The directory of backups within the data directory.
const BACKUPS: &str = "backups";
/// The manifest of a backup.
const MANIFEST: &str = "manifest.json";
const MAKING: &str = "making";
const REMOVED: &str = "removed";

impl Store {
    /// Makes a copy of everything that was written before this call, under `name` (letters, digits and
    /// `-`), which is not taken. It is no backup before [`DataDir::finish_backup`]. Blocks, for as long as a
    /// flush of all memtables takes; writes go on meanwhile.
    ///
    /// # Errors
    /// [`Error::DiskLow`] if the flush could take the free space below the watermark, [`Error::Failed`] if
    /// the store has failed, [`Error::Io`] if the copy cannot be made. Nothing is left of it then.
    pub fn checkpoint(&self, name: &str) -> Result<(), Error> {
        self.engine.check()?;
        self.disk.check(Need::Growth)?;
        let min = self.options.disk_free_bytes_min.saturating_add(self.dir.log_bytes());
        let free_bytes = self.dir.free_bytes().unwrap_or(u64::MAX);
        if self.options.disk_free_bytes_min > 0 && free_bytes < min {
            return Err(Error::DiskLow { free_bytes, min });
        }
        // What was acknowledged is at least in the process's buffer; a flush of memtables does not wait for
        // it.
        self.engine.flush_log(self.engine.written())?;
        let made = match (&self.engine.backend, &self.dir) {
            (Backend::Rocks(rocks), DataDir::Path(dir)) => make(rocks, dir, name),
            (Backend::Memory(memory), _) => memory.back_up(name),
            (Backend::Rocks(_), DataDir::Simulated(..)) => {
                Err("RocksDB is not on a simulated disk".to_owned())
            }
        };
        made.map_err(|reason| {
            if let Err(error) = self.dir.remove_unfinished_backups() {
                tracing::warn!(%error, "what is left of a backup could not be removed");
            }
            Error::Io(format!("a backup in {}: {reason}", self.dir.path().display()))
        })
    }

    /// Gives the store to another cluster: from the next opening on it is of that one. For use while it is
    /// restored. Blocks.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Closed`], [`Error::DiskLow`].
    pub fn give_to_cluster(&self, cluster_id: &str) -> Result<(), Error> {
        self.write_record(b"store:cluster", cluster_id.as_bytes())?;
        self.sync()
    }
}

fn make(rocks: &Rocks, dir: &Path, name: &str) -> Result<(), String> {
    let in_words = |error: io::Error| error.to_string();
    let making = path(dir, name).with_extension(MAKING);
    fs::create_dir_all(&making).map_err(in_words)?;
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).map_err(in_words);
    if device(&making)? != device(&dir.join(DATABASE))? {
        return Err(format!("{BACKUPS} is on another file system: files cannot be linked there"));
    }
    rocks.copy_to(&making.join(DATABASE))?;
    sync_directory(&making).map_err(in_words)
}

fn path(dir: &Path, name: &str) -> PathBuf {
    dir.join(BACKUPS).join(name)
}

/// A file of a backup, as far as it is known without reading it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackupFile {
    /// Its name: letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Its length, in bytes.
    pub bytes: u64,
}

impl DataDir {
    /// The names of the backups that are kept here, in order.
    ///
    /// # Errors
    /// The operating system's.
    pub fn backups(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Path(dir) => {
                let all = entries(&dir.join(BACKUPS))?.into_iter();
                let whole = all.filter(|path| path.extension().is_none());
                let names = whole.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
                let mut names: Vec<String> = names.collect();
                names.sort();
                Ok(names)
            }
            Self::Simulated(disk, _) => Ok(disk.backups().into_keys().collect()),
        }
    }

    /// Removes what is left of backups that were not finished, or not removed entirely. None may be under
    /// way.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove_unfinished_backups(&self) -> io::Result<()> {
        match self {
            Self::Path(dir) => {
                let all = entries(&dir.join(BACKUPS))?.into_iter();
                all.filter(|path| path.extension().is_some()).try_for_each(fs::remove_dir_all)
            }
            Self::Simulated(disk, _) => {
                disk.remove_unfinished_backups();
                Ok(())
            }
        }
    }

    /// The files of a backup that is being made, in order of their names.
    ///
    /// # Errors
    /// The operating system's.
    pub fn unfinished_backup_files(&self, name: &str) -> io::Result<Vec<BackupFile>> {
        let Self::Path(dir) = self else { return Ok(Vec::new()) };
        let mut files = Vec::new();
        for file in entries(&path(dir, name).with_extension(MAKING).join(DATABASE))? {
            let bytes = fs::metadata(&file)?.len();
            let name = file.file_name().and_then(|name| name.to_str());
            let name = name.ok_or(ErrorKind::InvalidData)?.to_owned();
            files.push(BackupFile { name, bytes });
        }
        files.sort();
        Ok(files)
    }

    /// Up to `bytes_max` bytes of a file of a backup from `offset` on, fewer only at its end.
    /// `is_whole`: whether the backup is finished. The caller has the names from
    /// [`DataDir::unfinished_backup_files`].
    ///
    /// # Errors
    /// The operating system's.
    pub fn read_backup(
        &self,
        (name, is_whole): (&str, bool),
        file: &str,
        (offset, bytes_max): (u64, usize),
    ) -> io::Result<Vec<u8>> {
        let Self::Path(dir) = self else { return Err(ErrorKind::NotFound.into()) };
        let backup = path(dir, name);
        let backup = if is_whole { backup } else { backup.with_extension(MAKING) };
        let file = File::open(backup.join(DATABASE).join(file))?;
        let (mut piece, mut read) = (vec![0; bytes_max], 0);
        while read < bytes_max {
            match file.read_at(&mut piece[read..], offset + read as u64)? {
                0 => break,
                some => read += some,
            }
        }
        piece.truncate(read);
        Ok(piece)
    }

    /// Makes a copy a backup, durably, with this manifest.
    ///
    /// # Errors
    /// The operating system's: it is none then.
    pub fn finish_backup(&self, name: &str, manifest: &[u8]) -> io::Result<()> {
        match self {
            Self::Path(dir) => {
                let (backup, making) = (path(dir, name), path(dir, name).with_extension(MAKING));
                let mut file = File::create_new(making.join(MANIFEST))?;
                file.write_all(manifest)?;
                file.sync_all()?;
                sync_directory(&making)?;
                fs::rename(&making, backup)?;
                sync_directory(&dir.join(BACKUPS))?;
                sync_directory(dir)
            }
            Self::Simulated(disk, _) if disk.finish_backup(name, manifest) => Ok(()),
            Self::Simulated(..) => Err(ErrorKind::NotFound.into()),
        }
    }

    /// The manifest of a backup.
    ///
    /// # Errors
    /// The operating system's.
    pub fn backup_manifest(&self, name: &str) -> io::Result<Vec<u8>> {
        match self {
            Self::Path(dir) => fs::read(path(dir, name).join(MANIFEST)),
            Self::Simulated(disk, _) => {
                disk.backups().remove(name).ok_or_else(|| ErrorKind::NotFound.into())
            }
        }
    }

    /// Removes a backup.
    ///
    /// # Errors
    /// The operating system's; it may then still exist.
    pub fn remove_backup(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Path(dir) => {
                // Renamed first, so that a crash in the middle does not leave half a backup.
                let going = path(dir, name).with_extension(REMOVED);
                if going.exists() {
                    fs::remove_dir_all(&going)?;
                }
                fs::rename(path(dir, name), &going)?;
                fs::remove_dir_all(&going)
            }
            Self::Simulated(disk, _) if disk.remove_backup(name) => Ok(()),
            Self::Simulated(..) => Err(ErrorKind::NotFound.into()),
        }
    }

    /// How many bytes files take that only backups hold: the store itself needs them no more.
    ///
    /// # Errors
    /// The operating system's.
    pub fn backup_bytes(&self) -> io::Result<u64> {
        let Self::Path(dir) = self else { return Ok(0) };
        let (mut bytes, mut seen) = (0, inodes(&dir.join(DATABASE))?);
        for backup in entries(&dir.join(BACKUPS))? {
            for file in entries(&backup.join(DATABASE))? {
                let Ok(metadata) = fs::metadata(&file) else { continue };
                if seen.insert(metadata.ino()) {
                    bytes += metadata.len();
                }
            }
        }
        Ok(bytes)
    }
}

fn inodes(dir: &Path) -> io::Result<BTreeSet<u64>> {
    // A file that is removed meanwhile is not the store's any more.
    let files = entries(dir)?.into_iter().filter_map(|file| fs::metadata(file).ok());
    Ok(files.map(|metadata| metadata.ino()).collect())
}

/// The paths in a directory; none if there is no such directory.
fn entries(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl SimulatedDisk {
    /// The disk that a backup on this one is, as it was then; `None` if there is no such backup. Restored
    /// from, it stays as it is.
    pub fn backup(&self, name: &str) -> Option<SimulatedDisk> {
        self.backup_disk(name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::columns::Column;
    use crate::testing::{HOME, TREE, mint, node, object, open, options, wait};
    use crate::{Durability, OpenError, Options, Place};

    /// Everything that a backup has, in a directory of its own.
    fn fetch(dir: &DataDir, name: &str, to: &Path, files: &[BackupFile]) {
        let database = to.join(DATABASE);
        fs::create_dir_all(&database).unwrap();
        for BackupFile { name: file, bytes } in files {
            let read = dir.read_backup((name, true), file, (0, *bytes as usize));
            fs::write(database.join(file), read.unwrap()).unwrap();
        }
    }

    #[test]
    fn a_backup_has_what_was_written_before_it_and_opens_elsewhere() {
        for durability in [Durability::Fsync, Durability::Buffered] {
            let parent = tempfile::tempdir().unwrap();
            let (here, there) = (parent.path().join("here"), parent.path().join("there"));
            let (store, dir) = (open(&here, durability), DataDir::Path(here.clone()));
            let before = store.incarnation();
            store.put_meta("formed", b"yes").unwrap();
            for i in 0..50 {
                mint(&store, HOME, &format!("k{i}"), &[i; 3000]);
                mint(&store, Place::Hint(node("n2")), &format!("h{i}"), b"hint");
            }
            store.write_tables(Column::Objects);
            mint(&store, HOME, "unflushed", b"v");
            store.checkpoint("b1").unwrap();
            mint(&store, HOME, "later", b"v");
            assert_eq!(dir.backups().unwrap(), Vec::<String>::new(), "not yet");
            let files = dir.unfinished_backup_files("b1").unwrap();
            assert!(files.iter().all(|file| !file.name.ends_with(".log") || file.bytes == 0));
            dir.finish_backup("b1", b"{}").unwrap();
            assert_eq!(dir.backups().unwrap(), ["b1"]);
            assert_eq!(dir.backup_manifest("b1").unwrap(), b"{}");
            fetch(&dir, "b1", &there, &files);
            dir.remove_backup("b1").unwrap();
            assert_eq!(dir.backups().unwrap(), Vec::<String>::new());

            let copy = open(&there, durability);
            assert_ne!(copy.incarnation(), before, "what it mints is new");
            let rows = copy.scan_partition(TREE.partition, None, 99, usize::MAX).unwrap();
            assert_eq!((rows.len(), copy.stats().hint_keys), (51, 50));
            assert!(object(&copy, HOME, "unflushed").is_some());
            assert!(object(&copy, HOME, "later").is_none());
            assert_eq!(copy.meta("formed").unwrap().as_deref(), Some(&b"yes"[..]));
            copy.give_to_cluster("other").unwrap();
            drop(copy);
            let ours = options(durability);
            let refused = Store::open(&there, ours.clone()).err().unwrap();
            assert!(matches!(refused, OpenError::OtherIdentity { .. }), "{refused}");
            let theirs = Options { cluster_id: "other".to_owned(), ..ours };
            assert!(Store::open(&there, theirs).is_ok());
        }
    }

    #[test]
    fn what_is_interrupted_is_no_backup_and_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (store, dir) =
            (open(parent.path(), Durability::Fsync), DataDir::Path(parent.path().to_owned()));
        mint(&store, HOME, "k", b"v");
        store.checkpoint("half").unwrap();
        assert_eq!(dir.backups().unwrap(), Vec::<String>::new());
        assert!(store.checkpoint("half").is_err(), "it is under way");
        assert_eq!(entries(&parent.path().join(BACKUPS)).unwrap(), Vec::<PathBuf>::new());
        store.checkpoint("whole").unwrap();
        dir.finish_backup("whole", b"{}").unwrap();
        store.checkpoint("half").unwrap();
        dir.remove_unfinished_backups().unwrap();
        assert_eq!(dir.backups().unwrap(), ["whole"]);
        assert_eq!(entries(&parent.path().join(BACKUPS)).unwrap().len(), 1);
    }

    #[test]
    fn a_full_disk_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let full = Options { disk_free_bytes_min: u64::MAX / 2, ..options(Durability::Fsync) };
        let store = Store::open(parent.path(), full).unwrap();
        assert!(matches!(store.checkpoint("b"), Err(Error::DiskLow { .. })));
        assert_eq!(entries(&parent.path().join(BACKUPS)).unwrap(), Vec::<PathBuf>::new());
    }

    /// Tables that the store does not have any more are counted as long as a backup holds them.
    #[test]
    fn the_space_that_only_backups_hold_is_known() {
        let parent = tempfile::tempdir().unwrap();
        let (store, dir) =
            (open(parent.path(), Durability::Fsync), DataDir::Path(parent.path().to_owned()));
        for i in 0..50 {
            let value: Vec<u8> = (0..3000).map(|_| rand::random()).collect();
            mint(&store, HOME, &format!("k{i}"), &value);
        }
        wait(store.durable()).unwrap();
        store.checkpoint("b").unwrap();
        dir.finish_backup("b", b"{}").unwrap();
        let while_shared = dir.backup_bytes().unwrap();
        assert!(while_shared < 100_000, "copies of small files only: {while_shared}");
        drop(store);
        fs::remove_dir_all(parent.path().join(DATABASE)).unwrap(); // as compactions do, in the end
        let alone = dir.backup_bytes().unwrap();
        assert!(alone > 100_000, "{alone}");
        dir.remove_backup("b").unwrap();
        assert_eq!(dir.backup_bytes().unwrap(), 0);
    }
}
