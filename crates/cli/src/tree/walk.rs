//! The files under a directory, as keys to store. What is not stored is counted and named, never
//! skipped silently.

use std::collections::BTreeMap;
use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use crate::args::KEY_BYTES_MAX;
use crate::out::{note, safe};

/// The largest value a node accepts by default, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The most files of one run: the list of them is kept in memory.
const FILES_MAX: usize = 5_000_000;

/// One file to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its path under the directory, parts joined by slashes: its key.
    pub(crate) key: String,
    /// The type that its name implies.
    pub(crate) content_type: String,
    /// Its size when it was found, in bytes.
    pub(crate) size_bytes: u64,
}

/// The result of a walk.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// In the order of the walk: directory by directory, names sorted.
    pub(crate) files: Vec<File>,
    /// How many entries were skipped, by reason.
    pub(crate) skipped: BTreeMap<&'static str, u64>,
    /// Directories and entries that could not be read, with the reason.
    pub(crate) failures: Vec<String>,
}

impl Tree {
    fn skip(&mut self, reason: &'static str, path: &Path) {
        *self.skipped.entry(reason).or_default() += 1;
        if reason != "symlink" {
            note(&format!("skipped ({reason}): {}", safe(&path.display().to_string())));
        }
    }
}

/// Walks `root`. Symlinks below it are not followed, so the walk ends.
///
/// # Errors
/// If `root` is not a readable directory, or holds more files than one run accepts.
pub(crate) fn walk(root: &Path) -> Result<Tree, String> {
    std::fs::read_dir(root).map_err(|error| format!("{}: {error}", root.display()))?;
    let mut tree = Tree::default();
    let mut left: Vec<(PathBuf, String)> = vec![(root.to_path_buf(), String::new())];
    while let Some((directory, prefix)) = left.pop() {
        let mut entries = match read_directory(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                tree.failures.push(format!("{}: {error}", directory.display()));
                continue;
            }
        };
        entries.sort_by_key(DirEntry::file_name);
        let mut below = Vec::new();
        for entry in entries {
            if let Some(directory) = visit(&entry, &prefix, &mut tree) {
                below.push(directory);
            }
        }
        left.extend(below.into_iter().rev());
        if tree.files.len() > FILES_MAX {
            return Err(format!("{}: more than {FILES_MAX} files", root.display()));
        }
    }
    Ok(tree)
}

fn read_directory(directory: &Path) -> std::io::Result<Vec<DirEntry>> {
    std::fs::read_dir(directory)?.collect()
}

/// Adds one entry to the tree, or returns the directory it is, with the prefix of its keys.
fn visit(entry: &DirEntry, prefix: &str, tree: &mut Tree) -> Option<(PathBuf, String)> {
    let path = entry.path();
    let metadata = match entry.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            tree.failures.push(format!("{}: {error}", path.display()));
            return None;
        }
    };
    if metadata.is_symlink() {
        tree.skip("symlink", &path);
        return None;
    }
    let Ok(name) = entry.file_name().into_string() else {
        tree.skip("name is not UTF-8", &path);
        return None;
    };
    let key = format!("{prefix}{name}");
    if metadata.is_dir() {
        return Some((path, format!("{key}/")));
    }
    if !metadata.is_file() {
        tree.skip("not a regular file", &path);
    } else if key.len() > KEY_BYTES_MAX {
        tree.skip("name is longer than a key", &path);
    } else if metadata.len() > FILE_BYTES_MAX {
        tree.skip("too large", &path);
    } else {
        let content_type = mime_guess::from_path(&path).first_or_octet_stream().to_string();
        tree.files.push(File { key, content_type, size_bytes: metadata.len() });
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn finds_regular_files_and_counts_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("b/c d")).unwrap();
        std::fs::write(root.join("b/c d/100% #1?.txt"), "x").unwrap();
        std::fs::write(root.join("b/grüße.json"), "{}").unwrap();
        std::fs::write(root.join("a"), "").unwrap();
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
        std::fs::File::create(root.join("large")).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        std::os::unix::fs::symlink(root, root.join("b/loop")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();

        let tree = walk(root).unwrap();

        let found: Vec<_> = tree.files.iter().map(|it| (it.key.as_str(), it.size_bytes)).collect();
        assert_eq!(found, [("a", 0), ("b/grüße.json", 2), ("b/c d/100% #1?.txt", 1)]);
        assert_eq!(tree.files[0].content_type, "application/octet-stream");
        assert_eq!(tree.files[1].content_type, "application/json");
        assert_eq!(tree.files[2].content_type, "text/plain");
        let reasons: Vec<_> = tree.skipped.into_iter().collect();
        assert_eq!(
            reasons,
            [("name is not UTF-8", 1), ("not a regular file", 1), ("symlink", 1), ("too large", 1)]
        );
        assert_eq!(tree.failures, Vec::<String>::new());
    }

    #[test]
    fn a_missing_directory_or_a_file_is_an_error() {
        assert!(walk(Path::new("/does/not/exist")).unwrap_err().contains("/does/not/exist"));
        assert!(walk(Path::new("/proc/self/stat")).is_err());
    }

    #[test]
    fn a_key_that_is_too_long_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        let long = "d".repeat(250);
        let deep = directory.path().join(&long).join(&long).join(&long).join(&long);
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f".repeat(20)), "x").unwrap();
        std::fs::write(deep.join("f".repeat(21)), "x").unwrap();
        let tree = walk(directory.path()).unwrap();
        assert_eq!(tree.files.len(), 1);
        assert_eq!(tree.files[0].key.len(), 1024);
        assert_eq!(tree.skipped["name is longer than a key"], 1);
    }
}
