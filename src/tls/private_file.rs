//! Files that appear whole or not at all, with their permissions from the first byte.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::Path;

/// The permissions of a file with a secret.
pub(crate) const SECRET: u32 = 0o600;
/// The permissions of a file that anybody may read.
pub(crate) const PUBLIC: u32 = 0o644;

/// Makes a directory for secrets, and those above it. One that is there stays as it is.
///
/// # Errors
/// The system's.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Makes a file that is not there yet, durably.
///
/// # Errors
/// The system's; [`ErrorKind::AlreadyExists`] if it is there.
pub(crate) fn create(file: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(file, mode, contents)?;
    // A link fails if its name is taken; a rename would replace what is there.
    let made = fs::hard_link(&unfinished, file);
    fs::remove_file(&unfinished)?;
    made?;
    sync_dir(file)
}

/// Replaces a file as a whole, durably, by one of the same owner.
///
/// # Errors
/// The system's; the file is then as before.
pub(crate) fn replace(file: &Path, mode: u32, contents: &[u8]) -> io::Result<()> {
    let before = fs::metadata(file)?;
    let unfinished = unfinished(file, mode, contents)?;
    let own = fs::metadata(&unfinished)?;
    let mut renamed = Ok(());
    if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
        renamed = chown(&unfinished, Some(before.uid()), Some(before.gid()));
    }
    if let Err(error) = renamed.and_then(|()| fs::rename(&unfinished, file)) {
        drop(fs::remove_file(&unfinished));
        return Err(error);
    }
    sync_dir(file)
}

/// A new file beside one, with its contents to be.
fn unfinished(file: &Path, mode: u32, contents: &[u8]) -> io::Result<std::path::PathBuf> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.tmp", rand::random::<u64>()));
    let path = file.with_file_name(name);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
    match out.write_all(contents).and_then(|()| out.sync_all()) {
        Ok(()) => Ok(path),
        Err(error) => {
            drop(fs::remove_file(&path));
            Err(error)
        }
    }
}

fn sync_dir(file: &Path) -> io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    match File::open(parent.unwrap_or(Path::new(".")))?.sync_all() {
        Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(()), // no such thing there
        synced => synced,
    }
}
